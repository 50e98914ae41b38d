"""Subcommands that study trained models, one module each."""
