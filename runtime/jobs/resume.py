"""One path from a job to its file: it can be stopped at any moment and goes on, and OUT is whole or not there.

    OUT.partial/made-by-fsae.json  says that the folder is ours, see ownership.py
    OUT.partial/lock               held while a run is begun, joined or published, see lock.py
    OUT.partial/run.json, shards/  what the run is and what is finished, see ledger.py
    OUT.partial/fields.zarr        the output so far, a Zarr store whatever OUT is: shards write chunks of their own
    OUT.partial/fields.nc          put together from that at the end, if OUT is NetCDF or GRIB

A job of one process is a run of one shard. The processes of several shards may start in any order, at any time, on any
hosts that share the file system and its locks; each holds the lock of its shard while it makes it. Who finishes and
finds all shards complete publishes, under the lock of the whole and only while run.json is there: once. The store
becomes OUT by one renaming, after which the rest is removed; so the record outlives every other step. Earlier output
changes places with it in that step, and is removed with the rest.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fsae.runtime.atomic import force
from fsae.runtime.errors import FsaeError, OutputError, Stopped, UsageError
from fsae.runtime.grib.written import check_layout
from fsae.runtime.log import log
from fsae.runtime.output.files import (
    FIELDS,
    LOCK,
    RUN,
    check_output,
    clear,
    output_errors,
    partial_of,
    publish,
    unfinished,
)
from fsae.runtime.output.layout import Layout, Unit, write_chunks, write_unit
from fsae.runtime.output.marks import foreign_reason, form_of, read_attributes
from fsae.runtime.output.seal import damage_of
from fsae.runtime.output.zarr import ZarrStore
from fsae.runtime.ownership import check_plain, kind
from fsae.runtime.signals import uninterrupted

from .chunks import assembled, finish_zarr, in_files, make_store, remove_torn
from .identity import check_inputs, difference, identity, same_request
from .job import Job
from .ledger import Run, check_units, open_ledger, read_run, start_run
from .lock import Hold, TakenOver, check_idle, locked
from .shards import WHOLE, Part, Shard, check_divisible, listed, pieces_of
from .writer import open_writer

LEVELS = 4  # of folders in which links are looked for: down to the chunks of a member, of which there may be many
PATIENCE_S = 60.0  # for the lock of the whole, which other shards hold for moments
LONG_S = 1e9  # for it at the end: whoever holds it then publishes, or finds that this process is to do it


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a result goes: `overwrite` replaces what is there, `resume` goes on with an unfinished run of it.

    `inputs` is all that is read, by what it is, and never touched.
    """

    path: Path
    overwrite: bool = False
    resume: bool = False
    inputs: Mapping[str, object] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        """Folder of its unfinished run."""
        return partial_of(self.path)


def to_file(
    job: Job,
    output: Output,
    shard: Shard = WHOLE,
    *,
    inputs: Mapping[str, object] | None = None,
    progress: Callable[[int], None],
) -> tuple[int, ...]:
    """Numbers of the shards that the output still waits for, once this one is written; if none, the output is there.

    `inputs` are the files that the job reads, by name; `progress` is called with every few fields of this shard that
    are finished. UsageError if the unfinished run that is found is another one, OutputError if it would be lost or the
    output cannot be written, Stopped if SIGINT or SIGTERM came and something of this shard is finished.
    """
    if shard.count > 1:
        check_divisible(job)
    with contextlib.closing(job), stopping(output, [shard]), contextlib.ExitStack() as held:
        check_place(output, job.layout)
        wanted = identity(job.layout)
        with locked(output.partial, PATIENCE_S if shard.count > 1 else 0.0) as whole:
            complete = is_complete(job.layout, output, wanted)
            if not complete:
                run = open_run(job, output, wanted, shard.count, whole)
                hold = held.enter_context(locked(run.place(shard)))
                begin_again(run, output, [shard])
        if complete:
            check_complete(output.path)
            pieces = pieces_of(job)
            progress(pieces.fields(shard.part(pieces.count)))
            return ()
        try:
            with keeping(run, [shard]):
                write_shard(job, run, output.path, shard, hold, progress)
        except BaseException as error:
            current = hold.is_current()
            if isinstance(error, OutputError):
                hold.check()  # what another process has taken over, it may have removed
            held.close()
            with contextlib.suppress(OutputError):
                if current:
                    with locked(run.folder):
                        leave_nothing(run)
            raise
        held.close()
        check_inputs(job.layout, inputs or {})
        missing = tuple(one.number for one in run.missing())
        if missing:
            log.info(f"{run.count - len(missing)} of {run.count} shards are complete; missing: {listed(missing)}")
        else:
            _publish_once(job, run, output)
        return missing


