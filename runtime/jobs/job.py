"""Work as a layout and the units that fill it: what goes to a file and what comes back in memory is one thing."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import ToleranceError
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
    that does all of it. `force`: go on with input that is too far from its climatology. `progress` is called with the
    number of fields done and of all.
    """

    overwrite: bool = False
    resume: bool = False
    force: bool = False
    scale: "Shard | Cluster | None" = None
    progress: Callable[[int, int], None] | None = None


NEW = Writing()  # nothing is there yet, and this call does all of it


@dataclass(frozen=True, kw_only=True)
class Job:
    """A result to be made: a layout and, in one pass, the units that fill it, except those that are finished.

    `notes` are warnings for the user, `close` closes the input and is called when all is done or has failed. `missing`
    are the numbers of the shards that the output still waits for.
    """

    layout: Layout
    units: Callable[[Done], Iterator[Unit]]
    notes: tuple[str, ...] = ()
    divisible: bool = True  # False if every unit needs all members
    chained: bool = False  # True if a unit of a member needs those before it
    close: Callable[[], None] = lambda: None
    missing: tuple[int, ...] = ()

    @property
    def fields(self) -> int:
        """Number of fields: members times starts times steps."""
        return self.layout.rows * self.layout.steps


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a job is made, on any machine that has the bundle: `make` gets the `inputs`, files or data, by name."""

    make: Callable[[Bundle, Graphs, Mapping[str, Any]], Job]
    inputs: Mapping[str, Any]

    def job(self, bundle: Bundle, graphs: Graphs) -> Job:
        """The job, whose layout says what was read."""
        job = self.make(bundle, graphs, self.inputs)
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


def checked(unit: Unit) -> Unit:
    """The unit; ToleranceError if some of its values are not finite."""
    if not np.isfinite(unit.values).all():
        raise ToleranceError("the model gave values that are not finite: check the input and run `fsae-run verify`")
    return unit


def seen(view: View, unit: Unit) -> Unit:
    """The part of a unit of whole fields that a view selects; ToleranceError as of `checked`."""
    return dataclasses.replace(unit, values=view.take(checked(unit).values))
