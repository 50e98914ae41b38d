"""Damping of covariances with distance: what few fields seem to know of far places is mostly chance.

As ensemble Kalman filters do: a Schur product with a function of distance (Houtekamer and Mitchell 2001,
doi:10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2). A floor leaves patterns that span the sphere, such as El Nino.

And statistics change little from a pixel to the next one, while their sampling errors do: covariances are also taken of
fields that are moved by a pixel.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.sphere.healpix import pixel_centres, zoom_of

from .halo import halo_table

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


def localised_covariance(fields: Floating, length_radians: float, floor: float, moved_share: float = 0.0) -> F64:
    """Damped covariance (pixel, pixel) about zero of fields (time, pixel), and in part of moved ones (see `moved`)."""
    zoom = zoom_of(fields.shape[1])
    covariance = np.zeros((fields.shape[1],) * 2)
    for share, pixels in moved(zoom, moved_share):
        values = fields[:, pixels].astype(np.float64)
        covariance += share * (values.T @ values) / len(values)
    return covariance * damping(zoom, length_radians, floor)


def moved(zoom: int, share: float) -> Iterator[tuple[float, NDArray[np.int32]]]:
    """Weights, and the pixels (pixel,) whose values stand in each: `share` for the eight neighbours, the rest in place.

    >>> [(weight, pixels.shape) for weight, pixels in moved(1, 0.0)]
    [(1.0, (48,))]
    """
    ring = halo_table(zoom, zoom)
    yield 1 - share, np.arange(len(ring), dtype=np.int32)
    if share:
        for neighbour in ring.T:
            yield share / len(ring.T), neighbour


def _places(zoom: int, part: slice) -> F64:
    """Unit vectors (pixel, 3) of pixel centres."""
    lat, lon = (np.radians(axis[part]) for axis in pixel_centres(zoom))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
