"""Arguments of the Python interface, with values of every kind: taken, or refused by an FsaeError in one sentence."""

import datetime
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from monthly_fields import field_layout, fields, write_fields

import fsae.runtime
from fsae.runtime import Cluster, Comparison, FsaeError, Quality, Request, Selection, Shard, Source, UsageError, Writing
from fsae.runtime.codec.archive import qualities_of
from fsae.runtime.emulator import Emulator, climatology_file, write_climatology

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    10**30,
    10**400,
    "",
    "x",
    "\0",
    "\x1b[2J",
    b"x",
    [],
    [1, "a"],
    (1,),
    {},
    {"a": 1},
    {1: 2},
    set(),
    object(),
    np.int64(3),
    np.float32(2),
    np.array([1, 2]),
    np.array(1),
    np.datetime64("2005-01"),
    np.datetime64("NaT"),
    datetime.datetime(2005, 1, 1),
    datetime.date(2005, 1, 1),
    cftime.DatetimeNoLeap(2005, 1, 1),
    int,
    len,
    lambda: None,
    slice(0, 2),
    range(10**30),
    range(0, 4, 2),
    {2, 1},
    [None],
    [["a"]],
    [1.5, float("nan"), 3, 4],
    {"tas": 3},
    np.bool_(True),
    np.array([["a"]]),
    np.array("2005-01", dtype="datetime64[D]"),
    np.timedelta64(1, "D"),
    datetime.timedelta(days=1),
    datetime.datetime(2005, 1, 1, tzinfo=datetime.UTC),
    decimal.Decimal("1.5"),
    iter("ab"),
    Path("nowhere.nc"),
    xr.Dataset(),
    xr.DataArray([1.0]),
    xr.DataArray([1.0], name="tas"),
    xr.DataArray([1.0], name="x", dims="x", coords={"x": [0]}),
    xr.DataArray(np.datetime64("2005-01-01", "ns")),
    xr.DataTree(),
    Source.of("nowhere.nc"),
    Request(members=1),
    Selection(),
    Writing(),
    Shard(1, 1),
)
Call = Callable[[Emulator, Path, Any], object]


def request(**changes: Any) -> Request:
    return Request(**({"members": 1, "steps": 1} | changes))


CALLS: dict[str, Call] = {
    "device": lambda e, f, v: fsae.runtime.load(e.bundle.folder, v),
    "model": lambda e, f, v: fsae.runtime.load(v, "nothing"),
    "precision": lambda e, f, v: fsae.runtime.load(e.bundle.folder, "cpu", precision=v),
    "compress": lambda e, f, v: e.compress(v, climatology="training"),
    "zoom": lambda e, f, v: e.compress(xr.open_dataset(f), climatology="training", zoom=v),
    "climatology": lambda e, f, v: e.compress(xr.open_dataset(f), climatology=v),
    "names": lambda e, f, v: e.compress(xr.open_dataset(f), climatology="training", names=v),
    "decompress": lambda e, f, v: e.decompress(v),
    "decompress force": lambda e, f, v: e.decompress(e.compress(f, climatology="training"), force=v),
    "select": lambda e, f, v: e.superres(xr.open_dataset(f), climatology="training", zoom=1, select=v),
    "superres": lambda e, f, v: e.superres(v, climatology="training"),
    "generate": lambda e, f, v: e.generate(v),
    "batch": lambda e, f, v: e.generate(request(), batch=v),
    "max_memory_gib": lambda e, f, v: e.generate(request(), max_memory_gib=v),
    "stream": lambda e, f, v: next(e.stream(v)),
    "source": lambda e, f, v: e.compress_file(v, f.with_name("o.zarr"), climatology="training"),
    "path": lambda e, f, v: e.generate_file(v, request()),
    "writing": lambda e, f, v: e.generate_file(f.with_name("g.zarr"), request(), writing=v),
    **{
        name: lambda e, f, v, name=name: e.generate(request(**{name: v}))
        for name in ("start", "steps", "seed", "forcing", "initial", "sampler", "statistics")
    },
    **{
        f"selection {name}": lambda e, f, v, name=name: e.generate(request(select=Selection(**{name: v})))
        for name in ("grid", "regrid", "variables", "bbox", "times")
    },
    "request": lambda e, f, v: e.generate_file(f.with_name("r.zarr"), v),
    "request force": lambda e, f, v: request(force=v),
    "request select": lambda e, f, v: request(select=v),
    "request names": lambda e, f, v: e.generate(request(initial=f, climatology="training", names=v)),
    "request climatology": lambda e, f, v: e.generate(request(initial=f, climatology=v)),
    "windows": lambda e, f, v: next(e.stream(request(), windows=v)),
    "force": lambda e, f, v: e.compress(xr.open_dataset(f), climatology="training", force=v),
    "session threads": lambda e, f, v: fsae.runtime.load(e.bundle.folder, "cpu", threads=v),
    "bundle": lambda e, f, v: Emulator(v, e.graphs),
    "graphs": lambda e, f, v: Emulator(e.bundle, v),
    "source units": lambda e, f, v: Source.of(f, units=v),
    "source group": lambda e, f, v: Source.of(f, group=v),
    "files": lambda e, f, v: e.decompress_file([v, f], f.with_name("d.zarr")),
    "grid_like": lambda e, f, v: fsae.runtime.grid_like(v),
    "ensemble": lambda e, f, v: fsae.runtime.score(v, f),
    "comparison": lambda e, f, v: fsae.runtime.score(f, f, v),
    **{
        f"comparison {name}": lambda e, f, v, name=name: Comparison(**{name: v})
        for name in ("variables", "times", "zoom", "names")
    },
    "climatology of": lambda e, f, v: write_climatology(v, f.with_name("c.nc"), model=e.bundle.folder),
    "climatology in": lambda e, f, v: write_climatology(f, v, model=e.bundle.folder),
    "climatology model": lambda e, f, v: write_climatology(f, f.with_name("m.nc"), model=v),
    "climatology zoom": lambda e, f, v: write_climatology(f, f.with_name("z.nc"), model=e.bundle.folder, zoom=v),
    "climatology names": lambda e, f, v: write_climatology(f, f.with_name("n.nc"), model=e.bundle.folder, names=v),
    "climatology reading": lambda e, f, v: climatology_file(f, f.with_name("i.nc"), model=e.bundle.folder, reading=v),
    "climatology writing": lambda e, f, v: climatology_file(f, f.with_name("w.nc"), model=e.bundle.folder, writing=v),
    "harmonics": lambda e, f, v: write_climatology(f, f.with_name("h.nc"), model=e.bundle.folder, harmonics=v),
    "replace": lambda e, f, v: write_climatology(f, f.with_name("o.nc"), model=e.bundle.folder, overwrite=v),
    "overwrite": lambda e, f, v: Writing(overwrite=v),
    "resume": lambda e, f, v: Writing(resume=v),
    "scale": lambda e, f, v: Writing(scale=v),
    "progress": lambda e, f, v: e.generate_file(f.with_name("p.zarr"), request(), writing=Writing(progress=v)),
    **{
        f"quality {name}": lambda e, f, v, name=name: Quality(**{name: v})
        for name in ("rmse", "max_error", "relative", "ratio")
    },
    "number": lambda e, f, v: Shard(v, 3),
    "count": lambda e, f, v: Shard(1, v),
    "workers": lambda e, f, v: Cluster(workers=v),
    "scheduler": lambda e, f, v: Cluster(scheduler=v),
    "client": lambda e, f, v: Cluster(client=v),
    "threads": lambda e, f, v: Cluster(workers=1, threads=v),
}


