"""Arguments of the Python interface, with values of every kind: taken, or refused by an FsaeError in one sentence."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from monthly_fields import field_layout, fields, write_fields

import fsae.runtime
from fsae.runtime import Cluster, FsaeError, Request, Selection, Shard, UsageError, Writing
from fsae.runtime.emulator import Emulator

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
    slice(0, 2),
    Path("nowhere.nc"),
    xr.Dataset(),
    xr.DataArray([1.0]),
    xr.DataArray([1.0], name="tas"),
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
    "overwrite": lambda e, f, v: Writing(overwrite=v),
    "scale": lambda e, f, v: Writing(scale=v),
    "progress": lambda e, f, v: Writing(progress=v),
    "number": lambda e, f, v: Shard(v, 3),
    "count": lambda e, f, v: Shard(1, v),
    "workers": lambda e, f, v: Cluster(workers=v),
    "scheduler": lambda e, f, v: Cluster(scheduler=v),
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


def test_other_forms_of_the_same_argument_are_taken(emulator: Emulator) -> None:  # oracle: the usual form
    usual = Request(members=2, start="2005-01-31", steps=3, statistics=("mean",))
    for start in (datetime.date(2005, 1, 31), np.datetime64("2005-01-31"), cftime.DatetimeNoLeap(2005, 1, 31)):
        given = Request(members=np.int64(2), start=start, steps=np.int32(3), statistics="mean")  # type: ignore[arg-type]
        assert (given.members, given.steps, given.statistics) == (2, 3, ("mean",))
        xr.testing.assert_identical(emulator.generate(given).drop_attrs(), emulator.generate(usual).drop_attrs())
    assert Request(members=np.array([3, 5])).members == (3, 5)  # type: ignore[arg-type]
    assert Selection(grid=1.5, variables="tas", bbox=[0, 10, 20, 30]) == Selection(  # type: ignore[arg-type]
        grid="1.5", variables=("tas",), bbox=(0.0, 10.0, 20.0, 30.0)
    )


def test_an_array_is_data_if_it_has_a_name(emulator: Emulator, tmp_path: Path) -> None:  # oracle: the whole dataset
    with xr.open_dataset(write_fields(tmp_path / "in.nc", fields(), field_layout())) as data:
        with pytest.raises(FsaeError, match=r"array without a name.*rename"):
            emulator.compress(data["tas"].rename(None), climatology="training")
        with pytest.raises(UsageError, match="found zoom = 'fine' of type str, expected a whole number"):
            emulator.compress(data, climatology="training", zoom="fine")  # type: ignore[arg-type]
