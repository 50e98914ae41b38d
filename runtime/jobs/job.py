"""Work as a layout and the units that fill it: what goes to a file and what comes back in memory is one thing."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.errors import ToleranceError
from fsae.runtime.output.layout import TIME_CHUNK, Layout, Unit
from fsae.runtime.output.selection import View


class Finished:
    """Which units are done: none, unless a ledger says so. Members are counted by their place in the request."""

    def has(self, member: int, first: int) -> bool:
        """Whether the unit of a member that begins at the step `first` is done."""
        return False

    def steps(self, member: int) -> int:
        """Steps done of a member, one after another from the first, whose state is known."""
        return 0

    def state(self, member: int) -> F32:
        """What was given with the last of those steps."""
        raise KeyError(member)


def nothing() -> None:
    """Nothing."""


def time_chunks(steps: int) -> Iterator[slice]:
    """Slices of `TIME_CHUNK` steps that cover `steps` of them.

    >>> [(part.start, part.stop) for part in time_chunks(14)]
    [(0, 12), (12, 14)]
    """
    for first in range(0, steps, TIME_CHUNK):
        yield slice(first, min(first + TIME_CHUNK, steps))


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to write: a layout and, in one pass, the units that fill it, but for those that are finished.

    `notes` are warnings for the user, `close` closes the input and is called when all is done or has failed. `missing`
    are the numbers of the shards that the output still waits for.
    """

    layout: Layout
    units: Callable[[Finished], Iterator[Unit]]
    notes: tuple[str, ...] = ()
    divisible: bool = True  # whether some of the members can be made without the others
    chained: bool = False  # whether a unit of a member needs those before it
    close: Callable[[], None] = nothing
    missing: tuple[int, ...] = ()

    @property
    def fields(self) -> int:
        """Number of fields: members times starts times steps."""
        return self.layout.rows * self.layout.steps


def checked(unit: Unit) -> Unit:
    """The unit; ToleranceError where it holds values that are not finite."""
    if not np.isfinite(unit.values).all():
        raise ToleranceError("the model gave values that are not finite: check the input and run `fsae-run verify`")
    return unit


def seen(view: View, unit: Unit) -> Unit:
    """What a view takes of a unit of whole fields; ToleranceError as of `checked`."""
    return dataclasses.replace(unit, values=view.take(checked(unit).values))
