"""A bundle on disk: its manifest, files, tables and schema."""
