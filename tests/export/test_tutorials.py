"""The tutorials of training and export, one after the other as a reader does them."""

import json
import re
from pathlib import Path

import pytest
import xarray as xr
from guides import run_tutorial

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "training" / "README.md"
pytestmark = pytest.mark.xdist_group("tutorials")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the tutorial on training was done, and what was printed."""
    folder = tmp_path_factory.mktemp("tutorials")
    (folder / "training").symlink_to(ROOT / "training")
    return folder, run_tutorial(GUIDE, folder)


def test_the_figures_that_the_tutorial_on_training_quotes(trained: tuple[Path, str]) -> None:
    # oracle: what `evaluate` prints, and what it keeps; seeds are fixed, so that only rounding differs between machines
    folder, printed = trained
    text = " ".join(GUIDE.read_text(encoding="utf-8").split())
    rows = ("field-space autoencoder", "means: bilinear", "climatology only")
    shown = [float(re.search(rf"^\| {name} +\| +\d+ \| +([\d.]+) ", printed, re.M)[1]) for name in rows]  # type: ignore[index]
    quoted = re.search(r"an RMSE of ([\d.]+) K, where .*? have ([\d.]+) K, .*? alone has ([\d.]+) K", text)
    assert quoted is not None
    assert [float(number) for number in quoted.groups()] == pytest.approx(shown, abs=0.02)
    assert json.loads((folder / "runs" / "mine" / "metrics.json").read_text())
    assert (folder / "runs" / "mine" / "report.html").stat().st_size > 1e6


def test_the_tutorial_on_export_serves_the_run(trained: tuple[Path, str]) -> None:
    # oracle: the commands themselves, of which the last makes members that differ, on the grid of the sample data
    folder, _ = trained
    run_tutorial(ROOT / "export" / "README.md", folder)
    with xr.open_dataset(folder / "members.nc") as ensemble:
        assert ensemble["tas"].sizes == {"time": 12, "realization": 4, "lat": 73, "lon": 144}
        assert float(ensemble["tas"].std("realization").mean()) > 0.3  # K
    assert (folder / "engines" / "mine" / "MODEL_CARD.md").exists()
