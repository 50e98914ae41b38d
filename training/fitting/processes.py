"""The processes of a training run on several devices: the first one writes and logs, the others help it.

Lightning starts the others when a fit begins, each with the command line of the first one. They find the finished
stages on disk, take part in the fits, and wait while only the first one works.
"""

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from fsae.runtime.errors import Stopped
from fsae.runtime.signals import termination_as_interrupt

POLL_S = 0.2  # [s] between two looks at a file


def is_first() -> bool:
    """True in the process that writes and logs; a process without others is that one."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def wait_for(path: Path) -> None:
    """Wait until the first process has written `path`; Stopped if the process that started this one has ended."""
    parent = os.getppid()
    while not path.exists():
        if os.getppid() != parent:
            raise Stopped(f"the first process ended before it wrote {path}", advice="run the same command again")
        time.sleep(POLL_S)


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C in the first process; the others ignore Ctrl-C, as the first one ends them."""
    if is_first():
        with termination_as_interrupt():
            yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Processes(Callback):
    """End the other processes with the first one, and keep the signal handlers of `interruptible` during a fit.

    Lightning's own handler of SIGTERM talks to the other processes, out of turn, and may wait for ever.
    """

    def __init__(self) -> None:
        self.handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called by Lightning, which has set its handlers by now."""
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            for process in launcher.procs:
                atexit.register(process.kill)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
