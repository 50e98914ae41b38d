"""Interruption: signals held back while output is written, and SIGTERM treated like Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of the block: Zarr writes in threads, which an exception would not stop."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or None in map(signal.getsignal, numbers):
        yield  # signals only ever interrupt the main thread; handlers that are not Python's cannot be put back
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
