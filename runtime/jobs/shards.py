"""One output by several processes that know nothing of each other: each makes a shard, the last one publishes.

    OUT.partial/lock               held while the empty output is made, a shard joins, or the output is published
    OUT.partial/run.json           what the run is, and in how many shards
    OUT.partial/shards/3-of-8/     the shard's own lock, held while it is made, and ledger, see ledger.py
    OUT.partial/fields.zarr        the output so far: the shards write chunks of their own

The processes may start in any order, at any time, on any hosts that share the file system and its locks. Who finishes
and finds all shards complete publishes, under the lock and only while run.json is there: once.
"""

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fsae.runtime.arrays import F32
from fsae.runtime.errors import OutputError, UsageError
from fsae.runtime.log import log
from fsae.runtime.output.files import check_output, output_errors, partial_of
from fsae.runtime.output.zarr import ZarrStore
from fsae.runtime.signals import uninterrupted

from .job import Finished, Job
from .ledger import (
    Split,
    check_frame,
    identity,
    is_there,
    mend_log,
    read_ledger,
    read_split,
    shard_folder,
    start_ledger,
    start_split,
)
from .lock import check_idle, clear, locked
from .resume import (
    FIELDS,
    check_place,
    check_same,
    fill,
    finish,
    is_complete,
    keeping,
    make_store,
    remove_torn,
    stopping,
)

AUTO = "auto"

SLURM = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a job, by its number from 1 on."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"found the shard {self}, expected such as 1/8 to 8/8: they are counted from 1")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def part(self, pieces: int) -> range:
        """The pieces of this part, of so many in all.

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
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if found is None:
        raise UsageError(f"found --shard {text}, expected such as 3/8, or auto in a SLURM array")
    return Shard(int(found[1]), int(found[2]))


def _slurm_shard(environment: Mapping[str, str]) -> Shard:
    names = {name: environment.get(f"{SLURM}{name}", "") for name in ("ID", "MIN", "MAX", "COUNT")}
    if not all(value.isdecimal() for value in names.values()):
        raise UsageError(
            "found --shard auto outside a SLURM array: expected the variables "
            f"{', '.join(SLURM + name for name in names)}; start the job with `sbatch --array=1-8`, or give --shard i/n"
        )
    task, least, most, count = (int(value) for value in names.values())
    tasks = range(least, most + 1, int(environment.get(f"{SLURM}STEP") or 1))
    if len(tasks) != count or task not in tasks:
        raise UsageError(
            f"found --shard auto in an array of {count} tasks from {least} to {most}, where some are left out: what "
            "their places were is not known; give --shard i/n as they had it"
        )
    return Shard(tasks.index(task) + 1, count)


def listed(numbers: Sequence[int]) -> str:
    """Rising numbers in words, those that follow each other as a range.

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


def pieces_of(job: Job) -> Pieces:
    """The pieces of a job; UsageError where it cannot be divided."""
    if not job.divisible:
        raise UsageError(
            "found work to be divided whose members are needed together, as by --statistics: leave out --shard, "
            "--workers and --scheduler"
        )
    layout = job.layout
    return Pieces(members=layout.rows, steps=layout.steps, chunk=layout.time_chunk, chained=job.chained)


@dataclass(frozen=True, kw_only=True)
class Part(Finished):
    """What is left to do of some pieces: all others count as done, as does what `done` says of these."""

    pieces: Pieces
    own: range
    done: Finished = field(default_factory=Finished)

    def has(self, member: int, first: int) -> bool:
        """See `Finished.has`."""
        return self.pieces.index(member, first) not in self.own or self.done.has(member, first)

    def steps(self, member: int) -> int:
        """See `Finished.steps`."""
        return self.done.steps(member) if self.pieces.index(member, 0) in self.own else self.pieces.steps

    def state(self, member: int) -> F32:
        """See `Finished.state`."""
        return self.done.state(member)


PATIENCE_S = 60.0  # for the lock of the whole, which shards hold for moments

LONG_S = 1e9  # for it at the end: whoever holds it then publishes, or finds that this one is to do it


def shard_to_file(
    job: Job,
    path: Path,
    shard: Shard,
    *,
    overwrite: bool = False,
    resume: bool = False,
    inputs: Mapping[str, object] | None = None,
    progress: Callable[[int], None],
) -> tuple[int, ...]:
    """Numbers of the shards that the output still waits for, after this one's part of it was written.

    Where none is missing the output stands at `path`. Arguments and errors as of `restart.to_file`; UsageError where
    the other shards belong to another run. `progress` counts the fields of this part.
    """
    pieces, partial = pieces_of(job), partial_of(path)
    with contextlib.closing(job), stopping(shard_folder(partial, shard.number, shard.count)):
        check_place(path, overwrite or resume)
        wanted = identity(job.layout, inputs or {})
        with contextlib.ExitStack() as held:
            with locked(partial, PATIENCE_S):
                if is_complete(job.layout, path, wanted, overwrite, resume):
                    log.info(f"{path} is complete: nothing was left to do")
                    progress(pieces.fields(shard.part(pieces.count)))
                    return ()
                split = open_split(job, path, shard.count, wanted, overwrite)
                held.enter_context(locked(split.place(shard.number)))
                if not resume:
                    _begin_again(split, shard, path, overwrite)
            try:
                with keeping(split.place(shard.number)):
                    write_shard(job, path, split, shard, progress)
            except BaseException:
                held.close()
                _leave_nothing(split)
                raise
        missing = missing_shards(split, pieces)
        if missing:
            done = split.count - len(missing)
            log.info(f"{done} of {split.count} shards are complete; missing: {listed(missing)}")
        else:
            _publish_once(job, path, split, overwrite)
        return missing


