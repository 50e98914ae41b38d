"""Results that go into a Zarr store which is no folder: of zarr, icechunk, or object storage."""
