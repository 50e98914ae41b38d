"""Training data from any CF NetCDF or Zarr: files joined, put on nested HEALPix, written as one chunked Zarr store."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fsae.runtime.calendar import Bounds, Date, infer_step, step_bounds, time_method
from fsae.runtime.errors import DataError
from fsae.runtime.fields import F32, Fields, Reader, VariableSpec, WeightMaker, read_fields
from fsae.runtime.grids import Grid, find_grid, is_same, supported_zoom
from fsae.runtime.healpix import npix
from fsae.runtime.inputs import choose_variable, find_dates, has_variable, open_source, standard
from fsae.runtime.output import Layout, Unit, encode_times, open_output

from .weights import healpy_weights

log = logging.getLogger("fsae.training")

Key = tuple[int, ...]
Progress = Callable[[int, int], None]  # (steps done, steps in all)

CHUNK_VALUES = 1 << 18  # values of a chunk of one variable: 1 MiB, as training reads single steps at random


class PreparedVariable(VariableSpec, Protocol):
    """What prepared data says of a variable."""

    @property
    def long_name(self) -> str: ...
    @property
    def cell_methods(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class DescribedVariable:
    """A variable as an input file describes it, with any range and missing values allowed."""

    name: str
    standard_name: str
    long_name: str
    units: str
    cell_methods: str
    valid_range: tuple[float, float] = (-np.inf, np.inf)
    missing: bool = True


def describe_variables(inputs: Sequence[Path], names: Sequence[str] = ()) -> list[DescribedVariable]:
    """The variables of those names in the files; without names all with a time axis that share the first one's grid."""
    found: dict[str, DescribedVariable] = {}
    first: Grid | None = None
    for path in inputs:
        dataset, where = open_source(path)
        with dataset:
            there = [name for name in names if name in dataset.variables] if names else list(dataset.data_vars)
            for name in map(str, there):
                array = dataset[name]
                try:
                    grid = find_grid(array, dataset)
                    find_dates(array, dataset, where)
                except DataError:
                    if names:
                        raise
                    continue  # bounds, masks and the like
                first = grid if first is None else first
                if names or is_same(grid, first):
                    attributes = {k: str(v) for k, v in array.attrs.items()}
                    described = DescribedVariable(
                        name=name,
                        standard_name=standard(array),
                        long_name=attributes.get("long_name", name),
                        units=attributes.get("units", "1"),
                        cell_methods=attributes.get("cell_methods", ""),
                    )
                    found.setdefault(name, described)
    lacking = [name for name in names if name not in found]
    if lacking or not found:
        what = f"variable {lacking[0]!r}" if lacking else "variable with a time axis on a lat-lon or HEALPix grid"
        raise DataError(f"found no {what} in {', '.join(path.name for path in inputs)}")
    return [found[name] for name in names] if names else list(found.values())


