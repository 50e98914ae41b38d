"""A run of daily data from two resolutions, trained for a few updates and evaluated by the command."""

import json
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr

from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.training.cli.main import main
from fsae.training.evaluation.model import anomalies, draw, of_run, without_sharpening
from fsae.training.evaluation.periods import read_periods
from fsae.training.fitting.run_folder import load_run
from fsae.training.networks.sharpening import power

CONFIG = """
name = "both"
[data]
inputs = ["fine.nc"]
cycle = ["coarse.nc"]
training_years = ["2001-03-01", "2001-09-30"]
validation_years = ["2001-10-01", "2001-10-10"]
evaluation_years = ["2001-10-11", "2001-11-20"]
harmonics = 2
[[data.variables]]
name = "zg500"
standard_name = "geopotential_height"
long_name = "height of 500 hPa"
units = "m"
valid_range = [0.0, 1e4]
[[data.variables]]
name = "pr"
standard_name = "lwe_precipitation_rate"
long_name = "rain"
units = "mm day-1"
valid_range = [0.0, 1e4]
transform = "fourth_root"
[autoencoder]
zoom = 3
latent_zoom = 1
fine_token_zoom = 1
coarse_token_zoom = 0
width = 16
heads = 2
embedding = 9
sharpen = true
sharpen_drawn = true
[autoencoder_fit]
steps = 2
batch = 4
learning_rate = 1e-3
[diffusion]
window = 3
previous = 2
token_zooms = [0]
wiener_zoom = 1
width = 16
heads = 2
embedding = 9
[diffusion_fit]
steps = 2
batch = 4
learning_rate = 1e-3
[sources]
high_resolution_share = 0.5
[[sources.low_resolution]]
inputs = ["coarse.nc"]
zoom = 2
"""


def write_weather(path: Path, zoom: int, first: cftime.datetime, days: int) -> None:
    """Heights and rain that remember the day before, with a yearly cycle; half of the days are dry."""
    rng = np.random.default_rng(zoom)
    values = rng.normal(size=(days, npix(zoom)))
    for day in range(1, days):
        values[day] = 0.8 * values[day - 1] + 0.6 * values[day]
    times = [first + np.timedelta64(day, "D").item() for day in range(days)]
    phase = np.array([(time.dayofyr - 0.5) / 365 for time in times])
    height = np.sin(np.radians(pixel_centres(zoom)[0]))
    season = np.cos(2 * np.pi * phase)[:, None] * height
    fields = {"zg500": 5500 + 50 * values - 100 * season, "pr": np.maximum(values - 0.2 * season, 0) ** 4}
    described = {
        "zg500": {"standard_name": "geopotential_height", "units": "m"},
        "pr": {"standard_name": "lwe_precipitation_rate", "units": "mm day-1"},
    }
    shared = {"grid_mapping": "crs", "cell_methods": "time: mean"}
    crs = {"grid_mapping_name": "healpix", "refinement_level": zoom, "indexing_scheme": "nested"}
    data = {name: (("time", "cell"), field.astype("f4"), described[name] | shared) for name, field in fields.items()}
    xr.Dataset({**data, "crs": ((), 0, crs)}, {"time": times}).to_netcdf(path, engine="h5netcdf")


def check_drawn_power(folder: Path) -> None:
    """Other draws than those that the sharpening was fitted to are nearer to the power of the training days with it."""
    run = load_run(folder)
    (known,) = read_periods(folder / "data.zarr", run.config.data.variables, 3, run.config.data.training_years)
    models = [of_run(run), of_run(without_sharpening(run))]
    misfits = []
    for model in models:
        drawn = anomalies(model, known, draw(model, 1, known.times[0], len(known.times), 50)[0])
        ratio = np.stack([power(drawn[:, v], drawn[:, v]) for v in (0, 1)])
        ratio /= [power(true, true) for true in anomalies(model, known).swapaxes(0, 1)]
        misfits.append(np.square(np.log(ratio)).mean(axis=1))
    assert (misfits[0] < 0.5 * misfits[1]).all()


def test_a_run_of_two_resolutions_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: the truth beside itself, shares counted here, and what no ensemble of roots may have
    write_weather(tmp_path / "fine.nc", 3, cftime.datetime(2001, 3, 1, 12, calendar="noleap"), 265)
    write_weather(tmp_path / "coarse.nc", 2, cftime.datetime(1999, 3, 1, 12, calendar="noleap"), 730)
    (tmp_path / "both.toml").write_text(CONFIG)
    assert main([str(tmp_path / "both.toml"), "--out", str(tmp_path), "--quiet"]) == 0
    check_drawn_power(tmp_path / "both")
    # another diffusion model on the same autoencoder has a sharpening of its own
    again = ["--name", "again", "--autoencoder", str(tmp_path / "both"), "--set", "diffusion_fit.learning_rate=0.1"]
    assert main([str(tmp_path / "both.toml"), "--out", str(tmp_path), "--quiet", *again]) == 0
    check_drawn_power(tmp_path / "again")
    fitted = [load_run(tmp_path / name).autoencoder.sharpening.numpy() for name in ("both", "again")]
    assert (fitted[0] != fitted[1]).all()
    figures = tmp_path / "figures.json"
    options = ["--members", "2", "--forecast-members", "2", "--leads", "4", "--every", "20", "--json", str(figures)]
    assert main(["daily", str(tmp_path / "both"), *options]) == 0
    assert "## Storm tracks, rain" in capsys.readouterr().out
    report = json.loads(figures.read_text())
    truth, _, drawn = report["whole"]
    rain = xr.open_dataset(tmp_path / "fine.nc", engine="h5netcdf").pr.values[-41:]
    assert truth["wet_share"] == pytest.approx((rain >= 1).mean())
    assert (truth["storm_ratio"], truth["pair_ratio"], drawn["name"]) == (1, 1, "both")
    assert drawn["least_rain"] == 0
    for row in report["weather"]:
        if row["name"] == "truth":
            assert (row["bias"], row["std_ratio"], row["spectrum_median"], row["memory_difference"]) == (0, 1, 0, 0)
    (heights,) = (row for row in report["weather"] if (row["name"], row["variable"]) == ("truth", "zg500"))
    # 0.8 by the law of the data; in a stretch of n less (1 + 3 * 0.8) / n, with its mean removed (Kendall 1954)
    assert heights["memory"][0] == pytest.approx(0.8 - 3.4 / 41, abs=0.05)
    crps = {row["name"]: row["crps"] for row in report["skill"] if row["variable"] == "zg500"}
    assert crps.keys() == {"both", "climatology", "persistence", "damped persistence"}
    assert crps["damped persistence"][0] < crps["climatology"][0] < crps["persistence"][3]
