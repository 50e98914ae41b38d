"""GRIB output goes on after an interruption, is whole or not there, and is replaced only if it is ours."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from outputs import in_calendar
from runs import SMALL, fail_after, interrupted_run

from fsae.runtime.emulator import Emulator, write_climatology
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import FsaeError, OutputError
from fsae.runtime.formats.signed import read_about
from fsae.runtime.grib import written
from fsae.runtime.jobs.cluster import Cluster
from fsae.runtime.jobs.job import Writing
from fsae.runtime.jobs.shards import Shard
from fsae.runtime.output.selection import Selection
from fsae.runtime.sphere.grids import LatLonGrid

eccodes = pytest.importorskip("eccodes", exc_type=(ImportError, RuntimeError))

FEW = Request(members=2, start="1990-01", steps=3, seed=3, select=Selection(grid="source"))


def write(
    emulator: Emulator, path: Path, request: Request = FEW, *, overwrite: bool = False, resume: bool = False
) -> bytes:
    emulator.generate_file(path, request, writing=Writing(overwrite=overwrite, resume=resume))
    return path.read_bytes()


def parts_of(data: bytes) -> list[bytes]:
    """The messages of a file."""
    found = []
    while data:
        size = int.from_bytes(data[8:16])
        found.append(data[:size])
        data = data[size:]
    return found


def edited(data: bytes, key: str, value: float) -> bytes:
    """The first message as another program changes it, by a key of ecCodes; the others as they are."""
    first, *others = parts_of(data)
    handle = eccodes.codes_new_from_message(first)
    eccodes.codes_set(handle, key, value)
    changed: bytes = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return b"".join([changed, *others])


def test_resumed_and_divided_runs_write_the_same_bytes(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the file of an undisturbed run, and a second one of it
    whole = tmp_path / "whole.grib2"
    SMALL.generate(emulator, whole)
    SMALL.generate(emulator, tmp_path / "twice.grib2")
    interrupted_run(emulator, tmp_path / "stopped.grib2", 17)
    SMALL.generate(emulator, tmp_path / "stopped.grib2", resume=True)
    for number in (2, 3, 1):
        assert not (tmp_path / "shards.grib2").exists()
        SMALL.generate(emulator, tmp_path / "shards.grib2", Shard(number, 3))
    for name in ("twice", "stopped", "shards"):
        assert (tmp_path / f"{name}.grib2").read_bytes() == whole.read_bytes()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".grib2"] * 4


def test_workers_write_the_same_bytes(emulator: Emulator, tmp_path: Path) -> None:  # oracle: the file of one process
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    made = write(emulator, tmp_path / "whole.grib2")
    writing = Writing(scale=Cluster(workers=2, threads=1))
    emulator.generate_file(tmp_path / "workers.grib2", FEW, writing=writing)
    assert (tmp_path / "workers.grib2").read_bytes() == made


def test_what_is_finished_is_known_again(emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # oracle: the sentences, and the bytes
    path = tmp_path / "out.grib2"
    made = write(emulator, path)
    caplog.set_level("INFO", logger="fsae")
    assert write(emulator, path, resume=True) == made
    assert "out.grib2 is complete: nothing was left to do" in caplog.text
    with pytest.raises(OutputError, match=r"another run, which differs in fsae_seed \(3 there, 4 here\)"):
        write(emulator, path, dataclasses.replace(FEW, seed=4), resume=True)
    with pytest.raises(OutputError, match=r"out.grib2 exists: give another path or --overwrite"):
        write(emulator, path)
    damaged = bytearray(made)
    damaged[-10] ^= 1  # a value of the last message
    path.write_bytes(damaged)
    with pytest.raises(OutputError, match=r"is damaged, or was changed .* message 12 does not fit its checksum"):
        write(emulator, path, resume=True)
    assert write(emulator, path, overwrite=True) == made


def test_the_first_message_tells_about_the_file(emulator: Emulator, tmp_path: Path) -> None:  # oracle: the request
    write(emulator, tmp_path / "out.grib2")
    about = read_about(tmp_path / "out.grib2")
    assert json.loads(about["attributes"]["fsae_request"])["seed"] == 3
    assert about["variables"]["tas"]["standard_name"] == "air_temperature"


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "left out": lambda data: b"".join(parts_of(data)[1:]),
    "the last left out": lambda data: b"".join(parts_of(data)[:-1]),
    "exchanged": lambda data: b"".join([parts_of(data)[1], parts_of(data)[0], *parts_of(data)[2:]]),
    "twice": lambda data: data + data,
    "another date": lambda data: edited(data, "day", 2),
    "another parameter": lambda data: edited(data, "parameterNumber", 6),
    "other values": lambda data: edited(data, "scaleValuesBy", 1.01),
    "cut": lambda data: data[:-1],
    "more": lambda data: data + b"\n",
}


@pytest.mark.parametrize("how", CHANGES)
def test_what_another_program_changed_is_not_replaced(how: str, emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the same bytes afterwards
    path = tmp_path / "out.grib2"
    changed = CHANGES[how](write(emulator, path))
    path.write_bytes(changed)
    with pytest.raises(OutputError, match=r"out.grib2 exists and (was changed since fsae|is no output of fsae)"):
        write(emulator, path, overwrite=True)
    assert path.read_bytes() == changed
    assert [one.name for one in tmp_path.iterdir()] == ["out.grib2"]


def test_messages_of_two_outputs_are_not_one(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the same bytes afterwards; each message is one of ours
    mixed = parts_of(write(emulator, tmp_path / "one.grib2"))
    mixed[4] = parts_of(write(emulator, tmp_path / "other.grib2", dataclasses.replace(FEW, seed=4)))[4]
    (tmp_path / "one.grib2").write_bytes(b"".join(mixed))
    with pytest.raises(OutputError, match="was changed since fsae wrote it"):
        write(emulator, tmp_path / "one.grib2", overwrite=True)
    assert (tmp_path / "one.grib2").read_bytes() == b"".join(mixed)


def test_grib_of_others_is_not_replaced(
    emulator: Emulator, tmp_path: Path
) -> None:  # oracle: the same bytes afterwards
    handle = eccodes.codes_grib_new_from_samples("GRIB2")
    theirs = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    (tmp_path / "era5.grib").write_bytes(theirs)
    with pytest.raises(OutputError, match=r"era5.grib exists and is no output of fsae: it is not replaced"):
        write(emulator, tmp_path / "era5.grib", overwrite=True)
    assert (tmp_path / "era5.grib").read_bytes() == theirs


def test_values_are_read_again_before_the_file_is_there(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: a message whose values are those of another field is found, and the run goes on without it
    path, message = tmp_path / "out.grib2", written._message

    def wrong(api: object, keys: written.Keys, values: np.ndarray) -> bytes:
        return message(api, keys, values + np.float32(0.01) * (keys["perturbationNumber"] == 1))

    monkeypatch.setattr(written, "_message", wrong)
    with pytest.raises(
        OutputError, match=r"damaged while it was written \(message 3, of tas\); 6 of 6 fields are kept"
    ):
        write(emulator, path)
    assert not path.exists()
    monkeypatch.undo()
    assert write(emulator, path, resume=True) == write(emulator, tmp_path / "other.grib2")


UNEVEN = LatLonGrid(lat_deg=np.array([-80.0, -20.0, 0.0, 60.0]), lon_deg=np.arange(8) * 45.0)
REFUSED = {
    "statistics": (
        dataclasses.replace(FEW, statistics=["mean", "std"]),
        r"2 statistics over the members for GRIB, whose readers .* expected one in a file: give such as --statistics",
    ),
    "quantiles": (
        dataclasses.replace(FEW, statistics=["q05"]),
        r"quantiles over the members for GRIB, whose template .* name the output .nc or .zarr",
    ),
    "members": (
        dataclasses.replace(FEW, members=[1, 255]),
        "2 members with the numbers 1 to 255 for GRIB, expected 254",
    ),
    "part of HEALPix": (dataclasses.replace(FEW, select=Selection(bbox=(0, 0, 90, 60))), "cells of HEALPix zoom"),
    "uneven": (
        dataclasses.replace(FEW, select=Selection(grid=UNEVEN)),
        "grid that is neither evenly spaced nor Gaussian",
    ),
    "old": (
        dataclasses.replace(FEW, start="1500-01", forcing=1990),
        "1500-01-01T00:00:00 for GRIB, expected dates of the Gregorian",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_grib_cannot_hold_is_refused_at_once(name: str, emulator: Emulator, tmp_path: Path) -> None:
    # oracle: one sentence; nothing was drawn, nothing is left
    request, words = REFUSED[name]
    with pytest.MonkeyPatch.context() as patch:
        fail_after(patch, 0, AssertionError("a field was made"))
        with pytest.raises(FsaeError, match=words):
            write(emulator, tmp_path / "out.grib2", request)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian", "all_leap"])
def test_calendars_that_grib_lacks_are_refused(calendar: str, emulator: Emulator, tmp_path: Path) -> None:
    # oracle: one sentence, nothing is left
    with pytest.raises(
        FsaeError,
        match=f"found the calendar {calendar} for GRIB, whose dates are Gregorian, expected standard or .*: name",
    ):
        write(in_calendar(emulator, calendar), tmp_path / "out.grib2")
    assert list(tmp_path.iterdir()) == []


def test_a_maximum_is_refused(emulator: Emulator, tmp_path: Path) -> None:  # oracle: one sentence
    manifest = emulator.bundle.manifest
    most = tuple(msgspec.structs.replace(one, cell_methods="time: maximum") for one in manifest.variables)
    bundle = dataclasses.replace(emulator.bundle, manifest=msgspec.structs.replace(manifest, variables=most))
    with pytest.raises(FsaeError, match="found maximum in time for GRIB, expected means over known periods"):
        write(Emulator(bundle, emulator.graphs), tmp_path / "out.grib2")


def test_commands_refuse_latents_climatologies_and_a_missing_library(
    command: Callable[..., tuple[int, str, str]], emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: exit code 2, one sentence that names the way out
    given = tmp_path / "in.nc"
    emulator.generate(Request(members=1, start="1990-01", steps=24)).isel(realization=0).to_netcdf(
        given, engine="h5netcdf"
    )
    with pytest.raises(FsaeError, match=r"c.grib2, expected NetCDF-4 or Zarr: name it such as out.nc"):
        write_climatology(given, tmp_path / "c.grib2", model=emulator.bundle.folder)
    words = ("compress", given, tmp_path / "l.grib2", "--climatology", "training")
    code, _, said = command(*words)
    assert code == 2
    assert "found an archive or latents for GRIB, expected fields: name the output .nc or .zarr" in said

    monkeypatch.setitem(sys.modules, "eccodes", None)
    code, _, said = command("generate", "--members", "1", "--grid", "30", "--out", tmp_path / "out.grib2")
    assert code == 2
    assert (
        'GRIB output needs ecCodes (import of eccodes halted; None in sys.modules): pip install "fsae[grib]", or name'
        in said
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.nc"]
