"""Super-resolution of another model's output: invariances, and an autoencoder whose figures are known."""

from dataclasses import dataclass
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from made_up_model import made_up_model

from fsae.runtime.arrays import F32
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.sphere.healpix import coarsen, npix, refine
from fsae.training.evaluation.reconstruction import MODEL
from fsae.training.studies.superres import TRANSFER, transfer

ZOOM, COARSE, MONTHS = 3, 1, 48
CLIMATOLOGY = np.stack([np.full(npix(ZOOM), 280.0), np.linspace(-5, 5, npix(ZOOM)), np.zeros(npix(ZOOM))])[None]


@dataclass(frozen=True)
class BlockMeans:
    """An autoencoder that keeps the means over the cells of zoom 1 of what it is shown, and nothing else."""

    def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
        return coarsen(field - harmonic.evaluate(CLIMATOLOGY, season), ZOOM - COARSE)

    def decode(self, latent: F32, season: F32) -> F32:
        return (refine(latent, ZOOM - COARSE) + harmonic.evaluate(CLIMATOLOGY, season)).astype(np.float32)


MODEL_OF_MEANS = made_up_model(BlockMeans(), CLIMATOLOGY, (2.0,), zooms=(0, 1, 2, 3), latent_zoom=COARSE)


def write(path: Path, zoom: int, bias: float = 0.0, name: str = "tas") -> Path:
    """A source at `zoom` with a climate of its own: noise, a yearly cycle, and `bias` on both."""
    rng = np.random.default_rng(3)
    phase = (np.arange(MONTHS) % 12 + 0.5) / 12
    cycle = bias * (1 + np.cos(2 * np.pi * phase)[:, None] * np.linspace(0, 1, npix(zoom)))
    values = 270 + rng.normal(size=(MONTHS, npix(zoom))) + cycle
    times = [cftime.datetime(1990 + m // 12, 1 + m % 12, 16, calendar="noleap") for m in range(MONTHS)]
    attributes = {"standard_name": "air_temperature", "units": "K", "grid_mapping": "crs", "cell_methods": "time: mean"}
    crs = {"grid_mapping_name": "healpix", "refinement_level": zoom, "indexing_scheme": "nested"}
    dataset = xr.Dataset(
        {name: (("time", "cell"), values.astype(np.float32), attributes), "crs": ((), 0, crs)}, {"time": times}
    )
    dataset.to_netcdf(path, engine="h5netcdf")
    return path


def test_the_bias_of_a_source_changes_nothing(tmp_path: Path) -> None:  # oracle: its own climatology takes it away
    plain = transfer(MODEL_OF_MEANS, write(tmp_path / "a.nc", ZOOM), COARSE, {})
    biased = transfer(MODEL_OF_MEANS, write(tmp_path / "b.nc", ZOOM, bias=20.0), COARSE, {})
    np.testing.assert_allclose([row.rmse for row in biased], [row.rmse for row in plain], rtol=1e-3)


def test_a_model_of_block_means_scores_as_block_means(tmp_path: Path) -> None:
    # oracle: means repeated, and by hand the deviation of fields from them about their own climatology
    rows = {row.method: row for row in transfer(MODEL_OF_MEANS, write(tmp_path / "a.nc", ZOOM), COARSE, {})}
    assert rows[MODEL].rmse == pytest.approx(rows["means: nearest"].rmse, rel=1e-4)
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as dataset:
        values = dataset["tas"].values.astype(np.float64)
    phase = (np.arange(MONTHS) % 12 + 0.5) / 12
    waves = np.stack([np.ones(MONTHS), np.cos(2 * np.pi * phase), np.sin(2 * np.pi * phase)], axis=1)
    anomaly = values - waves @ np.linalg.lstsq(waves, values, rcond=None)[0]
    expected = np.sqrt(np.square(anomaly - refine(coarsen(anomaly, 2), 2)).mean())
    assert rows[MODEL].rmse == pytest.approx(expected, rel=1e-3)
    assert (rows[MODEL].steps, rows[MODEL].source_zoom) == (MONTHS, ZOOM)
    assert f"{expected:.3f}" in "\n".join(TRANSFER.lines(rows.values()))


def test_a_coarser_source_is_scored_at_its_own_zoom(tmp_path: Path) -> None:  # oracle: nothing finer exists there
    rows = transfer(MODEL_OF_MEANS, write(tmp_path / "a.nc", 2, name="ts"), COARSE, {"tas": "ts"})
    assert {row.source_zoom for row in rows} == {2}


def test_what_cannot_be_sharpened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="zoom 1, expected one finer than zoom 1"):
        transfer(MODEL_OF_MEANS, write(tmp_path / "a.nc", 1), COARSE, {})
    with pytest.raises(UsageError, match="--from-zoom 3"):
        transfer(MODEL_OF_MEANS, tmp_path / "a.nc", 3, {})
