"""Files of unfinished runs and of finished outputs are damaged at random, and the run is resumed.

Right is the output of an undisturbed run, or a refusal in one sentence; never output with other contents. A damaged
NetCDF file may pass if all its values and attributes are as they were.

    python tests/fuzz/damaged_outputs.py [--cases 600] [--seed 1]
"""

import contextlib
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from runs import convert, fail_after, source_for
from tiny_bundle import make_tiny_bundle
from trees import assert_same

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import open_bundle
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import FsaeError
from fsae.runtime.jobs import resume
from fsae.runtime.jobs.job import Writing
from fsae.runtime.jobs.shards import Shard

Resume = Callable[[Path], object]


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file in one of several ways, and return the way."""
    data, way = (
        path.read_bytes(),
        rng.choice(["flip", "flip", "zeros", "cut", "empty", "gone", "longer", "other", "all"]),
    )
    place = rng.randrange(len(data)) if data else 0
    others = [other for other in sorted(path.parent.parent.rglob("*")) if other.is_file() and other != path]
    if way == "flip" and data:
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :])
    elif way == "zeros":
        path.write_bytes(data[:place] + bytes(len(data[place : place + 512])) + data[place + 512 :])
    elif way == "cut":
        path.write_bytes(data[:place])
    elif way == "empty":
        path.write_bytes(b"")
    elif way == "longer":
        path.write_bytes(data + b"\x00")
    elif way == "other" and others:
        path.write_bytes(rng.choice(others).read_bytes())
    elif way == "all" and not path.parent.name.endswith((".partial", "here")):
        shutil.rmtree(path.parent)
    else:
        path.unlink()
    return way


def kind_of(name: str) -> str:
    """The role of a file in a run, by its path."""
    for part in ("run.json", "units.log", "states", "lock", "fields.nc"):
        if part in name:
            return part
    if name.endswith("zarr.json"):
        return "metadata"
    return "chunk" if "/tas" in name or "/latent" in name else "coordinate" if ".zarr" in name else "NetCDF file"


def stages(emulator: Emulator, folder: Path) -> Iterator[tuple[str, Path, Path, Resume]]:
    """Runs to damage: a name, their folder, the undisturbed output, and a call that resumes them in another folder."""
    source = source_for(emulator, "compress", folder)

    def generating(path: Path, scale: Shard | None = None, resume: bool = True, statistics: bool = False) -> None:
        asked = ["mean", "q50"] if statistics else []
        request = Request(members=4, start="1990-01", steps=12, seed=3, statistics=asked)
        emulator.generate_file(path, request, batch=2, writing=Writing(scale=scale, resume=resume))

    def compressing(path: Path, resume: bool = True) -> None:
        convert(emulator, "compress", source, path, resume=resume)

    for suffix in (".zarr", ".nc"):
        for name, make in (
            ("generate", generating),
            ("statistics", lambda path: generating(path, statistics=True)),
            ("compress", compressing),
        ):
            place = folder / f"{name}{suffix}"
            whole = place / f"whole{suffix}"
            place.mkdir()
            make(whole)
            for stage in ("finished", "unpublished", "interrupted"):
                here = place / stage / "here"
                here.mkdir(parents=True)
                with pytest.MonkeyPatch.context() as patch:
                    if stage == "unpublished":
                        patch.setattr(resume, "publish", lambda *given: (_ for _ in ()).throw(OSError("broken")))
                    if stage == "interrupted":
                        if name == "compress":
                            encode, calls = OnnxGraphs.encode, [0]

                            def stopping(self: OnnxGraphs, *given: object, calls=calls, encode=encode) -> object:
                                calls[0] += 1
                                if calls[0] == 3:
                                    raise KeyboardInterrupt
                                return encode(self, *given)

                            patch.setattr(OnnxGraphs, "encode", stopping)
                        else:
                            fail_after(patch, 6, KeyboardInterrupt())
                    with contextlib.suppress(FsaeError, KeyboardInterrupt):
                        make(here / f"out{suffix}")
                if any(here.iterdir()):
                    yield f"{name}{suffix} {stage}", here, whole, make


@click.command()
@click.option("--cases", default=600)
@click.option("--seed", default=1)
def main(cases: int, seed: int) -> None:
    """Damage, resume, compare, and print a table of what came of it."""
    rng, table, wrong = random.Random(seed), Counter[tuple[str, str]](), 0
    with tempfile.TemporaryDirectory() as work:
        bundle = open_bundle(make_tiny_bundle(Path(work) / "tiny"))
        emulator = Emulator(bundle, OnnxGraphs(bundle, threads=1))
        runs = list(stages(emulator, Path(work)))
        for case in range(cases):
            stage, made, whole, make = runs[case % len(runs)]
            here = Path(work) / "case" / "here"
            shutil.rmtree(here.parent, ignore_errors=True)
            shutil.copytree(made, here)
            files = sorted(path for path in here.rglob("*") if path.is_file())
            # chunks are many: every kind is as likely
            kinds = sorted({kind_of(str(path.relative_to(here))) for path in files})
            chosen = rng.choice(kinds)
            path = rng.choice([one for one in files if kind_of(str(one.relative_to(here))) == chosen])
            way, out = damage(path, rng), here / f"out{whole.suffix}"
            try:
                make(out)
                assert_same(out, whole)
                found = "same"
            except FsaeError as error:
                found = "refused"
                if "\n" in str(error):
                    found = "MANY LINES"
            except AssertionError:
                found = "DAMAGED OUTPUT"
            except Exception as error:
                found = f"TRACEBACK {type(error).__name__}: {error}"[:100]
            if found not in ("same", "refused"):
                wrong += 1
                click.echo(f"case {case}: {stage}, {path.relative_to(here)}, {way}: {found}")
            table[chosen, found] += 1
    for (kind, found), count in sorted(table.items()):
        click.echo(f"{kind:14} {found:16} {count}")
    click.echo(f"{cases} cases, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
