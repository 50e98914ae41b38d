"""The thread that writes."""

import contextlib
import threading
import time

import numpy as np
import pytest
from runs import (
    LIMIT_S,
)

from fsae.runtime.errors import OutputError
from fsae.runtime.jobs import writer
from fsae.runtime.output.layout import Unit


def unit_of(number: int) -> Unit:
    values = np.full((1, 1, 1, 4), number, dtype=np.float32)
    return Unit(members=slice(0, 1), times=slice(number, number + 1), values=values)


def test_the_writer_keeps_order_and_bounds() -> None:  # oracle: the order in, and the bound
    written: list[int] = []
    ahead: list[int] = []
    reported: list[int] = []
    queued = threading.Event()

    def write(unit: Unit) -> None:
        assert queued.wait(LIMIT_S)
        written.append(unit.times.start)

    with writer.open_writer(write, lambda unit: reported.append(unit.times.start)) as found:
        for number in range(30):
            found.add(unit_of(number))
            ahead.append(number + 1 - len(written))
            if len(ahead) == writer.WAITING:
                queued.set()
    assert written == reported == list(range(30))
    assert writer.WAITING <= max(ahead) <= writer.WAITING + 1


@pytest.mark.parametrize("broken", [False, True])
def test_a_failure_loses_nothing_that_was_computed_and_writes_nothing_after_it(broken: bool) -> None:
    # oracle: the units before; the next one cannot be computed, or one cannot be written
    tried: list[int] = []

    def write(unit: Unit) -> None:
        tried.append(unit.times.start)
        time.sleep(0.01)
        if broken and unit.times.start == 2:
            raise OutputError("full")

    def work() -> None:
        with writer.open_writer(write, lambda unit: None) as found:
            for number in range(100 if broken else 3):
                found.add(unit_of(number))
            raise ZeroDivisionError

    with pytest.raises(OutputError if broken else ZeroDivisionError):
        work()
    assert tried == [0, 1, 2]


@pytest.mark.parametrize("broken", [False, True])
def test_what_begins_is_done_before_the_first_write_and_its_failure_ends_all(broken: bool) -> None:
    # oracle: the order of events; the thread that adds does not wait for the beginning
    events: list[object] = []
    added = threading.Event()

    def begin() -> None:
        assert added.wait(LIMIT_S)
        events.append("begun")
        if broken:
            raise OutputError("no room")

    def written(unit: Unit) -> None:
        events.append("reported")

    with (
        pytest.raises(OutputError, match="no room") if broken else contextlib.nullcontext(),
        writer.open_writer(lambda unit: events.append(unit.times.start), written) as found,
    ):
        found.begin(begin)
        found.add(unit_of(0))
        events.append("added")
        added.set()
    assert events == ["added", "begun", *([] if broken else [0, "reported"])]