def check_place(output: Output, layout: Layout) -> None:
    """Raise an error if the output cannot be written, see `files.check_output`, or cannot hold this layout."""
    check_output(output.path, output.overwrite or output.resume, output.inputs)
    if form_of(output.path) == "GRIB":
        check_layout(layout)


def is_complete(layout: Layout, output: Output, wanted: Mapping[str, str]) -> bool:
    """True if the output of this request is there and is to stay; what its run left is removed then.

    OutputError if the output of another request is there.
    """
    path = output.path
    if output.overwrite or not kind(path):
        return False
    if not output.resume:  # came into being since it was checked
        raise OutputError(f"{path} exists", advice="give another path or --overwrite")
    other = same_request(layout, read_attributes(path, form_of(path)))
    if other:
        found = f"{path} exists and is the output of another run, which differs in {other}"
        raise OutputError(found, advice="give another path or --overwrite")
    run = read_run(output.partial)
    if run is None or run.identity == wanted:
        check_idle(output.partial)
        with output_errors(path, ""):
            clear(output.partial)  # of a run that was killed while it published
    return True


def check_complete(path: Path) -> None:
    """Raise OutputError if a finished output is not as it was written. All of it is read."""
    damaged = damage_of(path)
    if damaged:
        if why := foreign_reason(path, form_of(path)):  # then --overwrite does not replace it either
            raise OutputError(f"{path} {why}", advice="move it away, or give another path")
        found = f"{path} is damaged, or was changed after it was written: {damaged} does not fit its checksum"
        raise OutputError(found, advice="--overwrite makes it anew")
    log.info(f"{path} is complete: nothing was left to do")


def open_run(job: Job, output: Output, wanted: Mapping[str, str], count: int, whole: Hold) -> Run:
    """The run to go on with, or a new one in `count` shards. The caller holds the lock of the whole.

    UsageError or OutputError if another run is there; with `overwrite` a new run takes its place, unless a process is
    at work on it.
    """
    folder, path = output.partial, output.path
    whole.check()
    check_plain(folder, LEVELS)
    run, new = read_run(folder), Run(folder, count, pieces_of(job), wanted)
    if run is not None:
        if run.count == count == 1 and not output.resume:
            check_idle(folder)  # a process at work on it is named first
            check_kept(run, output, run.shards)
        try:
            _check_same(run, new)
            return run
        except FsaeError:
            if run.fields(run.shards) and not output.overwrite:
                raise
    elif kind(folder / RUN) and not output.overwrite:
        raise unfinished(folder, " of another version, or damaged", "--overwrite starts again")
    check_idle(folder)
    whole.check()
    with output_errors(path, ""):
        clear(folder)
        start_run(new)
    if output.resume:
        log.info(f"there is no unfinished run at {folder}: starting from the beginning")
    if count > 1:
        log.info(f"{job.fields} fields in {count} shards: {path} is there when all are complete")
    return new


def _check_same(run: Run, new: Run) -> None:
    """Raise an error if the run that was found is another one than that to be made."""
    here, there = dict(new.identity), dict(run.identity)
    if new.count > 1 and run.count > 1:
        here["shards"], there["shards"] = str(new.count), str(run.count)
    other = difference(there, here)
    if other:
        raise UsageError(
            f"found an unfinished run in {run.folder} that differs from this one in {other}",
            advice="give the same command and files with --resume, or start again with --overwrite",
        )
    if new.count != run.count:
        parts, how = "of one process", "without shards"
        if run.count > 1:
            parts, how = f"in {run.count} shards", f"--shard i/{run.count} or --workers"
        which = f" {parts}, {run.fields(run.shards)} of {run.total(run.shards)} fields"
        raise unfinished(run.folder, which, f"finish it with --resume and {how}, or start again with --overwrite")


def check_kept(run: Run, output: Output, shards: Sequence[Shard]) -> None:
    """Raise OutputError if finished work of some shards would be lost without `resume` or `overwrite`."""
    done = run.fields(shards)
    if done and not (output.resume or output.overwrite):
        which = "" if len(shards) == run.count else f" of shard {shards[0]}"
        advice = "--resume goes on with it, --overwrite starts again"
        raise unfinished(run.folder, f", {done} of {run.total(shards)} fields{which}", advice)


def begin_again(run: Run, output: Output, shards: Sequence[Shard]) -> None:
    """Discard what is finished of some shards, unless it is to be kept; OutputError if that is lost unasked."""
    if output.resume:
        return
    check_kept(run, output, shards)
    for place in map(run.place, shards):
        if place.is_dir():
            clear(place, [path.name for path in sorted(place.iterdir(), key=Path.is_dir) if path.name != LOCK])


