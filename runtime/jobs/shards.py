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
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import OutputError, UsageError
from .jobs import Job
from .ledger import Split, identity, mend_log, read_ledger, read_split, shard_folder, start_ledger, start_split
from .lock import check_idle, clear, locked
from .parts import Part, Pieces, Shard, listed, pieces_of
from .restart import (
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
from .salvage import check_frame, is_there
from .stores import ZarrStore, check_output, output_errors, partial_of, uninterrupted

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
    say: Callable[[str], None],
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
                    say(f"{path} is complete: nothing was left to do")
                    progress(pieces.fields(shard.part(pieces.count)))
                    return ()
                split = open_split(job, path, shard.count, wanted, overwrite, say)
                held.enter_context(locked(split.place(shard.number)))
                if not resume:
                    _begin_again(split, shard, path, overwrite)
            try:
                with keeping(split.place(shard.number)):
                    write_shard(job, path, split, shard, progress, say)
            except BaseException:
                held.close()
                _leave_nothing(split)
                raise
        missing = missing_shards(split, pieces)
        if missing:
            done = split.count - len(missing)
            say(f"{done} of {split.count} shards are complete; missing: {listed(missing)}")
        else:
            _publish_once(job, path, split, overwrite)
        return missing


def open_split(
    job: Job, path: Path, count: int, wanted: Mapping[str, str], overwrite: bool, say: Callable[[str], None]
) -> Split:
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
    say(f"{job.fields} fields in {count} shards: {path} is there when all are complete")
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


def write_shard(
    job: Job, path: Path, split: Split, shard: Shard, progress: Callable[[int], None], say: Callable[[str], None]
) -> None:
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
            say(f"going on with shard {shard}: {ledger.fields} of {ledger.total} fields are there")
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
