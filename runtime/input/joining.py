"""Fields of several files as one: joined along time and over variables, each step read from the file that has it."""

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.climate.calendar import Bounds, Date, infer_step, time_index
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import supported_zoom
from fsae.runtime.sphere.regrid import WeightMaker, once_a_grid
from fsae.runtime.sphere.regrid import make_weights as make_own_weights

from .fields import Fields, Reader, VariableSpec, read_fields
from .grid_detection import find_grid
from .sources import Paths, named, open_source, paths_of
from .variables import choose_variable, has_variable

if TYPE_CHECKING:
    import xarray as xr


Key = tuple[int, ...]


def read_files(
    source: "Paths | xr.Dataset",
    variables: Sequence[VariableSpec],
    *,
    zoom: int | None = None,
    finest_zoom: int = 5,
    method: str = "auto",
    names: Mapping[str, str] | None = None,
    make_weights: WeightMaker = make_own_weights,
) -> Fields:
    """The fields of `variables` in a dataset, a file, or several files; other arguments as of `fields.read_fields`.

    Several are given as a list, or as a pattern such as tas_*.nc, in any order. A variable may stand in files of its
    own. A date that comes twice is refused; a gap between files, and steps that not all variables have, are told in the
    notes. Of each file one step is read, to check it.
    """
    import xarray as xr  # start-up time

    paths = () if isinstance(source, xr.Dataset) else paths_of(source)
    if isinstance(source, xr.Dataset) or len(paths) == 1:
        return read_fields(
            source if isinstance(source, xr.Dataset) else paths[0],
            variables,
            zoom=zoom,
            finest_zoom=finest_zoom,
            method=method,
            names=names,
            make_weights=make_weights,
        )
    with contextlib.ExitStack() as opened:
        parts = open_parts(paths, variables, zoom, finest_zoom, method, names or {}, once_a_grid(make_weights), opened)
        fields = join(parts)
        words = dict.fromkeys(part.source.split(": ", 1)[1] for own in parts for part in own)
        source = f"{named(paths)}: {'; '.join(words)}"
        return dataclasses.replace(fields, source=source, close=opened.pop_all().close)


