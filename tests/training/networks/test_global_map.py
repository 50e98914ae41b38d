"""Dense maps of the sphere and the localised covariance they are computed from: closed forms and regressions."""

import healpy
import numpy as np
import pytest
import torch

from fsae.export.graphs.trace import bytes_of
from fsae.runtime.climate.climatology import season
from fsae.runtime.sphere.healpix import coarsen, npix, pixel_centres, refine
from fsae.training.networks import global_map
from fsae.training.networks.global_map import completions, global_maps, reach
from fsae.training.networks.localisation import localised_covariance


@torch.no_grad()
def test_global_maps_alone_are_eofs_of_a_localised_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: regression on base means and an eigenvalue problem, solved here for the error they must leave
    monkeypatch.setattr(global_map, "MOVED_SHARE", 0.0)
    rng = np.random.default_rng(4)
    fields = rng.normal(size=(40, 6)) @ rng.normal(size=(6, npix(2))) + 0.1 * rng.normal(size=(40, npix(2)))
    to_latent, from_latent = (maps[0, 0] for maps in global_maps(fields, np.zeros(40), (0, 1, 2), 0))
    covariance = localised_covariance(fields, *reach(1))
    means = np.kron(np.eye(12), np.full((16, 1), 1 / 16))
    regression = np.linalg.solve(means.T @ covariance @ means, means.T @ covariance)
    rest = np.eye(npix(2)) - means @ regression
    left = np.linalg.eigvalsh(rest.T @ covariance @ rest)[: npix(2) - 36].sum()
    lost = np.eye(npix(2)) - to_latent @ from_latent
    assert np.trace(lost.T @ covariance @ lost) == pytest.approx(left, rel=5e-3)  # the maps are rounded to bytes
    means_kept = coarsen(fields @ to_latent, 1)  # by bytes: the autoencoder puts the exact ones in their place
    np.testing.assert_allclose(means_kept, coarsen(fields, 2), atol=0.02 * fields.std())


def test_global_maps_see_fields_moved_by_a_pixel_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the maps of the series with the moved fields beside its own, in their shares
    rng = np.random.default_rng(10)
    fields = rng.normal(size=(40, 6)) @ rng.normal(size=(6, npix(2))) + 0.1 * rng.normal(size=(40, npix(2)))
    found = global_maps(fields, np.zeros(40), (0, 1, 2), 0)
    around = healpy.get_all_neighbours(4, np.arange(npix(2)), nest=True)
    around = np.where(around < 0, np.arange(npix(2)), around)
    share = global_map.MOVED_SHARE
    beside = [np.sqrt(share / 8) * fields[:, neighbour] for neighbour in around]
    monkeypatch.setattr(global_map, "MOVED_SHARE", 0.0)
    series = 3 * np.concatenate([np.sqrt(1 - share) * fields, *beside])
    expected = global_maps(series, np.zeros(360), (0, 1, 2), 0)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * np.abs(other).max())  # a byte may round the other way
    assert np.abs(global_maps(fields, np.zeros(40), (0, 1, 2), 0)[0] - found[0]).max() > 0.1 * np.abs(found[0]).max()


@pytest.mark.parametrize("cell_zoom", [None, 0])
@pytest.mark.parametrize("harmonics", [0, 1])
def test_maps_are_bytes_times_a_scale_a_column(cell_zoom: int | None, harmonics: int) -> None:
    # oracle: the exporter, which stores bytes only if nothing is lost
    fields, phase = np.random.default_rng(11).normal(size=(60, npix(2))), (np.arange(60) / 12) % 1
    maps = global_maps(fields, phase, (0, 1, 2), harmonics, cell_zoom)
    for part in (*maps, *completions(fields, maps[0][0], (0, 1))):
        found = bytes_of(part.astype(np.float32))
        assert found is not None
        assert np.abs(found[0]).max() == 127


def test_maps_of_cells_are_those_of_each_cell_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the maps of a sphere that is one cell's
    monkeypatch.setattr(global_map, "MOVED_SHARE", 0.0)
    rng = np.random.default_rng(6)
    fields = rng.normal(size=(60, 20)) @ rng.normal(size=(20, npix(2)))
    to_latent, from_latent = (maps[0] for maps in global_maps(fields, np.zeros(60), (0, 1, 2), 0, cell_zoom=0))
    assert to_latent.shape == (12, 16, 4)
    other = fields.copy()
    other[:, :16] = rng.normal(size=(60, 16))
    changed = global_maps(other, np.zeros(60), (0, 1, 2), 0, cell_zoom=0)[0][0]
    np.testing.assert_array_equal(changed[1:], to_latent[1:])
    assert np.abs(changed[0] - to_latent[0]).max() > 0.01
    rebuilt = np.einsum("tgp,gpl,glq->tgq", fields.reshape(60, 12, 16), to_latent, from_latent)
    means = np.repeat(fields.reshape(60, 12, 4, 4).mean(-1), 4, axis=-1)
    assert np.square(rebuilt - fields.reshape(60, 12, 16)).mean() < np.square(means - fields.reshape(60, 12, 16)).mean()


