"""Scores of an ensemble against a reference: both on one grid and at the same times, read piece by piece."""
