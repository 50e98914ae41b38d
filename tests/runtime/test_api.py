"""The Python interface as a host program uses it: documented examples, threads, streams, silence."""

import ast
import gc
import logging
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scores.probability
import xarray as xr
from guides import blocks_of
from monthly_input import series

import fsae.runtime
from fsae.runtime import Request, Selection
from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.emulator import write_climatology
from fsae.runtime.ensemble.batch import MemoryLimit, batch_bytes
from fsae.runtime.ensemble.generate import UNITS_HELD
from fsae.runtime.errors import UsageError
from fsae.runtime.jobs.job import Writing
from fsae.runtime.sphere.healpix import npix

ROOT = Path(__file__).parents[2]
README = ROOT / "runtime" / "README.md"
DETAILS = README.with_name("DETAILS.md")
MEMBERS = 3


def blocks() -> list[str]:
    """The Python examples of the runtime's README, and of the details, which go on with its names."""
    return [block.code for page in (README, DETAILS) for block in blocks_of(page.read_text(encoding="utf-8"), "python")]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """The names that the README's examples leave, run one after the other, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "training").symlink_to(ROOT / "training")
    names: dict[str, Any] = {}
    levels = logging.root.level, list(logging.root.handlers)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MEMBERS", str(MEMBERS))
        for number, block in enumerate(blocks(), 1):
            exec(compile(block, f"example {number}", "exec"), names)  # noqa: S102 - as its readers do
    logging.root.setLevel(levels[0])
    logging.root.handlers[:] = levels[1]
    yield names, folder
    names["analysis"].close()


def test_the_forecast_of_the_readme(examples: tuple[dict[str, Any], Path]) -> None:
    # oracle: the members' own order statistics, and the months that came, which nothing here has seen
    names, folder = examples
    with xr.open_dataset(folder / "members.nc") as ensemble, xr.open_dataset(folder / "quantiles.nc") as kept:
        assert ensemble["tas"].dims == ("time", "realization", "lat", "lon")
        assert ensemble["tas"].shape == (6, MEMBERS, 73, 144)
        assert str(ensemble["forecast_reference_time"].values)[:7] == "2010-07"
        low, median, high = (kept["tas"].sel(quantile=q).values for q in (0.1, 0.5, 0.9))
        np.testing.assert_allclose(median, ensemble["tas"].median("realization"), rtol=0, atol=1e-3)
        assert (low <= median).all()
        assert (median <= high).all()
        truth = names["analysis"]["tas"].sel(time=slice("2010-07", "2010-12")).values
        weights = np.cos(np.radians(ensemble["lat"].values))[:, None] * np.ones(144)
        error = np.sqrt(np.average((median - truth) ** 2, axis=(1, 2), weights=weights))
        assert error.max() < 2.5  # K; the climatology alone is about 1.6 off, another season 10
    native = names["quantiles"]["tas_quantile"]
    assert (native.sel(quantile=0.1) <= native.sel(quantile=0.9)).all()
    fine = names["fine"]["tas"]
    assert fine.shape == (6, npix(5))
    now = names["analysis"]["tas"].sel(time=slice("2010-01", "2010-06"))
    area = np.cos(np.radians(now["lat"]))
    np.testing.assert_allclose(fine.mean("cell"), now.weighted(area).mean(("lat", "lon")), rtol=0, atol=0.1)


def test_the_arrays_of_the_readme(examples: tuple[dict[str, Any], Path]) -> None:
    # oracle: means of base cells, which a latent keeps; the dataset of the same members
    names, _ = examples
    field, again = names["field"], names["again"]
    assert (field.shape, field.dtype) == ((12, 1, npix(5)), np.float32)
    assert names["latent"].shape == (12, 1, npix(3))
    for values in (field, again):
        assert np.isfinite(values).all()
    base = [values.reshape(12, 1, 12, -1).mean(-1, dtype=np.float64) for values in (field, again)]
    np.testing.assert_allclose(base[1], base[0], rtol=0, atol=1e-3)  # float32 at 300 K
    known = names["emulator"].generate(Request(members=[0, 37], start="2003-06", seed=1), batch=2)
    np.testing.assert_array_equal(names["drawn"][:, :, 0], known["tas"].values)


def test_the_rest_of_the_readme(examples: tuple[dict[str, Any], Path]) -> None:  # oracle: the comments beside it
    names, _ = examples
    assert sorted(names["warmest"]) == [0, 1, 2, 3]
    assert all(280 < value < 295 for value in names["warmest"].values())
    said = (
        "covers latitudes 43.75 to 88.75 only, expected a global field from pole to pole: give data of the whole globe"
    )
    assert names["refused"].endswith(said)


def test_the_readme_names_what_is_there() -> None:  # oracle: the signatures
    table = README.read_text(encoding="utf-8").split("## Operations")[1].split("\n\n")[1]
    for name, words in re.findall(r"`emulator\.(\w+)\(([^)]*)\)`", table):
        call = getattr(fsae.runtime.Emulator, name)
        wanted = re.findall(r"(\w+)=", words)
        assert set(wanted) <= set(call.__code__.co_varnames[: call.__code__.co_argcount + 20]), name
    for name in re.findall(r"`(\w+_file)`", table):
        assert callable(getattr(fsae.runtime.Emulator, name))
    for block in blocks():
        ast.parse(block)


def test_the_scores_of_the_readme(examples: tuple[dict[str, Any], Path]) -> None:
    # oracle: the library `scores`, with weights from the sines of the rows' edges
    names, folder = examples
    with xr.open_dataset(folder / "members.nc") as ensemble:
        upper, lower = (np.clip(ensemble["lat"].values + side, -90, 90) for side in (1.25, -1.25))
        weights = xr.DataArray(np.sin(np.radians(upper)) - np.sin(np.radians(lower)), dims="lat")
        members = ensemble["tas"].drop_vars("time").astype(np.float64)
        known = names["truth"]["tas"].drop_vars("time")
        for method, own in (("ecdf", names["tas"].crps), ("fair", names["tas"].fair_crps)):
            crps = scores.probability.crps_for_ensemble(members, known, "realization", method=method, weights=weights)
            assert own == pytest.approx(float(crps), rel=1e-5)
    assert list(names["growth"]) == [f"2010-{month:02d}" for month in range(7, 13)]


def together(*calls: Callable[[], xr.Dataset]) -> list[xr.Dataset]:
    """The results of the calls, made by as many threads that start at once."""
    found: dict[int, xr.Dataset] = {}
    start, errors = threading.Barrier(len(calls)), list[BaseException]()

    def work(place: int) -> None:
        try:
            start.wait()
            found[place] = calls[place]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return [found[place] for place in range(len(calls))]


def calls_on(emulator: fsae.runtime.Emulator, folder: Path) -> list[Callable[[], xr.Dataset]]:
    """A call of every kind, twice."""
    data = series()
    latents = emulator_of(emulator).compress(data, climatology="training")

    def written(name: str) -> xr.Dataset:
        emulator.compress_file(folder / "in.nc", folder / name, climatology="training", writing=Writing(overwrite=True))
        with xr.open_dataset(folder / name, engine="zarr" if name.endswith("zarr") else "h5netcdf") as done:
            return done.load()

    data.to_netcdf(folder / "in.nc", engine="h5netcdf")
    return [
        lambda: emulator.generate(Request(members=5, steps=7, seed=3), batch=2),
        lambda: emulator.generate(Request(members=[4, 1], steps=4, initial=data, climatology="training"), batch=2),
        lambda: emulator.compress(data, climatology="training"),
        lambda: emulator.superres(data, zoom=1, climatology="training", select=Selection(grid="source")),
        lambda: emulator.decompress(latents),
        lambda: written("a.zarr"),
        lambda: written("b.zarr"),
        lambda: written("c.nc"),
    ]


def emulator_of(emulator: fsae.runtime.Emulator) -> fsae.runtime.Emulator:
    """The same with no graph opened yet."""
    return fsae.runtime.Emulator(emulator.bundle, OnnxGraphs(emulator.bundle, threads=1))


def test_threads_give_the_same_bits(
    emulator: fsae.runtime.Emulator, tmp_path: Path
) -> None:  # oracle: one call after the other
    expected = [call() for call in calls_on(emulator, tmp_path)]
    for _ in range(2):
        fresh = emulator_of(emulator)
        calls = calls_on(fresh, tmp_path)
        found = together(*calls, *calls[:5])
        for one, other in zip(found, [*expected, *expected[:5]], strict=True):
            assert one.identical(other)


def test_a_graph_is_opened_once(emulator: fsae.runtime.Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the files read, where a slow disk gives every thread time to ask
    opened, wait = [], threading.Event()

    class Slow(OnnxGraphs):
        def _open(self, graph: str) -> Any:
            opened.append(graph)
            wait.wait(0.2)
            return super()._open(graph)

    fresh = fsae.runtime.Emulator(emulator.bundle, Slow(emulator.bundle, threads=1))
    data = series()
    found = together(*[lambda: fresh.superres(data, zoom=1, climatology="training")] * 4)
    assert sorted(opened) == ["decoder", "encoder"]
    assert all(one.identical(found[0]) for one in found[1:])


def test_a_stream_is_the_ensemble(emulator: fsae.runtime.Emulator) -> None:  # oracle: `generate`
    data = series()
    request = Request(members=(2, 0, 5), steps=7, seed=9, initial=data, climatology="training")
    whole = emulator.generate(Request(members=(2, 0, 5), steps=7, seed=9, initial=data, climatology="training"))
    joined = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "combine_attrs": "override"}
    members = list(emulator.stream(request, batch=2))
    assert [one["realization"].values.tolist() for one in members] == [[2], [0], [5]]
    assert xr.concat(members, "realization", **joined).identical(whole)
    windows = list(emulator.stream(request, windows=True, batch=2))
    assert [one.sizes["time"] for one in windows] == [3, 3, 3, 3, 1, 1, 3, 3, 1]
    rows = [[w for w in windows if w["realization"].values[0] == number] for number in (2, 0, 5)]
    series_ = [xr.concat(row, "time", **joined) for row in rows]
    assert xr.concat(series_, "realization", **joined).identical(whole)
    (spread,) = emulator.stream(Request(members=3, steps=4, statistics=["std", "q10"]))
    assert "tas_quantile" in spread
    assert spread.identical(emulator.generate(Request(members=3, steps=4, statistics=["std", "q10"])))


def test_a_stream_holds_a_batch(emulator: fsae.runtime.Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: what has been decoded when a dataset comes out
    decoded = []

    class Counting(OnnxGraphs):
        def decode(self, *arrays: np.ndarray) -> np.ndarray:
            decoded.append(1)
            return super().decode(*arrays)

    counting = fsae.runtime.Emulator(emulator.bundle, Counting(emulator.bundle, threads=1))
    stream = counting.stream(Request(members=1000, steps=6), batch=2)  # two windows each
    for given in range(1, 5):
        next(stream)
        assert len(decoded) in (4 * -(-given // 2), 4 * -(-given // 2) - 1)
    windows = counting.stream(Request(members=1000, steps=6), windows=True, batch=2)
    decoded.clear()
    for given in range(1, 5):
        next(windows)
        assert len(decoded) == given
    whole = 4 * 6 * 2 * npix(2)  # bytes of a member
    drawn = batch_bytes(1, npix(2), 3 * 2 * npix(1))
    kept = 4 * UNITS_HELD * 3 * 2 * npix(2)
    monkeypatch.setattr(MemoryLimit, "left", property(lambda self: kept + 3 * (2 * whole + drawn)))
    decoded.clear()
    next(counting.stream(Request(members=1000, steps=6)))  # three of the members that memory has room for twice
    assert len(decoded) == 3 + 1  # a window of each, and the other of the first


def test_a_stream_forgets(emulator: fsae.runtime.Emulator) -> None:  # oracle: references that keep nothing alive
    stream = emulator.stream(Request(members=4, steps=6), batch=2)
    given = next(stream)["tas"].values
    kept = weakref.ref(given if given.base is None else given.base)
    del given
    next(stream)
    gc.collect()
    assert kept() is None


def test_a_stream_refuses_at_once(emulator: fsae.runtime.Emulator) -> None:
    with pytest.raises(UsageError, match="found the grid 'round'"):
        emulator.stream(Request(members=2, select=Selection(grid="round")))


SILENT = """
import sys
import fsae.runtime
from fsae.runtime import Request
from fsae.runtime.emulator import write_climatology
import xarray as xr
model, work = sys.argv[1:]
emulator = fsae.runtime.load(model, device="cpu", threads=1)
with xr.open_dataset(work + "/in.nc") as data:
    latents = emulator.compress(data)  # warns that the climatology is not known
    emulator.decompress(latents)
    emulator.superres(data, zoom=1)
    emulator.generate(Request(members=20, steps=4, initial=data))
    list(emulator.stream(Request(members=2, steps=4, forcing=2015.0)))
