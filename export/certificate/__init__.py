"""Measure exported graphs against the trained model."""
