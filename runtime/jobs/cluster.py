"""One output by the workers of a dask cluster: its shards are the tasks, and each worker process keeps one session.

The client makes the empty output, hands out the shards, and publishes when all are complete; it holds the lock of the
whole all the while. Ledgers tell what is finished (see shards.py), so a task can be done again after its worker died,
and the same command with --resume goes on after the client died.
"""

import contextlib
import functools
import importlib.metadata
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import DeviceError, FsaeError, OutputError, UsageError
from fsae.runtime.input.sources import Source
from fsae.runtime.log import log
from fsae.runtime.output.files import output_errors, partial_of
from fsae.runtime.signals import uninterrupted

from . import workers
from .job import Job
from .ledger import Split, identity, read_split
from .lock import check_idle, clear, locked
from .resume import check_place, is_complete, keeping, stopping
from .shards import Pieces, missing_shards, open_split, pieces_of, publish_split
from .workers import Work, forget, import_distributed, make_shard, stop

SHARDS_PER_WORKER = 4  # so that all workers are busy until nearly the end, and little is lost with one of them

UNKNOWN_WORKERS = 16  # where a cluster begins with none and starts them for the tasks it gets

CONNECT_S = 5.0

POLL_S = 0.2  # between looks at the ledgers, to tell of progress

STOP_S = 10.0  # for workers to finish their units after an interruption


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A dask cluster: so many processes on this machine, or the workers of the scheduler at an address.

    `threads` are those of each worker's session, by default as many as the worker has.
    """

    workers: int | None = None
    scheduler: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if (self.workers is None) == (self.scheduler is None):
            raise UsageError("found workers and a scheduler, or neither: give one of them")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"found {self.workers} workers, expected 1 or more")


def cluster_to_file(
    job: Job,
    path: Path,
    *,
    cluster: Cluster,
    make: Callable[[Bundle, Graphs], Job],
    bundle: Bundle,
    graphs: Graphs,
    overwrite: bool = False,
    resume: bool = False,
    inputs: Mapping[str, object] | None = None,
    progress: Callable[[int], None],
) -> None:
    """Nothing; the job, which `make` makes anew with a worker's own bundle and graphs, is written to `path`.

    Arguments and errors as of `restart.to_file`; DeviceError where the cluster or a worker cannot be used.
    """
    import_distributed()
    partial = partial_of(path)
    inputs = {name: _absolute(given) for name, given in (inputs or {}).items()}
    with contextlib.closing(job), stopping(partial), contextlib.ExitStack() as held:
        check_place(path, overwrite or resume)
        pieces, wanted = pieces_of(job), identity(job.layout, inputs)
        held.enter_context(locked(partial))
        if is_complete(job.layout, path, wanted, overwrite, resume):
            log.info(f"{path} is complete: nothing was left to do")
            progress(job.fields)
            return
        known = _known(path, overwrite, resume)
        client = held.enter_context(_connected(cluster))
        _check_versions(client)
        count = min(_shards_for(client), pieces.count) if known is None else known.count
        split = open_split(job, path, count, wanted, overwrite)
        if known is not None:
            log.info(f"going on with {partial}: {split.fields} of {split.total} fields are there")
        work = Work(
            run=uuid.uuid4().hex,
            path=path.absolute(),
            count=split.count,
            make=_with_absolute(make, inputs),
            inputs=inputs,
            identity=wanted,
            folder=bundle.folder.resolve(),
            manifest_sha256=bundle.manifest_sha256,
            device=graphs.device,
            precision=graphs.precision,
            threads=cluster.threads,
            version=importlib.metadata.version("fsae"),
        )
        with keeping(partial):
            _make_all(client, work, split, pieces, progress)
        publish_split(job, path, split, overwrite)


def _absolute(given: object) -> object:
    """The path of a file that is there, as workers that began in other folders can read it; anything else as it is."""
    if isinstance(given, Source):
        return given.absolute()
    return os.path.abspath(given) if isinstance(given, str | os.PathLike) and os.path.exists(given) else given


def _with_absolute(make: Callable[[Bundle, Graphs], Job], inputs: Mapping[str, object]) -> Callable[..., Job]:
    """The same with absolute paths of its files, where it is made of a function and its arguments."""
    if not isinstance(make, functools.partial):
        return make
    names = {"source": "input", "climatology": "climatology"}
    there = {key: inputs[name] for key, name in names.items() if key in make.keywords and name in inputs}
    return functools.partial(make, **there)


def _shards_for(client: Any) -> int:
    """Number of shards for the workers that are there now."""
    return SHARDS_PER_WORKER * (sum(client.nthreads().values()) or UNKNOWN_WORKERS)


def _known(path: Path, overwrite: bool, resume: bool) -> Split | None:
    """The run in shards to go on with; None where a new one is to begin, and no other one is in its way."""
    partial = partial_of(path)
    known = read_split(partial)
    if known is None or resume:
        return known
    if known.fields and not overwrite:
        raise OutputError(
            f"{partial} holds an unfinished run of {known.fields} of {known.total} fields: --resume goes on with it, "
            "--overwrite starts again"
        )
    check_idle(partial)
    with output_errors(path, ""):
        clear(partial)
    return None


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """A client of the cluster; a local one is started, and ends with the block."""
    distributed = import_distributed()
    if cluster.scheduler is None:
        with (
            distributed.LocalCluster(
                n_workers=cluster.workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                memory_limit=None,  # a worker killed at some limit would only be killed again
                silence_logs=logging.CRITICAL,
                preload=[workers.__name__],  # see workers.dask_setup
            ) as local,
            distributed.Client(local, set_as_default=False) as client,
        ):
            yield client
        return
    with _quiet():
        try:
            client = distributed.Client(cluster.scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise DeviceError(
                f"found no dask scheduler at {cluster.scheduler} within {CONNECT_S:.0f} s ({_first_line(error)}): give "
                "the address that `dask scheduler` prints, or --workers N for processes on this machine"
            ) from None
        with client:
            yield client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block in which clients log no tracebacks of lost connections, which are told of in a sentence."""
    logger = logging.getLogger("distributed.client")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_versions(client: Any) -> None:
    """Nothing, or DeviceError where a worker has no fsae or another version; asked without any code of ours."""
    here = importlib.metadata.version("fsae")
    for address, found in client.run(importlib.metadata.version, "fsae", on_error="return").items():
        if found != here:
            has = "no fsae" if isinstance(found, BaseException) else f"fsae {found}"
            raise DeviceError(f"the dask worker {address} has {has}, expected {here}: install that version there")


