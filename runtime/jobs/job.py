"""Work as a layout and the units that fill it: what goes to a file and what comes back in memory is one thing."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.archive.quality import Figures
from fsae.runtime.arguments import check_judgement, refused, switch, whole
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Variable
from fsae.runtime.errors import ToleranceError, UsageError
from fsae.runtime.input.sources import Source
from fsae.runtime.output.layout import TIME_CHUNK, Layout, Unit
from fsae.runtime.output.selection import View

from .identity import with_inputs

if TYPE_CHECKING:
    from .cluster import Cluster
    from .shards import Shard


class Done(Protocol):
    """Which units are finished. Members are counted by their place in the request."""

    def has(self, member: int, first: int) -> bool:
        """True if the unit of a member that begins at the step `first` is finished."""
        ...

    def steps(self, member: int) -> int:
        """Finished steps of a member, in a row from its first one, after which its state is known."""
        ...

    def state(self, member: int) -> F32:
        """The state of a member after those steps; KeyError if there are none."""
        ...


class _NothingDone:
    def has(self, member: int, first: int) -> bool:
        return False

    def steps(self, member: int) -> int:
        return 0

    def state(self, member: int) -> F32:
        raise KeyError(member)


nothing_done: Done = _NothingDone()


def time_chunks(steps: int) -> Iterator[slice]:
    """Slices of `TIME_CHUNK` steps that cover `steps` of them.

    >>> [(part.start, part.stop) for part in time_chunks(14)]
    [(0, 12), (12, 14)]
    """
    for first in range(0, steps, TIME_CHUNK):
        yield slice(first, min(first + TIME_CHUNK, steps))


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a job's result is written to a file.

    `overwrite`: replace existing output. `resume`: continue what an interrupted run of the same request has left beside
    the output. `scale`: a `Shard`, the part of the work that this call does while others do the rest, or a `Cluster`
    that does all of it. `force`: go on with input that is too far from its climatology. `strict`: refuse input that
    would only be warned of as far from it. `zarr_shards`: the steps of a member that share a file of a Zarr store,
    rounded up to whole chunks, or "all". `progress` is called with the number of fields done and of all.
    """

    overwrite: bool = False
    resume: bool = False
    force: bool = False
    strict: bool = False
    scale: "Shard | Cluster | None" = None
    zarr_shards: int | Literal["all"] | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.zarr_shards not in (None, "all"):
            object.__setattr__(self, "zarr_shards", whole("zarr_shards", self.zarr_shards, "steps, or 'all'", "120"))
            if int(self.zarr_shards or 0) < 1:
                raise UsageError(f"found shards of {self.zarr_shards} steps", "1 or more", "leave them out")
        for name in ("overwrite", "resume", "force", "strict"):
            object.__setattr__(self, name, switch(name, getattr(self, name)))
        check_judgement(force=self.force, strict=self.strict)
        if self.progress is not None and not _takes_two(self.progress):
            expected = "a function of two numbers, the fields done and in all"
            raise refused("progress", self.progress, expected, "lambda done, total: print(done, total)")
        if self.scale is not None and not (hasattr(self.scale, "part") or hasattr(self.scale, "workers")):
            raise refused("scale", self.scale, "a Shard or a Cluster", "Shard(1, 8)")


