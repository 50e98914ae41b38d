"""Output made in shards, by processes in any order that may be killed: the bytes of one process, published once."""

import contextlib
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nursery import Nursery
from trees import assert_same, tree

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.cli.main import main
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import OutputError, Stopped, UsageError
from fsae.runtime.jobs import resume as shards
from fsae.runtime.jobs.job import Job
from fsae.runtime.jobs.ledger import read_run
from fsae.runtime.jobs.lock import locked
from fsae.runtime.jobs.shards import Part, Pieces, Shard, pieces_of, read_shard
from fsae.runtime.output.selection import Selection

MEMBERS, STEPS = 7, 8  # of windows of 3 steps
FIELDS = MEMBERS * STEPS


@pytest.fixture
def emulator(tiny_bundle: Bundle) -> Emulator:
    return Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1))


def generate(
    emulator: Emulator,
    path: Path,
    shard: Shard | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 3,
) -> Job:
    return emulator.generate_file(
        path,
        Request(members=MEMBERS, start="1990-01", steps=STEPS, seed=seed),
        batch=2,
        scale=shard,
        resume=resume,
        overwrite=overwrite,
    )


def words_of(out: Path, *more: str) -> list[str]:
    words = ["generate", "--members", MEMBERS, "--steps", STEPS, "--seed", 3, "--start", "1990-01", "--out", out, *more]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def whole(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one process."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    generate(Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1)), path)
    return path


@pytest.fixture(scope="module")
def nursery(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tiny_bundle_path, tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
    with pytest.raises(UsageError, match="expected"):
        read_shard(text, {})


def test_the_place_in_an_array() -> None:  # oracle: what SLURM's manual says of its variables
    def environment(task: int, least: int, most: int, count: int, step: int = 1) -> dict[str, str]:
        values = {"ID": task, "MIN": least, "MAX": most, "COUNT": count, "STEP": step}
        return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}

    assert read_shard("auto", environment(0, 0, 7, 8)) == Shard(1, 8)
    assert read_shard("auto", environment(8, 1, 8, 8)) == Shard(8, 8)
    assert read_shard("auto", environment(5, 2, 8, 3, step=3)) == Shard(2, 3)
    for broken in ({}, environment(3, 1, 7, 3), environment(3, 1, 7, 4, step=3), environment(9, 1, 8, 8)):
        with pytest.raises(UsageError, match=r"--shard auto .*; (start the job with|give) .*i/n"):
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
        left = {n for n in order[place + 1 :] if n * MEMBERS // count > (n - 1) * MEMBERS // count}
        assert set(job.missing) == left
        if not left:
            break
    assert_same(tmp_path / name, tmp_path / f"whole-{name}")
    assert names_in(tmp_path) == sorted([name, f"whole-{name}"])


@pytest.mark.parametrize(
    ("verb", "members"), [("compress", None), ("compress", 2), ("decompress", 2), ("superres", None)]
)
def test_the_other_verbs_in_shards(emulator: Emulator, tmp_path: Path, verb: str, members: int | None) -> None:
    # oracle: one process; four shards divide the three chunks of each member unevenly
    fields = emulator.generate(members or 1, start="1990-01", steps=30)
    if members is None:
        fields = fields.isel(realization=0, drop=True)
    fields.to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    source = tmp_path / "in.nc"
    if verb == "decompress":
        source = tmp_path / "latents.zarr"
        emulator.compress_file(tmp_path / "in.nc", source, climatology="training")

    def run(out: str, shard: Shard | None) -> Job:
        if verb == "decompress":
            return emulator.decompress_file(source, tmp_path / out, select=Selection(grid="source"), scale=shard)
        if verb == "compress":
            return emulator.compress_file(source, tmp_path / out, climatology="training", scale=shard)
        return emulator.superres_file(source, tmp_path / out, climatology="training", zoom=1, scale=shard)

    run("whole.zarr", None)
    pieces = 3 * (members or 1)
    for number in (4, 2, 1, 3):
        job = run("out.zarr", Shard(number, 4))
    assert job.missing == ()
    assert pieces_of(job).count == pieces
    assert tree(tmp_path / "out.zarr") == tree(tmp_path / "whole.zarr")


def test_shards_at_the_same_time_publish_once(
    emulator: Emulator, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: one process; the shards begin together, and look together who is complete
    count, published = 5, []
    start, end = threading.Barrier(count), threading.Barrier(count)
    publish, write = shards.publish_run, shards.write_shard
    monkeypatch.setattr(shards, "publish_run", lambda *given: (published.append(1), publish(*given))[1])
    monkeypatch.setattr(shards, "write_shard", lambda *given: (write(*given), end.wait(30))[0])

    def run(number: int) -> tuple[int, ...]:
        start.wait(30)
        return generate(emulator, tmp_path / "out.zarr", Shard(number, count)).missing

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(run, range(1, count + 1))) == [()] * count
    assert published == [1]
    assert tree(tmp_path / "out.zarr") == tree(whole)
    assert names_in(tmp_path) == ["out.zarr"]


# --- killed, stopped ---


def test_killed_at_any_file_operation(nursery: Nursery, tmp_path: Path, whole: Path) -> None:
    # oracle: one process; a process kills itself before the n-th thing it does to a file, joining and publishing too
    folder, rng, kills = tmp_path / "here", random.Random(4), 0  # noqa: S311
    folder.mkdir()
    todo = {1, 2, 3}
    while todo:
        number = rng.choice(sorted(todo))
        words = words_of(folder / "out.zarr", "--resume", "--shard", f"{number}/3", "--batch", "2")
        nursery.start(*words, fatal=rng.randrange(3, 300), folder=folder)
        code = nursery.wait()
        assert code in (0, -signal.SIGKILL), nursery.log.read_text()
        if code == 0:
            todo.discard(number)
        kills += code != 0
        assert kills < 60
    assert kills >= 4
    assert tree(folder / "out.zarr") == tree(whole)
    assert names_in(folder) == ["out.zarr"]


@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_killed_while_publishing(nursery: Nursery, emulator: Emulator, tmp_path: Path, name: str) -> None:
    # oracle: one process; the last shard dies at each of a sample of its last operations, and another one finishes
    generate(emulator, tmp_path / f"whole-{name}")
    ready = tmp_path / "ready"
    ready.mkdir()
    for number in (1, 2):
        generate(emulator, ready / name, Shard(number, 3))
    words = ["--resume", "--shard", "3/3"]
    shutil.copytree(ready, tmp_path / "count")
    nursery.start(*words_of(tmp_path / "count" / name, *words), fatal=-1, folder=tmp_path / "count")
    assert nursery.wait() == 0
    count = int(nursery.log.read_text().split()[-1])
    for fatal in (count - 30, count - 15, count - 5, count) if name == "out.zarr" else (count - 25, count - 3):
        folder = tmp_path / f"copy{fatal}"
        shutil.copytree(ready, folder)
        nursery.start(*words_of(folder / name, *words), fatal=fatal, folder=folder)
        assert nursery.wait() == -signal.SIGKILL
        assert generate(emulator, folder / name, Shard(3, 3), resume=True).missing == ()
        generate(emulator, folder / name, Shard(1, 3), resume=True)
        assert_same(folder / name, tmp_path / f"whole-{name}")
        assert names_in(folder) == [name], fatal


def interrupt_after(monkeypatch: pytest.MonkeyPatch, units: int) -> None:
    """The computation of the unit after so many is interrupted."""
    decode, calls = OnnxGraphs.decode, [0]

    def failing(self: OnnxGraphs, latent: np.ndarray, season: np.ndarray) -> np.ndarray:
        calls[0] += 1
        if calls[0] > units:
            raise KeyboardInterrupt
        return decode(self, latent, season)

    monkeypatch.setattr(OnnxGraphs, "decode", failing)


def test_a_stopped_shard_goes_on_and_makes_nothing_twice(
    emulator: Emulator, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: one process, and the number of its units
    out = tmp_path / "out.zarr"
    generate(emulator, out, Shard(2, 2))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        place = r"out\.zarr\.partial/shards/1-of-2: the same command with --resume"
        with pytest.raises(Stopped, match=rf"stopped; 12 of 24 fields are kept in \S+{place}"):
            generate(emulator, out, Shard(1, 2))
    calls: list[int] = []
    decode = OnnxGraphs.decode
    monkeypatch.setattr(OnnxGraphs, "decode", lambda *given: (calls.append(1), decode(*given))[1])
    with pytest.raises(OutputError, match=r"12 of 24 fields of shard 1/2: --resume goes on with it"):
        generate(emulator, out, Shard(1, 2))
    assert generate(emulator, out, Shard(1, 2), resume=True).missing == ()
    assert len(calls) == 3 * 3 - 4  # three members of three windows
    assert tree(out) == tree(whole)


def test_what_is_interrupted_before_anything_is_finished_leaves_nothing(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        generate(emulator, tmp_path / "out.zarr", Shard(1, 2))
    assert names_in(tmp_path) == []


# --- what is refused ---


def test_another_request_or_number_of_shards_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    generate(emulator, out, Shard(1, 3))
    before = tree(tmp_path)
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"request: seed \(3 there, 4 here\)"):
            generate(emulator, out, Shard(2, 3), seed=4, resume=resume)
        with pytest.raises(UsageError, match=r"shards \(3 there, 2 here\)"):
            generate(emulator, out, Shard(2, 2), resume=resume)
        with pytest.raises(OutputError, match=r"in 3 shards, 16 of 56 fields: finish it with --resume and --shard i/3"):
            generate(emulator, out, resume=resume)
    assert tree(tmp_path) == before
    generate(emulator, out, overwrite=True)
    assert names_in(tmp_path) == ["out.zarr"]


def test_a_run_of_one_process_is_no_run_in_shards(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.zarr"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(Stopped):
            generate(emulator, out)
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"an unfinished run of one process, 14 of 56 fields"):
            generate(emulator, out, Shard(1, 2), resume=resume)
    generate(emulator, out, Shard(1, 2), overwrite=True)
    assert generate(emulator, out, Shard(2, 2)).missing == ()


def test_nobody_takes_away_what_a_shard_is_at_work_on(emulator: Emulator, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    generate(emulator, out, Shard(1, 3))
    before = tree(tmp_path)
    with locked(tmp_path / "out.zarr.partial" / "shards" / "2-of-3"):
        with pytest.raises(OutputError, match=r"shards/2-of-3 is being written by process \d+"):
            generate(emulator, out, Shard(2, 3), resume=True)
        for shard in (None, Shard(1, 2)):
            with pytest.raises(OutputError, match=r"shards/2-of-3 is being written by process \d+"):
                generate(emulator, out, shard, overwrite=True)
        assert generate(emulator, out, Shard(3, 3)).missing == (2,)
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before


def test_shards_wait_for_the_lock_of_the_whole(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PATIENCE_S", 0.05)
    with (
        locked(tmp_path / "out.zarr.partial"),
        pytest.raises(OutputError, match=r"out\.zarr\.partial is being written by process \d+"),
    ):
        generate(emulator, tmp_path / "out.zarr", Shard(1, 2))
    monkeypatch.setattr(shards, "PATIENCE_S", 30.0)
    with contextlib.ExitStack() as held, ThreadPoolExecutor(1) as pool:
        held.enter_context(locked(tmp_path / "out.zarr.partial"))
        found = pool.submit(generate, emulator, tmp_path / "out.zarr", Shard(1, 1))
        with pytest.raises(TimeoutError):
            found.result(0.2)
        held.close()
        assert found.result(30).missing == ()


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
            tmp_path / "out.zarr", Request(members=4, statistics=["mean"]), batch=2, scale=Shard(1, 2)
        )
    assert names_in(tmp_path) == []


# --- the command ---


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tiny_bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process; gives exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["--model", str(tiny_bundle_path), "--device", "cpu", "--threads", "1", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_command_says_what_is_missing(
    command: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: one process, and which shards were made
    out = tmp_path / "out.zarr"
    for task in (3, 1, 2, 0):
        for name, value in {"ID": task, "MIN": 0, "MAX": 3, "COUNT": 4}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        code, said, told = command(*words_of(out, "--shard", "auto"))
        assert code == 0
        if task == 3:
            assert "generated shard 4/4 of 7 members x 8 steps" in said
            assert f"{out} waits for the shards 1-3" in said
            assert "1 of 4 shards are complete; missing: 1-3" in told
        if task == 2:
            assert "3 of 4 shards are complete; missing: 1" in told
    assert f"{out} (" in said
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
    code, _, told = command(*words_of(tmp_path / "out.zarr", *words))
    assert code == UsageError.exit_code
    assert message in told.splitlines()[-1]
    assert names_in(tmp_path) == []


def test_an_unfinished_run_in_shards_is_seen(emulator: Emulator, tmp_path: Path) -> None:  # oracle: what was made
    generate(emulator, tmp_path / "out.zarr", Shard(2, 3))
    run = read_run(tmp_path / "out.zarr.partial")
    assert run is not None
    assert (run.count, run.fields(run.shards), run.total(run.shards)) == (3, 16, FIELDS)
