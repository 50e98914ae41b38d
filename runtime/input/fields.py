"""Fields of any readable CF dataset as nested HEALPix arrays, checked, and read in time chunks."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, Floating
from fsae.runtime.climate.calendar import Bounds, Date, averaging_periods, decimal_year, infer_step, year_phase
from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import Grid, LatLonGrid, supported_zoom
from fsae.runtime.sphere.healpix import coarsen_valid, npix, ring_to_nested
from fsae.runtime.sphere.regrid import WeightMaker, choose_method, once_a_grid
from fsae.runtime.sphere.weights import apply

from .dates import find_dates
from .forecasts import on_valid_times
from .grid_detection import locate
from .meaning import Origin, objections, origin_of, plausible, refuse_differences, refuse_small_temperatures
from .reader import HALVES, VariableReader, VariableSpec
from .sources import Opened
from .variables import candidates, has_variable, member_coordinate, member_dim, member_label, no_choice

if TYPE_CHECKING:
    import xarray as xr


Reader = Callable[[slice, int | None], F32]  # (times, member or all) -> (realization, time, pixel)
BLOCK_VALUES = 1 << 22  # source values held at once, in float64
SHORT_SCALES = {"C": "degC", "F": "degF"}  # of a temperature; else a coulomb and a farad


@dataclass(frozen=True, kw_only=True)
class Fields:
    """An opened source, not in memory: `read` gives (realization, time, variable, pixel)."""

    variables: tuple[str, ...]  # by the names asked for, whatever the source calls them
    zoom: int
    grid: Grid  # of the source, first variable
    times: tuple[Date, ...] = field(repr=False)
    bounds: Bounds | None = field(repr=False)  # as in the source
    calendar: str
    step: str | None  # None: a single step without bounds, or uneven steps
    cell_methods: str  # of the first variable in the source
    members: tuple[int, ...] | None  # labels; None without a dimension of members, of which `read` then gives one
    name: str  # of the source
    way: str  # the grids of the source, and how each comes to HEALPix, in words
    origins: tuple[Origin, ...] = field(repr=False)  # one per variable: what was read, for the output's attributes
    readers: tuple[Reader, ...] = field(repr=False)  # one per variable
    close: Callable[[], None] = field(repr=False, default=lambda: None)  # closes the files opened for these fields
    notes: tuple[str, ...] = ()  # for the user, on how the source was read
    own_grid: bool = False  # values are those of the points of `grid`, flattened, instead of HEALPix cells
    label: str = ""  # of the one member that the source says it is, such as r1i1p1f1
    model: str = ""  # that made the source, if it says so

    @property
    def source(self) -> str:
        """Name and grid of the source, in words."""
        return f"{self.name}: {self.way}"

    @property
    def periods(self) -> Bounds | None:
        """Beginning and end of each averaging period, from the source or its steps; None if they are not known."""
        return averaging_periods(self.times, self.step, self.cell_methods) if self.bounds is None else self.bounds

    @property
    def phase(self) -> NDArray[np.float64]:
        """Fraction of the year (time) at the middle of each averaging period."""
        return year_phase(self.times, self.step, self.cell_methods, self.bounds)

    @property
    def year(self) -> NDArray[np.float64]:
        """Decimal calendar year (time) at the middle of each averaging period."""
        return decimal_year(self.times, self.step, self.cell_methods, self.bounds)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(realization, time, variable, pixel)."""
        points = self.grid.size if self.own_grid else npix(self.zoom)
        return len(self.members or (0,)), len(self.times), len(self.variables), points

    def read(self, times: slice = slice(None), member: int | None = None) -> F32:
        """Values (realization, time, variable, pixel); only one realization if its index `member` is given."""
        start, stop, stride = times.indices(len(self.times))
        if stride != 1:
            raise DataError(f"found a time slice of stride {stride}", "1", "take steps that follow each other")
        count = max(stop - start, 0)
        values = np.empty((self.shape[0] if member is None else 1, count, *self.shape[2:]), dtype=np.float32)
        block = max(1, BLOCK_VALUES // (values.shape[0] * max(self.grid.size, self.shape[-1])))
        for first in range(0, count, block):
            last = min(first + block, count)
            for v, reader in enumerate(self.readers):
                values[:, first:last, v] = reader(slice(start + first, start + last), member)
        return values

    def chunks(self, size: int = 12) -> Iterator[tuple[slice, F32]]:
        """Consecutive time slices of `size` steps with their values."""
        for first in range(0, len(self.times), size):
            times = slice(first, min(first + size, len(self.times)))
            yield times, self.read(times)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The variables wanted of a source, found by name, standard name or `names`, and how they come to HEALPix."""

    variables: Sequence[VariableSpec]
    names: Mapping[str, str] = field(default_factory=dict)  # what the source calls a variable, by the model's name
    units: Mapping[str, str] = field(default_factory=dict)  # that a variable has, whatever the source says
    zoom: int | None = None  # None: the finest that every variable's grid supports, at most `finest_zoom`
    finest_zoom: int = 5
    method: str = "auto"
    make_weights: WeightMaker = field(default_factory=once_a_grid)
    others: Sequence[str] = ()  # names of variables that are not taken for these
    own_grid: bool = False  # see `Fields`

    def find(self, dataset: "xr.Dataset", where: str) -> "list[xr.DataArray]":
        """The variables in a dataset; DataError for one that it does not hold, or that says it is something else."""
        return [self._choose(dataset, spec, where) for spec in self.variables]

    def _choose(self, dataset: "xr.Dataset", spec: VariableSpec, where: str) -> "xr.DataArray":
        name, standard_name = self._look_for(spec)
        found = candidates(dataset, name, standard_name, self._taken)
        against = {one: objections(dataset[one], dataset, spec) for one in found if spec.name not in self.names}
        fitting = [one for one in found if not against.get(one)] or found[:1]
        if len(fitting) != 1:
            alike = plausible(dataset, spec)
            said = f"if one of them is it, give --name {spec.name}={alike[0]}" if alike else "give a file that holds it"
            raise no_choice(dataset, fitting, name, standard_name, where, said)
        (chosen,) = fitting
        if against.get(chosen):
            raise DataError(
                f"{chosen} in {where} {against[chosen][0]}",
                advice=f"if it is to be taken all the same, give --name {spec.name}={chosen}",
            )
        return dataset[chosen]

    def held(self, dataset: "xr.Dataset") -> list[bool]:
        """Which of the variables a dataset holds."""
        return [has_variable(dataset, *self._look_for(spec), self._taken) for spec in self.variables]

    def alone(self, variable: VariableSpec, zoom: int | None = None) -> "Wanted":
        """One of the variables, at a zoom."""
        return dataclasses.replace(self, variables=[variable], zoom=zoom, others=self._taken)

    def _look_for(self, spec: VariableSpec) -> tuple[str, str]:
        """Name and standard name of a variable; a name that was given is taken literally, and no standard name."""
        return self.names.get(spec.name, spec.name), "" if spec.name in self.names else spec.standard_name

    @property
    def _taken(self) -> list[str]:
        return [*(self._look_for(spec)[0] for spec in self.variables), *self.others]

    def said(self, array: "xr.DataArray", dataset: "xr.Dataset", spec: VariableSpec) -> tuple[str, ...]:
        """Notes on what the user said of a variable against what the source says of it."""
        notes = []
        if spec.name in self.names:
            against = objections(array, dataset, spec)
            notes += [f"{array.name} {found}: it is read as {spec.name} because --name says so." for found in against]
        found = array.attrs.get("units")
        if spec.name in self.units and found != self.units[spec.name]:
            was = "has no units" if found is None else f"has the units {str(found)[:100]!r}"
            notes.append(f"{array.name} {was}: it is read in {self.units[spec.name]!r} because --units says so.")
        return tuple(notes)


def fields_of(opened: Opened, wanted: Wanted) -> Fields:
    """The fields wanted of one dataset.

    The times of forecasts are those they are valid at. The first step is read and checked at once, so that wrong data
    is refused before any work is done. DataError for all that does not fit.
    """
    where = opened.name
    dataset = on_valid_times(opened.dataset, where)
    arrays = wanted.find(dataset, where)
    places = [locate(array, dataset) for array in arrays]
    zoom = _zoom(wanted, [place.grid for place in places], where)
    dates = [find_dates(array, dataset, where) for array in arrays]
    members = [member_dim(array) for array in arrays]
    for array, place, date, member in zip(arrays, places, dates, members, strict=True):
        if {date.dim, member} & set(place.dims) or (member is not None and date.dim == member):
            raise DataError(
                f"{array.name} in {where} has the dimensions {array.dims}, of which one is of times, of members and of "
                "the grid at once",
                advice="correct the coordinates",
            )
    sizes = {array.sizes[dim] if dim else 0 for array, dim in zip(arrays, members, strict=True)}
    if len(sizes) > 1 or any(date.stamps != dates[0].stamps for date in dates):
        names = ", ".join(v.name for v in wanted.variables)
        raise DataError(
            f"the variables {names} of {where} differ in their times or members",
            advice="bring them to the same times and members first",
        )
    readers, origins, notes = [], [], [note for date in dates for note in date.notes]
    for spec, array, place, date, member in zip(wanted.variables, arrays, places, dates, members, strict=True):
        convert, how = _as_it_is if wanted.own_grid else converter(place.grid, zoom, wanted.method, wanted.make_weights)
        refuse_differences(array, spec, where)
        units, more = _units(array, spec, where, wanted.units.get(spec.name))
        halves = next((str(d) for d in array.dims if str(d).lower() == HALVES and array.sizes[d] > 1), None)
        reader = VariableReader(
            spec=spec,
            array=_without_single_dims(array, {date.dim, member, halves, *place.dims}, where),
            time=date.dim,
            member=member,
            halves=halves,
            place=place,
            units=units,
            convert=convert,
            where=where,
        )
        if halves is not None:
            more.append(f"{array.name} has halves along {halves}: each value is the one that is not missing.")
        more += wanted.said(array, dataset, spec)
        values = reader(slice(0, 1), None)
        if units[1]:
            refuse_small_temperatures(values, array, spec, where)
        readers.append(reader)
        origin = origin_of(array, dataset, where)
        origins.append(
            dataclasses.replace(origin, grid=f"{place}{how}", notes=tuple(more), members=_label_texts(array, member))
        )
        notes += more
    first = arrays[0]
    return Fields(
        variables=tuple(v.name for v in wanted.variables),
        zoom=zoom,
        grid=places[0].grid,
        times=dates[0].stamps,
        bounds=dates[0].bounds,
        calendar=str(dates[0].stamps[0].calendar),
        step=infer_step(dates[0].stamps, dates[0].bounds),
        cell_methods=str(first.attrs.get("cell_methods", "")),
        members=_labels(first, members[0], where),
        name=where,
        way=", ".join(dict.fromkeys(one.grid for one in origins)),
        origins=tuple(origins),
        readers=tuple(readers),
        notes=tuple(dict.fromkeys(notes)),
        own_grid=wanted.own_grid,
        label=member_label(dataset) if members[0] is None else "",
        model=str(dataset.attrs.get("source_id", dataset.attrs.get("model_id", ""))),
    )


_as_it_is: tuple[Callable[[Floating], Floating], str] = (lambda values: values, "")


def _zoom(wanted: Wanted, grids: Sequence[Grid], where: str) -> int:
    """The zoom that fields on these grids are brought to."""
    coarsest = min(grids, key=supported_zoom)
    finest = supported_zoom(coarsest)
    if wanted.zoom is None:
        return min(finest, wanted.finest_zoom)
    if not 0 <= wanted.zoom <= finest:
        raise DataError(
            f"{where} is on a {coarsest}, which supports zoom {finest} at most, and zoom {wanted.zoom} was asked for",
            advice="leave --zoom out for the finest",
        )
    return wanted.zoom


def _without_single_dims(array: "xr.DataArray", known: set[str | None], where: str) -> "xr.DataArray":
    """The variable without dimensions of one entry, such as a height; DataError for any other unknown dimension."""
    others = [str(dim) for dim in array.dims if str(dim) not in known]
    long = [f"{dim} ({array.sizes[dim]})" for dim in others if array.sizes[dim] != 1]
    if long:
        raise DataError(
            f"{array.name} in {where} has the dimensions {', '.join(long)} too", advice="select one entry of each first"
        )
    return array.isel(dict.fromkeys(others, 0))


def _labels(array: "xr.DataArray", dim: str | None, where: str) -> tuple[int, ...] | None:
    """Labels of the members: their coordinate if it holds whole numbers, else 0, 1, ..."""
    if dim is None:
        return None
    beside = member_coordinate(array, dim)
    values = np.arange(array.sizes[dim]) if beside is None else beside.values
    whole = values.dtype.kind in "iu" or (values.dtype.kind == "f" and bool((values == np.round(values)).all()))
    labels = tuple(int(value) for value in (values if whole else range(array.sizes[dim])))
    if len(set(labels)) < len(labels):
        twice = next(label for place, label in enumerate(labels) if label in labels[:place])
        raise DataError(f"{array.name} in {where} has the member {twice} twice", advice="leave one of them out")
    return labels


def _label_texts(array: "xr.DataArray", dim: str | None) -> tuple[str, ...]:
    """The labels of the members as the source has them."""
    beside = None if dim is None else member_coordinate(array, dim)
    return () if beside is None else tuple(map(str, beside.values.tolist()))


def _units(
    array: "xr.DataArray", spec: VariableSpec, where: str, said: str | None
) -> tuple[tuple[float, float], list[str]]:
    """Factor and offset from the variable's units, or those that the user says, to those asked for; and notes."""
    found = array.attrs.get("units") if said is None else said
    how = f"give them, as in --units {spec.name}={spec.units}"
    if found is None and spec.units != "1":
        raise DataError(f"{array.name} in {where} has no units", f"{spec.units!r} or what converts to it", how)
    text = str(found if found is not None else "1")
    notes = []
    if spec.units == "K" and text.strip() in SHORT_SCALES:
        text, short = SHORT_SCALES[text.strip()], text.strip()
        notes.append(f"The units {short!r} of {array.name} are taken for {text}.")
    try:
        return conversion(text, spec.units), notes
    except DataError as error:
        raise DataError(f"{array.name} in {where}: {error.reason}", advice=f"if they are wrong, {how}") from None


def converter(
    grid: Grid, zoom: int, method: str, make_weights: WeightMaker
) -> tuple[Callable[[Floating], Floating], str]:
    """The map from source points (..., point) to nested pixels (..., pixel) of `zoom`, and its method in words."""
    if isinstance(grid, LatLonGrid):
        chosen = choose_method(grid, zoom) if method == "auto" else method
        weights = make_weights(grid, zoom, chosen)
        return lambda values: apply(weights, values), f", {chosen} to HEALPix zoom {zoom}"
    place = ring_to_nested(grid.zoom) if grid.order == "ring" else None

    def convert(values: Floating) -> Floating:
        return coarsen_valid(values if place is None else values[..., place], grid.zoom - zoom)

    return convert, "" if grid.zoom == zoom else f", means to zoom {zoom}"
