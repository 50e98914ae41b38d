"""One job in parts: shards are the shares of processes that need not know of each other, pieces what they divide."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fsae.runtime.arguments import whole
from fsae.runtime.arrays import F32
from fsae.runtime.errors import UsageError

from .job import Done, Job, nothing_done

AUTO = "auto"
SLURM = "SLURM_ARRAY_TASK_"
MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a job; they count from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        for name in ("number", "count"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        if not 1 <= self.number <= self.count:
            raise UsageError(f"found the shard {self}", "1/8 to 8/8 or the like", "count the shards from 1")
        if self.count > MOST_SHARDS:  # each has a folder
            raise UsageError(f"found the shard {self}", f"{MOST_SHARDS} shards at most", "give each more of the work")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def part(self, pieces: int) -> range:
        """Which of all the pieces of a job are in this part.

        >>> [list(Shard(number, 3).part(7)) for number in (1, 2, 3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range((self.number - 1) * pieces // self.count, self.number * pieces // self.count)


def read_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """The shard of a text such as 3/8, or of "auto": the place of this task in its SLURM array.

    >>> read_shard("3/8", {})
    Shard(number=3, count=8)
    >>> array = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_MAX": "16"}
    >>> read_shard("auto", {**array, "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"})
    Shard(number=3, count=4)
    """
    if text == AUTO:
        return _slurm_shard(environment)
    found = re.fullmatch(r"([0-9]{1,18})/([0-9]{1,18})", text)
    if found is None:
        raise UsageError(f"found --shard {text}", "3/8 or the like, or auto in a SLURM array", "give --shard 3/8")
    return Shard(int(found[1]), int(found[2]))


def _slurm_shard(environment: Mapping[str, str]) -> Shard:
    names = {name: environment.get(f"{SLURM}{name}", "") for name in ("ID", "MIN", "MAX", "COUNT")}
    if not all(re.fullmatch("[0-9]{1,18}", value) for value in names.values()):
        raise UsageError(
            "found --shard auto outside a SLURM array",
            f"the variables {', '.join(SLURM + name for name in names)}",
            "start the job with `sbatch --array=1-8`, or give --shard i/n",
        )
    task, least, most, count = (int(value) for value in names.values())
    tasks = range(least, most + 1, int(environment.get(f"{SLURM}STEP") or 1))
    if len(tasks) != count or task not in tasks:
        raise UsageError(
            f"found --shard auto in an array of {count} tasks from {least} to {most}: some were not submitted, so it "
            "is unknown which shard this is",
            advice="give --shard i/n",
        )
    return Shard(tasks.index(task) + 1, count)


def listed(numbers: Sequence[int]) -> str:
    """Rising numbers in words, consecutive ones as a range.

    >>> listed([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9-10'
    """
    words = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        words.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """How a job's units are divided: members, steps and steps of a unit; `chained` as of `Job`."""

    members: int
    steps: int
    chunk: int
    chained: bool

    @property
    def count(self) -> int:
        """Number of pieces."""
        return self.members * self.per_member

    @property
    def per_member(self) -> int:
        """Pieces of one member."""
        return 1 if self.chained else -(-self.steps // self.chunk)

    def index(self, member: int, first: int) -> int:
        """The piece with the unit of a member that begins at the step `first`."""
        return member * self.per_member + (0 if self.chained else first // self.chunk)

    def fields(self, part: range) -> int:
        """Fields of some pieces that follow each other."""
        if self.chained:
            return len(part) * self.steps
        last = self.steps - (self.per_member - 1) * self.chunk  # steps of a member's last piece
        ends = sum(1 for piece in part if (piece + 1) % self.per_member == 0)
        return (len(part) - ends) * self.chunk + ends * last

    def places(self) -> Iterator[tuple[int, slice]]:
        """Member and steps of every piece."""
        for member in range(self.members):
            for first in range(0, self.steps, self.steps if self.chained else self.chunk):
                yield member, slice(first, self.steps if self.chained else min(first + self.chunk, self.steps))


WHOLE = Shard(1, 1)


def pieces_of(job: Job) -> Pieces:
    """The pieces of a job; one that cannot be divided is a single piece."""
    layout = job.layout
    return Pieces(members=layout.rows, steps=layout.steps, chunk=layout.unit_steps, chained=job.chained)


def check_divisible(job: Job) -> None:
    """Raise UsageError if the job cannot be divided."""
    if not job.divisible:
        raise UsageError(
            "found work to be divided whose members are needed together, as by --statistics",
            advice="leave out --shard, --workers and --scheduler",
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rest of some pieces, as a `Done`: all others count as done, and so does what `done` has of these."""

    pieces: Pieces
    own: range
    done: Done = nothing_done

    def has(self, member: int, first: int) -> bool:
        """See `Done.has`."""
        return self.pieces.index(member, first) not in self.own or self.done.has(member, first)

    def steps(self, member: int) -> int:
        """See `Done.steps`."""
        return self.done.steps(member) if self.pieces.index(member, 0) in self.own else self.pieces.steps

    def state(self, member: int) -> F32:
        """See `Done.state`."""
        return self.done.state(member)
