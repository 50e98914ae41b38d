"""Runs that are killed or stopped at any moment, and go on: the bytes of a run that nothing disturbed."""

import contextlib
import errno
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from nursery import Nursery, signalled
from runs import (
    FIELDS,
    SMALL,
    Command,
    count_decoded,
    finished,
    interrupted_run,
    names_in,
    wait_until,
)
from trees import assert_same

from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import OutputError, Stopped
from fsae.runtime.jobs import resume
from fsae.runtime.jobs.shards import Shard

generate = SMALL.generate


# --- killed ---


def test_killed_at_random_moments(nursery: Nursery, command: Command, tmp_path: Path) -> None:
    # oracle: the run that nothing disturbed, every file of it
    assert command(*SMALL.words(tmp_path / "whole.zarr")).code == 0
    out, rng, kills = tmp_path / "out.zarr", random.Random(1), 0  # noqa: S311
    while True:
        batch = str(rng.choice([1, 2, 5, 16]))
        child = nursery.start(*SMALL.words(out, "--batch", batch, "--resume"), slow_s=0.03)
        if kills < 15:
            nursery.wait_for("working", child)
            time.sleep(rng.uniform(0, 0.09))
            signalled(child, signal.SIGKILL)
        code = nursery.wait()
        assert code in (0, -signal.SIGKILL), nursery.log.read_text()
        assert out.exists() == (code == 0)
        kills += code != 0
        if code == 0:
            assert_same(out, tmp_path / "whole.zarr")
            assert names_in(tmp_path) == ["out.zarr", "whole.zarr"]
            if kills == 15:
                break
            shutil.rmtree(out)  # faster than its killer