def sought(variables: Sequence[VariableSpec], names: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Names and standard names by which variables are found; a name that was given is meant, and no standard name."""
    return [names.get(v.name, v.name) for v in variables], [
        "" if v.name in names else v.standard_name for v in variables
    ]


def held(dataset: "xr.Dataset", variables: Sequence[VariableSpec], names: Mapping[str, str]) -> list[bool]:
    """Which of the variables a dataset has."""
    called, meant = sought(variables, names)
    return [has_variable(dataset, n, s, called) for n, s in zip(called, meant, strict=True)]


def open_parts(
    paths: Sequence[Path],
    variables: Sequence[VariableSpec],
    zoom: int | None,
    finest_zoom: int | None,
    method: str,
    names: Mapping[str, str],
    make_weights: WeightMaker,
    opened: contextlib.ExitStack,
) -> list[list[Fields]]:
    """For each variable the opened files that hold it, all on one zoom: by default the finest that every file has."""
    holders: list[list[Path]] = [[] for _ in variables]
    called, meant = sought(variables, names)
    finest = 99 if finest_zoom is None else finest_zoom
    for path in paths:
        dataset, where = open_source(path)
        with dataset:
            there = held(dataset, variables, names)
            if not any(there):
                choose_variable(dataset, called[0], meant[0], where)  # says what is there
            for name, standard_name, own, found in zip(called, meant, holders, there, strict=True):
                if found:
                    array = choose_variable(dataset, name, standard_name, where, called)
                    finest = min(finest, supported_zoom(find_grid(array, dataset)))
                    own.append(path)
    parts: list[list[Fields]] = []
    for variable, own in zip(variables, holders, strict=True):
        if not own:
            raise DataError(f"none of the {len(paths)} input files holds {variable.name!r}: add the file that does")
        chosen = finest if zoom is None else zoom
        mine = {variable.name: names[variable.name]} if variable.name in names else None
        parts.append([])
        for path in own:
            part = read_fields(path, [variable], zoom=chosen, method=method, names=mine, make_weights=make_weights)
            opened.callback(part.close)
            parts[-1].append(part)
    return parts


def join(parts: Sequence[Sequence[Fields]]) -> Fields:
    """One `Fields` out of files along time (inner) and variables (outer), each part holding one variable."""
    series = [_join_time(own) for own in parts]
    first = series[0]
    keys = [_keys(fields, _is_monthly([fields])) for fields in series]
    if len({_is_monthly([fields]) for fields in series}) > 1:
        raise DataError("some variables are monthly and some are not: give them in separate runs")
    if len({fields.members for fields in series}) > 1:
        raise DataError("the variables differ in their ensemble members: give them in separate runs")
    common = set(keys[0]).intersection(*keys[1:])
    kept = [i for i, key in enumerate(keys[0]) if key in common]
    if not kept:
        periods = (f"{f.variables[0]} {f.times[0]} to {f.times[-1]} ({f.calendar})" for f in series)
        raise DataError(f"the variables have no time step in common: {'; '.join(periods)}")
    notes = [note for fields in series for note in fields.notes]
    most = max(len(fields.times) for fields in series)
    if len(kept) < most:
        notes.append(f"Only {len(kept)} of {most} steps are common to all variables: the others are left out.")
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
        notes=tuple(dict.fromkeys(notes)),
    )


def _join_time(parts: Sequence[Fields]) -> Fields:
    """The files of one variable joined along time."""
    name = parts[0].variables[0]
    for what, found in (
        ("calendars", sorted({part.calendar for part in parts})),
        ("ensemble members", sorted({str(part.members) for part in parts})),
    ):
        if len(found) > 1:
            raise DataError(
                f"the files of {name} have different {what}: {', '.join(found)}; give them in separate runs"
            )
    monthly = _is_monthly(parts)
    places = [(date, p, i) for p, part in enumerate(parts) for i, date in enumerate(part.times)]
    places.sort(key=lambda place: place[0])
    keys = [_key(date, monthly) for date, _, _ in places]
    twice = next((k for k in range(1, len(keys)) if keys[k] == keys[k - 1]), None)
    if twice is not None:
        names = " and ".join(dict.fromkeys(_file(parts[places[k][1]]) for k in (twice - 1, twice)))
        raise DataError(f"{name} has the date {places[twice][0]} twice, in {names}: leave one of them out")
    times = tuple(date for date, _, _ in places)
    bounds: Bounds | None = None
    if all(part.bounds is not None for part in parts):
        bounds = [part.bounds[i] for part, i in ((parts[p], i) for _, p, i in places) if part.bounds is not None]
    first, step = parts[0], infer_step(times, bounds)
    return Fields(
        variables=first.variables,
        zoom=first.zoom,
        grid=first.grid,
        times=times,
        bounds=bounds,
        calendar=first.calendar,
        step=step,
        cell_methods=first.cell_methods,
        members=first.members,
        source="; ".join(part.source for part in parts),
        readers=(_picked([(parts[p].readers[0], i) for _, p, i in places]),),
        notes=_gaps([(date, _file(parts[p])) for date, p, _ in places], step),
    )


def _file(fields: Fields) -> str:
    """The name of the file that fields were read from."""
    return fields.source.split(": ", 1)[0]


def _gaps(steps: Sequence[tuple[Date, str]], step: str | None) -> tuple[str, ...]:
    """A note where steps are missing between two files; dates and the files that they are from."""
    if step is None:
        return ()
    pairs = [(a, b) for a, b in itertools.pairwise(steps) if a[1] != b[1]]
    found = [(a, b) for a, b in pairs if time_index(b[0], step) - time_index(a[0], step) > 1]
    if not found:
        return ()
    (before, one), (after, other) = found[0]
    count = f"{len(found)} gaps between the files, the first" if len(found) > 1 else "a gap between the files,"
    return (f"The input has {count} from {before.isoformat()} ({one}) to {after.isoformat()} ({other}).",)


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
