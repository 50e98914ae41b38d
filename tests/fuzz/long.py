"""A long run of the fuzz tests, by hand: every case is an honest example with random edits.

    python -m tests.fuzz.long [--cases 1000000] [--seed 1] [TARGET ...]

Prints for each target the number of cases, the rate, the slowest case, the growth of the memory, and every kind of
failure once: where it was raised, and a file with the input. Exits with 1 if there was one.
"""

import logging
import random
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import click

from fsae.runtime.errors import FsaeError

from .edits import Edit, edited
from .targets import Target, targets

HANG_S = 10.0
LONGEST = 3000  # characters of a message


def complaint(target: Target, data: bytes) -> str:
    """Complaint about how an input is read; empty if it is read, or refused in one sentence."""
    try:
        target.read(data)
    except FsaeError as error:
        text = str(error)
        if not text.isprintable() or len(text) > LONGEST or not text:
            return f"bad sentence: {text[:200]!r}"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames)]
        return f"{type(error).__name__} ({' < '.join(places[:3])}): {error}"[:300]
    return ""


def timed(target: Target, data: bytes) -> tuple[str, float]:
    """Complaint about how an input is read, and the seconds it took."""
    start = time.monotonic()
    wrong = complaint(target, data)
    return wrong, time.monotonic() - start


def try_many(name: str, target: Target, cases: int, rng: random.Random) -> int:
    """Number of kinds of failure of a target."""
    found: dict[str, Path] = {}
    began, slowest, memory = time.monotonic(), 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(cases):
        edits = [
            Edit(rng.randrange(41), rng.random(), rng.random(), rng.randrange(256))
            for _ in range(rng.choice((1, 1, 2, 3)))
        ]
        data = edited(rng.choice(target.examples), edits, target.is_json)
        wrong, seconds = timed(target, data)
        if seconds > HANG_S:  # a hang comes again; a busy machine does not
            wrong, seconds = timed(target, data)
        slowest = max(slowest, seconds)
        if seconds > HANG_S:
            wrong = wrong or f"took {seconds:.0f} s"
        kind = wrong.split("): ")[0]
        if wrong and kind not in found:
            found[kind] = Path(f"/tmp/fuzz-{name}-{number}")  # noqa: S108, of whoever runs this
            found[kind].write_bytes(data)
            print(f"  {wrong}\n    {found[kind]}", flush=True)
    seconds = time.monotonic() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(
        f"{name}: {cases} cases, {cases / seconds:.0f}/s, slowest {slowest:.2f} s, memory +{grown:.0f} MiB, "
        f"{len(found)} kinds of failure",
        flush=True,
    )
    return len(found)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--cases", type=int, default=1_000_000, help="Of each target; a hundredth of slow ones.")
@click.option("--seed", type=int, default=1)
def main(names: tuple[str, ...], cases: int, seed: int) -> None:
    """Run the targets with these names, by default all."""
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    with targets() as known:
        chosen = names or tuple(known)
        wrong = sum(
            try_many(name, known[name], cases // 100 if known[name].slow else cases, random.Random(seed))
            for name in chosen
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
