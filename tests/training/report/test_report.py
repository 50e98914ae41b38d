"""The report of a run: complete, honest about what is missing, never of other weights, and true to its numbers."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_page import LEADS, MEMBERS, NAMES, page_of

from fsae.export.bundle.card import model_card
from fsae.runtime.archive.codec import Codec
from fsae.runtime.archive.quality import Quality
from fsae.runtime.arrays import F64
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.errors import DataError
from fsae.training.cli.main import main
from fsae.training.evaluation.model import departures_of, of_run
from fsae.training.evaluation.periods import read_periods
from fsae.training.evaluation.saved import read_arrays, read_hindcast, read_metrics
from fsae.training.fitting.archive_stage import codecs_of
from fsae.training.fitting.run_folder import load_run
from fsae.training.metrics.rate_distortion import rate_distortion
from fsae.training.report.results import read_results
from fsae.training.report.sections import pictures


class Tables(HTMLParser):
    """The cells of each row of the tables of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        self._inside = tag in ("td", "th")
        if self._inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def test_every_table_is_that_of_the_model_card(studied: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    # oracle: the Markdown of the card, read by splitting its lines
    copy = shutil.copytree(studied, tmp_path / "run")
    card = model_card(tiny_bundle.manifest, load_run(copy).config, metrics=read_metrics(copy))
    section = card.split("\n## Figures\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|") and not set(line) <= set("|:- ")]
    expected = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = Tables(page_of(copy)).rows
    assert len(expected) > 80
    assert [row for row in expected if row not in found] == []
    own = {"lead", "float32 / stored"}  # forecasts and codec, which the card does not have
    start = {row[0] for row in expected} | own
    assert [row for row in found if row[0] not in start and not re.match(r"CRPS|RMSE|spread|corr|\d", row[0])] == []


def test_arrays_are_those_of_the_fields(studied: Path) -> None:
    # oracle: means over the stored fields by NumPy, and what encoding leaves of them
    run = load_run(studied)
    (period,) = read_periods(run.fields, run.config.data.variables, 2, run.config.data.evaluation_years)
    waves = season(period.phase, run.config.data.harmonics)
    truth = (period.values - evaluate(run.statistics["climatology"], waves))[:, 0].astype(np.float64)
    arrays, metrics = read_arrays(studied), read_metrics(studied)
    assert arrays is not None
    assert metrics is not None
    row = metrics["variables"][0]["climate"][0]
    assert (row["name"], row["members"]) == ("generated", MEMBERS)
    np.testing.assert_allclose(arrays["tas.real"], truth[18], atol=1e-4)  # float32 of 290 K
    assert metrics["middle"].startswith("2013-07")
    np.testing.assert_allclose(arrays["tas.std"], truth.std(axis=0), atol=1e-4)
    assert arrays["tas.bias"].mean() == pytest.approx(row["bias"], abs=1e-4)
    assert arrays["tas.member_std"].mean() == pytest.approx(row["std_ratio"] * truth.std(axis=0).mean(), rel=1e-4)
    rebuilt = metrics["variables"][0]["reconstruction"][0]
    assert np.sqrt(np.mean(arrays["tas.rebuilt_error"] ** 2)) == pytest.approx(rebuilt["rmse"], rel=1e-4)
    assert arrays["tas.rebuilt_error"].max() == pytest.approx(rebuilt["worst_pixel"], rel=1e-4)
    assert arrays["tas.ranks"].shape == (4, MEMBERS + 1)
    assert arrays["tas.ranks"][0].sum() == truth.size
    assert arrays["tas.ranks"][1:].sum() == truth.size  # each pixel is in one of the other regions


