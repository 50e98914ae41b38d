"""The batch: chosen by time and memory, measured once, never seen in results; limits that are read or given."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.backends.onnx import GPU_BATCH
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.cli.main import main
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble import batch
from fsae.runtime.ensemble import batch as memory
from fsae.runtime.ensemble.batch import (
    GIB,
    Measured,
    MemoryLimit,
    available_bytes,
    choose_batch,
    measure,
    memory_limit,
    read_measured,
    resident_bytes,
    write_measured,
)
from fsae.runtime.ensemble.members import LatentModel, latent_model
from fsae.runtime.errors import UsageError

MEMBER = 1 << 20  # [bytes] of a member in flight on the machine that `machine` makes up
LOADED = 1 << 28


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[int, float]], list[int]]:
    """Makes up a machine with so many seconds for a member at each batch; gives the batches tried, as they are."""

    def make(seconds: dict[int, float]) -> list[int]:
        tried: list[int] = []

        def denoise(graphs: Graphs, model: LatentModel, harmonics: int, size: int) -> float:
            tried.append(size)
            return seconds[size] * size

        def resident() -> int:
            return LOADED + MEMBER * max(tried, default=0)

        monkeypatch.setattr(batch, "_denoise", denoise)
        monkeypatch.setattr(batch, "resident_bytes", resident)
        monkeypatch.setattr(memory, "resident_bytes", resident)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return tried

    return make


FASTER = {2: 8.0, 4: 4.0, 8: 2.0, 16: 1.9, 32: 1.89, 64: 0.1}


def test_batches_rise_while_they_are_faster(
    tiny_bundle: Bundle, graphs: Graphs, machine: Callable[[dict[int, float]], list[int]]
) -> None:  # oracle: the times made up: 32 gains less than a twentieth on 16, which gains just that on 8
    tried = machine(FASTER)
    found = measure(graphs, latent_model(tiny_bundle), 2, room=GIB)
    assert (sorted(set(tried)), found.ended, found.size) == ([2, 4, 8, 16, 32], "slower", MEMBER)
    assert found.seconds == {size: FASTER[size] for size in (2, 4, 8, 16, 32)}
    assert found.best(GIB) == 16


def test_batches_rise_while_there_is_room(
    tiny_bundle: Bundle, graphs: Graphs, machine: Callable[[dict[int, float]], list[int]]
) -> None:  # oracle: 1.25 MiB for each member in flight
    tried = machine({size: 1.0 / size for size in batch.BATCHES})
    found = measure(graphs, latent_model(tiny_bundle), 2, room=12 * MEMBER)
    assert (max(tried), found.ended) == (8, "memory")
    assert [found.best(room * MEMBER) for room in (100, 10, 9, 5, 4, 2)] == [8, 8, 4, 4, 2, 0]
    assert found.enough(19 * MEMBER)
    assert not found.enough(20 * MEMBER)  # then 16 could be tried
    machine({size: 1.0 / size for size in batch.BATCHES})
    assert measure(graphs, latent_model(tiny_bundle), 2, room=GIB).ended == "largest"


def test_a_measurement_is_made_once(
    tiny_bundle: Bundle,
    graphs: Graphs,
    machine: Callable[[dict[int, float]], list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:  # oracle: what was tried, and the numbers in the sentence
    caplog.set_level(logging.INFO, logger="fsae")
    model, limit = latent_model(tiny_bundle), MemoryLimit(size=4 * GIB)
    tried = machine(FASTER)
    for members, expected in ((100, 16), (7, 7)):
        assert choose_batch(tiny_bundle, graphs, model, members=members, limit=limit) == expected
    assert tried.count(32) == 1 + batch.REPEATS
    assert caplog.messages[0] == (
        "batch 16: 1.9e+03 ms for a member and denoiser call, 1.0 MB for a member in flight, within 4 GiB"
    )
    tried = machine(FASTER)  # another number of threads is another measurement
    choose_batch(tiny_bundle, graphs, model, members=100, limit=limit, threads=1)
    assert 32 in tried
    assert len(list((batch.cache_folder()).iterdir())) == 2


def test_few_members_are_not_worth_a_measurement(
    tiny_bundle: Bundle, graphs: Graphs, machine: Callable[[dict[int, float]], list[int]]
) -> None:
    tried = machine(FASTER)
    for members, expected in ((1, 1), (3, 3), (9, batch.UNMEASURED)):
        size = choose_batch(
            tiny_bundle, graphs, latent_model(tiny_bundle), members=members, limit=MemoryLimit(size=GIB)
        )
        assert size == expected
    assert not tried


def test_a_limit_that_cannot_be_kept_is_refused(
    tiny_bundle: Bundle,
    graphs: Graphs,
    machine: Callable[[dict[int, float]], list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:  # oracle: 256 MiB loaded, of which two members, 60 MiB kept, and two members with a quarter to spare
    machine(FASTER)
    model = latent_model(tiny_bundle)
    wanted = MemoryLimit(size=GIB // 10, given=True)
    with pytest.raises(UsageError, match=r"found the memory limit 0\.1 GiB, expected 0\.31 GiB or more"):
        choose_batch(tiny_bundle, graphs, model, members=9, limit=wanted, kept=60 << 20)
    found = choose_batch(tiny_bundle, graphs, model, members=99, limit=MemoryLimit(size=0))
    assert found == batch.BATCHES[0]  # where no limit is given, the machine's memory is only advice
    assert caplog.messages[0].startswith("found the memory limit 0 GiB")


def test_what_is_kept_for_others_is_no_room(
    tiny_bundle: Bundle, graphs: Graphs, machine: Callable[[dict[int, float]], list[int]]
) -> None:  # oracle: 1.25 MiB for each member beside what is loaded and kept
    limit = MemoryLimit(size=LOADED + 2 * MEMBER + (100 << 20))
    sizes = []
    for kept in (0, 88, 94):
        machine(FASTER)  # a fresh process, but for what was measured
        model = latent_model(tiny_bundle)
        sizes.append(choose_batch(tiny_bundle, graphs, model, members=99, limit=limit, kept=kept << 20))
    assert sizes == [16, 8, 4]


def test_graphs_on_a_gpu_have_their_own_batch(tiny_bundle: Bundle, graphs: Graphs) -> None:
    class OnGpu:
        device = "cuda"

    for members in (3, 99):
        found = choose_batch(
            tiny_bundle,
            OnGpu(),  # type: ignore[arg-type]
            latent_model(tiny_bundle),
            members=members,
            limit=MemoryLimit(size=0),
        )
        assert found == min(GPU_BATCH, members)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"seconds": {}, "size": 1, "ended": "slower"}',
        '{"seconds": {"2": 1}, "size": 0, "ended": "slower"}',
        '{"seconds": {"3": 1}, "size": 1, "ended": "slower"}',
        '{"seconds": {"2": -1}, "size": 1, "ended": "slower"}',
        '{"seconds": {"2": NaN}, "size": 1, "ended": "slower"}',
        '{"seconds": {"two": 1}, "size": 1, "ended": "slower"}',
        '{"seconds": [2], "size": 1, "ended": "slower"}',
    ],
)
def test_a_damaged_cache_is_no_measurement(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert read_measured(tmp_path / "a.json") is None
    write_measured(tmp_path / "a.json", Measured(seconds={2: 0.5}, size=3, ended="time"))
    assert read_measured(tmp_path / "a.json") == Measured(seconds={2: 0.5}, size=3, ended="time")
    assert json.loads((tmp_path / "a.json").read_text())["seconds"] == {"2": 0.5}


def test_a_cache_that_cannot_be_written_is_done_without(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the run beside it
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--model", str(tiny_bundle.folder), "--device", "cpu", "--threads", "1", "generate", "--steps", "1"]
    assert main([*words, "--members", "20", "--out", str(tmp_path / "a.zarr")]) == 0
    assert "fsae-run: batch " in capsys.readouterr().err
    assert (tmp_path / "cache").read_text() == "a file"


def test_relative_cache_folders_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the XDG specification
    monkeypatch.setenv("HOME", "/home/somebody")
    for given in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert batch.cache_folder() == Path("/home/somebody/.cache/fsae")


def test_results_do_not_show_the_batch(
    tiny_bundle: Bundle, graphs: Graphs, caplog: pytest.LogCaptureFixture
) -> None:  # oracle: a batch by hand
    caplog.set_level(logging.INFO, logger="fsae")
    emulator = Emulator(tiny_bundle, graphs, threads=1)
    measured = emulator.generate(18, steps=4)
    assert [line.split()[0] for line in caplog.messages] == ["batch"]
    xr.testing.assert_identical(measured, emulator.generate(18, steps=4, batch=5))


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(content))
    return root


def test_available_memory_is_the_least_of_machine_and_groups(tmp_path: Path) -> None:  # oracle: the kernel's files
    machine = {"proc/meminfo": "MemTotal: 4000 kB\nMemAvailable:    3000 kB\n"}
    assert available_bytes(tree(tmp_path / "none", machine)) == 3_072_000
    two = {
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/job/step/memory.max": "max",
        "sys/fs/cgroup/job/step/memory.current": 10_000,
        "sys/fs/cgroup/job/memory.max": 500_000,
        "sys/fs/cgroup/job/memory.current": 200_000,
        "sys/fs/cgroup/job/memory.stat": "anon 1\ninactive_file 50000\n",
    }
    assert available_bytes(tree(tmp_path / "two", {**machine, **two})) == 350_000
    one = {
        "proc/self/cgroup": "3:cpu:/x\n4:memory:/x\n0::/\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": 5_000,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 90_000,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 100_000,
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 4000\n",
    }
    assert available_bytes(tree(tmp_path / "one", {**machine, **one})) == 0  # overdrawn
    assert 0 < available_bytes(tree(tmp_path / "nothing", {})) < 1 << 60  # from the operating system


def test_resident_memory_grows_with_what_is_held(tmp_path: Path) -> None:  # oracle: an array of 64 MiB
    before = resident_bytes()
    held = np.ones(1 << 23)
    assert resident_bytes() - before > 0.9 * held.nbytes
    assert resident_bytes(tmp_path) > held.nbytes  # without /proc: the most there ever was


def test_limits_are_what_is_given_or_half_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: arithmetic
    monkeypatch.setattr(memory, "resident_bytes", lambda: 100)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert memory_limit() == MemoryLimit(size=600)
    assert memory_limit().left == 500
    assert memory_limit(0.5) == MemoryLimit(size=GIB // 2, given=True)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="expected a number above 0"):
            memory_limit(wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch", "0"), "found --batch 0, expected a number of members, or auto"),
        (("--batch", "some"), "found --batch some"),
        (("--max-memory", "-1"), "found the memory limit -1.0 GiB"),
        (("--max-memory", "0.001", "--members", "2"), "found the memory limit 0.001 GiB, expected 0"),
        (("--max-memory", "much"), "is not a valid float"),
    ],
)
def test_the_command_line_refuses(
    tiny_bundle: Bundle, words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(tiny_bundle.folder), "--device", "cpu", "generate", "--out", str(tmp_path / "a.nc")]
    assert main([*common, *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
