"""The progress bar of all commands, on stderr: done and in all, a note, the rate and the time left."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol


class Progress(Protocol):
    """A call that moves a progress bar: with the number done, the number in all and perhaps a note."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextlib.contextmanager
def progress_bar(name: str, unit: str = "fields", *, first: int = 0, shown: bool | None = None) -> Iterator[Progress]:
    """A function that moves a bar counting `unit`; it does nothing unless `shown` (default: if stderr is a terminal).

    `first` were done before: the rate leaves them out. Without a `unit` there is no rate. Lines of the log go above it.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda done, total, note="": None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[note]}", markup=False),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = Console(stderr=True, soft_wrap=True)  # lines of the log are not broken
    with bars.Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None, completed=first, note="", rate="")
        began = time.monotonic()

        def show(done: int, total: int, note: str = "") -> None:
            rate = (done - first) / max(time.monotonic() - began, 1e-9)
            shown_rate = f"{rate:.1f} {unit}/s" if unit else ""
            bar.update(task, completed=done, total=total, note=note, rate=shown_rate)

        yield show
