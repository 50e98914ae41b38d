"""`fsae-run score`: tables and JSON of a generated ensemble, and refusals in one sentence."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from commands import one_sentence
from score_files import months, on_healpix, write

import fsae.runtime
from fsae.runtime.cli.main import main
from fsae.runtime.scores.report import grouped
from fsae.runtime.sphere.healpix import npix

Score = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Score:
    """A function that scores ensemble.nc against reference.nc; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    values = 280 + np.random.default_rng(5).normal(size=(13, 4, npix(2)))
    write(on_healpix(values[:12], months(4)), tmp_path / "ensemble.nc")
    write(on_healpix(values[12], months(4)), tmp_path / "reference.nc")

    def command(*words: str | Path) -> tuple[int, str, str]:
        code = main(["score", "ensemble.nc", "reference.nc", *map(str, words)])
        return code, *capsys.readouterr()

    return command


def test_the_table_and_the_json_tell_the_same(run: Score) -> None:  # oracle: the interface in Python
    scores = fsae.runtime.score("ensemble.nc", "reference.nc")
    found = scores.variables["tas"]
    code, told, _ = run("--json", "scores.json")
    assert code == 0
    lines = told.splitlines()
    assert lines[0] == "ensemble.nc against reference.nc"
    numbers = (found.crps, found.fair_crps, found.rmse, found.bias, found.spread, found.spread_error)
    row = next(line for line in lines if line.startswith("tas [K]")).split()
    assert row[2:8] == [f"{number:.4g}" for number in numbers if number is not None]
    ranks = next(line for line in lines if line.startswith("tas ") and len(line.split()) == 11).split()
    assert ranks[1:] == [f"{share:.4g}" for share in grouped(found.ranks.shares)]
    assert "tas: 12 members x 4 steps, 2005-01 to 2005-04, on a HEALPix grid of zoom 2 (nested)" in lines
    assert max(map(len, lines)) < 120
    assert not [line for line in lines if line != line.rstrip()]
    text, file = scores.json(), json.loads(Path("scores.json").read_text())
    assert {key: value for key, value in file.items() if key != "fsae_mark"} == json.loads(text)
    record = file["variables"]["tas"]
    assert record["fair_crps"] == found.fair_crps
    assert len(record["ranks"]["shares"]) == 13
    assert [step["time"] for step in record["by_step"]] == ["2005-01", "2005-02", "2005-03", "2005-04"]
    assert run("--json", "-") == (0, text, "")


def test_a_file_of_scores_is_replaced_but_no_other(run: Score) -> None:  # oracle: the bytes that were there
    scores = fsae.runtime.score("ensemble.nc", "reference.nc")
    assert run("--json", "scores.json")[0] == 0
    whole = Path("scores.json").read_bytes()
    code, told, err = run("--json", "scores.json")
    assert (code, told) == (7, "")
    assert "scores.json exists: give another path or --overwrite" in one_sentence(err)
    assert run("--json", "scores.json", "--overwrite", "--times", "2005-02/2005-02")[0] == 0
    assert json.loads(Path("scores.json").read_bytes())["variables"]["tas"]["steps"] == 1
    assert run("--json", "scores.json", "--overwrite")[0] == 0
    assert Path("scores.json").read_bytes() == whole
    changed = whole.decode().replace('"made_by"', '"notes": "years of work",\n  "made_by"')
    for mine in ('{"made_by": "me"}', "[1]", "not JSON", changed, scores.json()):
        Path("mine.json").write_text(mine)
        code, _, err = run("--json", "mine.json", "--overwrite")
        assert code == 7
        assert "holds no scores of fsae, or was changed since: it is not replaced" in one_sentence(err)
        assert Path("mine.json").read_text() == mine
    os.mkfifo("pipe.json")
    for device in ("pipe.json", "/dev/zero"):
        code, _, err = run("--json", device, "--overwrite")
        assert code == 7
        assert "holds no scores of fsae" in one_sentence(err)
    Path("pipe.json").unlink()
    code, _, err = run("--json", "reference.nc", "--overwrite")
    assert code == 7
    assert "reference.nc is the reference" in one_sentence(err)
    assert sorted(path.name for path in Path().iterdir()) == ["ensemble.nc", "mine.json", "reference.nc", "scores.json"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--times", "1990/1995"), 5, "have no step in common within 1990/1995"),
        (("--times", "1990"), 2, "found the times '1990', expected first and last date"),
        (("--variables", "pr"), 5, "ensemble.nc has no field 'pr'; its fields are tas"),
        (("--name", "tas"), 2, "found --name tas, expected such as tas=ts"),
        (("--name", "tas=ts"), 5, "reference.nc has no variable 'ts'"),
        (("--units", "tas=m"), 5, "cannot be converted to 'K'"),
        (("--zoom", "3"), 2, "expected 0 to 2, which both support"),
    ],
)
def test_refusals_are_one_sentence(run: Score, words: tuple[str, ...], code: int, said: str) -> None:
    # oracle: the table of exit codes
    found, told, err = run(*words)
    assert (found, told) == (code, "")
    assert said in one_sentence(err)


def test_options_of_a_session_are_refused(run: Score, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: the table of exit codes
    assert main(["--device", "cpu", "score", "ensemble.nc", "reference.nc"]) == 2
    assert "score takes no --model, --device, --precision or --threads" in one_sentence(capsys.readouterr().err)


def test_a_reference_of_other_units_and_name(run: Score) -> None:  # oracle: the scores of the same values in kelvin
    with xr.open_dataset("reference.nc", decode_times=False) as data:
        other = data.load().rename(tas="ts")
    other["ts"] = (other["ts"] - 273.15).drop_attrs(deep=False).assign_attrs(grid_mapping="crs")
    write(other, Path("other.nc"))
    assert run("--json", "one.json")[0] == 0
    said = ("--name", "tas=ts", "--units", "tas=degC")
    assert main(["score", "ensemble.nc", "other.nc", *said, "--json", "two.json"]) == 0
    one, two = (json.loads(Path(name).read_text())["variables"]["tas"] for name in ("one.json", "two.json"))
    for name in ("crps", "rmse", "bias", "spread"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
    assert two["reference_variable"] == "ts"
