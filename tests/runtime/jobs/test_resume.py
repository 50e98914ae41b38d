"""Runs that are killed, stopped, or fail at any moment, and go on: the bytes of a run that nothing disturbed."""

import contextlib
import errno
import itertools
import os
import random
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from nursery import Nursery, signalled
from runs import (
    LIMIT_S,
    Command,
    Ensemble,
    convert,
    count_decoded,
    fail_after,
    finished,
    names_in,
    source_for,
    wait_until,
)
from trees import assert_same, tree

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import OutputError, Stopped, ToleranceError, UsageError
from fsae.runtime.jobs import ledger, resume, writer
from fsae.runtime.jobs.job import Writing
from fsae.runtime.jobs.ledger import open_ledger
from fsae.runtime.jobs.lock import locked
from fsae.runtime.jobs.shards import Shard
from fsae.runtime.output import files as stores
from fsae.runtime.output.layout import Unit
from fsae.runtime.output.netcdf import NetcdfStore
from fsae.runtime.output.zarr import ZarrStore
from fsae.runtime.signals import termination_as_interrupt, uninterrupted

SMALL = Ensemble(members=12, steps=12, batch=5)  # 48 units

FIELDS = SMALL.fields

generate = SMALL.generate


def interrupted_run(emulator: Emulator, path: Path, units: int) -> None:
    """A run that was stopped after that many units."""
    with pytest.MonkeyPatch.context() as patch:
        fail_after(patch, units, KeyboardInterrupt())
        with pytest.raises(Stopped, match=rf"stopped; {3 * units} of {FIELDS} fields are kept in \S+ the same command"):
            generate(emulator, path)


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
        nursery.start(*SMALL.words(folder / name, *more), fatal=rng.randrange(3, 300), folder=folder)
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
            patch.setattr(resume, "publish", lambda partial, path: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
            with pytest.raises(OutputError, match=f"broken; {FIELDS} of {FIELDS} fields are kept"):
                generate(emulator, ready / name)
    if case == "over another":
        emulator.generate_file(ready / "old", Request(members=1, steps=1))
        (ready / "old").rename(ready / name) if zarr_out else (ready / name).write_bytes(b"old")
        shutil.rmtree(ready / "old", ignore_errors=True)
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


# --- what is asked for ---


def test_an_unfinished_run_is_never_lost_unasked(emulator: Emulator, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    interrupted_run(emulator, out, 7)
    before = tree(tmp_path)
    for other in ({}, {"seed": 4}):  # the same request and another one
        with pytest.raises(OutputError, match=rf"an unfinished run, 21 of {FIELDS} fields: --resume goes on with it"):
            generate(emulator, out, **other)
    assert tree(tmp_path).keys() == before.keys()
    with uninterrupted(), pytest.raises(OutputError, match="unfinished run"), stores.open_store(out, {}):
        pass
    emulator.generate_file(out, Request(members=2, steps=3), writing=Writing(overwrite=True))
    with xr.open_dataset(out, engine="zarr") as found:
        assert dict(found["tas"].sizes) == {"realization": 2, "time": 3, "cell": 192}
    assert names_in(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--seed", "4"), r"request: seed \(3 there, 4 here\)"),
        (("--steps", "11"), r"request: steps \(12 there, 11 here\)"),
        (("--member-ids", "0-10,12"), "request: members"),
        (("--grid", "source"), r"request: grid \(\"native\" there, \"source\" here\)"),
        (("--forcing", "1990.5"), "request: forcing"),
    ],
)
def test_another_request_is_refused(
    emulator: Emulator, command: Command, tmp_path: Path, change: tuple[str, ...], message: str
) -> None:
    interrupted_run(emulator, tmp_path / "out.zarr", 5)
    words = SMALL.words(tmp_path / "out.zarr", "--resume", *change)
    if change[0] == "--member-ids":
        del words[1:3]  # --members
    said = command(*words)
    assert said.code == UsageError.exit_code
    assert re.search(message, said.err.splitlines()[-1])
    assert finished(tmp_path / "out.zarr") == 15


def test_other_versions_and_inputs_are_refused(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_run(emulator, tmp_path / "out.zarr", 5)
    with monkeypatch.context() as patch:
        patch.setattr(OnnxGraphs, "backend", "onnxruntime 0.1", raising=False)
        emulator.graphs.backend = "onnxruntime 0.1"
        with pytest.raises(UsageError, match="fsae_versions"):
            generate(emulator, tmp_path / "out.zarr", resume=True)


def test_another_input_of_the_same_name_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    fields = emulator.generate(Request(members=2, steps=30, start="1990-01"))
    fields.to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    whole = emulator.compress_file(tmp_path / "in.nc", tmp_path / "whole.zarr", climatology="training")
    assert whole.fields == 60
    encode, calls = OnnxGraphs.encode, [0]

    def stopping(self: OnnxGraphs, *given: np.ndarray) -> np.ndarray:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return encode(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxGraphs, "encode", stopping)
        with pytest.raises(Stopped, match="24 of 60 fields"):
            emulator.compress_file(tmp_path / "in.nc", tmp_path / "out.zarr", climatology="training")
    stat = (tmp_path / "in.nc").stat()
    os.utime(tmp_path / "in.nc", ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    with pytest.raises(UsageError, match="file of the input"):
        emulator.compress_file(
            tmp_path / "in.nc", tmp_path / "out.zarr", climatology="training", writing=Writing(resume=True)
        )
    os.utime(tmp_path / "in.nc", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    emulator.compress_file(
        tmp_path / "in.nc", tmp_path / "out.zarr", climatology="training", writing=Writing(resume=True)
    )
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


@pytest.mark.parametrize("verb", ["decompress", "superres"])
def test_the_other_verbs_go_on_too(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:  # oracle: the undisturbed run, and that no step is decoded twice
    source = source_for(emulator, verb, tmp_path)
    convert(emulator, verb, source, tmp_path / "whole.zarr")
    with monkeypatch.context() as patch:
        fail_after(patch, 4, KeyboardInterrupt())
        with pytest.raises(Stopped, match="42 of 60 fields"):  # chunks of 12, 12 and 6 steps
            convert(emulator, verb, source, tmp_path / "out.zarr")
    fail_after(monkeypatch, 2, AssertionError("decoded twice"))
    convert(emulator, verb, source, tmp_path / "out.zarr", resume=True)
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


def test_resume_can_always_be_said(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    said = command(*SMALL.words(out, "--resume"))
    assert said.code == 0
    assert f"there is no unfinished run at {out}.partial: starting from the beginning" in said.err
    before = out.read_bytes()
    said = command(*SMALL.words(out, "--resume"))
    assert said.code == 0
    assert f"{out} is complete: nothing was left to do" in said.err
    assert out.read_bytes() == before
    said = command(*SMALL.words(out, "--resume", "--seed", "9"))
    assert said.code == OutputError.exit_code
    assert "another run, which differs in fsae_seed (3 there, 9 here); request: seed (3 there, 9 here)" in said.err
    assert command(*SMALL.words(out)).code == OutputError.exit_code
    assert names_in(tmp_path) == ["out.nc"]


@pytest.mark.parametrize("loss", ["gone", "empty", "all"])
@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_units_whose_chunks_are_lost_are_made_again(
    emulator: Emulator, tmp_path: Path, name: str, loss: str
) -> None:  # oracle: the undisturbed run
    whole, out = tmp_path / f"whole{Path(name).suffix}", tmp_path / name
    generate(emulator, whole)
    interrupted_run(emulator, out, 5)
    chunks = sorted(path for path in (tmp_path / f"{name}.partial").glob("fields.zarr/*as/c/**/*") if path.is_file())
    assert len(chunks) >= 10
    for chunk in chunks if loss == "all" else (chunks[0], chunks[7]):
        chunk.write_bytes(b"") if loss == "empty" else chunk.unlink()
    generate(emulator, out, resume=True)
    assert_same(out, whole)


def test_a_damaged_run_is_refused(emulator: Emulator, tmp_path: Path) -> None:  # oracle: the undisturbed run
    out, partial = tmp_path / "out.zarr", tmp_path / "out.zarr.partial"
    generate(emulator, tmp_path / "whole.zarr")
    for lost, named in (("fields.zarr/lat", "lat"), ("fields.zarr", "all")):
        interrupted_run(emulator, out, 3)
        shutil.rmtree(partial / lost)
        with pytest.raises(
            OutputError, match=rf"is damaged \(fields.zarr lacks {named}\): start again with --overwrite"
        ):
            generate(emulator, out, resume=True)
        generate(emulator, out, overwrite=True)
        assert_same(out, tmp_path / "whole.zarr")
        shutil.rmtree(out)


@pytest.mark.parametrize("record", ["", '{"format": 1, "fields": 144, "identity": {}}', "[]"])
def test_a_run_that_cannot_be_read_is_not_swept_away(emulator: Emulator, tmp_path: Path, record: str) -> None:
    # oracle: the files before
    interrupted_run(emulator, tmp_path / "out.zarr", 3)
    (tmp_path / "out.zarr.partial" / "run.json").write_text(record)
    before = tree(tmp_path)
    for again in (False, True):
        with pytest.raises(OutputError, match="an unfinished run of another version, or damaged: --overwrite starts"):
            generate(emulator, tmp_path / "out.zarr", resume=again)
    assert tree(tmp_path) == before
    generate(emulator, tmp_path / "out.zarr", overwrite=True)
    assert names_in(tmp_path) == ["out.zarr"]


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
    # oracle: the order of events, in which another run ends between the two looks of `mkdir`
    folder, make, calls = tmp_path / "folder", os.mkdir, []
    folder.mkdir()

    def gone(path: Path, mode: int = 0o777) -> None:
        calls.append(path)
        try:
            make(path, mode)
        except FileExistsError:
            folder.rmdir()
            raise

    monkeypatch.setattr(os, "mkdir", gone)
    with locked(folder):
        assert folder.is_dir()
    assert calls == [folder, folder]


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(number: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file/folder: Not a directory; is there space, and is it yours"):
        locked(tmp_path / "file" / "folder").__enter__()
    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(OutputError, match="its file system has no locks"), locked(tmp_path / "folder"):
        pass


# --- failures ---


def test_a_failed_write_ends_the_run_at_once_and_keeps_the_rest(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the undisturbed run; what is computed after the failure counts
    generate(emulator, tmp_path / "whole.zarr")
    write, units = ZarrStore.write, [0]

    def full(self: ZarrStore, name: str, place: tuple[slice, ...], values: np.ndarray) -> None:
        assert threading.current_thread() is not threading.main_thread()
        units[0] += name == "tas"
        if units[0] == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, place, values)

    with monkeypatch.context() as patch:
        patch.setattr(ZarrStore, "write", full)
        computed = count_decoded(patch)
        with pytest.raises(OutputError, match=rf"cannot write \S+: No space left on device; 27 of {FIELDS} fields are"):
            generate(emulator, tmp_path / "out.zarr")
    assert len(computed) <= 10 + writer.WAITING + 1
    assert units[0] == 10
    generate(emulator, tmp_path / "out.zarr", resume=True)
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


def test_a_full_disk_at_the_ledger_or_the_last_file_loses_nothing(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the undisturbed run
    generate(emulator, tmp_path / "whole.nc")
    record, calls = ledger.Ledger.record, [0]

    def torn(self: ledger.Ledger, unit: Unit) -> None:
        calls[0] += 1
        if calls[0] == 6:
            with (self.folder / ledger.LOG).open("ab") as log:
                log.write(b"[1, 3, ")  # all that went on the disk
            raise OSError(errno.ENOSPC, "No space left on device")
        record(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "record", torn)
        with pytest.raises(OutputError, match=f"No space left on device; 15 of {FIELDS} fields are kept"):
            generate(emulator, tmp_path / "out.nc")

    def full(self: NetcdfStore, name: str, place: tuple[slice, ...], values: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(NetcdfStore, "write", full)
        with pytest.raises(OutputError, match=f"{FIELDS} of {FIELDS} fields are kept"):
            generate(emulator, tmp_path / "out.nc", resume=True)
    assert not (tmp_path / "out.nc.partial" / resume.ASSEMBLED).exists()
    fail_after(monkeypatch, 0, AssertionError("decoded again"))
    generate(emulator, tmp_path / "out.nc", resume=True)
    assert_same(tmp_path / "out.nc", tmp_path / "whole.nc")


def test_values_outside_what_is_allowed_keep_what_is_finished(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = OnnxGraphs.decode, [0]

    def broken(self: OnnxGraphs, latent: np.ndarray, season: np.ndarray) -> np.ndarray:
        calls[0] += 1
        return decode(self, latent, season) * (np.nan if calls[0] == 9 else 1)

    monkeypatch.setattr(OnnxGraphs, "decode", broken)
    with pytest.raises(ToleranceError, match=f"not finite.*; 24 of {FIELDS} fields are kept in"):
        generate(emulator, tmp_path / "out.zarr")
    monkeypatch.setattr(OnnxGraphs, "decode", decode)
    generate(emulator, tmp_path / "out.zarr", resume=True)


def test_other_failures_say_what_is_kept(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(monkeypatch, 2, MemoryError())
    with pytest.raises(MemoryError) as caught:
        generate(emulator, tmp_path / "out.zarr")
    assert caught.value.__notes__ == [
        f"6 of {FIELDS} fields are kept in {tmp_path / 'out.zarr'}.partial: the same command with --resume goes on"
    ]
    fail_after(monkeypatch, 0, MemoryError())
    with pytest.raises(MemoryError):
        generate(emulator, tmp_path / "other.zarr")
    assert names_in(tmp_path) == ["out.zarr.partial"]


# --- the ledger ---


@pytest.mark.parametrize("damage", ["torn line", "line without its end", "no state", "other state"])
def test_a_damaged_ledger_costs_work_and_no_bytes(emulator: Emulator, tmp_path: Path, damage: str) -> None:
    # oracle: the undisturbed run
    generate(emulator, tmp_path / "whole.zarr")
    interrupted_run(emulator, tmp_path / "out.zarr", 13)
    place = tmp_path / "out.zarr.partial" / "shards" / "1-of-1"
    log, states = place / ledger.LOG, sorted((place / ledger.STATES).iterdir())
    assert len(states) == 5  # one for each member of the batch of five
    if "line" in damage:
        log.write_bytes(log.read_bytes()[: -20 if damage == "torn line" else -1])
    elif damage == "no state":
        states[0].unlink()
    else:
        np.save(states[1], np.load(states[1]) + 1)
    found = open_ledger(place, lambda line: True)
    assert found.fields == (36 if "line" in damage else 39)
    assert (found.steps(0), found.steps(1)) == (0 if damage == "no state" else 9, 0 if damage == "other state" else 9)
    generate(emulator, tmp_path / "out.zarr", resume=True)
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


def test_the_unfinished_store_can_be_looked_at(emulator: Emulator, tmp_path: Path) -> None:  # oracle: what is finished
    generate(emulator, tmp_path / "whole.zarr")
    interrupted_run(emulator, tmp_path / "out.zarr", 5)
    part = zarr.open_group(tmp_path / "out.zarr.partial" / resume.FIELDS, mode="r")["tas"][...]
    whole = zarr.open_group(tmp_path / "whole.zarr", mode="r")["tas"][...]
    np.testing.assert_array_equal(part[:5, :3], whole[:5, :3])
    assert np.isnan(part[5:]).all()
    assert np.isnan(part[:, 3:]).all()


# --- the writer thread ---


def unit_of(number: int) -> Unit:
    values = np.full((1, 1, 1, 4), number, dtype=np.float32)
    return Unit(members=slice(0, 1), times=slice(number, number + 1), values=values)


def test_the_writer_keeps_order_and_bounds() -> None:  # oracle: the order in, and the bound
    written: list[int] = []
    ahead: list[int] = []
    reported: list[int] = []
    queued = threading.Event()

    def write(unit: Unit) -> None:
        assert queued.wait(LIMIT_S)
        written.append(unit.times.start)

    with writer.open_writer(write, lambda unit: reported.append(unit.times.start)) as found:
        for number in range(30):
            found.add(unit_of(number))
            ahead.append(number + 1 - len(written))
            if len(ahead) == writer.WAITING:
                queued.set()
    assert written == reported == list(range(30))
    assert writer.WAITING <= max(ahead) <= writer.WAITING + 1


@pytest.mark.parametrize("broken", [False, True])
def test_a_failure_loses_nothing_that_was_computed_and_writes_nothing_after_it(broken: bool) -> None:
    # oracle: the units before; the next one cannot be computed, or one cannot be written
    tried: list[int] = []

    def write(unit: Unit) -> None:
        tried.append(unit.times.start)
        time.sleep(0.01)
        if broken and unit.times.start == 2:
            raise OutputError("full")

    def work() -> None:
        with writer.open_writer(write, lambda unit: None) as found:
            for number in range(100 if broken else 3):
                found.add(unit_of(number))
            raise ZeroDivisionError

    with pytest.raises(OutputError if broken else ZeroDivisionError):
        work()
    assert tried == [0, 1, 2]


@pytest.mark.parametrize("broken", [False, True])
def test_what_begins_is_done_before_the_first_write_and_its_failure_ends_all(broken: bool) -> None:
    # oracle: the order of events; the thread that adds does not wait for the beginning
    events: list[object] = []
    added = threading.Event()

    def begin() -> None:
        assert added.wait(LIMIT_S)
        events.append("begun")
        if broken:
            raise OutputError("no room")

    def written(unit: Unit) -> None:
        events.append("reported")

    with (
        pytest.raises(OutputError, match="no room") if broken else contextlib.nullcontext(),
        writer.open_writer(lambda unit: events.append(unit.times.start), written) as found,
    ):
        found.begin(begin)
        found.add(unit_of(0))
        events.append("added")
        added.set()
    assert events == ["added", "begun", *([] if broken else [0, "reported"])]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file is closed by its finaliser
def test_signals_in_a_storm_neither_block_nor_lose(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the undisturbed run; SIGINT comes at moments of its own choosing, again and again
    generate(emulator, tmp_path / "whole.zarr")
    out, rng, stops = tmp_path / "out.zarr", random.Random(5), 0  # noqa: S311
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(300):
            timer = threading.Timer(rng.uniform(0.005, 0.1), os.kill, [os.getpid(), signal.SIGINT])
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
