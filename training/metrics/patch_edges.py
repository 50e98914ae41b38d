"""Signs of the patches a network works in: a spectral peak at the scale of its cells, and jumps across their edges.

A pattern that is repeated in every cell has its power at the degree whose wavelength is a cell's side; offsets that
differ from cell to cell have none there but make the field jump where cells meet. Both are compared with real fields.
Whichever cells the blocks of a network work in, every zoom from 1 to the latent's is examined.
"""

import numpy as np

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.sphere.healpix import zoom_of
from fsae.training.networks.halo import halo_table

PEAK_WIDTH = 0.05  # share of the degree that counts as the peak; one degree at least
NEIGHBOURS = 1.5  # the degrees around it reach up to 1.5 times it, if the spectrum does, and as far down


def repeat_degree(zoom: int) -> float:
    """Degree whose wavelength, 2 pi / l, is the side of a cell of `zoom`, sqrt(pi / 3) / nside: sqrt(12 pi) nside.

    >>> round(repeat_degree(2), 1)
    24.6
    """
    return float(np.sqrt(12 * np.pi) * 2**zoom)


def cell_peak(ratio: F64, latent_zoom: int) -> F64 | None:
    """Largest peak (...) of the power ratio (..., degree) from l = 2 on, at the degrees of zooms 1 ... `latent_zoom`.

    A peak is the mean ratio at those degrees over the median of the degrees around. None if the spectrum does not
    reach beyond the first of them.
    """
    degrees = np.arange(2, 2 + ratio.shape[-1])
    peaks = []
    for zoom in range(1, latent_zoom + 1):
        centre = repeat_degree(zoom)
        at = np.abs(degrees - centre) <= max(1.0, PEAK_WIDTH * centre)
        reach = min(NEIGHBOURS, degrees[-1] / centre)  # the same on both sides: a slope is not a peak
        if reach < 1 + 2 * PEAK_WIDTH:
            break
        around = (degrees >= centre / reach) & (degrees <= centre * reach) & ~at
        peaks.append(ratio[..., at].mean(axis=-1) / np.median(ratio[..., around], axis=-1))
    return np.max(peaks, axis=0) if peaks else None


def edge_jumps(fields: Floating, latent_zoom: int) -> F64:
    """Root mean square difference of neighbours across cell edges over that within cells, (zoom 1 ... `latent_zoom`,).

    Neighbours of fields (field, pixel) share a side. Real fields have a ratio near one; where climate follows latitude
    or coasts happen to lie on edges it differs, so it is compared with the truth's.
    """
    zoom = zoom_of(fields.shape[-1])
    pixel = np.arange(fields.shape[-1])
    neighbours = halo_table(zoom, zoom)[:, ::2].T  # (side, pixel): south-west, south-east, north-east, north-west
    square = np.stack([np.mean((fields - fields[:, side]) ** 2, axis=0, dtype=np.float64) for side in neighbours])
    ratios = []
    for cells in range(1, latent_zoom + 1):
        inside = pixel >> (2 * (zoom - cells)) == neighbours >> (2 * (zoom - cells))  # parents of nested pixels
        ratios.append(np.sqrt(square[~inside].mean() / square[inside].mean()))
    return np.array(ratios)
