"""What a dask worker does for a run of `cluster.py`: it opens one session, and makes the shards it is given."""

import importlib.metadata
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.errors import BundleError, DeviceError, OutputError, Stopped
from fsae.runtime.output.files import partial_of

from .job import Job
from .ledger import difference, identity, read_split
from .lock import locked
from .shards import Shard, write_shard

GHOST_S = 30.0  # for a task that was given up to end, before another one does it

KEPT = "fsae_sessions"  # attribute of a dask worker


def import_distributed() -> ModuleType:
    """The distributed module; DeviceError naming the extra where it is missing."""
    try:
        import distributed
    except ImportError as error:
        raise DeviceError(
            f"--workers and --scheduler need dask.distributed, which cannot be imported ({error}): "
            'pip install "fsae[dask]"'
        ) from None
    module: ModuleType = distributed
    return module


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker must know to make any shard of a job: where the output grows, and how the job is made anew."""

    run: str  # a name for this attempt
    path: Path
    count: int
    make: Callable[[Bundle, Graphs], Job]
    inputs: Mapping[str, object]
    identity: Mapping[str, str]
    folder: Path  # of the bundle
    manifest_sha256: str
    device: str
    precision: str
    threads: int | None
    version: str

    @property
    def session(self) -> tuple[object, ...]:
        """What tells the sessions of a worker apart."""
        return self.folder, self.manifest_sha256, self.device, self.precision, self.threads


@dataclass
class Sessions:
    """What a worker process keeps between tasks: bundles with their graphs, jobs by run, and runs that were stopped."""

    opened: dict[tuple[object, ...], tuple[Bundle, Graphs]] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    lock: Any = field(default_factory=threading.Lock)


def dask_setup(worker: Any) -> None:
    """Nothing; a local worker leaves Ctrl-C to the client, which ends it in order. Dask calls this by its name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def sessions_of(worker: Any) -> Sessions:
    """What a worker process keeps; it is made at the first call."""
    found: Sessions = vars(worker).setdefault(KEPT, Sessions())
    return found


def stop(run: str, dask_worker: Any = None) -> None:
    """Nothing; tasks of a run end on this worker after the unit that they are at."""
    sessions_of(dask_worker).stopped.add(run)


def forget(work: Work, dask_worker: Any = None) -> None:
    """Nothing; what this worker keeps of a run that has ended is closed; another run of the session opens it again."""
    sessions = sessions_of(dask_worker)
    with sessions.lock:
        job = sessions.jobs.pop(work.run, None)
        sessions.opened.pop(work.session, None)
    if job is not None:
        job.close()


def _open_session(work: Work, worker: Any) -> tuple[Bundle, Graphs]:
    """The bundle and graphs of a run; an error that names the worker where they are others than the client's."""
    found = importlib.metadata.version("fsae")
    if found != work.version:
        raise DeviceError(
            f"the dask worker {worker.address} has fsae {found}, expected {work.version}: install that version there"
        )
    bundle = open_bundle(work.folder)
    if bundle.manifest_sha256 != work.manifest_sha256:
        raise BundleError(
            f"the dask worker {worker.address} has another bundle in {work.folder}: expected the one whose manifest "
            f"has the SHA-256 {work.manifest_sha256[:12]}...; copy it there"
        )
    threads = work.threads or worker.state.nthreads
    return bundle, open_graphs(bundle, work.device, precision=work.precision, threads=threads)


def job_of(work: Work, worker: Any) -> Job:
    """The job of a run, made once on this worker; DeviceError where its output would be another than the client's."""
    sessions = sessions_of(worker)
    with sessions.lock:
        if work.session not in sessions.opened:
            sessions.opened[work.session] = _open_session(work, worker)
        if work.run not in sessions.jobs:
            job = work.make(*sessions.opened[work.session])
            other = difference(work.identity, identity(job.layout, work.inputs))
            if other:
                job.close()
                raise DeviceError(
                    f"the dask worker {worker.address} would make another output: {other}; give it the same versions, "
                    "files and kind of device"
                )
            sessions.jobs[work.run] = job
        return sessions.jobs[work.run]


def make_shard(work: Work, number: int) -> None:
    """Nothing; a shard of the run is made, but for what of it is finished already. Runs in a task of a worker."""
    worker = import_distributed().get_worker()
    stopped = sessions_of(worker).stopped

    def check(fields: int) -> None:
        if work.run in stopped:
            raise Stopped("stopped")

    check(0)
    split = read_split(partial_of(work.path))
    if split is None:
        raise OutputError(
            f"the dask worker {worker.address} finds no run in {partial_of(work.path)}: the output must be on a file "
            "system that all workers share"
        )
    with locked(split.place(number), GHOST_S):
        write_shard(job_of(work, worker), work.path, split, Shard(number, work.count), check)
