"""Output: what is written reads back, follows CF, and is there whole or not at all."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

import cftime
import h5netcdf
import numpy as np
import pytest
import small_output
import xarray as xr
import zarr
from processes import python
from small_output import ATTRIBUTES, healpix_mapping, layout_of, month_axis, values_of, write_in_units

from fsae.runtime import Request, Writing, load
from fsae.runtime.errors import OutputError, UsageError
from fsae.runtime.output import files as stores
from fsae.runtime.output.files import check_output
from fsae.runtime.output.layout import open_output, to_dataset
from fsae.runtime.output.marks import SEAL
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.healpix import npix, pixel_centres


def dates(dataset: xr.Dataset) -> list[tuple[int, ...]]:
    coder = [np.datetime64(t, "s").item().timetuple()[:5] if isinstance(t, np.datetime64) else t.timetuple()[:5]
             for t in dataset["time"].values]  # fmt: skip
    return [tuple(c) for c in coder]


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize(("members", "zoom"), [((0, 5), 1), (None, None)])
def test_what_is_written_in_units_reads_back(
    tmp_path: Path, suffix: str, calendar: str, members: tuple[int, ...] | None, zoom: int | None
) -> None:  # oracle: the values, dates and attributes that went in, through xarray
    layout = layout_of(calendar, members, zoom)
    values = values_of(layout)
    write_in_units(tmp_path / f"out{suffix}", layout, values)
    with xr.open_dataset(tmp_path / f"out{suffix}", engine="h5netcdf" if suffix == ".nc" else "zarr") as found:
        points = ("lat", "lon") if zoom is None else ("cell",)
        lead = ("time",) if members is None else ("time", "realization") if suffix == ".nc" else ("realization", "time")
        assert found["tas"].dims == (*lead, *points)
        assert found.encoding.get("unlimited_dims", set()) == ({"time"} if suffix == ".nc" else set())
        assert found["tas"].dtype == np.float32
        for slot, name in enumerate(("tas", "ts")):
            expected = values[:, :, slot].reshape(layout.shape)
            np.testing.assert_array_equal(found[name].transpose(*layout.dims).values, expected)
        times, bounds = month_axis(calendar)
        assert dates(found) == [t.timetuple()[:5] for t in times]
        assert found["time"].encoding["calendar"] in (calendar, "proleptic_gregorian")
        assert found["time"].attrs["bounds"] == "time_bnds"
        assert dates(xr.Dataset({"time": ("t", found["time_bnds"].values[:, 0])})) == [
            b[0].timetuple()[:5] for b in bounds
        ]
        assert found.attrs["Conventions"] == "CF-1.13"
        assert found.attrs["fsae_seed"] == 3
        assert {k: found["tas"].attrs[k] for k in ATTRIBUTES} == ATTRIBUTES
        assert "_FillValue" not in found["time"].encoding
        if members is not None:
            assert found["realization"].values.tolist() == list(members)
            assert found["realization"].attrs["standard_name"] == "realization"
        if zoom is not None:
            lat, lon = pixel_centres(zoom)
            np.testing.assert_array_equal(found["lat"].values, lat)
            np.testing.assert_array_equal(found["lon"].values, lon)
            assert found["lat"].dims == ("cell",)
            assert found["crs"].attrs == healpix_mapping(zoom, netcdf=suffix == ".nc")
            assert found["cell"].attrs["standard_name"] == "healpix_index"
            assert found["cell"].values.tolist() == list(range(npix(zoom)))


def test_zarr_is_version_3_in_whole_chunks(tmp_path: Path) -> None:  # oracle: zarr itself
    import zarr

    layout = layout_of()
    write_in_units(tmp_path / "out.zarr", layout, values_of(layout))
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group["tas"].chunks == (1, 3, npix(1))
    assert group["tas"].metadata.dimension_names == ("realization", "time", "cell")


def test_memory_and_file_are_the_same_dataset(tmp_path: Path) -> None:  # oracle: each other
    layout = layout_of("noleap")
    values = values_of(layout)
    write_in_units(tmp_path / "out.nc", layout, values)
    with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf") as found:
        for name in ("healpix_nside", "healpix_order"):  # for CDO, in NetCDF alone
            del found["crs"].attrs[name]
        del found.attrs[SEAL]  # of files alone
        ordered = found.load().transpose("realization", "time", ...)
        xr.testing.assert_identical(ordered, to_dataset(layout, values))


@pytest.mark.parametrize(
    ("offsets_h", "units"),
    [((0, 6, 12), "days since 1850-01-01 00:00:00"), ((0, 1, 2), "seconds since 1850-01-01 00:00:00")],
)
def test_times_are_encoded_exactly(offsets_h: Sequence[int], units: str) -> None:  # oracle: cftime's decoder
    import datetime

    start = cftime.datetime(2001, 3, 1, calendar="standard")
    times = [start + datetime.timedelta(hours=h) for h in offsets_h]
    axis = encode_times(times, None, "standard")
    assert axis.units == units
    assert list(cftime.num2date(axis.values, axis.units, "standard")) == times


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_the_same_bytes_twice(tmp_path: Path, suffix: str) -> None:  # oracle: determinism
    layout = layout_of()
    contents = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}{suffix}"
        write_in_units(path, layout, values_of(layout))
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        contents.append([(p.relative_to(path).as_posix(), p.read_bytes()) for p in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_existing_output_is_refused_and_replaced_only_on_success(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    layout = layout_of()
    write_in_units(path, layout, values_of(layout))
    with pytest.raises(OutputError, match=r"exists: give another path or --overwrite"):
        write_in_units(path, layout, values_of(layout))
    engine = "h5netcdf" if suffix == ".nc" else "zarr"
    with pytest.raises(RuntimeError, match="in the middle"), open_output(path, layout, overwrite=True):
        raise RuntimeError("in the middle")
    with xr.open_dataset(path, engine=engine) as found:
        np.testing.assert_array_equal(found["tas"].transpose(*layout.dims).values, values_of(layout)[:, :, 0])
    write_in_units(path, layout, values_of(layout) + 1, overwrite=True)
    with xr.open_dataset(path, engine=engine) as found:
        np.testing.assert_array_equal(found["tas"].transpose(*layout.dims).values, values_of(layout)[:, :, 0] + 1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_overwrite_spares_what_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "thesis.zarr").mkdir()
    (tmp_path / "thesis.zarr" / "chapter1.tex").write_text("years of work")
    (tmp_path / "notes.zarr").write_text("a file")
    (tmp_path / "folder.nc").mkdir()
    for name, message in (
        ("thesis.zarr", "is no output of fsae"),
        ("notes.zarr", "is a file"),
        ("folder.nc", "is a folder"),
    ):
        with pytest.raises(OutputError, match=message):
            check_output(tmp_path / name, overwrite=True)


def test_overwrite_spares_output_to_which_somebody_added_their_own(tmp_path: Path, tiny_bundle_path: Path) -> None:
    # oracle: what was added; output alone, and without the addition, is replaced
    def generated(name: str, overwrite: bool) -> Path:
        writing, path = Writing(overwrite=overwrite), tmp_path / name
        load(tiny_bundle_path, "cpu").generate_file(path, Request(members=1, steps=2), writing=writing)
        return path

    def add_variable(path: Path) -> None:
        with h5netcdf.File(path, "a") as file:
            file.create_variable("mine", ("time",), "f4")

    def add_group(path: Path) -> None:
        with h5netcdf.File(path, "a") as file:
            file.create_group("mine")

    additions: tuple[tuple[str, Callable[[Path], object], str], ...] = (
        ("a.zarr", lambda path: zarr.open_group(path, mode="r+").create_array("mine", shape=(3,), dtype="f4"), "mine"),
        ("b.zarr", lambda path: zarr.create_group(path / "mine"), "mine"),
        ("c.zarr", lambda path: (path / "tas" / "mine").mkdir(), "tas/mine"),
        ("d.zarr", lambda path: generated("d.zarr/inner.zarr", False), "inner.zarr"),
        ("e.nc", add_variable, "mine"),
        ("f.nc", add_group, "mine"),
    )
    for name, add, found in additions:
        path = generated(generated(name, False).name, True)
        add(path)
        with pytest.raises(OutputError, match=f"holds {found}, which fsae did not write: it is not replaced"):
            check_output(path, overwrite=True)


def test_missing_and_locked_folders_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        check_output(tmp_path / "missing" / "out.zarr", overwrite=False)
    monkeypatch.setattr(stores.os, "access", lambda path, mode: False)  # a superuser may write anywhere
    with pytest.raises(OutputError, match="no permission to write"):
        check_output(tmp_path / "out.zarr", overwrite=False)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of()

    def full(self: object, name: str, place: tuple[slice, ...], values: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for store, name in ((stores.ZarrStore, "out.zarr"), (stores.NetcdfStore, "out.nc")):
        monkeypatch.setattr(store, "write", full)
        with pytest.raises(OutputError, match=r"cannot write .*: No space left on device; nothing was left there"):
            write_in_units(tmp_path / name, layout, values_of(layout))
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from small_output import layout_of, values_of, write_in_units
import numpy as np, dataclasses, h5netcdf, zarr
from fsae.runtime.errors import OutputError, UsageError
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
layout = dataclasses.replace(layout_of(zoom=6), time_chunk=3)
try:
    write_in_units(Path(sys.argv[1]), layout, np.random.default_rng(0).normal(size=(2, 4, 2, 49152)).astype("f4"))
except OutputError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_the_file_system_refusing_bytes_is_one_sentence(tmp_path: Path, name: str) -> None:
    # oracle: a real limit on file sizes, which the libraries meet below Python
    done = python("-c", LIMITED, tmp_path / name, Path(small_output.__file__).parent)
    assert done.returncode == OutputError.exit_code, done.stderr
    assert "cannot write" in done.stdout
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [".", "", "/"])
def test_output_needs_a_name(path: str) -> None:
    with pytest.raises(UsageError, match=r"found the output '[./]', expected the name of a file or store"):
        stores.partial_of(Path(path))
