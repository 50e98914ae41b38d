"""What all studies share: models, periods, figures, tables."""
