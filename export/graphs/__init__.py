"""Trace trained networks into ONNX graphs that every backend can run."""