@pytest.mark.filterwarnings("ignore")  # of libraries, about odd values
@pytest.mark.parametrize("name", CALLS)
def test_arguments_are_taken_or_refused(
    name: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the one base of our errors
    monkeypatch.chdir(tmp_path)
    file = write_fields(tmp_path / "in.nc", fields(), field_layout())
    for value in VALUES:
        said = ""
        try:
            CALLS[name](emulator, file, value)
        except FsaeError as error:
            said = str(error)
        assert said.isprintable()
        assert len(said) < 2000


@pytest.mark.filterwarnings("ignore")  # of libraries, about odd values
def test_arguments_of_an_archive_are_taken_or_refused(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the one base of our errors; this bundle has no codec, so nothing is taken
    for value in VALUES:
        if value is not None:
            with pytest.raises(FsaeError):
                qualities_of(value, ["tas"])
        with pytest.raises(FsaeError):
            emulator.archive_file(value, tmp_path / "a.zarr", Quality(rmse=0.2))
        with pytest.raises(FsaeError):
            emulator.archive_file(tmp_path / "none.nc", value, Quality(rmse=0.2))
        with pytest.raises(FsaeError):
            emulator.archive_file(tmp_path / "none.nc", tmp_path / "a.zarr", Quality(rmse=0.2), append=value)


def test_other_forms_of_the_same_argument_are_taken(emulator: Emulator) -> None:  # oracle: the usual form
    usual = Request(members=2, start="2005-01-31", steps=3, statistics=("mean",))
    for start in (datetime.date(2005, 1, 31), np.datetime64("2005-01-31"), cftime.DatetimeNoLeap(2005, 1, 31)):
        given = Request(members=np.int64(2), start=start, steps=np.int32(3), statistics="mean")  # type: ignore[arg-type]
        assert (given.members, given.steps, given.statistics) == (2, 3, ("mean",))
        xr.testing.assert_identical(emulator.generate(given).drop_attrs(), emulator.generate(usual).drop_attrs())
    step = xr.DataArray([cftime.DatetimeNoLeap(2005, 1, 31)], dims="time")[0]
    assert Request(start=step).start == "2005-01-31T00:00:00"  # type: ignore[arg-type]
    assert Request(members=np.array([3, 5])).members == (3, 5)  # type: ignore[arg-type]
    assert Request(members={5, 3}).members == (3, 5)  # type: ignore[arg-type]
    assert Writing(resume=np.bool_(True)).resume is True  # type: ignore[arg-type]
    assert Selection(grid=1.5, variables="tas", bbox=[0, 10, 20, 30]) == Selection(  # type: ignore[arg-type]
        grid="1.5", variables=("tas",), bbox=(0.0, 10.0, 20.0, 30.0)
    )


def test_an_array_is_data_if_it_has_a_name(emulator: Emulator, tmp_path: Path) -> None:  # oracle: the whole dataset
    with xr.open_dataset(write_fields(tmp_path / "in.nc", fields(), field_layout())) as data:
        with pytest.raises(FsaeError, match=r"array without a name.*rename"):
            emulator.compress(data["tas"].rename(None), climatology="training")
        with pytest.raises(FsaeError, match=r"type Dataset as a file, expected .*xarray\.concat"):
            emulator.compress([data, data], climatology="training")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="found zoom = 'fine' of type str, expected a whole number"):
            emulator.compress(data, climatology="training", zoom="fine")  # type: ignore[arg-type]
