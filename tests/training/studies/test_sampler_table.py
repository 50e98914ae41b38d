"""The table of samplers on the tiny bundle, whose denoiser is that of a known Gaussian."""

import json
from dataclasses import replace
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from msgspec import structs
from tiny_bundle import WINDOW, tiny_grid

from fsae.runtime.climate.calendar import year_phase
from fsae.runtime.ensemble.generate import timeline
from fsae.runtime.ensemble.members import LatentModel, Plan, generate
from fsae.runtime.errors import UsageError
from fsae.training.cli.main import main
from fsae.training.config import DEFAULT, read_config
from fsae.training.evaluation.model import TrainedModel, of_bundle
from fsae.training.evaluation.periods import Period
from fsae.training.metrics.ensembles import energy_score
from fsae.training.metrics.scores import fair_crps
from fsae.training.studies.samplers import (
    Energy,
    Figures,
    Row,
    SamplerTable,
    compare_samplers,
    rank,
    recommend,
    year_range,
    years_to_use,
)

MONTHS, MEMBERS = 36, 6
CONFIG = """
name = "table"
[data]
inputs = ["months.nc"]
training_years = [1990, 1992]
evaluation_years = [1993, 1993]
[[data.variables]]
name = "tas"
standard_name = "air_temperature"
long_name = "air temperature"
units = "K"
valid_range = [150.0, 350.0]
[[data.variables]]
name = "uas"
standard_name = "eastward_wind"
long_name = "eastward wind"
units = "m s-1"
valid_range = [-100.0, 100.0]
[autoencoder]
zoom = 2
latent_zoom = 1
fine_token_zoom = 1
coarse_token_zoom = 0
[autoencoder_fit]
steps = 1
batch = 1
learning_rate = 1e-3
"""


def drawn(model: TrainedModel, sampler: str, steps: int, members: range, seed: int) -> np.ndarray:
    """Fields (member, time, variable, pixel) of the tiny bundle, from January 1990 on."""
    latent = with_sampler(model, sampler, steps)
    start = cftime.datetime(1990, 1, 1, calendar="standard")
    line = timeline(model.time, WINDOW, "time: mean", start, MONTHS, None)
    windows: dict[int, list[np.ndarray]] = {}  # by member
    plan = Plan(members=members, steps=line.steps, count=MONTHS, seed=seed)
    for unit in generate(latent, model.graphs, plan, batch=len(members)):
        windows.setdefault(unit.members.start, []).append(unit.values[0])
    return np.stack([np.concatenate(windows[place]) for place in range(len(members))])


def with_sampler(model: TrainedModel, name: str, steps: int) -> LatentModel:
    return replace(model.generator, sampler=structs.replace(model.generator.sampler, name=name, steps=steps))


@pytest.fixture(scope="module")
def model(tiny_bundle_path: Path) -> TrainedModel:
    return of_bundle(str(tiny_bundle_path))


