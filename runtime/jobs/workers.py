"""The part of a dask worker in a run of `cluster.py`: it makes the job once, and then the shards it is given."""

import importlib.metadata
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.bundle.files import open_bundle
from fsae.runtime.errors import BundleError, DeviceError, OutputError, Stopped
from fsae.runtime.output.files import partial_of

from .identity import difference, identity
from .job import Job, Recipe
from .ledger import read_run
from .lock import locked
from .resume import GOES_ON, write_shard
from .shards import Shard

GHOST_S = 30.0  # for a task that was given up to end, before another one does it
KEPT = "fsae_jobs"  # attribute of a dask worker


def import_distributed() -> ModuleType:
    """The distributed module; DeviceError naming the extra if it is missing."""
    try:
        import distributed
    except ImportError as error:
        raise DeviceError(
            f"--workers and --scheduler need dask.distributed, which cannot be imported ({error})",
            advice='pip install "fsae[dask]"',
        ) from None
    module: ModuleType = distributed
    return module


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that a worker needs to make any shard of a run: where the output grows, and how to make the job again."""

    run: str  # a name for this attempt
    path: Path
    recipe: Recipe
    identity: Mapping[str, str]
    folder: Path  # of the bundle
    manifest_sha256: str
    device: str
    precision: str
    threads: int | None
    version: str


@dataclass
class Jobs:
    """The state that a worker process keeps between tasks: jobs with their sessions, and runs that were stopped."""

    made: dict[str, Job] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    lock: Any = field(default_factory=threading.Lock)


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the client, which ends a local worker in order. Dask calls this by its name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def jobs_of(worker: Any) -> Jobs:
    """The jobs that a worker process keeps; the first call makes the record."""
    found: Jobs = vars(worker).setdefault(KEPT, Jobs())
    return found


def stop(run: str, dask_worker: Any = None) -> None:
    """Let the tasks of a run end on this worker after their current units."""
    jobs_of(dask_worker).stopped.add(run)


def forget(run: str, dask_worker: Any = None) -> None:
    """Close what this worker keeps of a run that has ended."""
    jobs = jobs_of(dask_worker)
    with jobs.lock:
        job = jobs.made.pop(run, None)
    if job is not None:
        job.close()


def job_of(work: Work, worker: Any) -> Job:
    """The job of a run, made once on this worker; DeviceError if its output would be another than the client's."""
    jobs = jobs_of(worker)
    with jobs.lock:
        if work.run not in jobs.made:
            jobs.made[work.run] = _make_job(work, worker)
        return jobs.made[work.run]


def _make_job(work: Work, worker: Any) -> Job:
    found = importlib.metadata.version("fsae")
    if found != work.version:
        raise DeviceError(
            f"the dask worker {worker.address} has fsae {found}", work.version, "install that version there"
        )
    bundle = open_bundle(work.folder)
    if bundle.manifest_sha256 != work.manifest_sha256:
        raise BundleError(
            f"the dask worker {worker.address} has another bundle in {work.folder}",
            f"the one whose manifest has the SHA-256 {work.manifest_sha256[:12]}...",
            "copy it there",
        )
    threads = work.threads or worker.state.nthreads
    graphs = open_graphs(bundle, work.device, precision=work.precision, threads=threads)
    job = work.recipe.job(bundle, graphs)
    other = difference(work.identity, identity(job.layout))
    if other:
        job.close()
        raise DeviceError(
            f"the dask worker {worker.address} would make another output, which differs in {other}",
            advice="give it the same versions, files and kind of device",
        )
    return job


def make_shard(work: Work, shard: Shard) -> None:
    """Make one shard, skipping what is already finished. Runs as a dask task."""
    worker = import_distributed().get_worker()
    stopped = jobs_of(worker).stopped

    def check(fields: int) -> None:
        if work.run in stopped:
            raise Stopped("stopped", advice=GOES_ON)

    check(0)
    folder = partial_of(work.path)
    run = read_run(folder)
    if run is None:
        raise OutputError(
            f"the dask worker {worker.address} finds no run in {folder}",
            advice="the output must be on a file system that all workers share",
        )
    with locked(run.place(shard), GHOST_S) as hold:
        write_shard(job_of(work, worker), run, work.path, shard, hold, check)