@pytest.mark.parametrize(("name", "shards"), [("out.zarr", 1), ("out.nc", 1), ("out.zarr", 3)])
def test_killed_at_any_file_operation(
    nursery: Nursery, command: Command, tmp_path: Path, name: str, shards: int
) -> None:
    # oracle: the undisturbed run; the process kills itself before the n-th thing it does to a file
    whole = tmp_path / f"whole{Path(name).suffix}"
    assert command(*SMALL.words(whole)).code == 0
    folder, rng, kills = tmp_path / "here", random.Random(2), 0  # noqa: S311
    folder.mkdir()
    todo = set(range(1, shards + 1))
    while todo:
        number = rng.choice(sorted(todo))
        more = ["--resume", *(["--shard", f"{number}/{shards}"] if shards > 1 else [])]
        nursery.start(*SMALL.words(folder / name, *more), fatal=rng.randrange(3, 600 // min(shards, 2)), folder=folder)
        code = nursery.wait()
        assert code in (0, -signal.SIGKILL), nursery.log.read_text()
        if code == 0:
            todo.discard(number)
        kills += code != 0
        assert kills < 100
        if shards == 1 and (folder / name).exists():
            assert code == 0 or "complete" in command(*SMALL.words(folder / name, *more)).err
    assert kills >= 4
    assert_same(folder / name, whole)
    assert names_in(folder) == [name]


@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
@pytest.mark.parametrize("case", ["first", "over another", "last of three shards"])
def test_killed_while_publishing(
    nursery: Nursery,
    command: Command,
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    case: str,
) -> None:
    # oracle: the undisturbed run; every unit is there, and the process dies at each of a sample of its last operations
    whole, ready, zarr_out = tmp_path / f"whole{Path(name).suffix}", tmp_path / "ready", name == "out.zarr"
    generate(emulator, whole)
    ready.mkdir()
    more = ["--resume"]
    if case == "last of three shards":
        for number in (1, 2):
            generate(emulator, ready / name, Shard(number, 3))
        more += ["--shard", "3/3"]
    else:
        with monkeypatch.context() as patch:
            patch.setattr(resume, "publish", lambda *given: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
            with pytest.raises(OutputError, match=f"broken; {FIELDS} of {FIELDS} fields are kept"):
                generate(emulator, ready / name)
    if case == "over another":
        earlier = ready / f"earlier{Path(name).suffix}"
        emulator.generate_file(earlier, Request(members=1, steps=1))
        earlier.rename(ready / name)
        more += ["--overwrite"]
    shutil.copytree(ready, tmp_path / "count")
    nursery.start(*SMALL.words(tmp_path / "count" / name, *more), fatal=-1, folder=tmp_path / "count")
    assert nursery.wait() == 0
    count = int(nursery.log.read_text().split()[-1])
    for fatal in [
        count // 2,
        *(range(count - 16, count + 1, 2) if zarr_out else (count - 25, count - 9, count - 4, count)),
    ]:
        folder = tmp_path / f"copy{fatal}"
        shutil.copytree(ready, folder)
        nursery.start(*SMALL.words(folder / name, *more), fatal=fatal, folder=folder)
        assert nursery.wait() == -signal.SIGKILL
        said = command(*SMALL.words(folder / name, *more[:1], *more[1:] * (case != "over another")))
        if said.code != 0:  # the old output stood there still
            assert case == "over another"
            assert "another run" in said.err or "cannot be read" in said.err
            assert command(*SMALL.words(folder / name, *more)).code == 0
        if case == "last of three shards":  # whoever comes finds it complete
            assert command(*SMALL.words(folder / name, "--resume", "--shard", "1/3")).code == 0
        assert_same(folder / name, whole)
        assert names_in(folder) == [name], fatal
        shutil.rmtree(folder)


# --- stopped ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_stopped_by_a_signal_and_resumed(
    nursery: Nursery, command: Command, tmp_path: Path, number: int, name: str
) -> None:  # oracle: the undisturbed run
    out, whole = tmp_path / name, tmp_path / f"whole-{name}"
    assert command(*SMALL.words(whole)).code == 0
    child = nursery.start(*SMALL.words(out), slow_s=0.1)
    wait_until(lambda: finished(out) >= 20, "some fields")
    assert signalled(child, number)
    assert nursery.wait() == Stopped.exit_code
    last = nursery.log.read_text().splitlines()[-1]
    assert last.startswith("fsae-run: stopped; ")
    assert f" of {FIELDS} fields are kept in {out}.partial: the same command with --resume goes on" in last
    assert not out.exists()
    said = command(*SMALL.words(out, "--resume"))
    assert said.code == 0
    assert f"going on with {out}.partial: " in said.err
    assert_same(out, whole)


def test_stopped_before_anything_is_finished(nursery: Nursery, tmp_path: Path) -> None:
    child = nursery.start(*SMALL.words(tmp_path / "out.zarr"), slow_s=60)
    nursery.wait_for("working", child)
    assert signalled(child, signal.SIGTERM)
    assert nursery.wait() == 130
    assert nursery.log.read_text().splitlines()[-1] == "fsae-run: interrupted; nothing was finished"
    assert list(tmp_path.iterdir()) == []


def test_another_batch_goes_on_with_the_same_members(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the undisturbed run, and that no unit is computed twice
    generate(emulator, tmp_path / "whole.zarr")
    interrupted_run(emulator, tmp_path / "out.zarr", 23)  # of the second batch three members have three windows
    calls = count_decoded(monkeypatch)
    generate(emulator, tmp_path / "out.zarr", resume=True, batch=16)
    assert len(calls) == 48 - 23
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file is closed by its finaliser
def test_signals_in_a_storm_neither_block_nor_lose(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the undisturbed run; SIGINT comes at moments of its own choosing, again and again
    generate(emulator, tmp_path / "whole.zarr")
    out, rng, stops = tmp_path / "out.zarr", random.Random(5), 0  # noqa: S311
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for attempt in range(300):  # ever longer, so that a busy machine too comes to an end
            timer = threading.Timer(rng.uniform(0.005, 0.1 + attempt / 100), os.kill, [os.getpid(), signal.SIGINT])
            timer.start()
            try:
                with contextlib.suppress(Stopped):
                    generate(emulator, out, resume=True)
                    timer.cancel()
                timer.join()
            except KeyboardInterrupt:
                pass
            stops += 1
            if out.exists():
                break
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert stops > 1
    assert_same(out, tmp_path / "whole.zarr")
