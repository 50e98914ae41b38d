"""A job written into a Zarr store without names that change, such as object storage.

Chunks and metadata of arrays get their final names at once, and `zarr.json` of the group comes last: until then no
reader of Zarr finds a group there. A run that was stopped goes on by its record, see record.py.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fsae.runtime.errors import FsaeError, OutputError, Stopped, UsageError
from fsae.runtime.jobs.chunks import chunk_names, frame_files, in_files
from fsae.runtime.jobs.identity import check_inputs, difference, identity, same_request
from fsae.runtime.jobs.job import Job, Writing
from fsae.runtime.jobs.ledger import Line
from fsae.runtime.jobs.lock import TakenOver
from fsae.runtime.jobs.resume import GOES_ON
from fsae.runtime.jobs.writer import open_writer
from fsae.runtime.log import log
from fsae.runtime.output.layout import Layout, Unit, make_frame, write_unit
from fsae.runtime.output.marks import SEAL, carries_mark
from fsae.runtime.output.zarr import ZarrStore

from .objects import METADATA, listed, read, remove, write
from .record import RUN, StoreRun, attributes_of, forget, known_identity, take, without_missing

if TYPE_CHECKING:
    from zarr.abc.store import Store

ELSEWHERE = "give another store, or remove it"


def to_store(
    job: Job,
    store: "Store",
    name: str,
    writing: Writing,
    *,
    inputs: Mapping[str, object],
    progress: Callable[[int], None],
) -> None:
    """Write a job into a store, which is called `name` in messages; errors and other arguments as of `to_file`.

    One process writes: UsageError for shards, for a cluster, and for archives.
    """
    layout = job.layout
    with contextlib.closing(job):
        if writing.scale is not None:
            raise UsageError(f"found shards or a cluster for {name}", "one process", "give a path, and copy the output")
        if layout.summary is not None:
            found = f"found the archive {name}"
            raise UsageError(found, "the path of a folder or file", "write it there, and copy it to the store")
        wanted = identity(layout)
        if _is_complete(layout, store, name, writing):
            progress(job.fields)
            return
        there = _check_free(store, name, wanted, writing)
        run = without_missing(take(store, name, wanted, job, there), layout, there)
        if run.fields:
            log.info(f"going on with {name}: {run.fields} of {job.fields} fields are there")
            progress(run.fields)
        with _keeping(run):
            write(store, {key: data for key, data in frame_files(layout).items() if key != METADATA}, name)
            _write_units(job, run, progress)
            check_inputs(layout, inputs)
            _finish(layout, run)


def _is_complete(layout: Layout, store: "Store", name: str, writing: Writing) -> bool:
    """True if the output of this request is in the store and is to stay; with `overwrite` earlier output is removed.

    OutputError for other output, and for what is not ours.
    """
    (data,) = read(store, [METADATA], name)
    if data is None:
        return False
    attributes = attributes_of(data)
    if not (writing.resume or writing.overwrite):
        raise OutputError(f"{name} exists", advice="give another store, or --overwrite")
    if writing.overwrite:
        _remove_own(store, name, attributes)
        return False
    if other := same_request(layout, attributes):
        raise OutputError(
            f"{name} exists and is the output of another run, which differs in {other}",
            advice="give another store, or --overwrite",
        )
    forget(store, name)  # of a run that was killed at its end
    log.info(f"{name} is complete: nothing was left to do")
    return True


def _remove_own(store: "Store", name: str, attributes: Mapping[str, Any]) -> None:
    """Remove earlier output of ours, first what makes it a group; OutputError for what is not ours."""
    if SEAL not in attributes or not carries_mark(attributes):
        raise OutputError(f"{name} exists and is no output of fsae: it is not replaced", advice=ELSEWHERE)
    _refuse_strangers(name, listed(store, name), {*json.loads(str(attributes[SEAL])), RUN, METADATA})
    remove(store, [METADATA], name)
    remove(store, sorted(listed(store, name)), name)  # icechunk has removed all with the group


def _refuse_strangers(name: str, there: set[str], known: set[str]) -> None:
    """Raise OutputError if there are objects in other places than the known ones."""
    strange = sorted(one for one in there if one.partition("/")[0] not in known)
    if strange:
        raise OutputError(f"{name} holds {strange[0]}, which fsae did not write", advice=ELSEWHERE)


def _check_free(store: "Store", name: str, wanted: Mapping[str, str], writing: Writing) -> set[str]:
    """The names of what is in the store of the run to go on with, of which there may be none.

    UsageError or OutputError for another run, or for what is not of a run. With `overwrite` a run is removed.
    """
    there = listed(store, name)
    if not there:
        return there
    known = known_identity(store, name)
    if known is None:
        raise OutputError(f"{name} holds {min(there)}, which is of no run of fsae", advice=ELSEWHERE)
    if writing.overwrite:
        remove(store, sorted(one for one in there if not one.startswith(f"{RUN}/")), name)
        forget(store, name)
        return set()
    if not writing.resume:
        advice = "--resume goes on with it, --overwrite starts again"
        raise OutputError(f"{name} holds an unfinished run", advice=advice)
    if other := difference(known, wanted):
        raise UsageError(
            f"found an unfinished run in {name} that differs from this one in {other}",
            advice="give the same command and files with --resume, or start again with --overwrite",
        )
    return there


def _write_units(job: Job, run: StoreRun, progress: Callable[[int], None]) -> None:
    """Write the units that are missing, each encoded in memory first: so its checksums need not be read again."""
    layout = job.layout
    parts, held = ZarrStore.in_memory({})
    make_frame(parts, layout)

    def put(unit: Unit) -> None:
        write_unit(parts, layout, unit)
        chunks = {
            member: {key: held.pop(key).to_bytes() for key in chunk_names(layout, member, unit.times)}
            for member in range(unit.members.start, unit.members.stop)
        }
        run.check()
        write(run.store, {key: data for own in chunks.values() for key, data in own.items()}, run.name)
        for member, own in chunks.items():
            sums = tuple(hashlib.sha256(data).hexdigest() for data in own.values())
            run.record(Line(member, unit.times.start, unit.times.stop, sums), unit.state)

    def written(unit: Unit) -> None:
        progress(unit.values.shape[0] * unit.values.shape[1])

    units = in_files(layout, job.units(run))
    with open_writer(put, written) as writer:
        for unit in units:
            writer.add(unit)


def _finish(layout: Layout, run: StoreRun) -> None:
    """Make the store a sealed group, if all chunks are there, and remove the record of the run."""
    sums: dict[str, str] = {}
    for line in run.lines.values():
        sums.update(zip(chunk_names(layout, line.member, slice(line.first, line.end)), line.sums, strict=True))
    there = listed(run.store, run.name)
    if lost := sorted(set(sums) - there):
        raise OutputError(f"{run.name} lost {lost[0]} after it was written", advice="look who else writes there")
    _refuse_strangers(run.name, there, {key.partition("/")[0] for key in frame_files(layout)} | {RUN})
    run.check()
    write(run.store, {METADATA: frame_files(layout, sums)[METADATA]}, run.name)
    forget(run.store, run.name)


@contextlib.contextmanager
def _keeping(run: StoreRun) -> Iterator[None]:
    """Say in an error of the block what is kept of the run; nothing stays of one without finished units."""
    try:
        yield
    except TakenOver:
        raise
    except BaseException as error:
        if not run.fields:
            _leave_nothing(run)
            raise
        kept = f"{run.fields} of {run.total} fields are kept in {run.name}"
        if isinstance(error, KeyboardInterrupt):
            raise Stopped(f"stopped; {kept}", advice=GOES_ON) from None
        if isinstance(error, FsaeError):
            raise type(error)(f"{error.reason}; {kept}", advice=f"{error.advice}; {GOES_ON}") from None
        error.add_note(f"{kept}: {GOES_ON}")
        raise


def _leave_nothing(run: StoreRun) -> None:
    """Remove a run, unless another process has taken it over, or the store fails."""
    with contextlib.suppress(OutputError):
        run.check()
        remove(run.store, sorted(one for one in listed(run.store, run.name) if not one.startswith(f"{RUN}/")), run.name)
        forget(run.store, run.name)
