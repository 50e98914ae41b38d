"""CF output in pieces: the layout of a file (grid, times, members, attributes), and writing units into it."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cftime
import numpy as np

from fsae.runtime.arrays import F32, Ints
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix, pixel_centres

from .files import group_attributes, open_store, output_errors
from .store import Array, Attribute, Coordinate, Store
from .times import LEAD, REFERENCE, ReferenceTimes, TimeAxis, reference_coordinates
from .zarr import ZarrStore

if TYPE_CHECKING:
    import xarray as xr


TIME_CHUNK = 12  # steps worked on at once, and in one chunk of the output, unless the model sets a window
LEAP_SECOND_CALENDARS = ("standard", "proleptic_gregorian", "julian")  # which may have leap seconds, CF 4.4.3
LATITUDE: dict[str, Attribute] = {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"}
REALIZATION: dict[str, Attribute] = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
LONGITUDE: dict[str, Attribute] = {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"}


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A finished piece of output: values (member, time, variable, point), and which members and times they are.

    Of an archive it is the `chunks` of its variables instead, bytes in their order, and no values.
    """

    members: slice
    times: slice
    values: F32
    chunks: tuple[bytes, ...] = ()
    state: F32 | None = None  # of a single member: what its next unit needs to know of the units so far


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """HEALPix cells of a zoom in nested order, all or those `chosen`, rising; files hold their `centres` if wanted."""

    zoom: int
    chosen: Ints | None = None
    centres: bool = True

    @property
    def index(self) -> Ints:
        """Numbers (cell) of the cells."""
        return np.arange(npix(self.zoom), dtype=np.int64) if self.chosen is None else self.chosen

    @property
    def shape(self) -> tuple[int, ...]:
        """(cell,)."""
        return self.index.shape

    def __str__(self) -> str:
        part = "" if self.chosen is None else f"{self.chosen.size} cells of "
        return f"{part}HEALPix zoom {self.zoom}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An output file without its values; `variables` maps names to CF attributes.

    With several `reference_times` each member has a series of steps from each of them. A unit then counts rows instead
    of members: all series of the first member, then those of the second one, and so on. The points of a lat-lon grid
    are flattened (lat, lon). The variables named in `by_quantile` hold a field for each of the `quantiles`; there are
    no members then, but `of_members` says of how many the statistics are. `codecs` are the Zarr metadata of codecs of
    variables, by name; the cells of such an archive have no coordinates, which readers know from the codec. `summary`
    gives global attributes that follow from the values, out of the finished store. A file of a Zarr store holds
    `shard` chunks of a series.
    """

    variables: Mapping[str, Mapping[str, Attribute]]
    attributes: Mapping[str, Attribute]
    time: TimeAxis
    grid: Cells | LatLonGrid
    members: tuple[int, ...] | None = None
    reference_times: ReferenceTimes | None = None
    time_chunk: int = 1
    extra: tuple["Coordinate", ...] = ()
    quantiles: tuple[float, ...] = ()
    by_quantile: tuple[str, ...] = ()
    of_members: int = 0
    codecs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: Callable[[Path], Mapping[str, Attribute]] | None = None
    shard: int = 1

    @property
    def zoom(self) -> int | None:
        """Zoom of cells that have their coordinates in the file; None for archives and other grids."""
        return self.grid.zoom if isinstance(self.grid, Cells) and not self.codecs else None

    @property
    def points(self) -> int:
        """Points of one field."""
        return int(np.prod(self.grid.shape))

    def label(self, row: int, step: int) -> str:
        """Words on where a step of a series is, such as " in member 3 at 2005-04-16T00:00:00"."""
        starts = 1 if self.reference_times is None else len(self.time.values)
        member, start = divmod(row, starts)
        number = self.time.values.reshape(starts, -1)[start, step]
        date = cftime.num2date(float(number), self.time.units, self.time.calendar)
        return f"{f' in member {self.members[member]}' if self.members else ''} at {date.isoformat()}"

    @property
    def rows(self) -> int:
        """Series of steps: members times reference times."""
        return len(self.members or (0,)) * (1 if self.reference_times is None else len(self.time.values))

    @property
    def steps(self) -> int:
        """Steps of a series."""
        steps: int = self.time.values.shape[-1]
        return steps

    @property
    def time_dims(self) -> tuple[str, ...]:
        """Names of the dimensions of times."""
        return ("time",) if self.reference_times is None else (REFERENCE, LEAD)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions of a data variable that is not by quantile."""
        points = ("cell",) if isinstance(self.grid, Cells) else ("lat", "lon")
        return (*(("realization",) if self.members is not None else ()), *self.time_dims, *points)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a data variable that is not by quantile."""
        lead = (len(self.members),) if self.members is not None else ()
        return (*lead, *self.time.values.shape, *self.grid.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Chunks of a data variable that is not by quantile: `time_chunk` steps of one row, all points."""
        lead = (1,) * (len(self.shape) - len(self.grid.shape) - 1)
        return (*lead, max(1, min(self.time_chunk, self.steps)), *self.grid.shape)

    @property
    def unit_steps(self) -> int:
        """Steps of a series that are finished together: those of a file."""
        return self.time_chunk * self.shard

    def place(self, members: slice, times: slice) -> tuple[slice, ...]:
        """The place of a unit in a data variable; with several reference times, of a unit of a single row."""
        if self.reference_times is None:
            return (members, times) if self.members is not None else (times,)
        member, start = divmod(members.start, len(self.time.values))
        lead = (slice(member, member + 1),) if self.members is not None else ()
        return (*lead, slice(start, start + 1), times)

    @property
    def slots(self) -> dict[str, slice]:
        """The places of each variable on the variable axis of a unit: one, or one for each quantile."""
        found, first = {}, 0
        for name in self.variables:
            end = first + (len(self.quantiles) if name in self.by_quantile else 1)
            found[name], first = slice(first, end), end
        return found


