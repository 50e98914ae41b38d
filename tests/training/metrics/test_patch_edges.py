"""Peaks and jumps of patches that were put there by hand."""

import numpy as np
import pytest

from fsae.runtime.sphere.healpix import npix, refine
from fsae.training.metrics.patch_edges import cell_peak, edge_jumps, repeat_degree
from fsae.training.metrics.spectra import power_spectrum


def test_degree_of_a_cell() -> None:  # oracle: the area of a cell, 4 pi / (12 nside**2), is the square of its side
    for zoom in range(4):
        side = np.sqrt(4 * np.pi / npix(zoom))
        assert 2 * np.pi / repeat_degree(zoom) == pytest.approx(side)


def test_a_peak_is_found_where_it_stands() -> None:
    # oracle: twice the power at the degree of zoom 2 (24 to 25), a slope elsewhere, which is no peak
    degrees = np.arange(2, 61)
    flat = np.stack([np.ones(59), np.where(np.isin(degrees, [24, 25]), 2.0, 1.0), np.exp(0.01 * degrees)])
    found = cell_peak(flat, 3)
    assert found is not None
    np.testing.assert_allclose(found, [1, 2, 1.0], atol=0.02)
    coarser = cell_peak(flat, 1)  # cells of zoom 1 alone
    assert coarser is not None
    np.testing.assert_allclose(coarser, [1, 1, 1.0], atol=0.02)
    assert cell_peak(flat[:, :10], 3) is None  # the spectrum ends before the first of them


def test_a_pattern_repeated_in_every_cell_peaks_at_its_degree() -> None:
    # oracle: a bump repeated in all cells of zoom 2, in fields of white noise; the same bumps shuffled have no peak
    rng = np.random.default_rng(0)
    noise = 0.2 * rng.standard_normal((6, npix(4)))
    bump = np.zeros((4, 4))
    bump[:2, :2] = 1
    repeated = np.tile(bump.ravel(), npix(2))
    shuffled = np.stack([rng.permutation(repeated) for _ in range(6)])
    peaks = []
    for pattern in (repeated, shuffled):
        power = power_spectrum(noise + pattern, 32)[2:]
        peaks.append(cell_peak(power / power_spectrum(noise, 32)[2:], 2))
    assert peaks[0] is not None
    assert peaks[1] is not None
    assert (peaks[0] > 3, peaks[1] < 1.5) == (True, True)


def test_offsets_of_cells_jump_at_their_edges() -> None:
    # oracle: noise of deviation 1 and offsets of deviation 2: jumps of variance 2 (1 + 4) across edges and 2 within
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((200, npix(4)))
    np.testing.assert_allclose(edge_jumps(noise, 3), 1, atol=0.01)
    offsets = refine(2 * rng.standard_normal((200, npix(2))), 2)
    jumps = edge_jumps(noise + offsets, 3)
    assert jumps[1] == pytest.approx(np.sqrt(5), rel=0.02)
    assert jumps[0] < jumps[1]  # half of those edges lie inside cells of zoom 1
    assert jumps[2] < jumps[1]
