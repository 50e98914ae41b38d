"""The daily engine: small, as it was exported, with the rain and the memory of the model that it emulates."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from repository_engines import ENGINES

import fsae.runtime
from fsae.runtime.bundle.files import open_bundle
from fsae.runtime.cli.main import main
from fsae.runtime.ensemble.request import Request

FOLDER = ENGINES / "gcm-daily"
UNITS = {"tas": "K", "pr": "mm day-1", "ps": "Pa", "zg500": "m", "uas": "m s-1", "vas": "m s-1"}


@pytest.fixture(scope="module")
def drawn() -> xr.Dataset:
    """Two members of ten days."""
    return fsae.runtime.load(FOLDER, device="cpu").generate(Request(members=2, steps=10))


def test_it_is_what_it_was_when_it_was_exported(capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: hashes, and outputs of the trained model stored beside it
    assert main(["--model", str(FOLDER), "--device", "cpu", "verify"]) == 0
    assert "verified gcm-daily: " in capsys.readouterr().out


def test_it_is_small_and_described() -> None:  # oracle: the size that was promised, and the configuration
    bundle = open_bundle(FOLDER)
    assert bundle.size <= 12e6
    assert {variable.name: variable.units for variable in bundle.manifest.variables} == UNITS
    assert (bundle.manifest.time.step, bundle.manifest.latent.ratio) == ("1 day", 16)
    assert "## Daily weather" in (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_members_are_reproducible(drawn: xr.Dataset) -> None:  # oracle: each other, bitwise
    alone = fsae.runtime.load(FOLDER, device="cpu").generate(Request(members=[1], steps=5), batch=1)
    for name in UNITS:
        np.testing.assert_array_equal(alone[name].values[0], drawn[name].values[1, :5])


def test_days_look_like_days_of_the_model(drawn: xr.Dataset) -> None:
    # oracle: its own days from October to January: 36 % of them wet, autocorrelations at a day of 0.70 and 0.76
    rain = drawn["pr"].values
    assert rain.min() >= 0
    assert 0.28 < (rain >= 1).mean() < 0.42
    assert rain.max() < 327  # twice the largest value in training
    for name, memory in (("tas", 0.70), ("zg500", 0.76)):
        fields = drawn[name].values.astype(np.float64)
        away = fields - fields.mean(axis=(0, 1))  # 20 days about their mean
        lagged = np.mean(away[:, 1:] * away[:, :-1]) / np.mean(np.square(away))
        assert abs(lagged - memory) < 0.15
    mass = drawn["ps"].values.mean(
        axis=-1, dtype=np.float64
    )  # of the air, which the model keeps at 100,231 to 100,257 Pa
    assert np.abs(mass - 100_244).max() < 150


def test_the_command_of_the_readme(tmp_path: Path) -> None:  # oracle: what was asked for
    out = tmp_path / "days.nc"
    assert (
        main(
            ["--model", str(FOLDER), "--device", "cpu", "generate", "--members", "2", "--steps", "3", "--out", str(out)]
        )
        == 0
    )
    with xr.open_dataset(out) as made:
        assert dict(made.sizes) | {"realization": 2, "time": 3} == dict(made.sizes)
        assert np.all(np.diff(made["time"].values) == np.timedelta64(1, "D"))
