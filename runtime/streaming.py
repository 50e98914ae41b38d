"""A job's result as datasets one after the other, each given out when it is complete and then forgotten."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .jobs import Job
from .ledger import Finished
from .output import Layout, to_dataset
from .stores import F32, Coordinate
from .time_axis import TimeAxis

if TYPE_CHECKING:
    import xarray as xr


def stream(job: Job, windows: bool = False) -> "Iterator[xr.Dataset]":
    """A dataset for every member with all its steps, or for every window of a member, in the order they are made.

    A member's steps are held until the last of them is there. The job is closed with the iterator.
    """
    layout, held = job.layout, dict[int, F32]()
    steps = layout.steps
    with contextlib.closing(job):
        for unit in job.units(Finished()):
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
    """The layout of some members and steps of another one; its attributes are those of the whole."""
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