def prepare(
    inputs: Sequence[Path],
    output: Path,
    variables: Sequence[PreparedVariable],
    *,
    zoom: int | None = None,
    method: str = "auto",
    cache: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Grid:
    """The source grid of the first variable; writes `variables` of all `inputs` on nested HEALPix to `output`.

    Files are joined along time, in any order; a date that comes twice is refused. Steps that not all variables have
    are left out: monthly data is matched by year and month, other data by its dates. The default zoom is the finest
    that every input supports. Weights are kept in `cache` (default: fsae/weights in the user's cache folder). The
    store gets its name when it is complete.
    """
    with contextlib.ExitStack() as opened:
        parts = _open_parts(inputs, variables, zoom, method, healpy_weights(cache), opened)
        fields = join(parts)
        layout = _layout(fields, variables, [own[0].cell_methods for own in parts])
        everyone = slice(0, fields.shape[0])
        with open_output(Path(output), layout, overwrite) as write:
            for times, values in fields.chunks(layout.time_chunk):
                write(Unit(members=everyone, times=times, values=values))
                if progress is not None:
                    progress(times.stop, len(fields.times))
        return fields.grid


def _open_parts(
    inputs: Sequence[Path],
    variables: Sequence[PreparedVariable],
    zoom: int | None,
    method: str,
    make_weights: WeightMaker,
    opened: contextlib.ExitStack,
) -> list[list[Fields]]:
    """For each variable the opened files that hold it, all on one zoom."""
    holders: list[list[Path]] = [[] for _ in variables]
    called = [v.name for v in variables]
    finest = 99
    for path in inputs:
        dataset, where = open_source(path)
        with dataset:
            there = [has_variable(dataset, v.name, v.standard_name, called) for v in variables]
            if not any(there):
                choose_variable(dataset, variables[0].name, variables[0].standard_name, where)  # says what is there
            for variable, paths, found in zip(variables, holders, there, strict=True):
                if found:
                    array = choose_variable(dataset, variable.name, variable.standard_name, where, called)
                    finest = min(finest, supported_zoom(find_grid(array, dataset)))
                    paths.append(path)
    parts = []
    for variable, paths in zip(variables, holders, strict=True):
        if not paths:
            raise DataError(f"none of the {len(inputs)} input files holds {variable.name!r}: add the file that does")
        own = []
        for path in paths:
            chosen = finest if zoom is None else zoom
            part = read_fields(path, [variable], zoom=chosen, method=method, make_weights=make_weights)
            opened.callback(part.close)
            own.append(part)
        parts.append(own)
    return parts


def join(parts: Sequence[Sequence[Fields]]) -> Fields:
    """One `Fields` out of files along time (inner) and variables (outer), each part holding one variable."""
    series = [_join_time(own) for own in parts]
    first = series[0]
    keys = [_keys(fields, _is_monthly([fields])) for fields in series]
    if len({_is_monthly([fields]) for fields in series}) > 1:
        raise DataError("some variables are monthly and some are not: prepare them apart")
    if len({fields.members for fields in series}) > 1:
        raise DataError("the variables differ in their ensemble members: prepare them apart")
    common = set(keys[0]).intersection(*keys[1:])
    kept = [i for i, key in enumerate(keys[0]) if key in common]
    if not kept:
        periods = (f"{f.variables[0]} {f.times[0]} to {f.times[-1]} ({f.calendar})" for f in series)
        raise DataError(f"the variables have no time step in common: {'; '.join(periods)}")
    if len(kept) < max(len(fields.times) for fields in series):
        log.info("prepare: %d of %d steps are common to all variables", len(kept), len(first.times))
    readers = []
    for fields, own in zip(series, keys, strict=True):
        place = {key: i for i, key in enumerate(own)}
        readers.append(_picked([(fields.readers[0], place[keys[0][i]]) for i in kept]))
    times = tuple(first.times[i] for i in kept)
    bounds = [first.bounds[i] for i in kept] if first.bounds is not None else None
    return Fields(
        variables=tuple(fields.variables[0] for fields in series),
        zoom=first.zoom,
        grid=first.grid,
        times=times,
        bounds=bounds,
        calendar=first.calendar,
        step=infer_step(times, bounds) or first.step,
        cell_methods=first.cell_methods,
        members=first.members,
        source="; ".join(dict.fromkeys(fields.source for fields in series)),
        readers=tuple(readers),
    )


def _join_time(parts: Sequence[Fields]) -> Fields:
    """The files of one variable joined along time."""
    name = parts[0].variables[0]
    for what, found in (
        ("calendars", sorted({part.calendar for part in parts})),
        ("ensemble members", sorted({str(part.members) for part in parts})),
    ):
        if len(found) > 1:
            raise DataError(f"the files of {name} have different {what}: {', '.join(found)}; prepare them apart")
    monthly = _is_monthly(parts)
    places = [(date, p, i) for p, part in enumerate(parts) for i, date in enumerate(part.times)]
    places.sort(key=lambda place: place[0])
    keys = [_key(date, monthly) for date, _, _ in places]
    twice = next((k for k in range(1, len(keys)) if keys[k] == keys[k - 1]), None)
    if twice is not None:
        names = " and ".join(dict.fromkeys(parts[places[k][1]].source.split(":")[0] for k in (twice - 1, twice)))
        raise DataError(f"{name} has the date {places[twice][0]} twice, in {names}: leave one of them out")
    times = tuple(date for date, _, _ in places)
    bounds: Bounds | None = None
    if all(part.bounds is not None for part in parts):
        bounds = [part.bounds[i] for part, i in ((parts[p], i) for _, p, i in places) if part.bounds is not None]
    first = parts[0]
    return Fields(
        variables=first.variables,
        zoom=first.zoom,
        grid=first.grid,
        times=times,
        bounds=bounds,
        calendar=first.calendar,
        step=infer_step(times, bounds),
        cell_methods=first.cell_methods,
        members=first.members,
        source="; ".join(part.source for part in parts),
        readers=(_picked([(parts[p].readers[0], i) for _, p, i in places]),),
    )


def _is_monthly(parts: Sequence[Fields]) -> bool:
    """Whether files hold monthly data; one-step files are judged together."""
    steps = {part.step for part in parts} - {None}
    if steps:
        return "1 month" in steps
    return infer_step(sorted(date for part in parts for date in part.times)) == "1 month"


def _key(date: Date, monthly: bool) -> Key:
    """What makes a step the same step: year and month of monthly data, else the whole date."""
    whole = (date.year, date.month, date.day, date.hour, date.minute, date.second, date.microsecond)
    return whole[:2] if monthly else whole


def _keys(fields: Fields, monthly: bool) -> list[Key]:
    return [_key(date, monthly) for date in fields.times]


def _picked(steps: Sequence[tuple[Reader, int]]) -> Reader:
    """A reader of chosen steps of other readers; what lies side by side is read at once."""

    def read(times: slice, member: int | None) -> F32:
        chosen = steps[times]
        values = []
        first = 0
        for last in range(1, len(chosen) + 1):
            reader, place = chosen[last - 1]
            if last == len(chosen) or chosen[last][0] is not reader or chosen[last][1] != place + 1:
                values.append(reader(slice(chosen[first][1], place + 1), member))
                first = last
        return np.concatenate(values, axis=1)

    return read


def _layout(fields: Fields, variables: Sequence[PreparedVariable], cell_methods: Sequence[str]) -> Layout:
    """The output: what the source says of averaging goes before what the configuration says."""
    attributes = {}
    for variable, said in zip(variables, cell_methods, strict=True):
        texts = {
            "standard_name": variable.standard_name,
            "long_name": variable.long_name,
            "units": variable.units,
            "cell_methods": said or variable.cell_methods,
        }
        attributes[variable.name] = {key: text for key, text in texts.items() if text}
    bounds = fields.bounds
    first_method = attributes[variables[0].name].get("cell_methods", "")
    if bounds is None and fields.step in ("1 month", "1 year") and time_method(first_method) != "point":
        bounds = step_bounds(fields.times, fields.step)
    return Layout(
        variables=attributes,
        attributes={"title": "fields on nested HEALPix", "source": fields.source},
        time=encode_times(fields.times, bounds, fields.calendar),
        zoom=fields.zoom,
        members=fields.members,
        time_chunk=max(1, min(len(fields.times), CHUNK_VALUES // npix(fields.zoom))),
    )
