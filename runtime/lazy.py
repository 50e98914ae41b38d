"""Results that are computed chunk by chunk when they are looked at: what dask-backed input gives."""

import importlib
import itertools
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from .jobs import Job
from .output import to_dataset
from .parts import Part, pieces_of
from .stores import F32

if TYPE_CHECKING:
    import xarray as xr


def is_lazy(dataset: "xr.Dataset") -> bool:
    """Whether a dataset holds dask arrays."""
    return any(variable.chunks is not None for variable in dataset.variables.values())


def make_piece(job: Job, member: int, first: int) -> F32:
    """Values (member, time, variable, point) of the unit of one member that begins at the step `first`."""
    pieces = pieces_of(job)
    index = pieces.index(member, first)
    (unit,) = job.units(Part(pieces=pieces, own=range(index, index + 1)))
    return unit.values


def lazily(job: Job) -> "xr.Dataset":
    """The result as a dataset of dask arrays, a chunk for every unit; nothing is read or computed yet.

    What is wrong with values of the input is raised when the chunk that needs them is computed.
    """
    array: Any = importlib.import_module("dask.array")
    delayed: Any = importlib.import_module("dask.delayed").delayed
    layout, pieces = job.layout, pieces_of(job)
    run = uuid.uuid4().hex  # names are by chance: to hash the input would be to read it
    whole = delayed(job, name=f"fsae-job-{run}", traverse=False)  # one entry of the graph: a worker opens it once
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
