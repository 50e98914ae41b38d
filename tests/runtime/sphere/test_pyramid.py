"""The field pyramid: closed forms and invariants."""

import numpy as np
import pytest
import torch

from fsae.runtime.diffusion import whitening
from fsae.runtime.sphere import pyramid
from fsae.runtime.sphere.healpix import coarsen, npix
from fsae.training.networks import layers

ZOOMS = [(0, 1, 2, 3), (0, 2, 3), (1, 3)]


@pytest.mark.parametrize("zooms", ZOOMS)
def test_levels_are_orthogonal_and_add_up(zooms: tuple[int, ...]) -> None:  # oracle: Pythagoras
    field = np.random.default_rng(0).normal(size=(2, npix(zooms[-1])))
    levels = pyramid.decompose(field, zooms)
    np.testing.assert_allclose(pyramid.recompose(levels, zooms), field, atol=1e-14)
    squares = sum(np.square(level).mean(-1) for level in levels)
    np.testing.assert_allclose(squares, np.square(field).mean(-1), rtol=1e-12)
    for zoom, parent, level in zip(zooms[1:], zooms[:-1], levels[1:], strict=True):
        np.testing.assert_allclose(coarsen(level, zoom - parent), 0, atol=1e-14)


def test_conserve_keeps_the_base_and_removes_parent_means() -> None:  # oracle: means over cells of the recomposed field
    rng = np.random.default_rng(1)
    zooms = (0, 1, 3)
    levels = [rng.normal(size=npix(zoom)) for zoom in zooms]
    field = pyramid.recompose(pyramid.conserve(levels, zooms), zooms)
    np.testing.assert_allclose(coarsen(field, 3), levels[0], atol=1e-14)
    assert abs(coarsen(pyramid.recompose(levels, zooms), 3) - levels[0]).max() > 0.1  # without it they do not hold


def test_white_noise_is_unit_noise_on_every_level() -> None:  # oracle: the variance of a mean of independent numbers
    zooms, draws = (0, 1, 2), 4000
    noise = np.random.default_rng(2).normal(size=(draws, 1, npix(2)))
    cell_std, level_std = np.full((1, npix(2)), 3.0), np.array([[0.5, 2.0, 1.5]])
    latent = whitening.unwhiten(noise, zooms, cell_std, level_std) / cell_std
    base, *residuals = pyramid.decompose(latent, zooms)
    # sampling error of a standard deviation: 1 / sqrt(2 * numbers), about 0.3 % here
    np.testing.assert_allclose(base.std(), 0.5, rtol=0.02)
    np.testing.assert_allclose([r.std() for r in residuals], np.sqrt(3 / 4) * np.array([2.0, 1.5]), rtol=0.02)


def test_unwhiten_undoes_whiten() -> None:  # oracle: the identity
    rng = np.random.default_rng(3)
    zooms = (0, 1, 2, 3)
    field = rng.normal(size=(4, 2, npix(3)))
    cell_std, level_std = rng.uniform(0.5, 2, (2, npix(3))), rng.uniform(0.2, 2, (2, 4))
    white = whitening.whiten(field, zooms, cell_std, level_std)
    np.testing.assert_allclose(whitening.unwhiten(white, zooms, cell_std, level_std), field, atol=1e-13)


def test_level_mask_keeps_what_the_input_resolves() -> None:  # oracle: the definition
    np.testing.assert_array_equal(pyramid.level_mask((1, 2, 3), 2), [1, 1, 0])


@pytest.mark.parametrize("zooms", ZOOMS)
def test_torch_twins_equal_numpy(zooms: tuple[int, ...]) -> None:  # oracle: the NumPy original
    field = np.random.default_rng(4).normal(size=(2, 3, 1, npix(zooms[-1])))
    levels, twins = pyramid.decompose(field, zooms), layers.decompose(torch.from_numpy(field), zooms)
    for level, twin in zip(levels, twins, strict=True):
        np.testing.assert_allclose(twin.numpy(), level, atol=1e-14)
    rough = [torch.from_numpy(level + 0.1) for level in levels]
    conserved = pyramid.conserve([level.numpy() for level in rough], zooms)
    twin_field = layers.recompose(layers.conserve(rough, zooms), zooms).numpy()
    np.testing.assert_allclose(twin_field, pyramid.recompose(conserved, zooms), atol=1e-14)
