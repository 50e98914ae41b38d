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
    """A queue of units that a thread writes in order, at most `WAITING` at a time; the first failure ends all writing.

    Signals wait while the queue is used: an exception in the middle of that would leave its lock taken.
    """

    def __init__(self, write: Callable[[Unit], None], written: Callable[[Unit], None]) -> None:
        self._write, self._written = write, written
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fsae-writer")
        self._waiting: deque[tuple[Unit | None, Future[None]]] = deque()
        self._failed = False

    def begin(self, work: Callable[[], None]) -> None:
        """Queue work to be done before the first unit is written. If it fails, nothing is written."""
        self._submit(None, work)

    def add(self, unit: Unit) -> None:
        """Queue a unit for writing; block while too many are waiting. Raises what an earlier unit failed with."""
        self._submit(unit, partial(self._write, unit))
        self.finish(WAITING)

    def finish(self, most: int = 0) -> None:
        """Wait until all units are written, or all but `most`; those that are written are reported from here."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0][1].done()):
            with uninterrupted():
                unit, future = self._waiting.popleft()
                future.result()
            if unit is not None:
                self._written(unit)

    def close(self) -> None:
        """End the thread, once everything queued is written, or dropped after a failure."""
        with uninterrupted():
            self._thread.shutdown(wait=True)

    def _submit(self, unit: Unit | None, work: Callable[[], None]) -> None:
        with uninterrupted():
            self._waiting.append((unit, self._thread.submit(self._try, work)))

    def _try(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except BaseException:
            self._failed = True
            raise


@contextmanager
def open_writer(write: Callable[[Unit], None], written: Callable[[Unit], None]) -> Iterator[Writer]:
    """A writer that calls `written` for each unit that `write` has written.

    What was queued is written on the way out, even if the block fails: units that are computed are not lost.
    """
    writer = Writer(write, written)
    try:
        yield writer
        writer.finish()
    finally:
        writer.close()
