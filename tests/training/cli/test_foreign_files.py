"""Commands of fsae-train leave what is not theirs as it is."""

import shutil
from pathlib import Path

import pytest
from small_config import write_config

from fsae.runtime.errors import OutputError, UsageError
from fsae.training.cli.main import main

SAMPLE = Path(__file__).parents[3] / "training" / "sample" / "fnoc-uas-vas-mon-1982-1990.nc"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_made_in_a_folder_of_its_own(tmp_path: Path) -> None:  # oracle: the folder's files before
    config = write_config(tmp_path)
    (tmp_path / "mine").mkdir()
    for name, text, code in (
        ("chapter1.tex", "years of work", OutputError.exit_code),
        ("config.json", '{"of": "another program"}', UsageError.exit_code),
    ):
        (tmp_path / "mine" / name).write_text(text)
        before = contents(tmp_path)
        assert main([str(config), "--out", str(tmp_path), "--name", "mine", "--quiet"]) == code
        assert contents(tmp_path) == before
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "thesis.log").write_text("years of work")
    (tmp_path / "mine" / "train.log").symlink_to(tmp_path / "thesis.log")
    assert main([str(config), "--out", str(tmp_path), "--name", "mine", "--quiet"]) == OutputError.exit_code
    assert (tmp_path / "thesis.log").read_text() == "years of work"


def test_prepare_spares_its_input_and_other_stores(tmp_path: Path) -> None:  # oracle: the files before
    given = Path(shutil.copy(SAMPLE, tmp_path / "in.nc"))
    (tmp_path / "theirs.zarr").mkdir()
    (tmp_path / "theirs.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    before = contents(tmp_path)
    for out in ("in.nc", "theirs.zarr"):
        words = ["prepare", str(given), str(tmp_path / out), "--zoom", "2", "--overwrite"]
        assert main(words) == OutputError.exit_code
        assert contents(tmp_path) == before


def test_figures_go_to_a_new_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: the file before, and no work is begun
    figures = tmp_path / "figures.json"
    figures.write_text("years of work")
    assert main(["evaluate", "default", "--json", str(figures)]) == OutputError.exit_code
    assert f"{figures} exists: give another path to --json" in capsys.readouterr().err
    assert figures.read_text() == "years of work"
