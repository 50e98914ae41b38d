"""Scores, spectra, variability, and simple baselines."""
