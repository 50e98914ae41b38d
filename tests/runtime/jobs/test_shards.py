"""Output made in shards, by processes in any order: the bytes of one process, published once."""

import contextlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from runs import Command, Ensemble, convert, count_decoded, fail_after, names_in, source_for
from trees import assert_same, tree

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import OutputError, Stopped, UsageError
from fsae.runtime.jobs import resume
from fsae.runtime.jobs.job import Writing
from fsae.runtime.jobs.ledger import read_run
from fsae.runtime.jobs.lock import locked
from fsae.runtime.jobs.shards import Part, Pieces, Shard, pieces_of, read_shard

SMALL = Ensemble(members=7, steps=8, batch=2)

generate = SMALL.generate


@pytest.fixture(scope="module")
def whole(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one process."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    generate(Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1)), path)
    return path


# --- parts ---


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("count", [1, 3, 8, 50])
def test_every_unit_belongs_to_one_part(chained: bool, count: int) -> None:  # oracle: the list of all units
    pieces = Pieces(members=3, steps=14, chunk=4, chained=chained)
    parts = [Shard(number, count).part(pieces.count) for number in range(1, count + 1)]
    units = [(member, first) for member in range(3) for first in range(0, 14, 4)]
    owners = [[not Part(pieces=pieces, own=own).has(*unit) for own in parts] for unit in units]
    assert all(sum(row) == 1 for row in owners)
    lengths = [min(4, 14 - first) for _, first in units]
    for column, own in enumerate(parts):
        made = [row[column] for row in owners]
        assert pieces.fields(own) == sum(length for length, mine in zip(lengths, made, strict=True) if mine)
        if chained:
            steps = [Part(pieces=pieces, own=own).steps(member) for member in range(3)]
            assert [left == 0 for left in steps] == [made[4 * member] for member in range(3)]
    assert [(member, times.start) for member, times in pieces.places()] == [
        unit for unit in units if not chained or unit[1] == 0
    ]


@pytest.mark.parametrize("text", ["0/3", "3/2", "1/0", "3", "a/b", "-1/3", "1/3/5", "", "1 / 3"])
def test_shards_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected [13]/8"):
        read_shard(text, {})


def test_the_place_in_an_array() -> None:  # oracle: what SLURM's manual says of its variables
    def environment(task: int, least: int, most: int, count: int, step: int = 1) -> dict[str, str]:
        values = {"ID": task, "MIN": least, "MAX": most, "COUNT": count, "STEP": step}
        return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}

    assert read_shard("auto", environment(0, 0, 7, 8)) == Shard(1, 8)
    assert read_shard("auto", environment(8, 1, 8, 8)) == Shard(8, 8)
    assert read_shard("auto", environment(5, 2, 8, 3, step=3)) == Shard(2, 3)
    for broken in ({}, environment(3, 1, 7, 3), environment(3, 1, 7, 4, step=3), environment(9, 1, 8, 8)):
        with pytest.raises(UsageError, match=r"--shard auto .*: (start the job with|give) .*i/n"):
            read_shard("auto", broken)


# --- the same bytes ---


