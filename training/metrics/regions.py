"""Regions for means and patterns, as weights of pixels."""

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import npix, pixel_centres

Mask = NDArray[np.bool_]
TROPICS_DEG = 23.5  # latitude of the tropics

# The region of El Nino: from east of Australia, whose dry interior varies independently, to the coast of South America.
PACIFIC_LAT_DEG = 30.0
PACIFIC_LON_DEG = (150.0, 280.0)


def region_weights(zoom: int, land: F64 | None = None) -> dict[str, F64]:
    """Weights (pixel,) by name of the region: the sphere, tropics and extratropics; land and ocean if `land` is given.

    `land` is the land fraction (pixel,), 0 to 1. DataError if it has another zoom.

    >>> list(region_weights(1))
    ['global', 'tropics', 'north', 'south']
    """
    lat_deg = pixel_centres(zoom)[0]
    found = {
        "global": np.ones(npix(zoom)),
        "tropics": (np.abs(lat_deg) <= TROPICS_DEG).astype(np.float64),
        "north": (lat_deg > TROPICS_DEG).astype(np.float64),
        "south": (lat_deg < -TROPICS_DEG).astype(np.float64),
    }
    if land is None:
        return found
    if land.shape != (npix(zoom),):
        raise DataError(f"found a land mask of shape {land.shape}", f"({npix(zoom)},)", "give one value for each pixel")
    return {**found, "land": land, "ocean": 1 - land}


def tropical_pacific(zoom: int) -> Mask:
    """Pixels (pixel,) whose centres lie within 30 S to 30 N and 150 E to 80 W."""
    lat_deg, lon_deg = pixel_centres(zoom)
    west, east = PACIFIC_LON_DEG
    found: Mask = (np.abs(lat_deg) <= PACIFIC_LAT_DEG) & (lon_deg >= west) & (lon_deg <= east)
    return found
