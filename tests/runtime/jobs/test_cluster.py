"""Output made by the workers of a dask cluster: the bytes of one process, whatever happens to workers and client."""

import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import xarray as xr
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
from fsae.runtime.jobs.job import Job, Recipe
from fsae.runtime.jobs.ledger import read_run
from fsae.runtime.jobs.shards import Shard
from fsae.runtime.output.selection import Selection

distributed = pytest.importorskip("distributed")

MEMBERS, STEPS = 16, 8
FIELDS = MEMBERS * STEPS

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
    return Cluster(scheduler=client.scheduler.address, threads=1)


@pytest.fixture
def emulator(tiny_bundle: Bundle) -> Emulator:
    return Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1))


Progress = Callable[[int, int], None]


def generate(
    emulator: Emulator,
    path: Path,
    scale: Cluster | Shard | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 3,
    progress: Progress | None = None,
) -> Job:
    return emulator.generate_file(
        path,
        Request(members=MEMBERS, start="1990-01", steps=STEPS, seed=seed),
        batch=1,
        scale=scale,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )


@pytest.fixture(scope="module")
def whole(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one process."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    generate(Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1)), path)
    return path


@pytest.fixture
def slow_workers(client: SimpleNamespace) -> Iterator[None]:
    """Workers that take a while to decode; those that start later do not."""

    def slow_down() -> None:
        import time

        from fsae.runtime.backends.onnx import OnnxGraphs

        decode = OnnxGraphs.decode
        OnnxGraphs.decode = lambda *given: (time.sleep(0.03), decode(*given))[1]  # type: ignore[method-assign]
        OnnxGraphs.before = decode  # type: ignore[attr-defined]

    def restore() -> None:
        from fsae.runtime.backends.onnx import OnnxGraphs

        if hasattr(OnnxGraphs, "before"):
            OnnxGraphs.decode = OnnxGraphs.before  # type: ignore[method-assign]

    client.run(slow_down)
    yield
    client.run(restore)


@pytest.fixture
def waiting_workers(client: SimpleNamespace) -> Iterator[None]:
    """Workers that go on after a few units only when they are stopped: both are at work then, and neither is done."""

    def wait(dask_worker: SimpleNamespace) -> None:
        import time

        from fsae.runtime.backends.onnx import OnnxGraphs

        decode, units = OnnxGraphs.decode, [0]

        def waiting(*given: object) -> object:
            units[0] += 1
            while units[0] > 8 and not dask_worker.fsae_jobs.stopped:
                time.sleep(0.01)
            return decode(*given)  # type: ignore[arg-type]

        OnnxGraphs.decode, OnnxGraphs.before = waiting, decode  # type: ignore[method-assign,assignment,attr-defined]

    def restore() -> None:
        from fsae.runtime.backends.onnx import OnnxGraphs

        OnnxGraphs.decode = OnnxGraphs.before  # type: ignore[attr-defined,method-assign]

    client.run(wait)
    yield
    client.run(restore)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_workers_give_the_bytes_of_one_process(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process; and one session for every worker, none of which is left
    def count_sessions() -> None:
        from fsae.runtime.backends.onnx import OnnxGraphs

        make = OnnxGraphs.__init__
        OnnxGraphs.made = 0  # type: ignore[attr-defined]

        def counted(self: OnnxGraphs, *given: object) -> None:
            OnnxGraphs.made += 1  # type: ignore[attr-defined]
            make(self, *given)  # type: ignore[arg-type]

        OnnxGraphs.__init__ = counted  # type: ignore[method-assign]

    def made(dask_worker: SimpleNamespace) -> tuple[int, int]:
        from fsae.runtime.backends.onnx import OnnxGraphs

        return OnnxGraphs.made, len(dask_worker.fsae_jobs.made)  # type: ignore[attr-defined]

    client.run(count_sessions)
    said: list[tuple[int, int]] = []
    job = generate(emulator, tmp_path / "out.zarr", cluster, progress=lambda *given: said.append(given))
    assert job.missing == ()
    assert tree(tmp_path / "out.zarr") == tree(whole)
    assert names_in(tmp_path) == ["out.zarr"]
    assert said[-1] == (FIELDS, FIELDS)
    assert sorted(said) == said
    assert set(client.run(made).values()) == {(1, 0)}


def test_lazy_results_are_computed_on_workers(emulator: Emulator, client: SimpleNamespace) -> None:
    # oracle: in memory; a worker opens one session, not one for each chunk
    def count_sessions() -> None:
        from fsae.runtime.backends.onnx import OnnxGraphs

        make, counts = OnnxGraphs.__init__, [0]

        def counted(self: OnnxGraphs, *given: object) -> None:
            counts[0] += 1
            make(self, *given)  # type: ignore[arg-type]

        OnnxGraphs.__init__, OnnxGraphs.counts = counted, counts  # type: ignore[method-assign,attr-defined]

    def count() -> int:
        from fsae.runtime.backends.onnx import OnnxGraphs

        return int(OnnxGraphs.counts[0])  # type: ignore[attr-defined]

    data = emulator.generate(1, start="1990-01", steps=120)
    client.run(count_sessions)
    latents = emulator.compress(data.chunk({"time": 12}), climatology="training")
    with client.as_current():
        found = latents.compute()
    xr.testing.assert_identical(found, emulator.compress(data, climatology="training"))
    assert set(client.run(count).values()) <= {0, 1}


@pytest.mark.parametrize("verb", ["compress", "superres"])
def test_the_other_verbs_on_a_cluster(
    emulator: Emulator, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:  # oracle: one process; the paths are relative to a folder that the workers are not in
    monkeypatch.chdir(tmp_path)
    emulator.generate(2, start="1990-01", steps=26).to_netcdf("in.nc", engine="h5netcdf")
    for out, scale in (("whole.zarr", None), ("out.zarr", cluster)):
        if verb == "compress":
            emulator.compress_file("in.nc", out, climatology="training", scale=scale)
        else:
            select = Selection(grid="source")
            emulator.superres_file("in.nc", out, climatology="training", zoom=1, select=select, scale=scale)
    assert tree(tmp_path / "out.zarr") == tree(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("slow_workers")
def test_the_units_of_a_killed_worker_are_made_again(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if not killed and 10 < done < 100:
            killed.append(min(client.run(os.getpid).values()))
            os.kill(killed[0], signal.SIGKILL)

    generate(emulator, tmp_path / "out.zarr", cluster, progress=kill)
    assert killed
    assert killed[0] not in client.run(os.getpid).values()
    assert tree(tmp_path / "out.zarr") == tree(whole)
    assert names_in(tmp_path) == ["out.zarr"]


@pytest.mark.usefixtures("slow_workers")
def test_a_shard_whose_workers_end_again_and_again_is_given_up(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process
    def allow(failures: int) -> int:
        def set_it(dask_scheduler: SimpleNamespace) -> int:
            before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, failures
            return int(before)

        return int(client.run_on_scheduler(set_it))

    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            killed.append(min(client.run(os.getpid).values()))
            os.kill(killed[0], signal.SIGKILL)

    before = allow(0)
    try:
        message = rf"shard \d/\d was given up: its dask workers ended 1 times, .*; \d+ of {FIELDS} fields are kept in"
        with pytest.raises(FsaeError, match=message):
            generate(emulator, tmp_path / "out.zarr", cluster, progress=kill)
    finally:
        allow(before)
    generate(emulator, tmp_path / "out.zarr", cluster, resume=True)
    assert tree(tmp_path / "out.zarr") == tree(whole)


@pytest.mark.usefixtures("waiting_workers")
def test_a_stopped_client_leaves_what_goes_on(
    emulator: Emulator, cluster: Cluster, whole: Path, tmp_path: Path
) -> None:  # oracle: one process
    out = tmp_path / "out.zarr"

    def interrupt(done: int, total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    message = (
        rf"stopped; \d+ of {FIELDS} fields are kept in \S+out.zarr.partial: the same command with --resume goes on"
    )
    with pytest.raises(Stopped, match=message):
        generate(emulator, out, cluster, progress=interrupt)
    split = read_run(tmp_path / "out.zarr.partial")
    assert split is not None
    before = split.fields(split.shards)
    assert 10 < before < FIELDS
    with pytest.raises(OutputError, match=rf"an unfinished run, {before} of {FIELDS} fields: --resume goes on"):
        generate(emulator, out, cluster)
    with pytest.raises(UsageError, match=r"request: seed \(3 there, 4 here\)"):
        generate(emulator, out, cluster, seed=4, resume=True)
    assert split.fields(split.shards) == before  # nobody is at work any more
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
    split = read_run(tmp_path / "out.zarr.partial")
    assert split is not None
    for number in range(1, split.count + 1):
        generate(emulator, tmp_path / "out.zarr", Shard(number, split.count), resume=True)
    assert tree(tmp_path / "out.zarr") == tree(whole)


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


def test_a_missing_extra(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["--model", str(tiny_bundle_path), "generate", "--members", "1", "--out", str(tmp_path / "out.zarr")]
    assert main([*words, "--workers", "2"]) == DeviceError.exit_code
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--workers and --scheduler need dask.distributed" in last
    assert last.endswith('pip install "fsae[dask]"')


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
    with pytest.raises(BundleError, match=r"the dask worker tcp://\S+ has another bundle in \S+tiny: expected the one"):
        generate(Emulator(other, emulator.graphs), tmp_path / "out.zarr", cluster)

    class OtherGraphs(OnnxGraphs):
        backend = "onnxruntime 0.1"

    with pytest.raises(DeviceError, match=r"would make another output: fsae_versions .*onnxruntime.* there"):
        generate(Emulator(bundle, OtherGraphs(bundle)), tmp_path / "out.zarr", cluster)
    assert names_in(tmp_path) == []


def test_a_worker_that_fails_says_why(
    emulator: Emulator, client: SimpleNamespace, cluster: Cluster, tmp_path: Path
) -> None:
    def fill_the_disk() -> None:
        import errno

        from fsae.runtime.output.zarr import ZarrStore

        def full(*given: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        ZarrStore.before, ZarrStore.write = ZarrStore.write, full  # type: ignore[attr-defined,method-assign,assignment]

    def restore() -> None:
        from fsae.runtime.output.zarr import ZarrStore

        ZarrStore.write = ZarrStore.before  # type: ignore[attr-defined,method-assign]

    client.run(fill_the_disk)
    try:
        with pytest.raises(OutputError, match=r"cannot write \S+out\.zarr: No space left on device"):
            generate(emulator, tmp_path / "out.zarr", cluster)
    finally:
        client.run(restore)
    assert names_in(tmp_path) == []


def test_workers_on_this_machine_by_the_command(
    tiny_bundle_path: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: one process
    out = tmp_path / "out.zarr"
    words = ["generate", "--members", MEMBERS, "--steps", STEPS, "--seed", 3, "--start", "1990-01", "--out", out]
    code = main(
        ["--model", str(tiny_bundle_path), "--device", "cpu", *map(str, words), "--batch", "4", "--workers", "2"]
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    assert said.err.splitlines()[1:] == [f"fsae-run: {FIELDS} fields in 8 shards: {out} is there when all are complete"]
    assert tree(out) == tree(whole)