@pytest.mark.parametrize("cell_zoom", [None, 0])
def test_completions_add_what_block_means_tell_of_the_details(
    cell_zoom: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # oracle: fields whose means tell all: completed, the latents of the means are those of the fields
    monkeypatch.setattr(global_map, "reach", lambda zoom: (0.3, 1.0))  # no damping: a regression in the series
    rng = np.random.default_rng(9)
    means = rng.normal(size=(200, npix(1)))
    inside = rng.normal(size=(12, 4, 16))  # of each base cell: its details are a function of its own means
    details = np.einsum("tgm,gmp->tgp", means.reshape(200, 12, 4), inside).reshape(200, -1)
    fields = refine(means, 1) + details - refine(coarsen(details, 1), 1)
    to_latent = global_maps(fields, np.zeros(200), (0, 1, 2), 0, cell_zoom)[0][0]
    blocks = len(to_latent)
    parts = [values.reshape(200, blocks, -1) for values in (fields, refine(means, 1), means)]
    whole, blocky, known = (
        np.einsum("tgp,gpl->tgl", part, map_)
        for part, map_ in zip(parts, (to_latent, to_latent, completions(fields, to_latent, (0, 1))[1]), strict=True)
    )
    assert np.abs(blocky - whole).max() > 1
    np.testing.assert_allclose(blocky + known, whole, atol=0.03 * whole.std() * 5)


def test_global_maps_follow_the_season(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: 36 patterns of winter and 36 of summer; the latent has 36 numbers beside the means, so one map must lose
    # half of the variance that the means do not explain, and maps that turn with the season less
    monkeypatch.setattr(global_map, "reach", lambda zoom: (0.8, 0.3))  # patterns span the sphere
    monkeypatch.setattr(global_map, "MOVED_SHARE", 0.0)
    rng = np.random.default_rng(5)
    phase = np.tile((np.arange(12) + 0.5) / 12, 40)
    patterns = rng.normal(size=(72, npix(2)))
    patterns = np.linalg.qr((patterns - refine(coarsen(patterns, 2), 2)).T)[0].T
    share = np.stack([np.cos(np.pi * phase), np.sin(np.pi * phase)], axis=1).repeat(36, axis=1)  # (time, pattern)
    fields = (rng.normal(size=share.shape) * share) @ patterns + refine(rng.normal(size=(480, 12)), 2)
    lost = {}
    for harmonics in (0, 1, 2):
        to_latent, from_latent = (maps[:, 0] for maps in global_maps(fields, phase, (0, 1, 2), harmonics))
        features = np.concatenate([np.ones((480, 1)), season(phase, harmonics)], axis=1)
        latent = np.einsum("tk,kpc,tp->tc", features, to_latent, fields, optimize=True)
        back = np.einsum("tk,kcp,tc->tp", features, from_latent, latent, optimize=True)
        lost[harmonics] = np.square(back - fields).sum() / np.square(share).sum()
    assert 0.45 < lost[0] < 0.6
    assert lost[2] < lost[1] < 0.8 * lost[0]


def test_covariance_is_damped_with_distance_only() -> None:  # oracle: the Gaussian taper at hand-picked pixels
    fields = np.random.default_rng(0).normal(size=(30, npix(1)))
    plain, damped = fields.T @ fields / 30, localised_covariance(fields, 0.8, 0.3)
    np.testing.assert_allclose(np.diag(damped), np.diag(plain))
    lat, lon = np.radians(np.array(pixel_centres(1)))
    cosine = np.sin(lat[0]) * np.sin(lat[40]) + np.cos(lat[0]) * np.cos(lat[40]) * np.cos(lon[0] - lon[40])
    taper = 0.3 + 0.7 * np.exp(-0.5 * (np.arccos(cosine) / 0.8) ** 2)
    assert damped[0, 40] == pytest.approx(plain[0, 40] * taper)


def test_covariance_of_moved_fields_is_that_of_neighbours() -> None:  # oracle: healpy's neighbours, pixel by pixel
    fields = np.random.default_rng(0).normal(size=(30, npix(1)))
    plain = fields.T @ fields / 30
    ring = [np.where(x < 0, (7, 9), x) for x in healpy.get_all_neighbours(2, [7, 9], nest=True)]
    moved = np.mean([plain[one, other] for one, other in ring])
    found = localised_covariance(fields, 0.8, 1.0, 0.4)
    assert found[7, 9] == pytest.approx(0.6 * plain[7, 9] + 0.4 * moved)
