"""Prediction without torch: numpy, Pillow and an engine (onnxruntime, and MNN where it is installed)."""
