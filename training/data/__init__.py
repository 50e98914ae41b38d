"""From CF files to training samples."""
