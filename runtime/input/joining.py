"""Fields of several files as one: joined along time and over variables, each step read from its own file."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.climate.calendar import Bounds, Date, infer_step, time_index
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import supported_zoom
from fsae.runtime.sphere.regrid import WeightMaker, make_weights, once_a_grid

from .fields import Fields, Reader, Wanted, fields_of
from .grid_detection import find_grid
from .meaning import joined
from .reader import VariableSpec
from .sources import Given, Opened, Source

Key = tuple[int, ...]
VARIANT = re.compile(r"r?(\d+)(\D.*)?")  # a realization, and what else CMIP says of a variant


def read_fields(
    source: Given,
    variables: Sequence[VariableSpec],
    *,
    zoom: int | None = None,
    finest_zoom: int = 5,
    method: str = "auto",
    names: Mapping[str, str] | None = None,
    make_weights: WeightMaker = make_weights,
) -> Fields:
    """The fields of `variables` in a source on nested HEALPix, in the units asked for; `close` closes its files.

    The default zoom is the finest that every variable's grid supports, at most `finest_zoom`. `names` are what the
    source calls variables that are not found by their name or standard name.
    """
    wanted = Wanted(
        variables=variables,
        names=names or {},
        zoom=zoom,
        finest_zoom=finest_zoom,
        method=method,
        make_weights=once_a_grid(make_weights),
    )
    return open_wanted(Source.of(source), wanted)


def open_wanted(source: Source, wanted: Wanted) -> Fields:
    """The fields wanted of a source, whose files are opened once and closed by `close`."""
    with contextlib.ExitStack() as closing:
        fields = join_opened(source.name, source.open(closing), wanted)
        return dataclasses.replace(fields, close=closing.pop_all().close)


def join_opened(name: str, opened: Sequence[Opened], wanted: Wanted) -> Fields:
    """The fields wanted of a source of that name, in one dataset or in several in any order.

    A variable may be in files of its own. A date that comes twice is refused; a gap between files, and steps that not
    all variables have, are mentioned in the notes. Of each file one step is read, to check it.
    """
    return fields_of(opened[0], wanted) if len(opened) == 1 else join(name, by_variable(opened, wanted))


def by_variable(opened: Sequence[Opened], wanted: Wanted) -> list[list[Fields]]:
    """For each variable the fields of the files that hold it, on one zoom: by default the finest that all support."""
    holders: list[list[Opened]] = [[] for _ in wanted.variables]
    finest = wanted.finest_zoom
    for file in opened:
        there = wanted.held(file.dataset)
        if not any(there):
            wanted.find(file.dataset, file.name)  # raises, and lists what is there
        for variable, own, found in zip(wanted.variables, holders, there, strict=True):
            if found:
                own.append(file)
                (array,) = wanted.alone(variable).find(file.dataset, file.name)
                finest = min(finest, supported_zoom(find_grid(array, file.dataset)))
    for variable, own in zip(wanted.variables, holders, strict=True):
        if not own:
            raise DataError(
                f"none of the {len(opened)} input files holds {variable.name!r}", advice="add the file that does"
            )
    zoom = finest if wanted.zoom is None else wanted.zoom
    return [
        [fields_of(file, wanted.alone(variable, zoom)) for file in own]
        for variable, own in zip(wanted.variables, holders, strict=True)
    ]


def join(name: str, parts: Sequence[Sequence[Fields]]) -> Fields:
    """One `Fields` out of files along time (inner) and variables (outer), each part holding one variable."""
    series = [_join_members(own) for own in parts]
    first = series[0]
    keys = [_keys(fields, _is_monthly([fields])) for fields in series]
    if len({_is_monthly([fields]) for fields in series}) > 1:
        raise DataError("some variables are monthly and some are not", advice="give them in separate runs")
    if len({fields.members for fields in series}) > 1:
        raise DataError("the variables differ in their ensemble members", advice="give them in separate runs")
    common = set(keys[0]).intersection(*keys[1:])
    kept = [i for i, key in enumerate(keys[0]) if key in common]
    if not kept:
        periods = (f"{f.variables[0]} {f.times[0]} to {f.times[-1]} ({f.calendar})" for f in series)
        raise DataError(
            f"the variables have no time step in common: {'; '.join(periods)}", advice="give files of the same period"
        )
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
    return dataclasses.replace(
        first,
        variables=tuple(fields.variables[0] for fields in series),
        times=times,
        bounds=bounds,
        step=infer_step(times, bounds) or first.step,
        name=name,
        way="; ".join(dict.fromkeys(part.way for own in parts for part in own)),
        origins=tuple(fields.origins[0] for fields in series),
        readers=tuple(readers),
        notes=tuple(dict.fromkeys(notes)),
    )


def _join_members(parts: Sequence[Fields]) -> Fields:
    """The files of one variable joined along time and, if they hold different members, along those.

    Files are of different members if each says which one it holds, or if they have other labels at the same dates.
    """
    if all(part.label for part in parts):
        kinds: Sequence[object] = [part.label for part in parts]
    else:
        apart = len({part.times for part in parts}) < len(parts) and _are_apart(parts)
        kinds = [part.members if apart else None for part in parts]
    groups = [[part for part, own in zip(parts, kinds, strict=True) if own == kind] for kind in dict.fromkeys(kinds)]
    series = [_join_time(group) for group in groups]
    if len(series) == 1:
        return series[0]
    first, name = series[0], parts[0].variables[0]
    names = [own.origins[0].files[0] for own in series]
    for own, where in zip(series, names, strict=True):
        if own.times != first.times or own.calendar != first.calendar:
            raise DataError(
                f"the members of {name} differ in their times: {own.times[0]} to {own.times[-1]} in {where}, "
                f"{first.times[0]} to {first.times[-1]} in {names[0]}",
                advice="give the same period of each member",
            )
    if len({own.model for own in series} - {""}) > 1:
        models = sorted({own.model for own in series} - {""})
        raise DataError(f"the files of {name} are of different models: {', '.join(models)}", advice="give those of one")
    labels = _labels_of(series)
    origin = joined([own.origins[0] for own in series])
    members = tuple(text for own in series for text in ((own.label,) if own.label else own.origins[0].members))
    return dataclasses.replace(
        first,
        members=labels,
        label="",
        origins=(dataclasses.replace(origin, members=members),),
        readers=(_stacked([(own.readers[0], len(own.members or (0,))) for own in series]),),
        notes=tuple(dict.fromkeys(note for own in series for note in own.notes)),
    )


def _are_apart(parts: Sequence[Fields]) -> bool:
    """True if each file has members, and two files have either the same ones or none in common."""
    kinds = {part.members for part in parts}
    return all(kinds) and all(not set(one or ()) & set(other or ()) for one, other in itertools.combinations(kinds, 2))


def _labels_of(series: Sequence[Fields]) -> tuple[int, ...]:
    """Numbers of joined members: their own, or those of realizations r1, r2, ... that differ in nothing else."""
    if all(own.members is not None for own in series):
        return tuple(label for own in series for label in own.members or ())
    found = [VARIANT.fullmatch(own.label) for own in series]
    numbers = [int(one[1]) for one in found if one is not None]
    alike = len({one[2] for one in found if one is not None}) == 1
    whole = alike and len(numbers) == len(set(numbers)) == len(series)
    return tuple(numbers) if whole else tuple(range(len(series)))


def _stacked(parts: Sequence[tuple[Reader, int]]) -> Reader:
    """A reader of the members of several readers, each with their number."""
    places = [(reader, i) for reader, count in parts for i in range(count)]

    def read(times: slice, member: int | None) -> F32:
        if member is None:
            return np.concatenate([reader(times, None) for reader, _ in parts], axis=0)
        reader, place = places[member]
        return reader(times, place)

    return read


def _join_time(parts: Sequence[Fields]) -> Fields:
    """The files of one variable joined along time."""
    name = parts[0].variables[0]
    for what, found in (
        ("calendars", sorted({part.calendar for part in parts})),
        ("ensemble members", sorted({str(part.members) for part in parts})),
    ):
        if len(found) > 1:
            raise DataError(
                f"the files of {name} have different {what}: {', '.join(found)}", advice="give them in separate runs"
            )
    monthly = _is_monthly(parts)
    places = [(date, p, i) for p, part in enumerate(parts) for i, date in enumerate(part.times)]
    places.sort(key=lambda place: place[0])
    keys = [_key(date, monthly) for date, _, _ in places]
    twice = next((k for k in range(1, len(keys)) if keys[k] == keys[k - 1]), None)
    if twice is not None:
        names = " and ".join(dict.fromkeys(parts[places[k][1]].name for k in (twice - 1, twice)))
        raise DataError(f"{name} has the date {places[twice][0]} twice, in {names}", advice="leave one of them out")
    times = tuple(date for date, _, _ in places)
    bounds: Bounds | None = None
    if all(part.bounds is not None for part in parts):
        bounds = [part.bounds[i] for part, i in ((parts[p], i) for _, p, i in places) if part.bounds is not None]
    first, step = parts[0], infer_step(times, bounds)
    return dataclasses.replace(
        first,
        times=times,
        bounds=bounds,
        step=step,
        origins=(joined([part.origins[0] for part in parts]),),
        readers=(_picked([(parts[p].readers[0], i) for _, p, i in places]),),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes))
        + _gaps([(date, parts[p].name) for date, p, _ in places], step),
    )


def _gaps(steps: Sequence[tuple[Date, str]], step: str | None) -> tuple[str, ...]:
    """A note on steps missing between files; `steps` are dates and the names of their files."""
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
    """True if files hold monthly data; files of one step are judged together."""
    steps = {part.step for part in parts} - {None}
    if steps:
        return "1 month" in steps
    return infer_step(sorted(date for part in parts for date in part.times)) == "1 month"


def _key(date: Date, monthly: bool) -> Key:
    """The key of a step, equal for equal steps: year and month of monthly data, else the whole date."""
    whole = (date.year, date.month, date.day, date.hour, date.minute, date.second, date.microsecond)
    return whole[:2] if monthly else whole


def _keys(fields: Fields, monthly: bool) -> list[Key]:
    return [_key(date, monthly) for date in fields.times]


def _picked(steps: Sequence[tuple[Reader, int]]) -> Reader:
    """A reader of chosen steps of other readers; consecutive steps are read together."""

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
