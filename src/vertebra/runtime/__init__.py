"""Prediction without torch: numpy, Pillow and an engine (onnxruntime; MNN and the kernels where installed)."""