emulator.compress_file(work + "/in.nc", work + "/latents.zarr")
emulator.decompress_file(work + "/latents.zarr", work + "/fields.nc")
emulator.generate_file(work + "/members.nc", Request(members=2, steps=4))
write_climatology(work + "/in.nc", work + "/climatology.nc", model=model)
emulator.verify()
try:
    fsae.runtime.load(model, device="cuda")
except fsae.runtime.DeviceError:
    pass
"""


def test_a_library_is_silent(tiny_bundle_path: Path, tmp_path: Path) -> None:  # oracle: the two streams of a process
    series().to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", SILENT, tiny_bundle_path, tmp_path],
        capture_output=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_messages_are_records_of_the_logger(tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: what `say` is told
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    series().to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    records: list[logging.LogRecord] = []
    logger, handler = logging.getLogger("fsae"), Kept()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        emulator = fsae.runtime.load(tiny_bundle_path, device="auto", threads=1)
        emulator.compress(series())
        source, path = tmp_path / "in.nc", tmp_path / "climatology.nc"
        write_climatology(source, path, model=tiny_bundle_path, overwrite=True)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    warnings = [record.getMessage() for record in records if record.levelno == logging.WARNING]
    assert warnings[0].startswith("No climatology of the input's own source was given")
    told = [record.getMessage() for record in records if record.levelno == logging.INFO]
    assert told.count(f"bundle tiny ({tiny_bundle_path})") == 2
    assert any(message.startswith("device ") for message in told)
    assert {record.name for record in records} == {"fsae"}
