"""Statistics over members: what NumPy makes of the members of an ordinary run, whatever the batch and the memory."""

import errno
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tiny_bundle import WINDOW
from trees import assert_same

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble import statistics as module
from fsae.runtime.ensemble.batch import UNLIMITED, MemoryLimit
from fsae.runtime.ensemble.generate import generate_job, resolve
from fsae.runtime.ensemble.request import Request
from fsae.runtime.ensemble.statistics import read_statistics, summarised, values_held
from fsae.runtime.errors import OutputError, Stopped, UsageError
from fsae.runtime.jobs.job import Writing
from fsae.runtime.jobs.results import in_memory
from fsae.runtime.output.layout import Unit
from fsae.runtime.output.marks import MARK, SEAL
from fsae.runtime.output.selection import Selection

MEMBERS, STEPS = (7, 0, 3, 12, 5), 2 * WINDOW + 1
ALL = ("mean", "std", "min", "max", "q05", "q50", "q97.5")
PROBABILITIES = (0.05, 0.5, 0.975)


def request_of(statistics: tuple[str, ...] = ALL, **more: Any) -> Request:
    return Request(members=MEMBERS, start="1990-01", steps=STEPS, seed=3, statistics=statistics, **more)


@pytest.fixture(scope="module")
def members(emulator: Emulator) -> xr.Dataset:
    return emulator.generate(Request(members=MEMBERS, start="1990-01", steps=STEPS, seed=3), batch=5)


def made(emulator: Emulator, request: Request, batch: int = 2, limit: MemoryLimit = UNLIMITED) -> xr.Dataset:
    return in_memory(
        generate_job(
            emulator.bundle,
            emulator.graphs,
            resolve(emulator.bundle, emulator.graphs, request),
            batch=batch,
            limit=limit,
        )
    )


