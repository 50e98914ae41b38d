"""What the verbs of `fsae-run` share: options before or after the verb, progress, the line at the end, signals."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .devices import DEVICES, PRECISIONS
from .errors import OutputError, UsageError

if TYPE_CHECKING:
    from .cluster import Cluster
    from .emulator import Emulator
    from .jobs import Job
    from .parts import Shard

PROGRAM = "fsae-run"

Value = TypeVar("Value")
Command = TypeVar("Command", bound=Callable[..., Any])
Progress = Callable[[int, int], None]


@dataclass(kw_only=True)
class Options:
    """Options that may stand before or after the verb."""

    model: str | None = None
    device: str | None = None
    precision: str | None = None
    threads: int | None = None


def say(message: str) -> None:
    """Nothing; a line for the user on stderr."""
    click.echo(f"{PROGRAM}: {message}", err=True)


def with_model(command: Command) -> Command:
    """The command with the option for its bundle."""
    return click.option(
        "--model", metavar="PATH|NAME", help="Bundle; default the newest in ./engines, else the shipped one."
    )(command)


def common(command: Command) -> Command:
    """The command with the options that may stand before or after a verb that computes."""
    threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default all.")(command)
    device = click.option(
        "--device", type=click.Choice(DEVICES), help="Default auto: TensorRT engine, then CUDA, then CPU."
    )(threads)
    precision = click.option(
        "--precision", type=click.Choice(PRECISIONS), help="One the bundle has; default fp32, else its first."
    )(device)
    return with_model(precision)


def one(name: str, before: Value | None, after: Value | None) -> Value | None:
    """The value of an option that may stand in two places."""
    if before is not None and after is not None and before != after:
        raise UsageError(f"found --{name} twice, {before} and {after}: give it once")
    return before if after is None else after


def merged(
    context: click.Context, model: str | None, device: str | None, precision: str | None, threads: int | None
) -> Options:
    """Options given before and after the verb as one set; UsageError where they contradict each other."""
    before: Options = context.obj
    return Options(
        model=one("model", before.model, model),
        device=one("device", before.device, device),
        precision=one("precision", before.precision, precision),
        threads=one("threads", before.threads, threads),
    )


def model_alone(context: click.Context, model: str | None) -> str | None:
    """The bundle given before or after a verb that runs no graph; UsageError where a device or threads were given."""
    before: Options = context.obj
    if any(value is not None for value in (before.device, before.precision, before.threads)):
        raise UsageError(f"{context.info_name} runs nothing on a device: leave out --device, --precision and --threads")
    return one("model", before.model, model)


def name_pairs(names: tuple[str, ...]) -> dict[str, str]:
    """Names the input uses for variables of the model, by the model's.

    >>> name_pairs(("tas=ts",))
    {'tas': 'ts'}
    """
    pairs = dict(name.partition("=")[::2] for name in names)
    if not all(pairs) or not all(pairs.values()) or len(pairs) != len(names):
        raise UsageError(f"found --name {' '.join(names)}, expected such as tas=ts, once for a variable")
    return pairs


def open_emulator(options: Options) -> "Emulator":
    """The emulator that the options ask for; it says which bundle and device that is."""
    from .emulator import load

    return load(options.model, options.device or "auto", precision=options.precision, threads=options.threads, say=say)


@contextlib.contextmanager
def progress_bar(verb: str) -> Iterator[Progress]:
    """What shows fields done and in all on stderr, with rate and time left; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(verb, total=None, rate="")
        began = time.monotonic()

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:.1f} fields/s")

        yield show


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(os.stat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)


def prepare_output(out: str, overwrite: bool, source: str | None = None) -> Path:
    """The output path, known to be writable; OutputError before any work is done where it is not.

    `source` is the input, which may be a pattern.
    """
    from .inputs import paths_of
    from .stores import check_output, partial_of

    path = Path(out)
    given = [one.resolve() for one in paths_of(source)] if source is not None else []
    if path.resolve() in given or partial_of(path).resolve() in given:
        whole = "the input" if len(given) == 1 else f"among the files that fit {source!r}"
        raise OutputError(f"{path} is {whole}: give another path for the output")
    check_output(path, overwrite)
    return path


def summary(
    verb: str, job: "Job", path: Path, device: str, began: float, scale: "Shard | Cluster | None" = None
) -> str:
    """The one line for stdout."""
    from .describe import human
    from .parts import Shard, listed

    layout, shard = job.layout, f"shard {scale} of " if isinstance(scale, Shard) else ""
    there = f" waits for the shards {listed(job.missing)}" if job.missing else f" ({human(size_of(path))})"
    members = f"{len(layout.members)} members x " if layout.members is not None else ""
    members += f"{len(layout.time.values)} starts x " if layout.starts is not None else ""
    names = ", ".join(layout.variables)
    grid = f"HEALPix zoom {layout.zoom}" if layout.zoom is not None else " x ".join(map(str, layout.grid_shape))
    grid = grid if layout.cells is None else f"{layout.cells.size} cells of {grid}"
    seconds = time.monotonic() - began
    return (
        f"{verb} {shard}{members}{layout.steps} steps of {names} on {grid} in {seconds:.1f} s on {device}: "
        f"{path}{there}"
    )


@contextlib.contextmanager
def termination_as_interrupt(*, whole_process: bool = False) -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside, so that what is finished is kept and the rest removed on the way out.

    One signal is enough: those after it, as a scheduler sends to all of a group, are ignored until the block ends, and
    where the `whole_process` ends with it until then, so that the exit code is the first one's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as shells start jobs in the background
        numbers.append(signal.SIGINT)

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def interrupt(number: int, frame: FrameType | None) -> None:
        ignore()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        if whole_process:
            ignore()
        else:
            for number, handler in before.items():
                signal.signal(number, handler)
