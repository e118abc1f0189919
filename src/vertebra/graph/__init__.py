"""The intermediate representation of a network, traced from torch or read from ONNX, and its cost."""
