"""Analysis of the compressed space: structure and pictures."""
