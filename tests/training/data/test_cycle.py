"""The yearly cycle of a coarser source: read, interpolated, and put under training years that lack seasons."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import cftime
import msgspec
import numpy as np
import pytest
import xarray as xr

from fsae.runtime.climate import climatology
from fsae.runtime.errors import DataError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.training.config import Config, DataConfig, FitConfig, VariableConfig
from fsae.training.data.cycle import read_cycle
from fsae.training.data.normalisation import fit_statistics, normalised
from fsae.training.networks.autoencoder import AutoencoderConfig

RAIN = VariableConfig(
    name="pr",
    standard_name="lwe_precipitation_rate",
    long_name="rain",
    units="mm day-1",
    valid_range=(0.0, 1e4),
    transform="fourth_root",
)
CONFIG = Config(
    name="test",
    data=DataConfig(
        inputs=("none",), variables=(RAIN,), harmonics=2, training_years=("2001-03-01", "2001-09-30"),
        evaluation_years=("2001-11-01", "2001-12-31"),
    ),
    autoencoder=AutoencoderConfig(zoom=3, latent_zoom=1, fine_token_zoom=1, coarse_token_zoom=0),
    autoencoder_fit=FitConfig(steps=1, batch=1, learning_rate=1e-3),
)  # fmt: skip
YEAR = [cftime.datetime(2001, 1, 1, 12, calendar="noleap") + np.timedelta64(day, "D").item() for day in range(365)]
PHASE = (np.arange(365) + 0.5) / 365


def cycle(zoom: int) -> np.ndarray:
    """Harmonics (2K, pixel) whose size is a smooth function of place: of degree one on the sphere."""
    height = np.sin(np.radians(pixel_centres(zoom)[0]))
    return np.stack([0.3 * height, 0.1 * height, 0.05 * height, -0.1 * height])


def write_rain(path: Path, zoom: int, roots: np.ndarray, times: Sequence[cftime.datetime]) -> Path:
    """Daily rain on HEALPix whose fourth roots are known (time, pixel)."""
    described = {"standard_name": RAIN.standard_name, "units": RAIN.units, "cell_methods": "time: mean"}
    crs = {"grid_mapping_name": "healpix", "refinement_level": zoom, "indexing_scheme": "nested"}
    rain = (("time", "cell"), roots**4, described | {"grid_mapping": "crs"})
    xr.Dataset({"pr": rain, "crs": ((), 0, crs)}, {"time": list(times)}).to_netcdf(path, engine="h5netcdf")
    return path


def test_the_cycle_is_that_of_roots(tmp_path: Path) -> None:  # oracle: closed form, linear in height on the sphere
    roots = 1.5 + climatology.season(PHASE, 2) @ cycle(3)
    coarse = write_rain(tmp_path / "coarse.nc", 3, roots, YEAR)
    np.testing.assert_allclose(read_cycle(CONFIG, [coarse])[:, 0], cycle(3), atol=1e-5)
    finer = msgspec.structs.replace(CONFIG, autoencoder=msgspec.structs.replace(CONFIG.autoencoder, zoom=4))
    # between the centres it is linear: off by the square of a pixel's size, in radians, over 8
    np.testing.assert_allclose(read_cycle(finer, [coarse])[:, 0], cycle(4), atol=0.3 * (7.3 * np.pi / 180) ** 2)
    short = write_rain(tmp_path / "summer.nc", 3, roots[150:240], YEAR[150:240])
    with pytest.raises(DataError, match="too few for 2 harmonics"):
        read_cycle(CONFIG, [short])


def test_months_that_training_lacks_have_the_season_of_the_coarse_source(tmp_path: Path) -> None:
    # oracle: closed form; the mean is the training days' own, and with the cycle nothing is left in any other month
    offset = 1.5 + 0.2 * np.random.default_rng(0).normal(size=npix(3))
    noise = np.tile([[0.1], [-0.1]], (183, npix(3)))[:365]
    roots = offset + climatology.season(PHASE, 2) @ cycle(3)
    file = write_rain(tmp_path / "fine.nc", 3, roots + noise, YEAR)
    with contextlib.closing(read_fields(file, [RAIN], zoom=3)) as fields:
        march_to_september = slice(59, 273)
        with pytest.raises(DataError, match="too few for 2 harmonics"):
            fit_statistics(CONFIG.data, fields, slice(150, 240))
        found = fit_statistics(CONFIG.data, fields, march_to_september, cycle(3)[:, None])
        np.testing.assert_allclose(found["climatology"][0, 0], offset, atol=1e-4)
        np.testing.assert_allclose(found["scale"], 0.1, rtol=1e-3)
        winter, _ = normalised(CONFIG, fields, found, slice(300, 365))
    np.testing.assert_allclose(np.abs(winter[:]), 1, atol=5e-3)


def test_a_mean_alone_takes_no_cycle() -> None:  # oracle: the configuration that says so
    with pytest.raises(ValueError, match=r"data\.cycle"):
        msgspec.structs.replace(CONFIG.data, normalisation="mean_std", cycle=("coarse.nc",))
