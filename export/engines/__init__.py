"""Compile TensorRT engines."""
