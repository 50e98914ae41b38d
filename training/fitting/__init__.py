"""The stages of a training run."""