def without_members(layout: Layout) -> Layout:
    """The layout of a single member without a dimension of its own: its number is a scalar coordinate."""
    (number,) = layout.members or ()
    scalar = Coordinate(name="realization", dims=(), values=np.array(number, dtype=np.int64), attributes=REALIZATION)
    extra = (_scalar_member(item) for item in layout.extra)
    return dataclasses.replace(layout, members=None, extra=(scalar, *extra))


def _scalar_member(item: Coordinate) -> Coordinate:
    """A coordinate of the single member as a scalar one; any other as it is."""
    if item.dims != ("realization",):
        return item
    return dataclasses.replace(item, dims=(), values=item.values.reshape(()))


def global_attributes(layout: Layout, zarr: bool = False) -> dict[str, Any]:
    """Global attributes of a dataset or file of a layout, or of its Zarr store, with our mark."""
    return group_attributes(layout.attributes, layout.zoom if zarr else None)


def coordinates(layout: Layout) -> list[Coordinate]:
    """The variables of a layout that are not data: realization, time, bounds, cells or axes, grid mapping."""
    found = []
    attributes: dict[str, Attribute]
    if layout.members is not None:
        values = np.array(layout.members, dtype=np.int64)
        found.append(Coordinate(name="realization", dims=("realization",), values=values, attributes=REALIZATION))
    time, dims = layout.time, layout.time_dims
    if layout.reference_times is not None:
        found += reference_coordinates(layout.reference_times)
    attributes = {"standard_name": "time", "long_name": "time", "units": time.units, "calendar": time.calendar}
    attributes |= ({"axis": "T"} if layout.reference_times is None else {}) | (
        {"bounds": "time_bnds"} if time.bounds is not None else {}
    )
    found.append(Coordinate(name="time", dims=dims, values=time.values, attributes=attributes))
    if time.bounds is not None:
        found.append(Coordinate(name="time_bnds", dims=(*dims, "bnds"), values=time.bounds, attributes={}))
    found = [_with_leap_seconds(item) for item in (*found, *layout.extra)]
    if layout.quantiles:
        attributes = {"long_name": "probability of a value below, over the members", "units": "1"}
        values = np.array(layout.quantiles)
        found.append(Coordinate(name="quantile", dims=("quantile",), values=values, attributes=attributes))
    if isinstance(layout.grid, Cells):
        return found if layout.codecs else found + cell_coordinates(layout.grid)
    lat, lon = LATITUDE | {"axis": "Y"}, LONGITUDE | {"axis": "X"}
    found.append(Coordinate(name="lat", dims=("lat",), values=layout.grid.lat_deg, attributes=lat))
    found.append(Coordinate(name="lon", dims=("lon",), values=layout.grid.lon_deg, attributes=lon))
    return found


def _with_leap_seconds(item: Coordinate) -> Coordinate:
    """The coordinate; if it is a time, its attributes say that leap seconds are unknown, as input never tells."""
    if item.attributes.get("calendar") not in LEAP_SECOND_CALENDARS:
        return item
    return dataclasses.replace(item, attributes={**item.attributes, "units_metadata": "leap_seconds: unknown"})


def cell_coordinates(cells: Cells) -> list[Coordinate]:
    """Latitude and longitude if wanted, index and grid mapping of cells (CF 1.13, appendix F)."""
    index: dict[str, Attribute] = {"standard_name": "healpix_index", "long_name": "HEALPix cell, nested", "units": "1"}
    mapping: dict[str, Attribute] = {
        "grid_mapping_name": "healpix",
        "refinement_level": cells.zoom,
        "indexing_scheme": "nested",
    }
    centres = []
    if cells.centres:
        lat_deg, lon_deg = (centre[cells.index] for centre in pixel_centres(cells.zoom))
        centres = [
            Coordinate(name="lat", dims=("cell",), values=lat_deg, attributes=LATITUDE),
            Coordinate(name="lon", dims=("cell",), values=lon_deg, attributes=LONGITUDE),
        ]
    return [
        *centres,
        Coordinate(name="cell", dims=("cell",), values=cells.index, attributes=index),
        Coordinate(name="crs", dims=(), values=np.array(0, dtype=np.int32), attributes=mapping),
    ]


