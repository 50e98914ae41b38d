"""Runs that can be stopped at any moment and go on: units are kept in OUT.partial, OUT is whole or not there.

    OUT.partial/lock           held by the run that writes, see lock.py
    OUT.partial/run.json, ...  what is finished, see ledger.py
    OUT.partial/fields.zarr    the output so far, a Zarr store whatever OUT is
    OUT.partial/fields.nc      being put together from that at the end, where OUT is NetCDF

The store becomes OUT by one renaming, after which the rest is removed; so the ledger outlives every other step.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fsae.runtime.errors import FsaeError, OutputError, Stopped, UsageError
from fsae.runtime.log import log
from fsae.runtime.output.files import (
    CONVENTIONS,
    check_output,
    is_netcdf,
    output_errors,
    partial_of,
    publish,
    read_attributes,
    remove,
    replaced_by,
)
from fsae.runtime.output.layout import Layout, Unit, data_arrays, make_frame, write_unit
from fsae.runtime.output.netcdf import NetcdfStore
from fsae.runtime.output.zarr import ZarrStore
from fsae.runtime.signals import uninterrupted

from .job import Finished, Job
from .ledger import (
    Ledger,
    Split,
    check_frame,
    difference,
    identity,
    is_there,
    mend_log,
    read_ledger,
    read_record,
    read_split,
    same_request,
    start_ledger,
)
from .lock import check_idle, clear, locked
from .writer import open_writer

FIELDS = "fields.zarr"

ASSEMBLED = "fields.nc"


def to_file(
    job: Job,
    path: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    inputs: Mapping[str, object] | None = None,
    progress: Callable[[int], None],
) -> None:
    """Nothing; the result is streamed to `path`, and `progress` is told of every few fields written.

    With `resume` an earlier run's finished units are kept; UsageError where that run was another one. `inputs` are the
    files that the job reads, by what they are. Stopped where SIGINT or SIGTERM came and something is finished.
    """
    partial = partial_of(path)
    with contextlib.closing(job):
        check_place(path, overwrite or resume)
        with stopping(partial), locked(partial):
            wanted = identity(job.layout, inputs or {})
            if is_complete(job.layout, path, wanted, overwrite, resume):
                log.info(f"{path} is complete: nothing was left to do")
                progress(job.fields)
                return
            ledger = _known(job.layout, path, partial, wanted, overwrite, resume)
            if ledger is not None:
                log.info(f"going on with {partial}: {ledger.fields} of {ledger.total} fields are there")
                progress(ledger.fields)
            elif resume:
                log.info(f"there is no unfinished run at {partial}: starting from the beginning")
            _write(job, path, partial, ledger, wanted, progress)


def check_place(path: Path, overwrite: bool) -> None:
    """Nothing where output can be written, see `stores.check_output`, and a folder stand beside it."""
    check_output(path, overwrite)
    if partial_of(path).is_file():  # of a run that made no folder of it
        partial_of(path).unlink()


def is_complete(layout: Layout, path: Path, wanted: Mapping[str, str], overwrite: bool, resume: bool) -> bool:
    """Whether the output of this request is there, and no other is to take its place; OutputError where another is."""
    if overwrite or not path.exists():
        return False
    _check_finished(layout, path, resume)
    _forget(path, partial_of(path), wanted)
    return True


def _check_finished(layout: Layout, path: Path, resume: bool) -> None:
    """Nothing where `path` is finished output of the same request and that is asked about, else OutputError."""
    if not resume:  # came into being since it was checked
        raise OutputError(f"{path} exists: give another path or --overwrite")
    other = same_request(layout, read_attributes(path))
    if other:
        raise OutputError(f"{path} exists and is the output of another run: {other}; give another path or --overwrite")


def _forget(path: Path, partial: Path, wanted: Mapping[str, str]) -> None:
    """Nothing; what was left of the run that gave the finished output is removed."""
    record = read_record(partial)
    if record is None or record.identity == wanted:
        check_idle(partial)
        with output_errors(path, ""):
            if record is not None:  # it was killed while it published
                remove(replaced_by(path))
            clear(partial)


def _known(
    layout: Layout, path: Path, partial: Path, wanted: Mapping[str, str], overwrite: bool, resume: bool
) -> Ledger | None:
    """The ledger to go on with, mended; None where the run is to start from the beginning, and the place is clear."""
    check_idle(partial)
    split = read_split(partial)
    if split is not None and split.fields and not overwrite:
        raise OutputError(
            f"{partial} holds an unfinished run in {split.count} shards, {split.fields} of {split.total} fields: "
            f"finish it with --resume and --shard i/{split.count} or --workers, or start again with --overwrite"
        )
    ledger = read_ledger(partial)
    if ledger is not None and not resume and not overwrite:
        raise OutputError(
            f"{partial} holds an unfinished run of {ledger.fields} of {ledger.total} fields: --resume goes on with it, "
            "--overwrite starts again"
        )
    if ledger is None or not resume:
        with output_errors(path, ""):
            clear(partial)
        return None
    check_same(ledger, wanted)
    check_frame(partial / FIELDS, layout)
    with output_errors(path, f"; what is finished is kept in {partial}"):
        ledger = mend_log(partial, functools.partial(is_there, partial / FIELDS, layout))
        remove_torn(partial)
        if ledger is None:
            clear(partial)
    return ledger


def check_same(record: Ledger | Split, wanted: Mapping[str, str]) -> None:
    """Nothing, or UsageError where a run that was found is another than the one wanted."""
    other = difference(record.identity, wanted)
    if other:
        raise UsageError(
            f"found an unfinished run in {record.folder} that differs from this one: {other}; give the same command "
            "and files with --resume, or start again with --overwrite"
        )


def remove_torn(partial: Path) -> None:
    """Nothing; what writers that were killed had begun is gone. No other may be writing."""
    remove(partial / ASSEMBLED)
    for torn in (partial / FIELDS).rglob("*.partial"):  # chunks that zarr was writing aside
        torn.unlink()


def _write(
    job: Job,
    path: Path,
    partial: Path,
    ledger: Ledger | None,
    wanted: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    """Nothing; what the ledger lacks is made, and the output published."""

    def begin() -> tuple[ZarrStore, Ledger]:
        if ledger is None:
            return make_store(partial, job.layout), start_ledger(partial, job.fields, wanted)
        return ZarrStore(partial / FIELDS, None), ledger

    with keeping(partial):
        store = fill(job, begin, Finished() if ledger is None else ledger, path, progress)
        finish(store, job.layout, partial, path)


def make_store(partial: Path, layout: Layout) -> ZarrStore:
    """The store of a run's fields, which has all but their values."""
    store = ZarrStore(partial / FIELDS, {"Conventions": CONVENTIONS, **layout.attributes})
    make_frame(store, layout)
    return store