@pytest.fixture(scope="module")
def truth(model: TrainedModel) -> Period:
    """One more draw of the model's own climate, from other noise."""
    times = [cftime.datetime(1990 + m // 12, 1 + m % 12, 15, calendar="standard") for m in range(MONTHS)]
    values = drawn(model, "heun", 64, range(1), seed=99)[0]
    return Period(values=values, phase=year_phase(times, "1 month", "time: mean"), times=times)


@pytest.fixture(scope="module")
def found(model: TrainedModel, truth: Period) -> SamplerTable:
    choices = [with_sampler(model, name, steps) for name, steps in (("heun", 32), ("dpm2m", 32), ("dpm2m", 2))]
    return compare_samplers(model, choices, truth, MEMBERS)


def test_figures_are_those_of_the_ensemble(model: TrainedModel, truth: Period, found: SamplerTable) -> None:
    # oracle: the same members drawn here; the model's climate has the model's spread
    fields = drawn(model, "dpm2m", 32, range(MEMBERS), seed=0)
    row = found.rows[1]
    for v, figures in enumerate(row.figures):
        members, true = fields[:, :, v].astype(np.float64), truth.values[:, v].astype(np.float64)
        assert figures.crps == pytest.approx(fair_crps(members, true), rel=1e-4)  # float32 of 290 K
        assert figures.pixel_energy.score == pytest.approx(energy_score(members, true), rel=1e-4)
        assert figures.block_energy == figures.pixel_energy  # zoom 2 is the tiny bundle's finest
        assert figures.spread == pytest.approx(1, abs=0.1)  # chance, of three years
    assert row.milliseconds > 0


def test_same_noise_and_the_fewest_calls(found: SamplerTable) -> None:
    # oracle: two accurate samplers draw the same members from the same noise; two steps draw far too little variance
    heun, dpm, short = found.rows
    for one, other in zip(heun.figures, dpm.figures, strict=True):
        assert one.crps == pytest.approx(other.crps, rel=0.01)
        assert one.spread == pytest.approx(other.spread, rel=0.01)
    assert (heun.calls, dpm.calls, short.calls) == (63, 32, 2)
    assert short.excess > 0.02
    assert short.figures[0].spread < 0.7
    assert found.recommended == 1


def test_rank_by_hand() -> None:  # oracle: by hand, of two years with two steps each
    years = np.array([2000, 2000, 2001, 2001])
    best, other = rank(np.array([[1.0, 1.0, 1.0, 1.0], [1.1, 1.3, 1.3, 1.5]]), years)
    assert best == Energy(score=1.0, excess=0.0, excess_error=0.0)
    assert (other.score, other.excess) == pytest.approx((1.3, 0.3))
    assert other.excess_error == pytest.approx(0.1)  # yearly 0.2 and 0.4: deviation 0.1414 over the root of two
    assert rank(np.array([[1.0, 2.0]]), years[:2])[0].excess_error is None


def test_recommendation() -> None:  # oracle: the rule, by hand
    def row(calls: int, blocks: float, pixels: float) -> Row:
        energies = [Energy(score=1 + e, excess=e, excess_error=None) for e in (blocks, pixels)]
        figures = Figures(block_energy=energies[0], pixel_energy=energies[1], crps=1.0, spread=1.0, spectrum_median=0.0)
        return Row(sampler="dpm2m", steps=calls, calls=calls, milliseconds=1.0, figures=(figures,))

    assert recommend([row(4, 0.0, 0.021), row(8, 0.019, 0.02), row(16, 0.0, 0.0)]) == 1
    assert recommend([row(8, 0.01, 0.0), row(8, 0.0, 0.005), row(15, 0.0, 0.0)]) == 1
    assert recommend([row(4, 0.3, 0.0), row(8, 0.0, 0.1)]) == 1


def test_years_are_never_those_of_evaluation() -> None:  # oracle: the default configuration's years
    config = read_config(DEFAULT)
    assert years_to_use(config, None) == (1995, 2004)
    assert years_to_use(config, (1960, 1969)) == (1960, 1969)
    with pytest.raises(UsageError, match="evaluation years 2005-2014"):
        years_to_use(config, (2000, 2005))
    for text in ("1995", "2004-1995", "95-04"):
        with pytest.raises(UsageError, match=text):
            year_range(text)


def test_command(
    tiny_bundle_path: Path,
    truth: Period,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # oracle: the rows asked for, on years of a file; the JSON holds what the table shows
    (tmp_path / "table.toml").write_text(CONFIG)
    grid = tiny_grid()
    rng = np.random.default_rng(0)
    shape = (MONTHS + 12, len(grid.lat_deg), len(grid.lon_deg))
    stamps = xr.date_range("1990-01-01", periods=shape[0], freq="MS", use_cftime=True)
    coordinates = {"time": stamps, "lat": ("lat", grid.lat_deg), "lon": ("lon", grid.lon_deg)}
    months = xr.Dataset(coords=coordinates)
    months["lat"].attrs, months["lon"].attrs = {"units": "degrees_north"}, {"units": "degrees_east"}
    for name, units, mean in (("tas", "K", 280.0), ("uas", "m s-1", 0.0)):
        months[name] = ("time", "lat", "lon"), mean + rng.normal(size=shape)
        months[name].attrs = {"units": units, "cell_methods": "time: mean"}
    months.to_netcdf(tmp_path / "months.nc", engine="h5netcdf")
    command = ["samplers", str(tiny_bundle_path), "--data", str(tmp_path / "table.toml"), "--members", "2"]
    record = tmp_path / "table.json"
    assert main([*command, "--steps", "2,3", "--years", "1991-1992", "--json", str(record)]) == 0
    text, read = capsys.readouterr().out, json.loads(record.read_text())
    assert [(r["sampler"], r["steps"]) for r in read["rows"]] == [("dpm2m", 2), ("dpm2m", 3), ("heun", 2), ("heun", 3)]
    assert (read["years"], read["steps"], read["members"]) == ([1991, 1992], 24, 2)
    for row in read["rows"]:
        assert f"{row['figures'][1]['crps']:.4f}" in text
    best = read["rows"][read["recommended"]]
    assert f"Recommended: {best['sampler']} with {best['steps']} steps" in text
    assert main([*command, "--steps", "2", "--years", "1992-1993"]) == UsageError.exit_code
    assert main([*command, "--steps", "0"]) == UsageError.exit_code