def write_shard(job: Job, run: Run, path: Path, shard: Shard, hold: Hold, progress: Callable[[int], None]) -> None:
    """Make what is missing of a shard, as long as the caller holds its lock."""
    with output_errors(path, ""):
        ledger = open_ledger(run.place(shard), run.folder / FIELDS, job.layout)
    if ledger.fields:
        which = run.folder if run.count == 1 else f"shard {shard}"
        log.info(f"going on with {which}: {ledger.fields} of {run.total([shard])} fields are there")
        progress(ledger.fields)
    part = Part(pieces=run.pieces, own=shard.part(run.pieces.count), done=ledger)
    stores: list[ZarrStore] = []

    # The thread that writes opens the store, while the first units are computed: zarr takes longer to import than to
    # write one.
    def begin() -> None:
        hold.check()
        with output_errors(path, ""):
            make_store(run.folder, job.layout)
            stores.append(ZarrStore(run.folder / FIELDS, None))

    def write(unit: Unit) -> None:
        hold.check()
        with output_errors(path, ""):
            (write_chunks if unit.chunks else write_unit)(stores[0], job.layout, unit)
            sums = ledger.keep(unit)
        hold.check()
        with output_errors(path, ""):
            ledger.record(unit, sums)

    def written(unit: Unit) -> None:
        progress(unit.values.shape[0] * unit.values.shape[1])

    units = in_files(job.layout, job.units(part))  # measures the batch, if that is asked for, while nothing else runs
    with open_writer(write, written) as writer:
        writer.begin(begin)
        for unit in units:
            writer.add(unit)
    hold.check()


def leave_nothing(run: Run) -> None:
    """Remove the partial folder if nothing is finished and no process is using it.

    The caller holds the lock of the whole.
    """
    with contextlib.suppress(OutputError, OSError), uninterrupted():
        check_idle(run.folder)
        if not run.fields(run.shards):
            clear(run.folder)


def _publish_once(job: Job, run: Run, output: Output) -> None:
    """Publish the output, of which all shards are complete, unless another process does or did.

    Each process looks after its last unit is recorded, so the one that looks last sees that all are complete.
    """
    if read_run(run.folder) is None:
        return
    with locked(run.folder, LONG_S) as whole:
        # what is found may be gone, or the beginning of another run
        if read_run(run.folder) != run or run.missing():
            return
        try:
            publish_run(job.layout, run, output, whole)
        except TakenOver:
            raise
        except OutputError:
            # Where locks are not seen by all hosts, another process may have published it meanwhile.
            if not (output.resume and is_complete(job.layout, output, run.identity)):
                whole.check()
                raise


def publish_run(layout: Layout, run: Run, output: Output, whole: Hold) -> None:
    """Give the output, all of whose shards are complete, its name. The caller holds the lock of the whole.

    Everything is looked at before: OutputError if it is not what was written and recorded.
    """
    path, folder, place = output.path, run.folder, run.folder / FIELDS
    with keeping(run, run.shards):
        check_output(path, output.overwrite, output.inputs)
        with output_errors(path, ""):
            remove_torn(folder)
        sums = check_units(run, folder / FIELDS, layout)
        if form_of(path) == "Zarr":
            with output_errors(path, ""):
                finish_zarr(place, layout, sums)
        else:
            place = assembled(folder, layout, path, whole)
        whole.check()
        with output_errors(path, ""):
            publish(place, path, output.overwrite)
            force(path.absolute().parent)
    try:
        with uninterrupted():
            if whole.is_current():
                clear(folder)
    except (OSError, OutputError) as error:  # the output is there, and this is no part of it
        log.warning(f"{path} is complete, but {folder} stays: {error}")


GOES_ON = "the same command with --resume goes on"


@contextlib.contextmanager
def keeping(run: Run, shards: Sequence[Shard]) -> Iterator[None]:
    """Add to an error of the block what is kept of some shards, and where, or that nothing is."""
    try:
        yield
    except (KeyboardInterrupt, TakenOver):
        raise  # see `stopping`; what another process makes is not ours to speak of
    except BaseException as error:
        kept = run.kept(shards)
        if not kept:
            if isinstance(error, OutputError):
                raise OutputError(f"{error.reason}; nothing was left there", advice=error.advice) from None
            raise
        if isinstance(error, FsaeError):
            raise type(error)(f"{error.reason}; {kept}", advice=f"{error.advice}; {GOES_ON}") from None
        error.add_note(f"{kept}: {GOES_ON}")
        raise


@contextlib.contextmanager
def stopping(output: Output, shards: Sequence[Shard] = ()) -> Iterator[None]:
    """Turn an interruption of the block into Stopped if something of some shards, by default of all, is finished."""
    try:
        yield
    except KeyboardInterrupt:
        run = read_run(output.partial)
        kept = "" if run is None else run.kept(shards or run.shards)
        if not kept:
            raise
        raise Stopped(f"stopped; {kept}", advice=GOES_ON) from None