def open_split(job: Job, path: Path, count: int, wanted: Mapping[str, str], overwrite: bool) -> Split:
    """The record of the run in `count` shards, which is joined or begun; the caller holds the lock of the whole.

    OutputError or UsageError where what is there is another run, unless `overwrite` and nobody is at work on it.
    """
    partial = partial_of(path)
    split = read_split(partial)
    if split is not None and (partial / FIELDS).is_dir():
        try:
            check_same(split, wanted)
            if split.count != count:
                raise UsageError(
                    f"found a run in {split.count} shards in {partial}, this one has {count}: give the same number, or "
                    "start again with --overwrite"
                )
        except UsageError:
            if not overwrite:
                raise
        else:
            return split
    check_idle(partial)
    ledger = read_ledger(partial)
    if ledger is not None and not overwrite:
        raise OutputError(
            f"{partial} holds an unfinished run of one process, {ledger.fields} of {ledger.total} fields: finish it "
            "with --resume and without shards, or start again with --overwrite"
        )
    with output_errors(path, ""):
        clear(partial)
    try:
        with output_errors(path):
            make_store(partial, job.layout)
            split = start_split(partial, job.fields, wanted, count)
    except BaseException:
        with uninterrupted(), contextlib.suppress(OSError):
            clear(partial)
        raise
    log.info(f"{job.fields} fields in {count} shards: {path} is there when all are complete")
    return split


def _begin_again(split: Split, shard: Shard, path: Path, overwrite: bool) -> None:
    """Nothing; nothing is finished of the shard. OutputError where something is, unless it may be overwritten."""
    place = split.place(shard.number)
    ledger = read_ledger(place)
    if ledger is not None and not overwrite:
        raise OutputError(
            f"{place} holds {ledger.fields} of {ledger.total} fields: --resume goes on with them, --overwrite makes "
            "this shard again"
        )
    with output_errors(path, ""):
        clear(place)


def write_shard(job: Job, path: Path, split: Split, shard: Shard, progress: Callable[[int], None]) -> None:
    """Nothing; what its ledger lacks of a shard is made. The caller holds the shard's lock."""
    pieces, place = pieces_of(job), split.place(shard.number)
    own = shard.part(pieces.count)
    ledger = read_ledger(place)
    check_frame(split.folder / FIELDS, job.layout)
    with output_errors(path, ""):
        if ledger is not None:
            ledger = mend_log(place, functools.partial(is_there, split.folder / FIELDS, job.layout))
        if ledger is None:
            clear(place)
            ledger = start_ledger(place, pieces.fields(own), split.identity)
        else:
            log.info(f"going on with shard {shard}: {ledger.fields} of {ledger.total} fields are there")
            progress(ledger.fields)
    fill(
        job,
        lambda: (ZarrStore(split.folder / FIELDS, None), ledger),
        Part(pieces=pieces, own=own, done=ledger),
        path,
        progress,
    )


def missing_shards(split: Split, pieces: Pieces) -> tuple[int, ...]:
    """Numbers of the shards that are not complete."""

    def complete(number: int) -> bool:
        ledger, fields = split.ledger(number), pieces.fields(Shard(number, split.count).part(pieces.count))
        return fields == 0 or (ledger is not None and ledger.fields == fields)

    return tuple(number for number in range(1, split.count + 1) if not complete(number))


def _publish_once(job: Job, path: Path, split: Split, overwrite: bool) -> None:
    """Nothing; the output, of which all shards are complete, stands at `path`, by this process or by another.

    Each shard looks after its last unit is in its ledger, so the one that looks last sees that all are complete.
    """
    if read_split(split.folder) is None:
        return
    with locked(split.folder, LONG_S):
        # what is found may be gone, or the beginning of another run
        if read_split(split.folder) == split and not missing_shards(split, pieces_of(job)):
            publish_split(job, path, split, overwrite)


def publish_split(job: Job, path: Path, split: Split, overwrite: bool) -> None:
    """Nothing; the output, all of whose shards are complete, stands at `path`. The caller holds the whole's lock."""
    with keeping(split.folder):
        check_output(path, overwrite)
        with output_errors(path, ""):
            remove_torn(split.folder)
            store = ZarrStore(split.folder / FIELDS, None)
        finish(store, job.layout, split.folder, path)


def _leave_nothing(split: Split) -> None:
    """Nothing is left of a run of which nothing is finished and at which nobody is at work."""
    with contextlib.suppress(OutputError, OSError), locked(split.folder):
        check_idle(split.folder)
        if split.fields == 0:
            clear(split.folder)