def _takes_two(function: object) -> bool:
    """True if two values can be handed to a function, as far as it tells."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(0, 0)
    except TypeError:
        return False
    except ValueError:  # some functions of C do not tell what they take
        return True
    return True


NEW = Writing()  # nothing is there yet, and this call does all of it


@dataclass(frozen=True, kw_only=True)
class Job:
    """A result to be made: a layout and, in one pass, the units that fill it, except those that are finished.

    `notes` are warnings for the user, `close` closes the input and is called when all is done or has failed. `missing`
    are the numbers of the shards that the output still waits for. `figures` are those of an archive by variable, which
    grow as its units are made.
    """

    layout: Layout
    units: Callable[[Done], Iterator[Unit]]
    notes: tuple[str, ...] = ()
    divisible: bool = True  # False if every unit needs all members
    chained: bool = False  # True if a unit of a member needs those before it
    close: Callable[[], None] = lambda: None
    missing: tuple[int, ...] = ()
    figures: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def fields(self) -> int:
        """Number of fields: members times starts times steps."""
        return self.layout.rows * self.layout.steps


def in_shards(job: Job, steps: int | Literal["all"] | None) -> Job:
    """The job, whose Zarr store has files of that many steps of a member; UsageError for an archive.

    A file holds whole chunks, and no more of them than a series has.
    """
    if steps is None:
        return job
    if job.layout.codecs:
        raise UsageError(
            "found shards of an archive", "fields or latents", "leave out --shards: archives have few files"
        )
    chunk = job.layout.time_chunk
    wanted = job.layout.steps if steps == "all" else min(steps, job.layout.steps)
    return dataclasses.replace(job, layout=dataclasses.replace(job.layout, shard=max(1, -(-wanted // chunk))))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a job is made, on any machine that has the bundle: `make` gets the `inputs`, files or data, by name."""

    make: Callable[[Bundle, Graphs, Mapping[str, Any]], Job]
    inputs: Mapping[str, Any]
    zarr_shards: int | Literal["all"] | None = None

    def job(self, bundle: Bundle, graphs: Graphs) -> Job:
        """The job, whose layout says what was read."""
        job = in_shards(self.make(bundle, graphs, self.inputs), self.zarr_shards)
        return dataclasses.replace(job, layout=with_inputs(job.layout, self.inputs))

    def absolute(self) -> "Recipe":
        """The recipe with absolute paths, as processes that began in other folders need them."""
        return dataclasses.replace(self, inputs={name: _absolute(given) for name, given in self.inputs.items()})


def _absolute(given: Any) -> Any:
    if isinstance(given, list | tuple):
        return [_absolute(one) for one in given]
    if isinstance(given, Source):
        return given.absolute()
    return os.path.abspath(given) if isinstance(given, str | os.PathLike) else given


OVERSHOOT = 0.05  # of the width of a valid range: how far a model of real fields can be beyond its ends


def checked(unit: Unit, layout: Layout, variables: Sequence[Variable]) -> Unit:
    """The unit of some variables; ToleranceError naming the first value that is not finite."""
    if not np.isfinite(unit.values).all():
        raise _impossible(unit, ~np.isfinite(unit.values), layout, variables, "not finite")
    return unit


def seen(view: View, unit: Unit, layout: Layout) -> Unit:
    """The part of a unit of whole fields that a view selects.

    ToleranceError naming the first value that is not finite, or not within the valid range of its variable.
    """
    chosen = dataclasses.replace(unit, values=unit.values[..., list(view.places), :])
    values = checked(chosen, layout, view.variables).values
    low, high = np.array([variable.valid_range for variable in view.variables]).T[..., None]  # (variable, 1)
    beyond = OVERSHOOT * (high - low)
    bad = (values < low - beyond) | (values > high + beyond)
    if bad.any():
        raise _impossible(chosen, bad, layout, view.variables, "impossible")
    return dataclasses.replace(unit, values=view.take(unit.values))


def _impossible(
    unit: Unit, bad: NDArray[np.bool_], layout: Layout, variables: Sequence[Variable], what: str
) -> ToleranceError:
    """The error about the first of the bad values (member, time, variable, point)."""
    member, step, place, point = np.argwhere(bad)[0].tolist()
    variable, value = variables[place], unit.values[member, step, place, point]
    (low, high), where = variable.valid_range, layout.label(unit.members.start + member, unit.times.start + step)
    return ToleranceError(
        f"the model gave {variable.name} = {value:g}{where}, which is {what}",
        f"values within {low:g} to {high:g} {variable.units}" if what == "impossible" else "",
        "check the input and run `fsae-run verify`",
    )
