"""The batch: as large as is useful and as memory allows, never seen in results; limits that are read or given."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import xarray as xr
from processes import python

from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.backends.onnx import GPU_BATCH, OnnxGraphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.cli.main import main
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble import batch as module
from fsae.runtime.ensemble.batch import (
    GIB,
    LARGEST,
    MemoryLimit,
    available_bytes,
    batch_bytes,
    choose_batch,
    memory_limit,
    resident_bytes,
)
from fsae.runtime.ensemble.members import latent_model
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import UsageError
from fsae.runtime.sphere.healpix import npix

LOADED = 1 << 28
ROW, LATENTS = (5 << 20) / npix(5) * npix(2), 3 * 2 * npix(1)  # the tiny model: window, variables, pixels


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that holds `LOADED` bytes."""
    monkeypatch.setattr(module, "resident_bytes", lambda: LOADED)


def test_memory_grows_with_the_rows_of_the_graphs_and_then_with_the_latents() -> None:
    # oracle: 5 MiB for each of eight rows of zoom 5 at most, one row of zoom 8, and eight copies of the latents
    latents = 12 * npix(3)
    for size, rows in ((1, 1), (8, 8), (16, 8)):
        assert batch_bytes(size, npix(5), latents) == rows * (5 << 20) + size * 8 * 4 * latents
    assert batch_bytes(16, npix(8), latents) == 64 * (5 << 20) + 16 * 8 * 4 * latents


def test_a_batch_takes_the_memory_that_is_planned_for_it(default_bundle: Bundle) -> None:
    # oracle: the operating system; what stays after the first call is of the graphs themselves
    model, graphs = latent_model(default_bundle), OnnxGraphs(default_bundle, threads=1)
    emulator = Emulator(default_bundle, graphs)
    used = []
    for size in (1, 8, 16):
        emulator.generate(Request(members=size, steps=1), batch=size)
        used.append(resident_bytes())
    pixels, latents = npix(default_bundle.manifest.grid.zoom), model.window * int(np.prod(model.shape))
    for place, size in ((1, 8), (2, 16)):
        assert used[place] - used[0] <= 1.25 * batch_bytes(size, pixels, latents)


@pytest.mark.usefixtures("loaded")
def test_the_batch_is_what_fits(tiny_bundle: Bundle, graphs: Graphs, caplog: pytest.LogCaptureFixture) -> None:
    # oracle: arithmetic, with a quarter of a member to spare
    caplog.set_level(logging.INFO, "fsae")
    model, member = latent_model(tiny_bundle), ROW + 8 * 4 * LATENTS
    for members, fitting, kept, held, expected in (
        (100, 99, 0, 0, LARGEST),
        (7, 99, 0, 0, 7),
        (100, 12, 0, 0, 12),
        (100, 12, 5000, 0, 12),
        (100, 3, 5000, 7000, 3),
    ):
        size = LOADED + kept + int((fitting + 0.25) * (member + held))
        limit = MemoryLimit(size=size)
        assert choose_batch(tiny_bundle, graphs, model, members=members, limit=limit, kept=kept, held=held) == expected
    assert caplog.messages[0].startswith("batch 16: about ")


@pytest.mark.usefixtures("loaded")
def test_a_limit_that_cannot_be_kept_is_refused(
    tiny_bundle: Bundle, graphs: Graphs, caplog: pytest.LogCaptureFixture
) -> None:  # oracle: 256 MiB loaded and 60 MiB kept
    model = latent_model(tiny_bundle)
    wanted = MemoryLimit(size=GIB // 10, given=True)
    with pytest.raises(UsageError, match=r"found the memory limit 0\.1 GiB, expected 0\.31 GiB or more"):
        choose_batch(tiny_bundle, graphs, model, members=9, limit=wanted, kept=60 << 20)
    # if no limit is given, the machine's memory is only advice
    assert choose_batch(tiny_bundle, graphs, model, members=99, limit=MemoryLimit(size=0)) == 1
    assert (caplog.records[0].levelname, caplog.messages[0][:30]) == ("WARNING", "found the memory limit 0 GiB, ")


def test_graphs_on_a_gpu_have_their_own_batch(tiny_bundle: Bundle) -> None:
    class OnGpu:
        device = "cuda"

    model, limit = latent_model(tiny_bundle), MemoryLimit(size=0)
    for members in (3, 99):
        found = choose_batch(tiny_bundle, OnGpu(), model, members=members, limit=limit)  # type: ignore[arg-type]
        assert found == min(GPU_BATCH, members)


def test_results_do_not_show_the_batch(
    tiny_bundle: Bundle, graphs: Graphs, caplog: pytest.LogCaptureFixture
) -> None:  # oracle: a batch by hand
    caplog.set_level(logging.INFO, "fsae")
    emulator = Emulator(tiny_bundle, graphs, threads=1)
    chosen = emulator.generate(Request(members=18, steps=4))
    assert [line.split(":")[0] for line in caplog.messages] == ["batch 16"]
    xr.testing.assert_identical(chosen, emulator.generate(Request(members=18, steps=4), batch=5))


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(content))
    return root


def test_available_memory_is_the_least_of_machine_and_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the kernel's files
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3_072_000))
    assert available_bytes(tmp_path) == 3_072_000
    two = {
        "proc/self/cgroup": "0::/job/step\n",
        "sys/fs/cgroup/job/step/memory.max": "max",
        "sys/fs/cgroup/job/step/memory.current": 10_000,
        "sys/fs/cgroup/job/memory.max": 500_000,
        "sys/fs/cgroup/job/memory.current": 200_000,
        "sys/fs/cgroup/job/memory.stat": "anon 1\ninactive_file 50000\n",
    }
    assert available_bytes(tree(tmp_path / "two", two)) == 350_000
    one = {
        "proc/self/cgroup": "3:cpu:/x\n4:memory:/x\n0::/\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": 9223372036854771712,
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": 5_000,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 90_000,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 100_000,
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 4000\n",
    }
    assert available_bytes(tree(tmp_path / "one", one)) == 0  # overdrawn


GROWTH = """
import numpy as np
from fsae.runtime.ensemble.batch import resident_bytes
before = resident_bytes()
held = np.ones(1 << 23)
print(resident_bytes() - before, held.nbytes)
"""


def test_resident_memory_grows_with_what_is_held() -> None:  # oracle: an array of 64 MiB, in a process without history
    done = python("-c", GROWTH)
    grown, held = map(int, done.stdout.split())
    assert 0.9 * held < grown < 1.5 * held


def test_limits_are_what_is_given_or_half_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: arithmetic
    monkeypatch.setattr(module, "resident_bytes", lambda: 100)
    monkeypatch.setattr(module, "available_bytes", lambda: 1000)
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
        (("--max-memory", "0.001", "--members", "2"), "found the memory limit 0.001 GiB, expected "),
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
