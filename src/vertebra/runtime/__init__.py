"""Prediction without torch: numpy, Pillow and onnxruntime only."""