@pytest.mark.parametrize(("name", "count"), [("out.zarr", 1), ("out.zarr", 9), ("out.nc", 3)])  # 9: two are empty
def test_shards_in_any_order_give_the_bytes_of_one_process(
    emulator: Emulator, tmp_path: Path, name: str, count: int
) -> None:  # oracle: one process
    generate(emulator, tmp_path / f"whole-{name}")
    order = list(range(1, count + 1))
    random.Random(count).shuffle(order)  # noqa: S311
    for place, number in enumerate(order):
        assert not (tmp_path / name).exists()
        job = generate(emulator, tmp_path / name, Shard(number, count))
        # a shard without fields is complete before it runs
        left = {n for n in order[place + 1 :] if n * SMALL.members // count > (n - 1) * SMALL.members // count}
        assert set(job.missing) == left
        if not left:
            break
        run = read_run(tmp_path / f"{name}.partial")
        assert run is not None
        assert run.count == count
        assert {shard.number for shard in run.missing()} == left
    assert_same(tmp_path / name, tmp_path / f"whole-{name}")
    assert names_in(tmp_path) == sorted([name, f"whole-{name}"])


@pytest.mark.parametrize(
    ("verb", "members"), [("compress", None), ("compress", 2), ("decompress", 2), ("superres", None)]
)
def test_the_other_verbs_in_shards(emulator: Emulator, tmp_path: Path, verb: str, members: int | None) -> None:
    # oracle: one process; four shards divide the three chunks of each member unevenly
    source = source_for(emulator, verb, tmp_path, members)
    convert(emulator, verb, source, tmp_path / "whole.zarr")
    for number in (4, 2, 1, 3):
        job = convert(emulator, verb, source, tmp_path / "out.zarr", Shard(number, 4))
    assert job.missing == ()
    assert pieces_of(job).count == 3 * (members or 1)
    assert tree(tmp_path / "out.zarr") == tree(tmp_path / "whole.zarr")


def test_shards_at_the_same_time_publish_once(
    emulator: Emulator, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: one process; the shards begin together, and look together who is complete
    count, published = 5, []
    start, end = threading.Barrier(count), threading.Barrier(count)
    publish, write = resume.publish_run, resume.write_shard
    monkeypatch.setattr(resume, "publish_run", lambda *given: (published.append(1), publish(*given))[1])
    monkeypatch.setattr(resume, "write_shard", lambda *given: (write(*given), end.wait(120))[0])

    def run(number: int) -> tuple[int, ...]:
        start.wait(120)
        return generate(emulator, tmp_path / "out.zarr", Shard(number, count)).missing

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(run, range(1, count + 1))) == [()] * count
    assert published == [1]
    assert tree(tmp_path / "out.zarr") == tree(whole)
    assert names_in(tmp_path) == ["out.zarr"]


# --- stopped ---


def test_a_stopped_shard_goes_on_and_makes_nothing_twice(
    emulator: Emulator, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: one process, and the number of its units
    out = tmp_path / "out.zarr"
    generate(emulator, out, Shard(2, 2))
    with monkeypatch.context() as patch:
        fail_after(patch, 4, KeyboardInterrupt())
        place = r"out\.zarr\.partial/shards/1-of-2: the same command with --resume"
        with pytest.raises(Stopped, match=rf"stopped; 12 of 24 fields are kept in \S+{place}"):
            generate(emulator, out, Shard(1, 2))
    calls = count_decoded(monkeypatch)
    with pytest.raises(OutputError, match=r"an unfinished run, 12 of 24 fields of shard 1/2: --resume goes on with it"):
        generate(emulator, out, Shard(1, 2))
    assert generate(emulator, out, Shard(1, 2), resume=True).missing == ()
    assert len(calls) == 3 * 3 - 4  # three members of three windows
    assert tree(out) == tree(whole)


def test_what_is_interrupted_before_anything_is_finished_leaves_nothing(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after(monkeypatch, 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        generate(emulator, tmp_path / "out.zarr", Shard(1, 2))
    assert names_in(tmp_path) == []


# --- what is refused ---


def test_another_request_or_number_of_shards_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    generate(emulator, out, Shard(1, 3))
    before = tree(tmp_path)
    for again in (False, True):
        with pytest.raises(UsageError, match=r"request: seed \(3 there, 4 here\)"):
            generate(emulator, out, Shard(2, 3), seed=4, resume=again)
        with pytest.raises(UsageError, match=r"differs from this one in shards \(3 there, 2 here\)"):
            generate(emulator, out, Shard(2, 2), resume=again)
        with pytest.raises(OutputError, match=r"in 3 shards, 16 of 56 fields: finish it with --resume and --shard i/3"):
            generate(emulator, out, resume=again)
    assert tree(tmp_path) == before
    generate(emulator, out, overwrite=True)
    assert names_in(tmp_path) == ["out.zarr"]


def test_a_run_of_one_process_is_no_run_in_shards(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.zarr"
    with monkeypatch.context() as patch:
        fail_after(patch, 5, KeyboardInterrupt())
        with pytest.raises(Stopped):
            generate(emulator, out)
    for again in (False, True):
        with pytest.raises(OutputError, match=r"of one process, 14 of 56 fields: finish it .* and without shards"):
            generate(emulator, out, Shard(1, 2), resume=again)
    generate(emulator, out, Shard(1, 2), overwrite=True)
    assert generate(emulator, out, Shard(2, 2)).missing == ()


def test_nobody_takes_away_what_a_shard_is_at_work_on(emulator: Emulator, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    generate(emulator, out, Shard(1, 3))
    before = tree(tmp_path)
    with locked(tmp_path / "out.zarr.partial" / "shards" / "2-of-3"):
        for shard, again in ((Shard(2, 3), True), (None, False), (Shard(1, 2), False)):
            with pytest.raises(OutputError, match=r"shards/2-of-3 is being written by process \d+"):
                generate(emulator, out, shard, resume=again, overwrite=not again)
        assert generate(emulator, out, Shard(3, 3)).missing == (2,)
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before


def test_shards_wait_for_the_lock_of_the_whole(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "out.zarr.partial"
    with monkeypatch.context() as patch:
        patch.setattr(resume, "PATIENCE_S", 0.05)
        with locked(partial), pytest.raises(OutputError, match=r"out\.zarr\.partial is being written by process \d+"):
            generate(emulator, tmp_path / "out.zarr", Shard(1, 2))
    with contextlib.ExitStack() as held, ThreadPoolExecutor(1) as pool:
        held.enter_context(locked(partial))
        found = pool.submit(generate, emulator, tmp_path / "out.zarr", Shard(1, 2))
        with pytest.raises(TimeoutError):
            found.result(0.2)
        held.close()
        assert found.result(120).missing == (2,)


def test_overwriting_keeps_the_old_output_until_the_new_one_is_whole(
    emulator: Emulator, whole: Path, tmp_path: Path
) -> None:  # oracle: one process
    out = tmp_path / "out.zarr"
    generate(emulator, out, seed=9)
    old = tree(out)
    for number in (1, 3):
        generate(emulator, out, Shard(number, 3), overwrite=True)
        assert tree(out) == old
    with pytest.raises(OutputError, match="exists"):
        generate(emulator, out, Shard(2, 3))
    generate(emulator, out, Shard(2, 3), overwrite=True)
    assert tree(out) == tree(whole)
    with pytest.raises(OutputError, match="exists"):
        generate(emulator, out, Shard(2, 3))
    assert generate(emulator, out, Shard(2, 3), resume=True).missing == ()
    assert names_in(tmp_path) == ["out.zarr"]


def test_statistics_over_members_are_no_work_for_shards(emulator: Emulator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="members are needed together, as by --statistics: leave out --shard"):
        emulator.generate_file(
            tmp_path / "out.zarr", Request(members=4, statistics=["mean"]), batch=2, writing=Writing(scale=Shard(1, 2))
        )
    assert names_in(tmp_path) == []


# --- the command ---


def test_the_command_says_what_is_missing(
    command: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: one process, and which shards were made
    out = tmp_path / "out.zarr"
    for task in (3, 1, 2, 0):
        for name, value in {"ID": task, "MIN": 0, "MAX": 3, "COUNT": 4}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        said = command(*SMALL.words(out, "--shard", "auto"))
        assert said.code == 0
        if task == 3:
            assert "generated shard 4/4 of 7 members x 8 steps" in said.out
            assert f"{out} waits for the shards 1-3" in said.out
            assert "1 of 4 shards are complete; missing: 1-3" in said.err
        if task == 2:
            assert "3 of 4 shards are complete; missing: 1" in said.err
    assert f"{out} (" in said.out
    assert tree(out) == tree(whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "3/2"], "found the shard 3/2, expected 1/8 to 8/8"),
        (["--shard", "1/2", "--workers", "2"], "found --shard and --workers: give one of them"),
        (["--workers", "2", "--scheduler", "tcp://x:1"], "found --workers and --scheduler: give one of them"),
        (["--shard", "auto"], "found --shard auto outside a SLURM array"),
    ],
)
def test_the_command_refuses_what_contradicts(command: Command, tmp_path: Path, words: list[str], message: str) -> None:
    said = command(*SMALL.words(tmp_path / "out.zarr", *words))
    assert said.code == UsageError.exit_code
    assert message in said.err.splitlines()[-1]
    assert names_in(tmp_path) == []
