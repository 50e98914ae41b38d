"""Compression, decompression and super-resolution, and the climatology of their source."""
