"""Fingerprints of inputs: the same for the same content, another for any change of a byte."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from damage import flip_last_bit

from fsae.runtime.input import fingerprint as room
from fsae.runtime.input.fingerprint import fingerprint


def store(path: Path) -> Path:
    """A Zarr store of eight chunks."""
    values = np.random.default_rng(0).normal(size=(8, 4, 8)).astype(np.float32)
    data = xr.Dataset({"tas": (("time", "lat", "lon"), values)}, coords={"time": np.arange(8.0)})
    data.to_zarr(path, consolidated=False, encoding={"tas": {"chunks": (1, 4, 8)}})
    return path


CHUNK = Path("tas", "c", "5", "0", "0")


def exchange(path: Path) -> None:
    """Exchange two chunks of a store."""
    one, other = path / CHUNK, path / "tas" / "c" / "2" / "0" / "0"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("change", ["a byte", "a chunk less", "two chunks exchanged", "an attribute"])
def test_any_change_of_a_store_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool, change: str
) -> None:  # oracle: the change; the date of its metadata alone stays as it was in all but the last
    path = store(tmp_path / "in.zarr")
    if not small:
        monkeypatch.setattr(room, "SMALL", 0)
    before = fingerprint(path)
    assert fingerprint(str(path)) == before
    assert f"{sum(file.stat().st_size for file in path.rglob('*') if file.is_file())} bytes" in before
    match change:
        case "a byte":
            flip_last_bit(path / CHUNK)
        case "a chunk less":
            (path / CHUNK).unlink()
        case "two chunks exchanged":
            exchange(path)
        case "an attribute":
            text = (path / "tas" / "zarr.json").read_text()
            (path / "tas" / "zarr.json").write_text(text.replace("float32", "float64", 1))
    assert fingerprint(path) != before


def test_a_small_input_is_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: a copy
    path = store(tmp_path / "in.zarr")
    before = fingerprint(path)
    copy = tmp_path / "elsewhere" / "copy.zarr"
    shutil.copytree(path, copy)
    os.utime(copy / CHUNK, (0, 0))
    assert fingerprint(copy) == before
    monkeypatch.setattr(room, "SMALL", 0)
    assert fingerprint(copy) != fingerprint(path)  # a large one is its dates too


def test_of_a_large_file_blocks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the place of a byte; size and date stay
    monkeypatch.setattr(room, "SMALL", 0)
    path = tmp_path / "in.nc"
    path.write_bytes(bytes(2 * room.BLOCKS * room.BLOCK))
    os.utime(path, (0, 0))
    before = fingerprint(path)
    for place in (0, room.BLOCKS * room.BLOCK * 2 - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        os.utime(path, (0, 0))
        assert fingerprint(path) != before, place
        before = fingerprint(path)


def test_data_in_memory_is_its_values(monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: one value
    def data(value: float) -> xr.Dataset:
        values = np.zeros((3, 4), dtype=np.float32)
        values[2, 3] = value
        return xr.Dataset({"tas": (("time", "cell"), values)}, coords={"time": ["a", "b", "c"]})

    assert fingerprint(data(0)) == fingerprint(data(0)) != fingerprint(data(1))
    assert fingerprint(data(0).chunk()) == fingerprint(data(1).chunk())  # it would have to be computed
    before = fingerprint(data(0))
    monkeypatch.setattr(room, "SMALL", 0)
    assert fingerprint(data(0)) != fingerprint(data(1))
    assert before != fingerprint(data(1))
    assert fingerprint(1950.5) == fingerprint(None) == fingerprint("no such file") == ""
