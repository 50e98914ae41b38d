"""Interruption: signals are held back while output is written, and SIGTERM is treated like Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block ends: Zarr writes in threads, which an exception would not stop."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or None in map(signal.getsignal, numbers):
        yield  # signals interrupt only the main thread, and handlers that are not Python's cannot be put back
        return
    before = {number: signal.signal(number, lambda n, frame: caught.append(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


@contextlib.contextmanager
def termination_as_interrupt(*, whole_process: bool = False) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM too, so that what is finished is kept and the rest removed on the way out.

    One signal is enough: later ones, as a scheduler sends to a whole group of processes, are ignored until the block
    ends, or until the process ends if `whole_process`, so that the exit code is that of the first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # shells start background jobs like that
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
