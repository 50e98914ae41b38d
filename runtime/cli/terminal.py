"""What the verbs of `fsae-run` share: options before or after the verb, progress, the line at the end, signals."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fsae.runtime.errors import OutputError
from fsae.runtime.input.sources import Source
from fsae.runtime.output.layout import Cells

from .options import Options

if TYPE_CHECKING:
    from fsae.runtime.emulator import Emulator
    from fsae.runtime.jobs.cluster import Cluster
    from fsae.runtime.jobs.job import Job
    from fsae.runtime.jobs.shards import Shard


PROGRAM = "fsae-run"


def open_emulator(options: Options) -> "Emulator":
    """The emulator that the options ask for; it says which bundle and device that is."""
    from fsae.runtime.emulator import load

    return load(options.model, options.device or "auto", precision=options.precision, threads=options.threads)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(os.stat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)


def prepare_output(out: str, overwrite: bool, source: Source | None = None) -> Path:
    """The output path, known to be writable; OutputError before any work is done if it is not, or is the input."""
    from fsae.runtime.output.files import check_output, partial_of

    path = Path(out)
    given = [one.resolve() for one in source.paths] if source is not None else []
    if path.resolve() in given or partial_of(path).resolve() in given:
        whole = "the input" if len(given) == 1 else "one of the input files"
        raise OutputError(f"{path} is {whole}: give another path for the output")
    check_output(path, overwrite)
    return path


def summary(
    verb: str, job: "Job", path: Path, device: str, began: float, scale: "Shard | Cluster | None" = None
) -> str:
    """The one line for stdout."""
    from rich.filesize import decimal

    from fsae.runtime.jobs.shards import Shard, listed

    layout, shard = job.layout, f"shard {scale} of " if isinstance(scale, Shard) else ""
    there = f" waits for the shards {listed(job.missing)}" if job.missing else f" ({decimal(size_of(path))})"
    members = f"{len(layout.members)} members x " if layout.members is not None else ""
    members += f"{len(layout.time.values)} starts x " if layout.reference_times is not None else ""
    names = ", ".join(layout.variables)
    grid = str(layout.grid) if isinstance(layout.grid, Cells) else " x ".join(map(str, layout.grid.shape))
    seconds = time.monotonic() - began
    return (
        f"{verb} {shard}{members}{layout.steps} steps of {names} on {grid} in {seconds:.1f} s on {device}: "
        f"{path}{there}"
    )
