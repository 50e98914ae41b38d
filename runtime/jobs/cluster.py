"""One output by the workers of a dask cluster: its shards are the tasks, and each worker process keeps one session.

The client begins the run, hands out the shards, and publishes when all are complete; it holds the lock of the whole all
the while. The record tells what is finished (see ledger.py), so a task can be done again after its worker died, and the
same command with --resume goes on after the client died.
"""

import contextlib
import importlib.metadata
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fsae.runtime.arguments import of_kind, text, whole
from fsae.runtime.backends.devices import MOST_THREADS, MOST_WORKERS
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import DeviceError, FsaeError, UsageError
from fsae.runtime.input.sources import reason
from fsae.runtime.output.files import output_errors
from fsae.runtime.signals import uninterrupted

from . import workers
from .chunks import make_store
from .identity import check_inputs, identity
from .job import Job, Recipe
from .ledger import Run, read_run
from .lock import check_idle, locked
from .resume import (
    Output,
    begin_again,
    check_complete,
    check_place,
    is_complete,
    keeping,
    leave_nothing,
    open_run,
    publish_run,
    stopping,
)
from .shards import Shard, check_divisible, pieces_of
from .workers import Work, forget, import_distributed, make_shard, stop

if TYPE_CHECKING:
    import distributed

SHARDS_PER_WORKER = 4  # so that all workers are busy until nearly the end, and little is lost with one of them
UNKNOWN_WORKERS = 16  # for a cluster that begins with none and starts them for the tasks it gets
CONNECT_S = 5.0
MOST_LOST = 10  # results lost with their workers, before the run ends
STOP_S = 10.0  # for workers to finish their units after an interruption


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A dask cluster: processes on this machine, the workers of the scheduler at an address, or those of a client.

    The `client` is a `distributed.Client` of the caller, such as one of dask-jobqueue or Coiled; it is left open.
    `threads` are those of each worker's session, by default as for the emulator, else as many as the worker has.
    """

    workers: int | None = None
    scheduler: str | None = None
    client: "distributed.Client | None" = None
    threads: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("workers", "scheduler", "client") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"found {' and '.join(given) or 'neither workers, a scheduler nor a client'} of a cluster"
            raise UsageError(found, advice="give one of workers, scheduler and client")
        if self.client is not None:
            _check_client(self.client)
        if self.scheduler is not None:
            text("scheduler", self.scheduler, "an address", "'tcp://node1:8786'")
        for name in ("workers", "threads"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name)))
        if self.workers is not None and not 1 <= self.workers <= MOST_WORKERS:
            found = f"found {self.workers} workers"
            raise UsageError(found, f"1 to {MOST_WORKERS}", "give another number, or an address as scheduler")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            found = f"found {self.threads} threads of each worker"
            raise UsageError(found, f"1 to {MOST_THREADS}", "leave threads out for those that the worker has")


def _check_client(client: Any) -> None:
    """Raise UsageError for what is no client, or one whose calls are to be awaited."""
    expected, example = "a distributed.Client", "distributed.Client(cluster)"
    if of_kind("client", client, import_distributed().Client, expected, example).asynchronous:
        raise UsageError("found an asynchronous client", "one that waits", "make it without asynchronous=True")


def cluster_to_file(
    job: Job,
    output: Output,
    cluster: Cluster,
    recipe: Recipe,
    session: tuple[Bundle, Graphs],
    *,
    progress: Callable[[int], None],
) -> None:
    """Write a job by the workers of a cluster, which make it anew by its recipe, each with a session like this one.

    `progress` is called with every shard that is finished. Errors as of `resume.to_file`; DeviceError if the cluster
    or a worker cannot be used.
    """
    import_distributed()
    check_divisible(job)
    recipe = recipe.absolute()
    with contextlib.closing(job), stopping(output), contextlib.ExitStack() as held:
        check_place(output, job.layout)
        wanted = identity(job.layout)
        whole = held.enter_context(locked(output.partial))
        if is_complete(job.layout, output, wanted):
            check_complete(output.path)
            progress(job.fields)
            return
        known = read_run(output.partial)
        client = held.enter_context(_connected(cluster))
        check_versions(client)
        if output.resume and known is not None and known.count > 1:
            count = known.count
        else:
            count = min(_shards_for(client), pieces_of(job).count)
        run = open_run(job, output, wanted, count, whole)
        if not output.resume:
            check_idle(run.folder)
        begin_again(run, output, run.shards)
        work = Work(
            run=uuid.uuid4().hex,
            path=output.path.absolute(),
            recipe=recipe,
            identity=wanted,
            folder=session[0].folder.resolve(),
            manifest_sha256=session[0].manifest_sha256,
            device=session[1].device,
            precision=session[1].precision,
            threads=cluster.threads,
            version=importlib.metadata.version("fsae"),
        )
        try:
            with keeping(run, run.shards):
                with output_errors(output.path, ""):
                    make_store(run.folder, job.layout)
                with client.as_current():
                    _make_all(client, work, run, progress)
        except BaseException:
            leave_nothing(run)
            raise
        check_inputs(job.layout, recipe.inputs)
        publish_run(job.layout, run, output, whole)


def _shards_for(client: Any) -> int:
    """Number of shards for the workers that are there now."""
    return SHARDS_PER_WORKER * (sum(client.nthreads().values()) or UNKNOWN_WORKERS)


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """A client of the cluster; a local one is started, and ends with the block. The caller's own stays open."""
    distributed = import_distributed()
    if cluster.client is not None:
        if not _answers(cluster.client):
            raise DeviceError(f"found a {cluster.client.status} client of dask", advice="give one that is connected")
        yield cluster.client
        return
    if cluster.scheduler is None:
        with (
            distributed.LocalCluster(
                n_workers=cluster.workers,
                threads_per_worker=1,
                processes=True,
                security=_key_of_this_run(),
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
                f"found no dask scheduler at {cluster.scheduler} within {CONNECT_S:.0f} s ({reason(error)})",
                advice="give the address that `dask scheduler` prints, or --workers N for processes on this machine",
            ) from None
        with client:
            yield client


def _key_of_this_run() -> Any:
    """A certificate and key made for this run and kept in memory: a scheduler runs whatever a client hands it."""
    distributed = import_distributed()
    try:
        return distributed.Security.temporary()
    except ImportError as error:
        raise DeviceError(
            f"--workers needs cryptography, which cannot be imported ({error})", advice='pip install "fsae[dask]"'
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep clients from logging tracebacks of lost connections, which are reported in a sentence."""
    logger = logging.getLogger("distributed.client")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def check_versions(client: Any) -> None:
    """Raise DeviceError if a worker has another fsae version, or none (it runs only the standard library for that)."""
    here = importlib.metadata.version("fsae")
    for address, found in client.run(importlib.metadata.version, "fsae", on_error="return").items():
        if found != here:
            has = "no fsae" if isinstance(found, BaseException) else f"fsae {found}"
            raise DeviceError(f"the dask worker {address} has {has}", here, "install that version there")


def _make_all(client: Any, work: Work, run: Run, progress: Callable[[int], None]) -> None:
    """Let the workers make all shards that are missing."""
    distributed = import_distributed()
    progress(run.fields(run.shards))
    left = {shard: run.total([shard]) - run.fields([shard]) for shard in run.missing()}
    futures = {
        client.submit(make_shard, work, shard, key=f"fsae-shard-{work.run}-{shard.number}", pure=False): shard
        for shard in left
    }
    waiting, lost = set(futures), 0
    results = distributed.as_completed(futures)
    try:
        for future in results:
            shard = futures[future]
            waiting.remove(future)
            if _succeeded(client, shard, future):
                progress(left[shard])
                continue
            lost += 1
            if lost > MOST_LOST:
                raise FsaeError(
                    f"shard {shard} was lost with its dask worker, the last of {lost} times",
                    advice="look into the logs of the workers",
                )
            again = client.submit(make_shard, work, shard, key=f"{future.key}-{lost}", pure=False)
            futures[again] = shard
            waiting.add(again)
            results.add(again)
    finally:
        with uninterrupted():
            _end(client, work.run, waiting)


def _succeeded(client: Any, shard: Shard, future: Any) -> bool:
    """True if a task is done, False if its result was lost with its worker; raises what it failed with."""
    distributed = import_distributed()
    try:
        future.result()
        return True
    except distributed.scheduler.KilledWorker as error:
        raise FsaeError(
            f"shard {shard} was given up: its dask workers ended {error.allowed_failures + 1} times, perhaps for "
            "lack of memory",
            advice="give a smaller --batch or larger workers",
        ) from None
    except (distributed.CancelledError, distributed.comm.CommClosedError):
        if _answers(client):
            return False
        raise DeviceError(
            f"the dask scheduler at {client.scheduler.address} is gone", advice="start one again"
        ) from None


def _answers(client: Any) -> bool:
    """True if the scheduler still answers."""
    if client.status != "running":
        return False
    try:
        client.sync(client.scheduler.identity, callback_timeout=CONNECT_S)
    except Exception:  # whatever a lost connection raises
        return False
    return True


def _end(client: Any, run: str, waiting: set[Any]) -> None:
    """Stop all reachable workers and let them forget this run.

    A task that was cancelled may still be running, so those that wait are not cancelled: each one ends by itself.
    """
    if client.status != "running":
        return
    distributed = import_distributed()
    with contextlib.suppress(Exception):  # what went wrong before matters, and not what follows from it
        if waiting:
            client.run(stop, run, on_error="ignore")
            with contextlib.suppress(distributed.TimeoutError, distributed.CancelledError):
                distributed.wait(waiting, timeout=STOP_S)
        client.run(forget, run, on_error="ignore")
