"""Kills, full disks and foreign files, against the command line, by hand.

    python -m tests.fuzz.campaign [--kills 200] [--disks 44] [--foreign 100] [--seed 1]

Kills: a run is killed (SIGKILL) after a random time, until `--resume` ends it; right are the bytes of an undisturbed
run. Full disks: a write fails after a random number of bytes, by the limit of the system on the size of files; right
are one sentence, a documented exit code, and after that the bytes of an undisturbed run by `--resume`. Foreign files:
files, folders and links of somebody else lie beside the output, under names that a run uses; right is that each of
them is as it was, whatever the run said.

Prints a line for each case, with all counts up to there, so that whoever stops it has the figures. Exits with 1 if
something was wrong.
"""

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import click
from tiny_bundle import make_tiny_bundle

WRONG = "WRONG: "
LIMIT_S = 300  # of a run that nobody kills
CODES = (0, 1, 2, 3, 4, 5, 6, 7, 75, 130)
SEED_ARGUMENTS = ("generate", "--members", "8", "--steps", "60", "--start", "1995-01", "--forcing", "2000.5")
NAMES = (
    "{}.partial",
    "{}.replaced",
    "{}",
    "{}.partial/lock",
    "{}.partial/run.json",
    "{}.new",
    "{}.partial/fields.zarr",
)


def command(folder: Path, out: str, *words: str, limit: int | None = None) -> subprocess.Popen[str]:
    """A run of the tiny bundle, started in a folder; `limit` is the largest file that it can write [bytes]."""

    def set_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write fails with EFBIG instead

    program = [sys.executable, "-c", "import sys; from fsae.runtime.cli.start import main; sys.exit(main())"]
    options = ["--model", str(folder / "tiny"), "--device", "cpu", "--threads", "1"]
    return subprocess.Popen(
        [*program, *options, *SEED_ARGUMENTS, "--out", out, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=set_limit,  # noqa: PLW1509, no threads are started here
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"},
    )


def digest(path: Path) -> str:
    """Hash of a file, a folder with all in it, or a link as a link."""
    whole = hashlib.sha256()
    for one in sorted([path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]):
        whole.update(str(one.relative_to(path)).encode())
        if one.is_symlink():
            whole.update(os.readlink(one).encode())
        elif one.is_file():
            whole.update(one.read_bytes())
    return whole.hexdigest()


def sentence(process: subprocess.Popen[str], err: str) -> str:
    """Complaint about how a run ended; empty if it ended well."""
    if "Traceback" in err or "fsae failed where it should not" in err or process.returncode not in CODES:
        return f"{WRONG}exit {process.returncode}: {err.strip().splitlines()[-1:]}"
    return ""


def kills(folder: Path, count: int, rng: random.Random) -> Iterator[str]:
    """Runs that are killed, `count` times in all, and then end."""
    process = command(folder, "whole.zarr")
    began = time.monotonic()
    _, err = process.communicate(timeout=LIMIT_S)
    longest = time.monotonic() - began
    assert process.returncode == 0, err
    right, done = digest(folder / "whole.zarr"), 0
    while done < count:
        shutil.rmtree(folder / "out.zarr", ignore_errors=True)
        for _ in range(8):
            process = command(folder, "out.zarr", "--resume")
            try:
                _, err = process.communicate(timeout=rng.uniform(0.3, longest))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
                yield "killed"
        else:
            process = command(folder, "out.zarr", "--resume")
            _, err = process.communicate(timeout=LIMIT_S)
        same = (folder / "out.zarr").is_dir() and digest(folder / "out.zarr") == right
        beside = (folder / "out.zarr.partial").exists()
        wrong = (
            sentence(process, err)
            or (not same and f"{WRONG}other bytes: {err[-200:]}")
            or (beside and WRONG + "left beside")
        )
        yield wrong or "same bytes"


def disks(folder: Path, count: int, rng: random.Random) -> Iterator[str]:
    """Runs whose files cannot grow beyond a random size, and that end after that."""
    right = digest(folder / "whole.zarr")
    sizes = [path.stat().st_size for path in (folder / "whole.zarr").rglob("*") if path.is_file()]
    for number in range(count):
        out = f"disk-{number}.zarr"
        process = command(folder, out, limit=rng.choice([0, 1, 10, 100, *(rng.randint(0, size) for size in sizes)]))
        _, err = process.communicate(timeout=LIMIT_S)
        yield sentence(process, err) or f"full, exit {process.returncode}"
        process = command(folder, out, "--resume")
        _, err = process.communicate(timeout=LIMIT_S)
        same = (folder / out).is_dir() and digest(folder / out) == right
        yield sentence(process, err) or ("same bytes" if same else f"{WRONG}other bytes: {err[-200:]}")
        shutil.rmtree(folder / out, ignore_errors=True)


def foreign(folder: Path, count: int, rng: random.Random) -> Iterator[str]:
    """Runs beside files of somebody else, with and without --overwrite and --resume."""
    for number in range(count):
        place = folder / f"foreign-{number}"
        place.mkdir()
        target = place / "somebody"
        target.mkdir()
        (target / "work.txt").write_text("years of it")
        name = f"out{rng.choice(['.zarr', '.nc'])}"
        path = place / rng.choice(NAMES).format(name)
        path.parent.mkdir(exist_ok=True)
        kind = rng.choice(["file", "folder", "link to a folder", "link to a file", "dangling link"])
        if kind == "file":
            path.write_text("mine")
        elif kind == "folder":
            path.mkdir()
            (path / "zarr.json").write_text("{}")
        else:
            path.symlink_to(
                {"link to a folder": target, "link to a file": target / "work.txt"}.get(kind, place / "nowhere")
            )
        before = {one: digest(one) for one in (path, target)}
        words = rng.choice([(), ("--overwrite",), ("--resume",), ("--overwrite", "--resume")])
        process = command(folder, str(place / name), "--steps", "2", *words)  # short: what counts is before and after
        _, err = process.communicate(timeout=LIMIT_S)
        lost = [one for one, known in before.items() if not os.path.lexists(one) or digest(one) != known]
        what = f"{kind} at {path.relative_to(place)} with {' '.join(words) or 'no option'}"
        yield sentence(process, err) or (f"{WRONG}lost {what}" if lost else f"kept, exit {process.returncode}")
        shutil.rmtree(place)


@click.command()
@click.option("--kills", "killed", type=int, default=200)
@click.option("--disks", "full", type=int, default=44)
@click.option("--foreign", "beside", type=int, default=100)
@click.option("--seed", type=int, default=1)
def main(killed: int, full: int, beside: int, seed: int) -> None:
    """Run the campaign in a temporary folder."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), random.Random(seed)
        make_tiny_bundle(folder / "tiny")
        for part, count in ((kills, killed), (disks, full), (foreign, beside)):
            began = time.monotonic()
            for outcome in part(folder, count, rng):
                found[f"{part.__name__}: {outcome}"] += 1
                print(f"{part.__name__} of {count}, {time.monotonic() - began:.0f} s: {dict(found)}", flush=True)
    sys.exit(any(WRONG in outcome for outcome in found))


if __name__ == "__main__":
    main()
