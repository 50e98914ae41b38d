"""CF output in Zarr or NetCDF that is either complete or absent."""