def _make_all(client: Any, work: Work, split: Split, pieces: Pieces, progress: Callable[[int], None]) -> None:
    """Nothing; the workers have made all shards that were missing."""
    distributed = import_distributed()
    name = f"fsae-shard-{work.run}"
    futures = {
        client.submit(make_shard, work, number, key=f"{name}-{number}", pure=False): number
        for number in missing_shards(split, pieces)
    }
    done, waiting = 0, set(futures)
    try:
        while True:
            ready = {future for future in waiting if future.done()}
            for future in ready:
                future.result()
            waiting -= ready
            now = split.fields
            progress(now - done)
            done = now
            if not waiting:
                return
            time.sleep(POLL_S)
    except distributed.scheduler.KilledWorker as error:
        number = next((n for future, n in futures.items() if future.key == error.task), 0)
        raise FsaeError(
            f"shard {number}/{work.count} was given up: its dask workers ended {error.allowed_failures + 1} times, as "
            "where memory runs out; give a smaller --batch or larger workers"
        ) from None
    except (distributed.CancelledError, distributed.comm.CommClosedError):
        raise DeviceError(f"the dask scheduler at {client.scheduler.address} is gone: start one again") from None
    finally:
        with uninterrupted():
            _end(client, work, waiting)


def _end(client: Any, work: Work, waiting: set[Any]) -> None:
    """Nothing; no worker is at work any more, as far as they can be reached, nor keeps anything of this run."""
    if client.status != "running":
        return
    with contextlib.suppress(Exception):  # what went wrong before matters, and not what follows from it
        if waiting:
            client.run(stop, work.run, on_error="ignore")
            client.cancel(list(waiting))
            end = time.monotonic() + STOP_S
            while time.monotonic() < end and not _is_idle(partial_of(work.path)):
                time.sleep(POLL_S)
        client.run(forget, work, on_error="ignore")


def _is_idle(folder: Path) -> bool:
    """Whether no worker is at work on a shard: it is not told when a task that was cancelled has ended."""
    try:
        check_idle(folder)
    except OutputError:
        return False
    return True
