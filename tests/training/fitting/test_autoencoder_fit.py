"""How an autoencoder starts, and what its loss weighs."""

import numpy as np
import pytest
import torch

from fsae.runtime.sphere.healpix import coarsen
from fsae.training.data.prepared import BATCH
from fsae.training.fitting.autoencoder import DETAIL_STEPS, fit_details, fit_global_maps
from fsae.training.fitting.loop import autoencoder_loss
from fsae.training.networks.autoencoder import Autoencoder, AutoencoderConfig
from fsae.training.networks.halo import halo_table


def small_model(*, per_cell_maps: bool, global_zoom: int | None = None) -> Autoencoder:
    config = AutoencoderConfig(
        latent_zoom=1, zoom=3, global_zoom=global_zoom, fine_token_zoom=0, coarse_token_zoom=0, width=8, heads=2,
        embedding=4, depths=(0, 0, 0, 0), per_cell_maps=per_cell_maps,
    )  # fmt: skip
    return Autoencoder(config, torch.zeros(2, 3, 768), torch.ones(2))


def smooth(steps: int) -> np.ndarray:
    """Anomalies (time, 2, 768) that neighbours tell much of."""
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(steps, 2, 768))
    ring = halo_table(3, 3)
    for _ in range(4):
        fields = fields / 2 + fields[..., ring].mean(-1) / 2
    return (fields / fields.std()).astype(np.float32)


@pytest.mark.parametrize("per_cell_maps", [False, True])
def test_details_start_at_the_regression_on_neighbours(per_cell_maps: bool) -> None:  # oracle: numpy's least squares
    fields, season = smooth(40), np.zeros((40, 2), np.float32)
    model = small_model(per_cell_maps=per_cell_maps)
    fit_details(model, fields, season)

    means = coarsen(fields.astype(np.float64), 2)  # without dense maps the latent holds the means of cells
    around = np.concatenate([means[..., None], means[..., halo_table(1, 1)]], axis=-1)  # (time, variable, cell, 9)
    halves = coarsen(fields.astype(np.float64), 1).reshape(40, 2, 48, 4)
    fine = fields.reshape(40, 2, 48, 4, 4) - halves[..., None]
    details = np.concatenate([halves - means[..., None], fine.reshape(40, 2, 48, 16)], axis=-1)

    if not per_cell_maps:
        expected = np.linalg.lstsq(around.reshape(-1, 9), details.reshape(-1, 20), rcond=None)[0]
        np.testing.assert_allclose(model.decompress.shared.detach(), expected, atol=1e-4)
        return
    variable, cell = 1, 17  # its own steps, and those of all cells with a small weight
    weight = np.sqrt(DETAIL_STEPS / 40 / 48)
    every = np.linalg.lstsq(around[:, variable].reshape(-1, 9), details[:, variable].reshape(-1, 20), rcond=None)[0]
    known = np.concatenate([around[:, variable, cell], weight * around[:, variable].reshape(-1, 9)])
    told = np.concatenate([details[:, variable, cell], weight * (around[:, variable] @ every).reshape(-1, 20)])
    expected = np.linalg.lstsq(known, told, rcond=None)[0]
    np.testing.assert_allclose(model.decompress.own.detach()[variable, cell], expected, atol=1e-4)


class Stored:
    """Anomalies on the disk, as far as `fit_details` can see: it keeps how many steps were read at once."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.read = values, values.shape, []

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: list[int]) -> np.ndarray:
        self.read.append(len(self.values[chosen]))
        return self.values[chosen]


def test_details_of_long_series_are_fitted_a_batch_at_a_time() -> None:  # oracle: the same series in memory
    fields, season = smooth(2 * BATCH + 5), np.zeros((2 * BATCH + 5, 2), np.float32)
    stored, models = Stored(fields), [small_model(per_cell_maps=True) for _ in range(2)]
    for model, series in zip(models, (fields, stored), strict=True):
        fit_details(model, series, season)
    assert stored.read == [BATCH, BATCH, 5]
    torch.testing.assert_close(models[0].decompress.own, models[1].decompress.own, rtol=0, atol=0)


def test_a_model_starts_better_than_without_details() -> None:  # oracle: the error of the means that the latent holds
    fields, season = smooth(60), np.zeros((60, 2), np.float32)
    model = small_model(per_cell_maps=True, global_zoom=2)
    fit_global_maps(model, fields[:40], np.arange(40) / 40)
    batch = torch.from_numpy(fields[40:]), torch.from_numpy(season[40:])
    with torch.no_grad():
        before = float(autoencoder_loss(model, batch))
        fit_details(model, fields[:40], season[:40])
        assert float(autoencoder_loss(model, batch)) < 0.95 * before


def test_the_loss_weighs_variables_by_their_own_error() -> None:  # oracle: units of one variable scale it alone
    model = small_model(per_cell_maps=False)
    fields, season = torch.from_numpy(smooth(5)), torch.zeros(5, 2)
    first, second = ((autoencoder_loss(model, (fields[:, [v, v]], season))) for v in (0, 1))
    assert autoencoder_loss(model, (fields, season)).item() == pytest.approx((first * second).sqrt().item(), rel=1e-5)
    scaled = fields * torch.tensor([1.0, 10.0])[:, None]
    assert autoencoder_loss(model, (scaled, season)).item() == pytest.approx(
        10 * (first * second).sqrt().item(), rel=1e-5
    )
