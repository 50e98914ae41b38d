"""Progress bars on stderr: steps done, loss, rate, time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        """The rate of the last steps, empty while there is none."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.2f}/s" if speed else "")


def make_progress() -> Progress:
    """A bar with a note, the rate and the time left, to be entered as a context."""
    left = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, RateColumn(), left, console=Console(stderr=True))


@contextmanager
def steps_bar(name: str, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A function of (steps done, steps in all) that moves a bar; None where none is to be shown."""
    if not shown:
        yield None
        return
    with make_progress() as bar:
        task = bar.add_task(name, total=None, note="")
        yield lambda done, total: bar.update(task, completed=done, total=total)


class TrainingBar(Callback):
    """The bar of a training stage: over all its steps, from where a resumed one starts."""

    def __init__(self, name: str, steps: int) -> None:
        self.bar = make_progress()
        self.task = self.bar.add_task(name, total=steps, note="")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called by Lightning."""
        if trainer.is_global_zero:
            self.bar.start()
        self.bar.update(self.task, completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Called by Lightning."""
        loss = trainer.callback_metrics.get("loss")
        note = "" if loss is None else f"loss {float(loss):.4f}"
        self.bar.update(self.task, completed=trainer.global_step, note=note)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Called by Lightning, also after a failure."""
        self.bar.stop()
