"""The benchmark of codecs: images of a sphere, the search for a ratio, the codecs themselves, and a whole run."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import python

from fsae.runtime.archive.lookup import open_codec
from fsae.runtime.archive.quality import Quality
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.sphere.healpix import npix, pixel_centres

BENCH = Path(__file__).parents[1] / "bench"
STEPS = 24


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports one of the modules."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture
def subject(bench: Any) -> Any:
    """Smooth fields of two members on HEALPix zoom 3, with as smooth ones to learn from."""
    lat, lon = np.radians(pixel_centres(3))
    waves = np.stack([np.sin(k * lat + j * lon) for k in range(1, 4) for j in range(4)])
    size = 3.0 / np.arange(1, len(waves) + 1)
    rng = np.random.default_rng(0)

    def fields(count: int) -> np.ndarray:
        return ((rng.normal(size=(count, len(waves))) * size) @ waves).astype(np.float32)

    made = bench("codec_subjects")
    return made.Subject(
        source="waves",
        grid=made.healpix_cells(3),
        kind="anomalies",
        values=fields(2 * STEPS).reshape(2, STEPS, -1),
        climatology=np.zeros((STEPS, npix(3)), np.float32),
        phases=(np.arange(STEPS) + 0.5) / 12 % 1,
        training=fields(300),
    )


@pytest.mark.parametrize("zoom", [1, 3])
def test_cells_beside_each_other_in_an_image_are_neighbours(bench: Any, zoom: int) -> None:
    # oracle: distances of pixel centres; only at seams between faces may they be larger
    image = bench("codec_subjects").healpix_image(zoom)
    side = 1 << zoom
    assert sorted(image.ravel()) == list(range(npix(zoom)))
    assert image.shape == (4 * side, 3 * side)
    lat, lon = np.radians(pixel_centres(zoom))
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)[image]
    apart = np.concatenate([np.linalg.norm(np.diff(places, axis=a), axis=-1).ravel() for a in (0, 1)])
    near = 2.0 / side  # a pixel is about 1.02 / side wide, and longer where faces meet at the poles
    assert np.count_nonzero(apart > near) <= 5 * side  # of the 17 seams between faces beside each other


def test_the_knob_is_found_for_a_ratio_or_what_comes_next(bench: Any) -> None:
    # oracle: by hand, a codec whose ratio is its knob squared, and one of whole numbers
    trials, kinds = bench("codec_trials"), bench("codec_kinds")
    values = np.zeros((1, 4, 1000), np.float32)

    class Given:
        phases = np.zeros(4)

    Given.values = values  # type: ignore[attr-defined]

    def codec(**more: Any) -> Any:
        def encode(part: np.ndarray, _: Any, knob: float) -> bytes:
            return bytes(round(part.nbytes / knob**2))

        return kinds.Codec(encode=encode, decode=lambda data, phases: values, **more)

    found = trials.Trials(codec(), Given(), 4).find(16)
    assert found.ratio == pytest.approx(16, rel=0.02)
    assert found.knob == pytest.approx(4, rel=0.02)
    assert trials.Trials(codec(knobs=(1, 3)), Given(), 4).find(16).knob == 3  # the most there is
    assert trials.Trials(codec(knobs=(8, 30)), Given(), 4).find(16).knob == 8  # the least there is
    whole = trials.Trials(codec(knobs=(1, 23), whole_knobs=True), Given(), 4)
    assert [whole.find(ratio).knob for ratio in (16, 20, 256)] == [4, 5, 16]  # 20: the first above
    assert trials.chunk_lengths(100, (1, 12, 60, 120)) == [1, 12, 60, 100]


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize("name", ["ZFP", "SZ3", "SPERR", "JPEG 2000", "rounded bits + zstd", "EOF", "two-stage KLT"])
def test_what_is_decoded_is_as_near_as_the_knob_says(bench: Any, subject: Any, name: str, steps: int) -> None:
    # oracle: the knob is an error in K, or, of rounded bits, a share of the value
    codec = bench("codec_list").CODECS[name](subject)
    values, phases = subject.values[0, :steps], subject.phases[:steps]
    sizes = []
    for knob in (0.02, 0.2) if not codec.whole_knobs else (8, 16):
        data = codec.encode(values, phases, knob)
        sizes.append(len(data))
        error = np.abs(codec.decode(data, phases) - values)
        allowed = np.abs(values) * 2.0 ** (knob - 24) if codec.whole_knobs else 1.5 * knob
        rough = np.sqrt((error**2).mean()) if not codec.whole_knobs and name != "SZ3" else error
        assert (rough <= allowed + 1e-5).all()
        assert error.max() > 0
    assert sizes[1] < sizes[0] < values.nbytes


def test_the_power_that_is_kept_is_told_by_bands(bench: Any, subject: Any) -> None:  # oracle: half the amplitude
    trials = bench("codec_trials")
    power = trials.power_of(subject, subject.values)
    kept = trials.kept_power(power, trials.power_of(subject, subject.values / 2))
    assert set(kept) == {"1-8", "9-16"}
    assert all(share == pytest.approx(0.25, rel=1e-4) for share in kept.values())


def test_a_whole_run_prints_and_writes_tables(tmp_path: Path) -> None:
    # oracle: the ratio is the one asked for, and anomalies of the reanalysis have a deviation of 1.5 K
    words = ["--quick", "--codec", "SZ3", "--ratio", "64", "--source", "ncep", "--source", "csm", "--json", "out.json"]
    out = python(BENCH / "codecs.py", *words, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert "CSM, 100 months, skin is left out" in out.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())["All figures"]
    assert row["ratio"] == pytest.approx(64, rel=0.02)
    assert 0.1 < row["RMSE [K]"] < 1
    assert row["largest [K]"] > row["RMSE [K]"]
    assert out.stdout.count("| --- |") >= 2


def test_an_archive_is_a_row_with_all_its_bytes(bench: Any, default_bundle: Bundle) -> None:
    # oracle: the chunk that the product writes of the fields in K; only the rounding of the climatology differs
    subjects = bench("codec_subjects")
    (one,) = subjects.subjects(
        default_bundle,
        subjects.SOURCES["ncep"],
        subjects.SAMPLE / subjects.SOURCES["ncep"].file,
        ["healpix"],
        ["anomalies"],
    )
    values, phases = one.values[0, :12], one.phases[:12]
    codec = bench("codec_list").CODECS["fsae"](one)
    data = codec.encode(values, phases, 32.0)
    assert 4 * values.size / len(data) == pytest.approx(32, rel=0.02)
    product = open_codec(default_bundle, "tas", 5)
    normal = evaluate(product.climatology[None], season(phases, default_bundle.manifest.time.harmonics))[:, 0]
    theirs, figures = product.encode((values + normal).astype(np.float32), phases, Quality(ratio=32))
    assert len(data) == pytest.approx(len(theirs), rel=0.01)
    error = codec.decode(data, phases) - values
    assert np.sqrt((error**2).mean()) == pytest.approx(figures.rmse, rel=0.01)
    kelvin = dataclasses.replace(one, kind="K")
    with pytest.raises(bench("codec_kinds").Unsuitable, match="removes the climatology itself"):
        bench("codec_list").CODECS["fsae"](kelvin)
    # a ratio that a single step cannot have is the smallest chunk there is, not an error
    assert 4 * values[:1].size / len(codec.encode(values[:1], phases[:1], 2048.0)) < 2048
