"""`fsae-train` beside training itself: prepare, evaluate, help, and what it says to bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fsae.runtime.sphere.healpix import pixel_centres
from fsae.training.cli.main import main

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "training" / "sample" / "ncep1-tas-mon-200501-201412.nc"


def test_prepare_puts_data_on_healpix(tmp_path: Path) -> None:  # oracle: xarray's own bilinear interpolation
    output = tmp_path / "out.zarr"
    assert main(["prepare", str(SAMPLE), str(output), "--zoom", "4", "--method", "bilinear"]) == 0
    with xr.open_zarr(output) as found, xr.open_dataset(SAMPLE) as source:
        assert found.tas.dims == ("time", "cell")
        assert found[found.tas.attrs["grid_mapping"]].attrs["refinement_level"] == 4
        lat, lon = pixel_centres(4)
        first = source.tas.isel(time=0)
        periodic = xr.concat([first, first.isel(lon=slice(0, 1)).assign_coords(lon=[360.0])], dim="lon")
        expected = periodic.interp(lat=("cell", lat), lon=("cell", lon)).values
        np.testing.assert_allclose(found.tas.isel(time=0).values, expected, atol=1e-3)  # K, float32 at 300


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["prepare", "missing.nc", "out.zarr"], 5, "missing.nc"),
        (["prepare", str(SAMPLE), "out.zarr", "--variable", "pr"], 5, "'pr'"),
        (["prepare", str(SAMPLE), "out.zarr", "--zoom", "9"], 5, "zoom"),
        (["evaluate", "no-such-model"], 4, "no-such-model"),
        (["no-such.toml"], 2, "no-such.toml"),
        (["z5-ratio-7"], 2, "z5-ratio-64"),
        (["fit", "--set", "autoencoder.widht=3"], 2, "widht"),
        (["fit", "--set", "autoencoder.width"], 2, "--set 'autoencoder.width'"),
        (
            ["fit", "--set", "name=mine"],
            2,
            "expected KEY=VALUE as in TOML: text needs quotes, as in --set 'name=\"mine\"'",
        ),
        (["fit", "--set", 'autoencoder.width="wide"'], 2, "autoencoder.width"),
        (["superres", "no-such-model", "in.nc"], 4, "no-such-model"),
        (["evaluate", "--no-such-option"], 2, "no-such-option"),
    ],
)
def test_bad_input_gets_one_sentence_and_its_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:  # oracle: the table of exit codes
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_without_sample_data_it_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the message; the installed package has no sample data
    from fsae.training import config, input_files

    bare = tmp_path / "package" / "default.toml"
    bare.parent.mkdir()
    bare.write_text(config.DEFAULT.read_text())
    for module in (config, input_files):
        monkeypatch.setattr(module, "DEFAULT", bare)
        monkeypatch.setattr(module, "SHIPPED", bare.parent)
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "clone the project's repository" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:  # oracle: the promise of every command
    assert main(["--help"]) == 0
    assert "fsae-train my-model.toml" in capsys.readouterr().out


def test_figures_of_the_default_engine_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the tolerances of the reconstruction; few members here, the published figures take twenty
    monkeypatch.chdir(ROOT)
    figures = tmp_path / "figures.json"
    assert main(["evaluate", "engines/default", "--members", "2", "--json", str(figures)]) == 0
    report = json.loads(figures.read_text())
    own, known, *baselines, localised = report["variables"][0]["reconstruction"]
    assert (known["name"], localised["name"]) == ("the same, training years", "localised EOF")
    assert localised["rmse"] == pytest.approx(0.192, abs=0.001)  # the strongest linear code, which is better still
    assert own["rmse"] <= 0.21
    assert own["rmse"] < min(row["rmse"] for row in baselines)
    assert own["rmse"] < 1.1 * localised["rmse"]  # which loses the power that sharpening restores at a cost
    assert own["cell_mean"] <= 1e-3
    finer = next(table for table in report["variables"][0]["superresolution"] if table["zoom"] == 3)
    errors = {row["name"]: row["rmse"] for row in finer["rows"]}
    assert all(check["passed"] for check in report["variables"][0]["checks"][:3])  # of the autoencoder
    assert finer["rows"][0]["rmse"] < min(error for name, error in errors.items() if name.startswith("means"))
