"""Signals that come again, and two writers of one output."""

import contextlib
import errno
import itertools
import os
import platform
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from nursery import Nursery, signalled
from runs import (
    LIMIT_S,
    SMALL,
    Command,
    Ensemble,
    finished,
    names_in,
    wait_until,
)
from trees import assert_same

from fsae.runtime.emulator import Emulator
from fsae.runtime.errors import OutputError
from fsae.runtime.jobs import chunks, lock, resume
from fsae.runtime.jobs.lock import TakenOver, holder, locked
from fsae.runtime.ownership import remove_folder
from fsae.runtime.signals import termination_as_interrupt

# --- signals that come again ---


def test_a_signal_that_comes_again_changes_nothing() -> None:  # oracle: the order of events
    events, before = [], [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with termination_as_interrupt():
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                events.append("stopped")
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            events.append("cleaned up")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with termination_as_interrupt(whole_process=True):
            pass
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        events.append("ended")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with termination_as_interrupt():
            signal.raise_signal(signal.SIGINT)  # a job in the background
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert events == ["stopped", "cleaned up", "ended"]


# --- two writers ---


def test_two_writers_are_refused(nursery: Nursery, command: Command, tmp_path: Path) -> None:
    # oracle: the kernel's lock, held by another process, and by none once that is killed
    out = tmp_path / "out.zarr"
    child = nursery.start(*SMALL.words(out), slow_s=5)
    wait_until(lambda: finished(out) > 0, "some fields")
    for more in ([], ["--resume"], ["--overwrite"]):
        said = command(*SMALL.words(out, *more))
        assert said.code == OutputError.exit_code, said.err
        assert re.search(rf"out\.zarr\.partial(/shards/1-of-1)? is being written by process {child} on ", said.err)
    assert signalled(child, signal.SIGKILL)
    assert nursery.wait() == -signal.SIGKILL
    assert command(*SMALL.words(out, "--resume")).code == 0


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:  # oracle: a counter that only one may raise
    inside, most, done = [0], [0], [0]
    refused: list[str] = []
    tried: list[int] = []

    def contend() -> None:
        for number in itertools.count():
            if number >= 200 and done[0] > 50:  # however busy the machine
                return
            tried.append(number)
            try:
                with locked(tmp_path / "folder"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.0001)
                    inside[0] -= 1
                    done[0] += 1
            except OutputError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert done[0] + len(refused) == len(tried) >= 800
    assert [text for text in refused if "is being written by" not in text] == []  # as of a folder that has just gone
    assert done[0] > 50
    with locked(tmp_path / "folder"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_while_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the order of events, in which another run ends just when its folder was found
    folder, make, calls = tmp_path / "folder", lock.make_folder, []
    make(folder)

    def gone(path: Path) -> str:
        calls.append(path)
        try:
            return make(path)
        except FileExistsError:
            remove_folder(folder)
            raise

    monkeypatch.setattr(lock, "make_folder", gone)
    with locked(folder):
        assert folder.is_dir()
    assert calls == [folder, folder]


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(number: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file/folder: Not a directory: check that it has space and is yours"):
        locked(tmp_path / "file" / "folder").__enter__()
    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(OutputError, match="its file system has no locks"), locked(tmp_path / "folder"):
        pass


# --- locks that only one host sees ---


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that are always had, as by processes of two hosts on a file system that does not pass locks on."""
    monkeypatch.setattr(lock, "lock_descriptor", lambda number, blocking: True)


def test_who_is_superseded_knows(no_locks: None, tmp_path: Path) -> None:  # oracle: the order of events
    with locked(tmp_path / "folder") as first:
        first.check()
        with locked(tmp_path / "folder") as second:
            second.check()
            with pytest.raises(TakenOver, match=r"another process has taken over .*/folder, .*: let one process write"):
                first.check()
            assert holder(tmp_path / "folder") == f"process {os.getpid()} on {platform.node()}"
        assert not first.is_current()


@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
@pytest.mark.parametrize("later_s", [0.0, 0.01, 0.1, 0.2])
def test_without_locks_one_of_two_publishes(
    no_locks: None,
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    later_s: float,
) -> None:  # oracle: the undisturbed run
    whole, out, said, published = tmp_path / f"whole-{name}", tmp_path / name, list[str](), list[int]()
    SMALL.generate(emulator, whole)
    publish = resume.publish
    monkeypatch.setattr(resume, "publish", lambda *given: (publish(*given), published.append(1)))

    def run(wait_s: float) -> None:
        time.sleep(wait_s)
        try:
            SMALL.generate(emulator, out, resume=True)
        except OutputError as error:
            said.append(str(error))

    threads = [threading.Thread(target=run, args=(wait_s,)) for wait_s in (0.0, later_s)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert published == [1], said
    assert len(said) <= 1
    assert_same(out, whole)
    assert names_in(tmp_path) == sorted([whole.name, out.name])


TINY = Ensemble(members=1, steps=3, batch=1)


@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
@pytest.mark.parametrize("where", ["is_complete", "open_run", "open_ledger", "make_store", "check_units", "damage_of"])
def test_who_is_overtaken_at_any_step_leaves_nothing(
    no_locks: None, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:  # oracle: the undisturbed run; another one does everything just before the step
    whole, out, calls = tmp_path / f"whole-{name}", tmp_path / name, list[int]()
    TINY.generate(emulator, whole)
    home = chunks if (where, name) == ("damage_of", "out.nc") else resume
    step = getattr(home, where)

    def overtaken(*given: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            TINY.generate(emulator, out, resume=True)
        return step(*given, **named)

    monkeypatch.setattr(home, where, overtaken)
    with contextlib.suppress(TakenOver):
        TINY.generate(emulator, out, resume=True)
    assert len(calls) >= 2 or (where, name) == ("damage_of", "out.zarr")
    assert_same(out, whole)
    assert names_in(tmp_path) == sorted([whole.name, out.name])


@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_who_looked_before_another_published_finds_the_output(
    no_locks: None, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # oracle: the undisturbed run, and the order of events
    whole, out, said = tmp_path / f"whole-{name}", tmp_path / name, list[str]()
    TINY.generate(emulator, whole)
    looked, there = threading.Event(), threading.Event()
    publish, is_complete = resume.publish, resume.is_complete

    def second() -> None:
        try:
            TINY.generate(emulator, out, resume=True)
        except OutputError as error:
            said.append(str(error))

    other = threading.Thread(target=second)

    def publish_late(*given: object) -> None:
        if not there.is_set():
            other.start()
            assert looked.wait(LIMIT_S)
        publish(*given)
        there.set()

    def look_early(*given: object) -> bool:
        found = is_complete(*given)
        if threading.current_thread() is other and not looked.is_set():
            looked.set()
            assert there.wait(LIMIT_S)
        return found

    monkeypatch.setattr(resume, "publish", publish_late)
    monkeypatch.setattr(resume, "is_complete", look_early)
    TINY.generate(emulator, out, resume=True)
    other.join()
    assert said == []
    assert_same(out, whole)
    assert names_in(tmp_path) == sorted([whole.name, out.name])
