"""Results of a job without a file: in memory, lazily through dask, or streamed piece by piece."""

import contextlib
import dataclasses
import importlib
import itertools
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.output.layout import Layout, to_dataset
from fsae.runtime.output.store import Coordinate
from fsae.runtime.output.times import TimeAxis

from .job import Job, nothing_done
from .shards import Part, pieces_of

if TYPE_CHECKING:
    import xarray as xr


def in_memory(job: Job) -> "xr.Dataset":
    """The whole result as a dataset."""
    layout = job.layout
    slots = max((part.stop for part in layout.slots.values()), default=0)
    whole: F32 = np.empty((layout.rows, layout.steps, slots, layout.points), dtype=np.float32)
    with contextlib.closing(job):
        for unit in job.units(nothing_done):
            whole[unit.members, unit.times] = unit.values
    return to_dataset(layout, whole)


# Lazy results, as dask-backed input gives: each chunk is computed on access.


def is_lazy(dataset: "xr.Dataset") -> bool:
    """True if a dataset holds dask arrays."""
    return any(variable.chunks is not None for variable in dataset.variables.values())


def make_piece(job: Job, member: int, first: int) -> F32:
    """Values (member, time, variable, point) of the unit of one member that begins at the step `first`."""
    pieces = pieces_of(job)
    index = pieces.index(member, first)
    (unit,) = job.units(Part(pieces=pieces, own=range(index, index + 1)))
    return unit.values


def lazily(job: Job) -> "xr.Dataset":
    """The result as a dataset of dask arrays, a chunk for every unit; nothing is read or computed yet.

    Errors in the values of the input are raised when the chunk that needs them is computed.
    """
    array: Any = importlib.import_module("dask.array")
    delayed: Any = importlib.import_module("dask.delayed").delayed
    layout, pieces = job.layout, pieces_of(job)
    run = uuid.uuid4().hex  # random names: hashing the input would mean reading it
    whole = delayed(job, name=f"fsae-job-{run}", traverse=False)  # one entry in the graph, so a worker opens it once
    piece, rows = delayed(make_piece, pure=False), []
    for _, places in itertools.groupby(pieces.places(), lambda place: place[0]):
        row = []
        for member, times in places:
            one = piece(whole, member, times.start, dask_key_name=f"fsae-piece-{member}-{times.start}-{run}")
            shape = (1, times.stop - times.start, len(layout.variables), layout.points)
            row.append(array.from_delayed(one, shape, dtype=np.float32, meta=np.empty((0,) * 4, np.float32)))
        rows.append(array.concatenate(row, axis=1))
    values: F32 = array.concatenate(rows, axis=0)
    return to_dataset(layout, values)


# A job's result as datasets one after the other, each handed out when it is complete and then forgotten.


def stream(job: Job, windows: bool = False) -> "Iterator[xr.Dataset]":
    """Yield a dataset for every member with all its steps, or for every window of a member, in the order they are made.

    The steps of a member are held until the last of them is there. The job is closed with the iterator.
    """
    layout, held = job.layout, dict[int, F32]()
    steps = layout.steps
    with contextlib.closing(job):
        for unit in job.units(nothing_done):
            if windows:
                yield to_dataset(part_of(layout, unit.members, unit.times), unit.values)
                continue
            place = unit.members.start
            if place not in held:
                held[place] = np.empty((1, steps, *unit.values.shape[2:]), dtype=np.float32)
            held[place][:, unit.times] = unit.values
            if unit.times.stop == steps:
                yield to_dataset(part_of(layout, unit.members, slice(0, steps)), held.pop(place))


def part_of(layout: Layout, members: slice, times: slice) -> Layout:
    """The layout of some members and steps of another one, with the attributes of the whole."""
    parts = {"realization": members, "time": times}

    def cut(item: Coordinate) -> Coordinate:
        return dataclasses.replace(item, values=item.values[tuple(parts.get(dim, slice(None)) for dim in item.dims)])

    time = layout.time
    return dataclasses.replace(
        layout,
        members=None if layout.members is None else layout.members[members],
        time=TimeAxis(
            values=time.values[times],
            bounds=None if time.bounds is None else time.bounds[times],
            units=time.units,
            calendar=time.calendar,
        ),
        extra=tuple(map(cut, layout.extra)),
    )


def member_bytes(layout: Layout) -> int:
    """Memory of one member's values with all steps [bytes]."""
    fields: int = sum(part.stop - part.start for part in layout.slots.values())
    return 4 * layout.steps * fields * layout.points
