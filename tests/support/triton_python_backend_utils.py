"""The module that Triton's Python backend gives to a model, as far as models use it: what triton_server.py fills.

The real one has functions of its own, and gets its classes from the backend after the model was imported.
"""