@pytest.mark.parametrize("limit", [UNLIMITED, MemoryLimit(size=0)])
def test_statistics_are_those_of_the_members(
    emulator: Emulator, members: xr.Dataset, limit: MemoryLimit, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: NumPy over the members of an ordinary run
    monkeypatch.setattr(module, "LEAST_BLOCK_BYTES", 4 * len(MEMBERS) * 100)  # several blocks where memory is short
    found = made(emulator, request_of(), limit=limit)
    for name in ("tas", "uas"):
        values = members[name].values
        for statistic, expected in (("min", values.min(0)), ("max", values.max(0))):
            np.testing.assert_array_equal(found[f"{name}_{statistic}"].values, expected)
        exact = np.quantile(values, PROBABILITIES, axis=0).astype(np.float32)
        np.testing.assert_array_equal(found[f"{name}_quantile"].values, exact)
        wide = values.astype(np.float64)
        np.testing.assert_allclose(found[f"{name}_mean"].values, wide.mean(0), rtol=1e-7)  # float32 of the output
        np.testing.assert_allclose(found[f"{name}_std"].values, wide.std(0), rtol=1e-6)
    assert found["quantile"].values.tolist() == list(PROBABILITIES)
    assert "realization" not in found.dims


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_nothing_depends_on_the_batch(emulator: Emulator, batch: int) -> None:  # oracle: another batch, bit for bit
    xr.testing.assert_identical(made(emulator, request_of(), batch=batch), made(emulator, request_of(), batch=2))


def test_statistics_of_a_part_are_a_part_of_the_statistics(emulator: Emulator) -> None:  # oracle: the whole
    whole = made(emulator, request_of())
    part = made(emulator, request_of(select=Selection(bbox=(0.0, 0.0, 90.0, 90.0), variables=["uas"])))
    for name in part.data_vars:
        if str(name).startswith("uas"):
            np.testing.assert_array_equal(part[name].values, whole[name].values[..., part["cell"].values])
    assert not [name for name in part.data_vars if str(name).startswith("tas")]


def test_statistics_on_a_grid_are_of_the_regridded_members(emulator: Emulator) -> None:  # oracle: NumPy
    select = Selection(grid="30")
    whole = emulator.generate(Request(members=MEMBERS, start="1990-01", steps=STEPS, seed=3, select=select))[
        "tas"
    ].values
    found = made(emulator, request_of(("max",), select=select))
    np.testing.assert_array_equal(found["tas_max"].values, whole.max(0))
    assert found["tas_max"].dims == ("time", "lat", "lon")


def test_attributes_say_what_was_done_over_the_members(emulator: Emulator) -> None:  # oracle: CF appendix E and 3.1.2
    found = made(emulator, request_of())
    methods = {name: found[f"tas_{name}"].attrs["cell_methods"] for name in ("mean", "std", "min", "max")}
    assert methods == {
        "mean": "time: mean realization: mean",
        "std": "time: mean realization: standard_deviation",
        "min": "time: mean realization: minimum",
        "max": "time: mean realization: maximum",
    }
    assert found["tas_std"].attrs["units_metadata"] == "temperature: difference"
    assert found["tas_mean"].attrs["units_metadata"] == "temperature: on_scale"
    assert found["tas_quantile"].dims == ("quantile", "time", "cell")
    assert found["tas_quantile"].attrs["standard_name"] == "air_temperature"
    assert '"statistics": ["mean", "std", "min", "max", "q05", "q50", "q97.5"]' in found.attrs["fsae_request"]


def test_mean_and_deviation_survive_large_means() -> None:  # oracle: fractions of small integers, exact
    rng = np.random.default_rng(0)
    small = rng.integers(0, 8, size=(1000, 1, 1, 4)).astype(np.float32)
    units = (
        Unit(
            members=slice(i, i + 1),
            times=slice(0, 1),
            values=(one + 2.0**20)[None].astype(np.float32),
            state=np.zeros((1000, 1), dtype=np.float32) if i == 999 else None,
        )
        for i, one in enumerate(small)
    )
    statistics = read_statistics(["std", "mean"])
    assert statistics is not None
    (unit,) = summarised(units, statistics, 1000, 1 << 20, None)
    np.testing.assert_allclose(unit.values[0, 0, 1], small.std(axis=0, dtype=np.float64)[0, 0], rtol=1e-6)
    np.testing.assert_array_equal(
        unit.values[0, 0, 0], (2.0**20 + small.mean(axis=0, dtype=np.float64))[0, 0].astype("f4")
    )


def test_names_of_statistics() -> None:  # oracle: the documented spelling
    every = read_statistics(["quantiles", "max", "q00", "q50", "mean"])
    assert every is not None
    assert every.record() == ["mean", "max", "q00", "q05", "q25", "q50", "q75", "q95"]
    assert read_statistics([]) is None
    for name in ("median", "q5", "q100", "q-1", "", "Mean", "q05x"):
        with pytest.raises(UsageError, match=r"found the statistic .*expected some of mean, std, min, max, quantiles"):
            read_statistics([name])


def test_one_member_has_no_deviation(emulator: Emulator) -> None:  # oracle: the member itself
    request = Request(members=[4], start="1990-01", steps=2, seed=3, statistics=("mean", "std", "quantiles"))
    found, one = made(emulator, request), emulator.generate(Request(members=[4], start="1990-01", steps=2, seed=3))
    np.testing.assert_array_equal(found["tas_mean"].values, one["tas"].values[0])
    np.testing.assert_array_equal(found["tas_std"].values, 0)
    np.testing.assert_array_equal(found["tas_quantile"].values, np.stack([one["tas"].values[0]] * 5))


def test_known_states_lead_to_the_statistics_of_their_forecasts(emulator: Emulator) -> None:
    # oracle: NumPy over the members of an ordinary forecast
    data = emulator.generate(Request(members=1, start="1989-06", steps=6, seed=9)).isel(realization=0, drop=True)
    given = {"members": 4, "steps": 5, "initial": data, "climatology": "training"}
    whole = emulator.generate(Request(**given))["tas"].values
    found = made(emulator, Request(**given, statistics=("min",)))
    np.testing.assert_array_equal(found["tas_min"].values, whole.min(0))
    assert "lead_time" in found


def test_members_are_not_kept(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # oracle: what stands in the folder while the files there are used, which have no name
    sizes: list[int] = []
    original = module.tempfile.TemporaryFile

    def watched(**options: Any) -> Any:
        sizes.append(len(list(tmp_path.iterdir())))
        assert options == {"dir": tmp_path}
        return original(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    request = request_of(("q50",))
    job = generate_job(
        emulator.bundle,
        emulator.graphs,
        resolve(emulator.bundle, emulator.graphs, request),
        batch=1,
        limit=MemoryLimit(size=0),
        scratch=tmp_path,
    )
    in_memory(job)
    assert sizes == [0, 0, 0]  # one for each window
    assert not list(tmp_path.iterdir())
    assert not job.divisible


def test_a_full_disk_is_an_error_of_the_output(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # oracle: exit code 7 and an empty folder
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *raised: object) -> None:
            pass

        def seek(self, place: int) -> None:
            pass

        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
    with pytest.raises(OutputError, match="No space left on device"):
        emulator.generate_file(tmp_path / "a.zarr", request_of(("q50",)), batch=2, max_memory_gib=1e-6)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_a_run_that_is_stopped_goes_on_with_the_next_window(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str
) -> None:  # oracle: an undisturbed run: its bytes, or its values
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"stopped.{suffix}"
    emulator.generate_file(whole, request_of(), batch=2)
    calls: list[int] = []
    decode = OnnxGraphs.decode

    def stopping(self: OnnxGraphs, latent: np.ndarray, season: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == len(MEMBERS) + 3:  # in the second window
            raise KeyboardInterrupt
        return decode(self, latent, season)

    with monkeypatch.context() as patch:
        patch.setattr(OnnxGraphs, "decode", stopping)
        with pytest.raises(Stopped, match=rf"{WINDOW} of {STEPS} fields are kept"):
            emulator.generate_file(path, request_of(), batch=2)
    calls.clear()
    monkeypatch.setattr(OnnxGraphs, "decode", lambda *given: (calls.append(1), decode(*given))[1])
    emulator.generate_file(path, request_of(), batch=4, writing=Writing(resume=True))
    assert len(calls) == 1 + 2 * len(MEMBERS)  # a first try, and two windows were left
    assert_same(path, whole)


def test_the_command_line_says_the_same(
    emulator: Emulator, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:  # oracle: the Python interface
    words = ("generate", "--members", 3, "--steps", 2, "--out", tmp_path / "a.zarr")
    code, out, _ = command(*words, "--statistics", "mean,quantiles", "--batch", 2)
    assert code == 0
    assert "2 steps of tas_mean, tas_quantile, uas_mean, uas_quantile on HEALPix zoom 2" in out
    with xr.open_dataset(tmp_path / "a.zarr", engine="zarr") as found:
        expected = emulator.generate(Request(members=3, steps=2, statistics=["quantiles", "mean"]))
        written = found.load()
        for name in (SEAL, MARK, "dggs", "zarr_conventions"):  # the store's own: checksum, mark, convention of Zarr
            del written.attrs[name]
        del expected.attrs[MARK]
        xr.testing.assert_identical(written, expected)
    code, _, err = command("generate", "--statistics", "median", "--out", tmp_path / "b.zarr")
    assert code == 2
    assert "found the statistic 'median', expected some of" in err


def test_values_go_to_a_file_where_memory_is_a_byte_short(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: 4 bytes a value, and NumPy's median, a value of one of seven members
    opened: list[int] = []
    original = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: (opened.append(1), original(**options))[1])
    values = np.random.default_rng(0).normal(size=(7, 1, 2, 3, 50)).astype(np.float32)
    statistics = read_statistics(["q50"])
    assert statistics is not None
    held = []
    for memory, files in ((4 * 7 * 300, 0), (4 * 7 * 300 - 1, 1)):
        opened.clear()
        units = (
            Unit(
                members=slice(i, i + 1),
                times=slice(0, 2),
                values=one,
                state=np.zeros((7, 1), dtype=np.float32) if i == 6 else None,
            )
            for i, one in enumerate(values)
        )
        (unit,) = summarised(units, statistics, 7, memory, None)
        assert len(opened) == files
        np.testing.assert_array_equal(unit.values[0], np.median(values[:, 0], axis=0))
        held.append(values_held(statistics, 7, 300, memory))
    assert held[0] - held[1] == values.nbytes
