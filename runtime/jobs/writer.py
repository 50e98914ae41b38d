"""A thread that writes what another one makes, so that computing and writing go on at the same time."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from fsae.runtime.output.layout import Unit
from fsae.runtime.signals import uninterrupted

WAITING = 3  # units that may wait for the disk, which is memory; a unit is one member's window or some steps


class Writer:
    """Units to be written in their order, at most `WAITING` at a time; the first failure ends all writing.

    Signals wait while the queue is used: an exception in the middle of that would leave its lock taken.
    """

    def __init__(self, write: Callable[[Unit], None], written: Callable[[Unit], None]) -> None:
        self._write, self._written = write, written
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fsae-writer")
        self._waiting: deque[tuple[Unit | None, Future[None]]] = deque()
        self._failed = False

    def begin(self, work: Callable[[], None]) -> None:
        """Nothing; `work` is done some time before the first unit is written. Where it fails, nothing is written."""
        with uninterrupted():
            self._waiting.append((None, self._thread.submit(self._try, work)))

    def add(self, unit: Unit) -> None:
        """Nothing; the unit is written some time. Waits where too many do; raises what an earlier unit failed with."""
        with uninterrupted():
            self._waiting.append((unit, self._thread.submit(self._try, partial(self._write, unit))))
        self._collect(WAITING)

    def finish(self) -> None:
        """Nothing; all units are written."""
        self._collect(0)

    def close(self) -> None:
        """Nothing; what was added is written, or was dropped after a failure, and the thread has ended."""
        with uninterrupted():
            self._thread.shutdown(wait=True)

    def _try(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except BaseException:
            self._failed = True
            raise

    def _collect(self, most: int) -> None:
        """Nothing; `most` units are still waiting at most, and what is written is reported by the thread that adds."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0][1].done()):
            with uninterrupted():
                unit, future = self._waiting.popleft()
                future.result()
            if unit is not None:
                self._written(unit)


@contextmanager
def open_writer(write: Callable[[Unit], None], written: Callable[[Unit], None]) -> Iterator[Writer]:
    """A writer; `written` is told of each unit after `write` has written it. What was added is written on the way out.

    That holds where the block fails too: then units that are computed already are not lost.
    """
    writer = Writer(write, written)
    try:
        yield writer
        writer.finish()
    finally:
        writer.close()
