"""Shared by the commands of `fsae-run`: the emulator, the output path, the progress bar and the summary line."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fsae.runtime.progress import progress_bar

from .options import Session

if TYPE_CHECKING:
    from fsae.runtime.emulator import Emulator
    from fsae.runtime.jobs.job import Job, Writing
    from fsae.runtime.stores.destination import Destination


PROGRAM = "fsae-run"


def open_emulator(session: Session) -> "Emulator":
    """Open the emulator that the options ask for; bundle and device are logged."""
    from fsae.runtime.emulator import load

    return load(session.model, session.device or "auto", precision=session.precision, threads=session.threads)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(os.stat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)


def prepare_file(out: str, overwrite: bool, model: str | None, inputs: Mapping[str, object]) -> Path:
    """The path of the output; OutputError before any work is done if it may not or cannot be written.

    `inputs` is what the command reads beside its bundle, by what it is. UsageError for the address of a store.
    """
    from fsae.runtime.bundle.files import find_bundle
    from fsae.runtime.output.files import check_output
    from fsae.runtime.output.target_grid import LIKE

    path, read = Path(out), {**inputs, "bundle": find_bundle(model)}
    grid = str(click.get_current_context().params.get("grid", ""))
    if grid.startswith(LIKE):
        read["grid's file"] = grid.removeprefix(LIKE)
    check_output(path, overwrite, read)
    return path


def prepare_output(out: str, overwrite: bool, model: str | None, inputs: Mapping[str, object]) -> "Destination":
    """The path of the output, as `prepare_file` does, or the address of a store that it is written to."""
    from fsae.runtime.formats.addresses import is_address

    if not is_address(out):
        return prepare_file(out, overwrite, model, inputs)
    from fsae.runtime.stores.destination import check_address

    check_address(out)
    return out


def write_output(
    done: str,
    inputs: Mapping[str, object],
    out: str,
    session: Session,
    writing: "Writing",
    write: Callable[["Emulator", "Destination", "Writing"], "Job"],
) -> None:
    """Open an emulator, write its output with a progress bar, and print what was `done` in one line."""
    write_outputs(done, inputs, {out: write}, session, writing)


def write_outputs(
    done: str,
    inputs: Mapping[str, object],
    outs: Mapping[str, Callable[["Emulator", "Destination", "Writing"], "Job"]],
    session: Session,
    writing: "Writing",
) -> None:
    """Write several outputs one after the other with one emulator; all places are checked before the first is made."""
    again = writing.overwrite or writing.resume
    paths = {out: prepare_output(out, again, session.model, inputs) for out in outs}
    began = time.monotonic()
    emulator = open_emulator(session)
    for out, path in paths.items():
        with progress_bar(str(click.get_current_context().info_name)) as progress:
            job = outs[out](emulator, path, dataclasses.replace(writing, progress=progress))
        seconds, device = time.monotonic() - began, emulator.graphs.device
        click.echo(f"{done} {_described(job, writing)} in {seconds:.1f} s on {device}: {path}{_left(job, path)}")
        began = time.monotonic()


def _described(job: "Job", writing: "Writing") -> str:
    """Members, steps, variables and grid of a job."""
    from fsae.runtime.jobs.shards import Shard
    from fsae.runtime.output.layout import Cells

    layout = job.layout
    counts = [f"shard {writing.scale} of "] if isinstance(writing.scale, Shard) else []
    counts += [f"{len(layout.members)} members x "] if layout.members is not None else []
    counts += [f"{len(layout.time.values)} starts x "] if layout.reference_times is not None else []
    grid = str(layout.grid) if isinstance(layout.grid, Cells) else " x ".join(map(str, layout.grid.shape))
    return f"{''.join(counts)}{layout.steps} steps of {', '.join(layout.variables)} on {grid}"


def _left(job: "Job", path: "Destination") -> str:
    """The size of the finished output, if it is on this machine, or the shards that it waits for."""
    from rich.filesize import decimal

    from fsae.runtime.jobs.shards import listed

    if job.missing:
        return f" waits for the shards {listed(job.missing)}"
    return f" ({decimal(size_of(path))})" if isinstance(path, Path) else ""