def test_the_rate_is_that_of_the_bytes(studied: Path) -> None:
    # oracle: chunks coded here, their length, and the error of what they decode to
    run = load_run(studied)
    (period,) = read_periods(run.fields, run.config.data.variables, 2, run.config.data.evaluation_years)
    codec: Codec = codecs_of(studied)["tas"]
    values = period.values[:, 0]
    data, _ = codec.encode(values, period.phase, Quality(ratio=16))
    error = codec.decode(data).astype(np.float64) - values
    (ratio, rmse, largest, bits) = rate_distortion(codec, values, period.phase, (16.0,))[0]
    assert ratio == pytest.approx(4 * values.size / len(data))
    assert bits == pytest.approx(8 * len(data) / values.size)
    assert rmse == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-6)
    assert largest == pytest.approx(np.abs(error).max(), rel=1e-6)
    anomalies: F64 = departures_of(of_run(run), period)[:, 0].astype(np.float64)
    assert rmse < np.sqrt(np.mean(anomalies**2))  # better than nothing
    stored = read_arrays(studied)
    assert stored is not None
    assert stored["tas.rate"][1, 0] == pytest.approx(16, rel=0.1)
    assert len(rate_distortion(codec, values[:2], period.phase[:2], (1e6,))) == 0  # no chunk is that small


def test_a_report_says_what_makes_the_missing(studied: Path, tmp_path: Path) -> None:
    # oracle: the sentence of each part that was taken away, and the pictures that are left
    copy = shutil.copytree(studied, tmp_path / "run")
    whole = page_of(copy)
    assert {name.split("-", 1)[0] for name in NAMES} <= set(re.findall(r"[a-z]+", whole))
    assert whole.count("<img ") == len(NAMES)
    assert 'class="missing"' not in whole
    assert page_of(copy) == whole  # again, with the same bytes
    (copy / "hindcast.json").unlink()
    assert f"<code>fsae-train hindcast {copy}</code> makes them" in page_of(copy)
    with (copy / "denoiser.safetensors").open("ab") as weights:
        weights.write(b"\0")  # other weights than those that were evaluated
    page = page_of(copy)
    assert f"<code>fsae-train evaluate {copy}</code> makes them" in page
    assert page.count("<img ") == 2  # of figures in metrics.json: memory, super-resolution
    (copy / "metrics.json").unlink()
    page = page_of(copy)
    assert "This run has no figures yet" in page
    assert "<img " not in page


def test_hindcasts_of_other_weights_are_not_shown(studied: Path, tmp_path: Path) -> None:  # oracle: the changed file
    copy = shutil.copytree(studied, tmp_path / "run")
    found = read_hindcast(copy)
    assert found is not None
    assert np.shape(found["variables"][0]["classes"][0]["rmse"]) == (LEADS, 10)
    (copy / "autoencoder.safetensors").write_bytes(b"")
    assert read_hindcast(copy) is None


def test_one_picture_as_a_file(studied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: the names of the page's pictures, the exit codes, and bytes that a second run repeats
    (found,) = read_results(studied).variables
    assert set(pictures(found)) == NAMES
    for suffix in ("png", "svg"):
        path = tmp_path / f"overview.{suffix}"
        arguments = ["report", str(studied), "--picture", "overview", "--out", str(path), "--quiet"]
        assert main(arguments) == 0
        first = path.read_bytes()
        assert main(arguments) == 0
        assert path.read_bytes() == first
    path.write_bytes(first + b" ")  # as another program might
    assert main(arguments) == 7
    assert "was changed since" in capsys.readouterr().err
    assert main(["report", str(studied), "--picture", "map", "--out", str(tmp_path / "a.png")]) == 2
    assert "one of overview" in capsys.readouterr().err
    assert main(["report", str(studied), "--picture", "overview"]) == 2
    assert main(["report", str(studied), "--out", str(tmp_path / "a.pdf")]) == 2
    assert main(["report", str(tmp_path / "no-run")]) == 2


@pytest.mark.parametrize("name", ["metrics.json", "evaluation.npz", "hindcast.json"])
def test_damaged_results_are_named(studied: Path, tmp_path: Path, name: str) -> None:
    # oracle: the file that was damaged, in one sentence
    copy = shutil.copytree(studied, tmp_path / "run")
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=re.escape(name)):
        read_results(copy)


def test_figures_of_another_version_are_named(studied: Path, tmp_path: Path) -> None:  # oracle: a missing key
    copy = shutil.copytree(studied, tmp_path / "run")
    metrics = json.loads((copy / "metrics.json").read_text())
    del metrics["zooms"]
    (copy / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match="another version"):
        read_results(copy)
