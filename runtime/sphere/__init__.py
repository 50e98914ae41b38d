"""The mathematics of the sphere: HEALPix, lat-lon grids, regridding, the field pyramid."""