def data_attributes(layout: Layout, name: str) -> dict[str, Attribute]:
    """CF attributes of a data variable, with its grid mapping and auxiliary coordinates."""
    cells = layout.grid if isinstance(layout.grid, Cells) and not layout.codecs else None
    beside = ["lat", "lon"] if cells is not None and cells.centres else []
    beside += ["time"] if layout.reference_times is not None else []
    beside += [item.name for item in layout.extra if item.dims != (item.name,) and set(item.dims) <= set(layout.dims)]
    grid = {} if cells is None else {"grid_mapping": "crs"}
    return {**layout.variables[name], **grid, **({"coordinates": " ".join(beside)} if beside else {})}


def normalised(request: Mapping[str, Any]) -> str:
    """A request as JSON with sorted keys, so that equal requests are equal bytes.

    >>> normalised({"steps": 12, "seed": 0})
    '{"seed": 0, "steps": 12}'
    """
    return json.dumps(request, sort_keys=True, allow_nan=False)


def data_arrays(layout: Layout) -> list[Array]:
    """The data variables of a layout, without their values."""
    found = []
    for name in layout.variables:
        lead = (("quantile",), (len(layout.quantiles),)) if name in layout.by_quantile else ((), ())
        dims, shape, chunks = (*lead[0], *layout.dims), (*lead[1], *layout.shape), (*lead[1], *layout.chunks)
        attributes = data_attributes(layout, name)
        codec, shards, along = layout.codecs.get(name), None, len(shape) - len(layout.grid.shape) - 1
        if layout.shard > 1:
            shards = tuple(size * layout.shard if axis == along else size for axis, size in enumerate(chunks))
        found.append(
            Array(name=name, dims=dims, shape=shape, chunks=chunks, attributes=attributes, codec=codec, shards=shards)
        )
    return found


def make_frame(store: Store, layout: Layout) -> None:
    """Create the coordinates and the empty data arrays."""
    for item in coordinates(layout):
        store.put(item)
    for array in data_arrays(layout):
        store.create(array)


def write_unit(store: Store, layout: Layout, unit: Unit) -> None:
    """Write the values of one unit into the store."""
    place = layout.place(unit.members, unit.times)
    for name, slots in layout.slots.items():
        values = shaped(layout, name, unit.values[:, :, slots])
        store.write(name, (slice(None), *place) if name in layout.by_quantile else place, values)


def write_chunks(store: ZarrStore, layout: Layout, unit: Unit) -> None:
    """Write the coded chunks of one unit of an archive into the store."""
    place = layout.place(unit.members, unit.times)
    for name, data in zip(layout.variables, unit.chunks, strict=True):
        store.write_chunk(name, place, data)


def shaped(layout: Layout, name: str, values: F32) -> F32:
    """Values (member, time, slot, point) of one variable in the shape of its array, or of a part of it."""
    if name in layout.by_quantile:
        first: F32 = np.moveaxis(values[0], 1, 0)
        return first.reshape(values.shape[2], values.shape[1], *layout.grid.shape)
    rows, steps = values.shape[:2]
    series = 1 if layout.reference_times is None or rows == 1 else len(layout.time.values)  # a unit is a single row
    member = (rows // series,) if layout.members is not None else ()
    lead = (*member, *((series,) if layout.reference_times is not None else ()), steps)
    return values[:, :, 0].reshape(*lead, *layout.grid.shape)


@contextlib.contextmanager
def open_output(path: Path, layout: Layout, overwrite: bool = False) -> Iterator[Callable[[Unit], None]]:
    """A function that writes units of a layout; the file appears, complete, when the block ends without an error."""
    with open_store(path, layout.attributes, overwrite, layout.zoom) as store:
        with output_errors(path):
            make_frame(store, layout)

        def write(unit: Unit) -> None:
            with output_errors(path):
                write_unit(store, layout, unit)

        yield write


def to_dataset(layout: Layout, values: F32) -> "xr.Dataset":
    """The layout filled with values (member, time, slot, point) as a decoded dataset in memory."""
    import xarray as xr

    variables: dict[str, tuple[Any, ...]] = {
        array.name: (array.dims, shaped(layout, array.name, values[:, :, slots]), dict(array.attributes))
        for array, slots in zip(data_arrays(layout), layout.slots.values(), strict=True)
    }
    variables |= {c.name: (c.dims, c.values, dict(c.attributes)) for c in coordinates(layout)}
    return xr.decode_cf(xr.Dataset(variables, attrs=global_attributes(layout)))
