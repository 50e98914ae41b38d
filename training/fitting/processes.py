"""The processes of a training run on several devices: the first one writes and talks, the others help it.

Lightning starts the others when a fit begins, each with the first one's command line; they find the finished stages on
disk, take part in the fits and wait where only the first one works.
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

POLL_S = 0.2  # [s] between two looks at a file


def is_first() -> bool:
    """Whether this process is the one that writes and talks; alone it is."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def wait_for(path: Path) -> None:
    """Nothing, once the first process has written `path`; Stopped where the process that started this one ended."""
    parent = os.getppid()
    while not path.exists():
        if os.getppid() != parent:
            raise Stopped(f"the first process ended before it wrote {path}")
        time.sleep(POLL_S)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGTERM is to the first process what Ctrl-C is; the others leave both to the first, which ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        set_signals()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def set_signals() -> None:
    """Set the handlers of `interruptible`."""
    signal.signal(signal.SIGINT, signal.default_int_handler if is_first() else signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler if is_first() else signal.SIG_DFL)


class Processes(Callback):
    """The others end with the first, and the handlers of `interruptible` stay while Lightning is at work.

    Lightning's own handler of SIGTERM talks to the other processes, out of turn, and may wait for ever.
    """

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called by Lightning."""
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            for process in launcher.procs:
                atexit.register(process.kill)
        if threading.current_thread() is threading.main_thread():
            set_signals()
