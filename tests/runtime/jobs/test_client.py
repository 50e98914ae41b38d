"""Output made by the workers of a client that the caller has: theirs are the units, and the client stays open."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import LIMIT_S, Ensemble, finished, names_in
from trees import tree

from fsae.runtime.emulator import Emulator
from fsae.runtime.errors import DeviceError, OutputError, Stopped, UsageError
from fsae.runtime.jobs.cluster import Cluster
from fsae.runtime.jobs.ledger import read_run
from fsae.runtime.jobs.lock import locked
from fsae.runtime.jobs.shards import Shard
from fsae.runtime.jobs.workers import jobs_of

distributed = pytest.importorskip("distributed")

SMALL = Ensemble(members=16, steps=8, batch=1)

# Threads and sockets of distributed are closed some time after it says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of two workers that are threads of this process."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as local,
        distributed.Client(local, set_as_default=False) as found,
    ):
        found.wait_for_workers(2, timeout=LIMIT_S)
        yield found


@pytest.fixture
def whole(emulator: Emulator, tmp_path: Path) -> dict[str, bytes]:
    """The files of the output of one process without a cluster."""
    (tmp_path / "whole").mkdir()
    SMALL.generate(emulator, tmp_path / "whole" / "whole.zarr")
    return tree(tmp_path / "whole" / "whole.zarr")


def jobs_kept(dask_worker: Any = None) -> int:
    return len(jobs_of(dask_worker).made)


def test_the_workers_of_a_client_make_the_units(
    emulator: Emulator, client: Any, whole: dict[str, bytes], tmp_path: Path
) -> None:  # oracle: one process; what the workers keep of the run, of which nothing is left; the client's own answers
    kept: list[int] = []

    def look(done: int, total: int) -> None:
        kept.append(sum(client.run(jobs_kept).values()))

    SMALL.generate(emulator, tmp_path / "out.zarr", Cluster(client=client), progress=look)
    assert tree(tmp_path / "out.zarr") == whole
    assert max(kept) in (1, 2)
    assert sum(client.run(jobs_kept).values()) == 0
    assert client.status == "running"
    assert client.submit(sum, [1, 2]).result(LIMIT_S) == 3


def test_an_interrupted_run_goes_on(
    emulator: Emulator, client: Any, whole: dict[str, bytes], tmp_path: Path
) -> None:  # oracle: one process
    out, cluster = tmp_path / "out.zarr", Cluster(client=client, threads=1)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(Stopped, match="the same command with --resume goes on"):
        SMALL.generate(emulator, out, cluster, progress=interrupt)
    assert finished(out) > 0
    with pytest.raises(OutputError, match="an unfinished run"):
        SMALL.generate(emulator, out, cluster)
    SMALL.generate(emulator, out, cluster, resume=True)
    assert tree(out) == whole
    assert names_in(tmp_path) == ["out.zarr", "whole"]


def test_a_run_that_another_one_is_at_work_on_is_refused(emulator: Emulator, client: Any, tmp_path: Path) -> None:
    # oracle: the lock of a shard, which this thread holds
    out = tmp_path / "out.zarr"
    SMALL.generate(emulator, out, Shard(1, 8))
    run = read_run(tmp_path / "out.zarr.partial")
    assert run is not None
    with locked(run.place(Shard(2, 8))), pytest.raises(OutputError, match=r"2-of-8 is being written by process"):
        SMALL.generate(emulator, out, Cluster(client=client), overwrite=True)


def test_clients_that_are_refused(
    emulator: Emulator, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"found workers and client of a cluster: give one of"):
        Cluster(workers=2, client=client)
    with pytest.raises(UsageError, match=r"found neither workers, a scheduler nor a client of a cluster: give one of"):
        Cluster()
    with pytest.raises(UsageError, match=r"of type LocalCluster, expected a distributed.Client"):
        Cluster(client=client.cluster)
    with distributed.Client(client.scheduler.address, set_as_default=False) as other:
        closed = Cluster(client=other)
    with pytest.raises(DeviceError, match=r"found a closed client of dask: give one that is connected"):
        SMALL.generate(emulator, tmp_path / "out.zarr", closed)
    monkeypatch.setattr(distributed.Client, "asynchronous", True)
    with pytest.raises(UsageError, match=r"found an asynchronous client, expected one that waits"):
        Cluster(client=client)
    assert names_in(tmp_path) == []
