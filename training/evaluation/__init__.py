"""Shared by all studies: models, periods, figures, tables."""
