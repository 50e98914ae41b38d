"""Output made by the workers of a dask cluster: the bytes of one process, whatever happens to workers and client."""

import contextlib
import importlib
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import xarray as xr
from runs import LIMIT_S, Command, Ensemble, convert, finished, names_in, source_for
from trees import tree

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.cli.main import main
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import BundleError, DeviceError, FsaeError, OutputError, Stopped, UsageError
from fsae.runtime.jobs import cluster as client_side
from fsae.runtime.jobs import workers
from fsae.runtime.jobs.cluster import Cluster
from fsae.runtime.jobs.job import Recipe
from fsae.runtime.jobs.ledger import read_run
from fsae.runtime.jobs.shards import Shard

distributed = pytest.importorskip("distributed")

SMALL = Ensemble(members=16, steps=8, batch=1)

FIELDS = SMALL.fields

generate = SMALL.generate

# Threads and sockets of distributed are closed some time after it says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    """A client of a cluster of two processes."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=None, silence_logs=50
        ) as local,
        distributed.Client(local, set_as_default=False) as found,
    ):
        yield found


@pytest.fixture
def cluster(client: SimpleNamespace) -> Cluster:
    client.wait_for_workers(2, timeout=LIMIT_S)  # one that was killed comes back some time
    return Cluster(scheduler=client.scheduler.address, threads=1)


