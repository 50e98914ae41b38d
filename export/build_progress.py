"""What `fsae-export` shows while an engine is built: a bar on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from .builder import Progress

LINE_EVERY_S = 10.0  # builds of TensorRT take minutes, those of TensorRT-RTX seconds: most of these print no line


@contextlib.contextmanager
def show_builds(line_every_s: float = LINE_EVERY_S) -> Iterator[tuple[Callable[[str], None], Progress]]:
    """Two functions for `build_engines`, what it says and the phase a build is in, both shown on stderr.

    On a terminal there is a bar, and lines go above it. Elsewhere the phase makes a line at most every `line_every_s`
    seconds, the first after as many.
    """
    if not sys.stderr.isatty():
        yield _line, _some_lines(line_every_s)
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)

        def say(message: str) -> None:
            bar.console.print(message, markup=False, highlight=False, soft_wrap=True)

        def show(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total, visible=True)

        yield say, show


def _line(message: str) -> None:
    """Nothing; prints a line on stderr."""
    click.echo(message, err=True)


def _some_lines(every_s: float) -> Progress:
    """A function that prints the phase and its steps on stderr when the last such line is `every_s` old."""
    last = time.monotonic()

    def show(phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            _line(f"{phase}, {done} of {total}")

    return show