def fill(
    job: Job,
    begin: Callable[[], tuple[ZarrStore, Ledger]],
    done: Finished,
    path: Path,
    progress: Callable[[int], None],
) -> ZarrStore:
    """The store that `begin` gives, in which all units are but those that are done, and in the ledger given with it.

    The thread that writes begins, while the first units are computed: zarr takes longer to import than to write one.
    """
    places: list[tuple[ZarrStore, Ledger]] = []

    def begun() -> None:
        with output_errors(path, ""):
            places.append(begin())

    def write(unit: Unit) -> None:
        store, book = places[0]
        with output_errors(path, ""):
            write_unit(store, job.layout, unit)
            book.record(unit)

    def written(unit: Unit) -> None:
        progress(unit.values.shape[0] * unit.values.shape[1])

    units = job.units(done)  # measures, where that is asked for, while nothing else runs
    with open_writer(write, written) as writer:
        writer.begin(begun)
        for unit in units:
            writer.add(unit)
    return places[0][0]


def finish(store: ZarrStore, layout: Layout, partial: Path, path: Path) -> None:
    """Nothing; the store, which is whole, has become the output, and nothing else is left."""
    with output_errors(path, ""):
        store.close()
    if is_netcdf(path):
        _assemble(store, layout, partial / ASSEMBLED, path)
    with output_errors(path, ""):
        publish(partial / (ASSEMBLED if is_netcdf(path) else FIELDS), path)
    with uninterrupted(), contextlib.suppress(OSError):  # the output is there, and this is no part of it
        clear(partial)


def _assemble(parts: ZarrStore, layout: Layout, place: Path, path: Path) -> None:
    """Nothing; a NetCDF file stands at `place`, made of the store's chunks one by one."""
    with output_errors(path, ""):
        file = NetcdfStore(place, {"Conventions": CONVENTIONS, **layout.attributes})
    try:
        with output_errors(path, ""):
            make_frame(file, layout)
        for array in data_arrays(layout):
            lead = array.shape[: len(array.shape) - len(layout.grid_shape)]
            blocks = [
                [slice(first, min(first + size, length)) for first in range(0, length, size)]
                for length, size in zip(lead, array.chunks, strict=False)
            ]
            for block in itertools.product(*blocks):
                with output_errors(path, ""):
                    file.write(array.name, block, parts.read(array.name, block))
        with output_errors(path, ""):
            file.close()
    except BaseException:
        with contextlib.suppress(OSError, RuntimeError):
            file.close()
        with contextlib.suppress(OSError):
            remove(place)
        raise


@contextlib.contextmanager
def keeping(partial: Path) -> Iterator[None]:
    """A block after whose failure what is finished is kept, and said to be; where nothing is, nothing is left."""
    try:
        yield
    except BaseException as error:
        with uninterrupted():
            record = read_record(partial)
            if record is None:
                with contextlib.suppress(OSError):
                    clear(partial)
        if record is None:
            if isinstance(error, OutputError):
                raise OutputError(f"{error}; nothing was left there") from None
            raise
        if isinstance(error, KeyboardInterrupt):
            raise  # see `stopping`
        kept = kept_words(record)
        if isinstance(error, FsaeError):
            raise type(error)(f"{error}; {kept}") from None
        error.add_note(kept)
        raise


@contextlib.contextmanager
def stopping(partial: Path) -> Iterator[None]:
    """A block whose interruption is Stopped where something is finished, of this run or of the one it goes on with."""
    try:
        yield
    except KeyboardInterrupt:
        record = read_record(partial)
        if record is None:
            raise
        raise Stopped(f"stopped; {kept_words(record)}") from None


def kept_words(record: Ledger | Split) -> str:
    """What is kept of a run that ends before its time, and how it goes on."""
    there = f"{record.fields} of {record.total} fields are kept in {record.folder}"
    return f"{there}: the same command with --resume goes on"
