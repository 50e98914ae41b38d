"""Output in shards of Zarr, files that hold several chunks: the values of the same output without them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr
from runs import Command, finished, names_in, source_for
from trees import tree

from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import Stopped, UsageError
from fsae.runtime.jobs.job import Writing
from fsae.runtime.jobs.shards import Shard
from fsae.runtime.output.seal import damage_of

REQUEST = Request(members=3, start="1990-01", steps=16, seed=3)  # windows of 3 steps: 6 chunks of a member


def write(emulator: Emulator, path: Path, how: Writing) -> None:
    emulator.generate_file(path, REQUEST, batch=2, writing=how)


@pytest.fixture
def whole(emulator: Emulator, tmp_path: Path) -> Path:
    """The output without shards."""
    (tmp_path / "whole").mkdir()
    write(emulator, tmp_path / "whole" / "whole.zarr", Writing())
    return tmp_path / "whole" / "whole.zarr"


@pytest.mark.parametrize(("steps", "chunks", "files"), [(7, 3, 2), ("all", 6, 1), (100, 6, 1), (1, 1, 6)])
def test_shards_hold_the_chunks(
    emulator: Emulator, whole: Path, tmp_path: Path, steps: int, chunks: int, files: int
) -> None:  # oracle: the output without shards, as xarray reads it; the metadata as the specification of Zarr has it
    out = tmp_path / "out.zarr"
    write(emulator, out, Writing(zarr_shards=steps))
    xr.testing.assert_identical(xr.open_zarr(out), xr.open_zarr(whole).assign_attrs(xr.open_zarr(out).attrs))
    assert len([name for name in tree(out) if name.startswith("tas/c/")]) == 3 * files
    metadata = json.loads((out / "tas" / "zarr.json").read_bytes())
    if chunks > 1:
        (codec,) = metadata["codecs"]
        assert metadata["chunk_grid"]["configuration"]["chunk_shape"][1] == 3 * chunks
        assert codec["configuration"]["chunk_shape"][1] == 3
        assert [one["name"] for one in codec["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
    assert damage_of(out) == ""


def test_a_stopped_run_goes_on_by_shards(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the bytes of a run that was not stopped; a shard that was begun is made again, a whole one is not
    out = tmp_path / "out.zarr"
    write(emulator, tmp_path / "other.zarr", Writing(zarr_shards=6))

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(Stopped, match=r"stopped; \d+ of 48 fields are kept"):
        write(emulator, out, Writing(zarr_shards=6, progress=interrupt))
    kept = finished(out)
    assert 0 < kept < 48
    with pytest.raises(UsageError, match="differs from this one in coordinates"):
        write(emulator, out, Writing(zarr_shards=12, resume=True))
    said: list[int] = []
    write(emulator, out, Writing(zarr_shards=6, resume=True, progress=lambda done, total: said.append(done)))
    assert (said[0], said[-1]) == (kept, 48)
    assert tree(out) == tree(tmp_path / "other.zarr")


def test_processes_share_the_work_by_shards(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: one process; the steps of a member are divided where its units do not need each other
    source = source_for(emulator, "decompress", tmp_path, members=2, steps=40)
    emulator.decompress_file(source, tmp_path / "plain.zarr")
    emulator.decompress_file(source, tmp_path / "one.zarr", writing=Writing(zarr_shards=24))
    for number in (3, 1, 2):
        how = Writing(zarr_shards=24, scale=Shard(number, 3))
        emulator.decompress_file(source, tmp_path / "three.zarr", writing=how)
    assert tree(tmp_path / "three.zarr") == tree(tmp_path / "one.zarr")
    assert len([name for name in tree(tmp_path / "one.zarr") if name.startswith("tas/c/")]) == 4
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "one.zarr"), xr.open_zarr(tmp_path / "plain.zarr"))


def test_shards_in_a_store(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the same in a folder
    from zarr.storage import MemoryStore

    files: dict[str, object] = {}
    emulator.generate_file(MemoryStore(files), REQUEST, writing=Writing(zarr_shards="all"))  # type: ignore[arg-type]
    write(emulator, tmp_path / "out.zarr", Writing(zarr_shards="all"))
    expected = tree(tmp_path / "out.zarr")
    assert {name: value.to_bytes() for name, value in files.items()} == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [lambda: Writing(zarr_shards=0), lambda: Writing(zarr_shards="some")])  # type: ignore[arg-type]
def test_numbers_that_are_refused(make: Callable[[], Writing]) -> None:
    with pytest.raises(UsageError, match="shards"):
        make()


def test_the_command(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    words = ["generate", "--members", "1", "--steps", "8", "--start", "1990-01"]
    assert command(*words, "--shards", "all", "--out", str(out)).code == 0
    assert len([name for name in tree(out) if name.startswith("tas/c/")]) == 1
    for shards, place in (("0", out), ("half", out), ("all", tmp_path / "out.nc")):
        said = command(*words, "--shards", shards, "--out", str(place), "--overwrite")
        assert said.code == UsageError.exit_code
        assert "shards" in said.err
    assert names_in(tmp_path) == ["out.zarr"]
