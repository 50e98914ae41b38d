"""Damping of covariances with distance: what few fields seem to know of far places is mostly chance.

As ensemble Kalman filters do: a Schur product with a function of distance (Houtekamer and Mitchell 2001,
doi:10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2). A floor leaves patterns that span the sphere, such as El Nino.
"""

import numpy as np

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.sphere.healpix import pixel_centres, zoom_of

EVERYWHERE = slice(None)


def damping(
    zoom: int,
    length_radians: float,
    floor: float,
    *,
    part: slice = EVERYWHERE,
    other_zoom: int | None = None,
    other_part: slice = EVERYWHERE,
) -> F64:
    """Factors (pixel, other pixel) of a covariance between pixels of a zoom, or parts of it, and of another one.

    A Gaussian of the angle between their centres, with that standard deviation, and at least `floor`.
    """
    one = _places(zoom, part)
    other = _places(zoom if other_zoom is None else other_zoom, other_part)
    angle = np.arccos(np.clip(one @ other.T, -1, 1))
    factors: F64 = floor + (1 - floor) * np.exp(-0.5 * (angle / length_radians) ** 2)
    return factors


def localised_covariance(fields: Floating, length_radians: float, floor: float, weights: Floating | None = None) -> F64:
    """Damped covariance (pixel, pixel) about zero of fields (time, pixel), all alike or with `weights` (time)."""
    values = fields.astype(np.float64)
    weighted, total = (values, len(values)) if weights is None else (values * weights[:, None], weights.sum())
    covariance: F64 = weighted.T @ values / total
    return covariance * damping(zoom_of(values.shape[1]), length_radians, floor)


def _places(zoom: int, part: slice) -> F64:
    """Unit vectors (pixel, 3) of pixel centres."""
    lat, lon = (np.radians(axis[part]) for axis in pixel_centres(zoom))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