@pytest.fixture(scope="module")
def whole(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one process."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    generate(Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1)), path)
    return path


Method = Callable[..., Any]


@contextlib.contextmanager
def on_workers(client: Any, method: str, wrap: Callable[[Method, SimpleNamespace], Method]) -> Iterator[None]:
    """Replace a method, "module:class:name", on the workers there are by what `wrap` makes of it and of the worker."""
    module, owner, name = method.split(":")

    def install(dask_worker: SimpleNamespace) -> None:
        found = getattr(importlib.import_module(module), owner)
        dask_worker.replaced = getattr(found, name)
        setattr(found, name, wrap(dask_worker.replaced, dask_worker))

    def restore(dask_worker: SimpleNamespace) -> None:
        if hasattr(dask_worker, "replaced"):  # one that started later has nothing to restore
            setattr(getattr(importlib.import_module(module), owner), name, dask_worker.replaced)
            del dask_worker.replaced

    client.run(install)
    try:
        yield
    finally:
        client.run(restore, on_error="ignore")  # one that was killed may be listed still


DECODE = "fsae.runtime.backends.onnx:OnnxGraphs:decode"

NEW_SESSION = "fsae.runtime.backends.onnx:OnnxGraphs:__init__"


def dying(marker: Path) -> Callable[[Method, SimpleNamespace], Method]:
    """Let the first worker that gets to its eighth unit kill itself there, and leave its number in a file."""

    def wrap(decode: Method, worker: SimpleNamespace) -> Method:
        units = [0]

        def method(*given: object) -> object:
            units[0] += 1
            if units[0] == 8:
                with contextlib.suppress(FileExistsError), marker.open("x") as file:
                    file.write(str(os.getpid()))
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return decode(*given)

        return method

    return wrap


def counted(make: Method, worker: SimpleNamespace) -> Method:
    worker.sessions = 0

    def counting(*given: object) -> None:
        worker.sessions += 1
        make(*given)

    return counting


def test_two_workers_give_the_bytes_of_one_process(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process; and one session for every worker, none of which is left
    said: list[tuple[int, int]] = []
    with on_workers(client, NEW_SESSION, counted):
        job = generate(emulator, tmp_path / "out.zarr", cluster, progress=lambda *given: said.append(given))
    assert job.missing == ()
    assert tree(tmp_path / "out.zarr") == tree(whole)
    assert names_in(tmp_path) == ["out.zarr"]
    assert said[-1] == (FIELDS, FIELDS)
    assert sorted(said) == said
    left = client.run(lambda dask_worker: (dask_worker.sessions, len(dask_worker.fsae_jobs.made)))
    assert set(left.values()) == {(1, 0)}


def test_lazy_results_are_computed_on_workers(emulator: Emulator, client: SimpleNamespace) -> None:
    # oracle: in memory; a worker opens one session, not one for each chunk
    data = emulator.generate(Request(members=1, start="1990-01", steps=120))
    with on_workers(client, NEW_SESSION, counted):
        latents = emulator.compress(data.chunk({"time": 12}), climatology="training")
        with client.as_current():
            found = latents.compute()
    xr.testing.assert_identical(found, emulator.compress(data, climatology="training"))
    assert set(client.run(lambda dask_worker: dask_worker.sessions).values()) <= {0, 1}


@pytest.mark.parametrize("verb", ["compress", "superres"])
def test_the_other_verbs_on_a_cluster(
    emulator: Emulator, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:  # oracle: one process; the paths are relative to a folder that the workers are not in
    monkeypatch.chdir(tmp_path)
    source_for(emulator, verb, tmp_path, steps=26)
    convert(emulator, verb, "in.nc", Path("whole.zarr"))
    convert(emulator, verb, "i?.nc", Path("out.zarr"), cluster)
    assert tree(tmp_path / "out.zarr") == tree(tmp_path / "whole.zarr")


def test_the_units_of_a_killed_worker_are_made_again(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process
    with on_workers(client, DECODE, dying(tmp_path / "killed")):
        generate(emulator, tmp_path / "out.zarr", cluster)
    assert int((tmp_path / "killed").read_text()) not in client.run(os.getpid, on_error="ignore").values()
    assert tree(tmp_path / "out.zarr") == tree(whole)
    assert names_in(tmp_path) == ["killed", "out.zarr"]


def test_a_shard_whose_workers_end_again_and_again_is_given_up(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process
    def allow(failures: int) -> int:
        def set_it(dask_scheduler: SimpleNamespace) -> int:
            before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, failures
            return int(before)

        return int(client.run_on_scheduler(set_it))

    before = allow(0)
    try:
        message = rf"shard \d/\d was given up: its dask workers ended 1 times, .*; \d+ of {FIELDS} fields are kept in"
        with on_workers(client, DECODE, dying(tmp_path / "killed")), pytest.raises(FsaeError, match=message):
            generate(emulator, tmp_path / "out.zarr", cluster)
    finally:
        allow(before)
    generate(emulator, tmp_path / "out.zarr", cluster, resume=True)
    assert tree(tmp_path / "out.zarr") == tree(whole)


def test_a_stopped_client_leaves_what_goes_on(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process
    out = tmp_path / "out.zarr"

    def until_stopped(decode: Method, worker: SimpleNamespace) -> Method:
        """Go on after a few units only when the run is stopped: both are at work then, and neither is done."""
        import time

        units = [0]

        def waiting(*given: object) -> object:
            units[0] += 1
            while units[0] > 8 and not worker.fsae_jobs.stopped:
                time.sleep(0.01)
            return decode(*given)

        return waiting

    def interrupt(done: int, total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    message = (
        rf"stopped; \d+ of {FIELDS} fields are kept in \S+out.zarr.partial: the same command with --resume goes on"
    )
    with on_workers(client, DECODE, until_stopped), pytest.raises(Stopped, match=message):
        generate(emulator, out, cluster, progress=interrupt)
    before = finished(out)
    assert 10 < before < FIELDS
    with pytest.raises(OutputError, match=rf"an unfinished run, {before} of {FIELDS} fields: --resume goes on"):
        generate(emulator, out, cluster)
    with pytest.raises(UsageError, match=r"request: seed \(3 there, 4 here\)"):
        generate(emulator, out, cluster, seed=4, resume=True)
    assert finished(out) == before  # nobody is at work any more
    generate(emulator, out, cluster, resume=True)
    assert tree(out) == tree(whole)
    generate(emulator, out, cluster, resume=True)
    assert names_in(tmp_path) == ["out.zarr"]


def test_shards_finish_what_a_cluster_began(
    emulator: Emulator, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process
    def fail(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(Stopped):
        generate(emulator, tmp_path / "out.zarr", cluster, progress=fail)
    run = read_run(tmp_path / "out.zarr.partial")
    assert run is not None
    for shard in run.shards:
        generate(emulator, tmp_path / "out.zarr", shard, resume=True)
    assert tree(tmp_path / "out.zarr") == tree(whole)


def test_a_caller_that_loses_a_connection_of_its_own_is_not_told_of_a_lost_scheduler(
    emulator: Emulator, cluster: Cluster, tmp_path: Path
) -> None:  # oracle: the error that the caller's function raises
    def lose(done: int, total: int) -> None:
        raise distributed.comm.CommClosedError("a worker of another cluster")

    with pytest.raises(distributed.comm.CommClosedError, match="of another cluster"):
        generate(emulator, tmp_path / "out.zarr", cluster, progress=lose)


def test_overwriting_starts_again(emulator: Emulator, cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    # oracle: one process
    generate(emulator, tmp_path / "out.zarr", seed=8)
    generate(emulator, tmp_path / "out.zarr", Shard(1, 3), seed=7, overwrite=True)
    generate(emulator, tmp_path / "out.zarr", cluster, overwrite=True)
    assert tree(tmp_path / "out.zarr") == tree(whole)


# --- what is refused ---


def test_a_scheduler_that_is_not_there(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_side, "CONNECT_S", 0.3)
    for address in ("tcp://127.0.0.1:1", "nowhere.invalid:8786", "nonsense://x"):
        with pytest.raises(DeviceError, match=f"found no dask scheduler at {address} within .*: give the address"):
            generate(emulator, tmp_path / "out.zarr", Cluster(scheduler=address))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("missing", "needed"),
    [
        ("distributed", "--workers and --scheduler need dask.distributed"),
        ("cryptography", "--workers needs cryptography"),
    ],
)
def test_a_missing_extra(
    tiny_bundle_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
    needed: str,
) -> None:
    for name in [name for name in sys.modules if name.startswith(f"{missing}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    words = ["--model", str(tiny_bundle_path), "generate", "--members", "1", "--out", str(tmp_path / "out.zarr")]
    assert main([*words, "--workers", "2"]) == DeviceError.exit_code
    last = capsys.readouterr().err.splitlines()[-1]
    assert needed in last
    assert last.endswith('pip install "fsae[dask]"')


def test_a_local_scheduler_takes_no_other_client(
    emulator: Emulator, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: distributed's own client, with no key and with a key of its own
    started: list[Any] = []
    local_cluster = distributed.LocalCluster

    def start(**options: Any) -> object:
        started.append(local_cluster(**options))
        return started[-1]

    def intrude(done: int, total: int) -> None:
        address, loop = started[0].scheduler_address, started[0].loop  # a loop of its own may start too late
        for key in (None, distributed.Security.temporary()):
            scheduler = address if key else address.replace("tls://", "tcp://")
            with pytest.raises(OSError, match=r"Connection|TLS|closed"):
                distributed.Client(scheduler, security=key, timeout=2, loop=loop)
            attempts.append(key)

    attempts: list[object] = []
    monkeypatch.setattr(distributed, "LocalCluster", start)
    generate(emulator, tmp_path / "out.zarr", Cluster(workers=1, threads=1), progress=intrude)
    assert len(attempts) >= 2
    assert tree(tmp_path / "out.zarr") == tree(whole)


def test_workers_of_another_version(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def client_of(found: object) -> SimpleNamespace:
        return SimpleNamespace(run=lambda *given, **named: {"tcp://x:1": found})

    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.1")
    client_side.check_versions(client_of("99.1"))
    with pytest.raises(DeviceError, match=r"the dask worker tcp://x:1 has fsae 0\.1, expected 99\.1: install that"):
        client_side.check_versions(client_of("0.1"))
    with pytest.raises(DeviceError, match=r"the dask worker tcp://x:1 has no fsae, expected 99\.1"):
        client_side.check_versions(client_of(ModuleNotFoundError("fsae")))
    work = workers.Work(
        run="a",
        path=tmp_path / "out.zarr",
        recipe=Recipe(make=lambda bundle, graphs, inputs: pytest.fail("made"), inputs={}),
        identity={},
        folder=tiny_bundle.folder,
        manifest_sha256=tiny_bundle.manifest_sha256,
        device="cpu",
        precision="fp32",
        threads=1,
        version="0.1",
    )
    with pytest.raises(DeviceError, match=r"the dask worker tcp://y:2 has fsae 99\.1, expected 0\.1"):
        workers.job_of(work, SimpleNamespace(address="tcp://y:2"))


def test_workers_with_another_bundle_or_backend(
    emulator: Emulator, cluster: Cluster, tiny_bundle_path: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(tiny_bundle_path)
    other = Bundle(folder=bundle.folder, manifest=bundle.manifest, manifest_sha256="0" * 64, written_schema=2)
    with pytest.raises(BundleError, match=r"the dask worker tcp://\S+ has another bundle in \S+tiny, expected the one"):
        generate(Emulator(other, emulator.graphs), tmp_path / "out.zarr", cluster)

    class OtherGraphs(OnnxGraphs):
        backend = "onnxruntime 0.1"

    with pytest.raises(
        DeviceError, match=r"would make another output, which differs in fsae_versions .*onnxruntime.* there"
    ):
        generate(Emulator(bundle, OtherGraphs(bundle)), tmp_path / "out.zarr", cluster)
    assert names_in(tmp_path) == []


def test_a_worker_that_fails_says_why(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, tmp_path: Path
) -> None:
    def full(write: Method, worker: SimpleNamespace) -> Method:
        import errno

        def failing(*given: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        return failing

    with on_workers(client, "fsae.runtime.output.zarr:ZarrStore:write", full):
        with pytest.raises(OutputError, match=r"cannot write \S+out\.zarr: No space left on device"):
            generate(emulator, tmp_path / "out.zarr", cluster)
        assert names_in(tmp_path) == []


def test_workers_on_this_machine_by_the_command(command: Command, whole: Path, tmp_path: Path) -> None:
    # oracle: one process
    out = tmp_path / "out.zarr"
    said = command(*SMALL.words(out, "--batch", "4", "--workers", "2"))
    assert said.code == 0, said.err
    assert said.err.splitlines()[1:] == [f"fsae-run: {FIELDS} fields in 8 shards: {out} is there when all are complete"]
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("lost", [distributed.CancelledError("lost"), distributed.comm.CommClosedError("worker")])
def test_a_result_lost_with_its_worker_is_no_lost_scheduler(client: SimpleNamespace, lost: Exception) -> None:
    # oracle: the scheduler, which answers
    from fsae.runtime.jobs import cluster as room
    from fsae.runtime.jobs.shards import Shard

    def result() -> None:
        raise lost

    assert room._succeeded(client, Shard(1, 2), SimpleNamespace(result=result)) is False
    gone = SimpleNamespace(status="closed", scheduler=SimpleNamespace(address="tcp://x:1"))
    with pytest.raises(DeviceError, match="scheduler at tcp://x:1 is gone"):
        room._succeeded(gone, Shard(1, 2), SimpleNamespace(result=result))
