"""Evaluation of models of daily weather, several variables at once: `fsae-train daily`."""
