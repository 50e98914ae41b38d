"""Forecasts from several reference times side by side, such as hindcasts: one series of lead times for each start.

A start is worked on by itself, like a member: what a job counts as rows are members times starts.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .calendar import Date
from .errors import DataError, UsageError
from .fields import Fields
from .forecasts import lead_of, reference_of
from .inputs import Paths, decode_dates, open_source, paths_of

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, kw_only=True)
class Start:
    """A forecast from one reference time; `where` names its source."""

    reference: Date
    leads: NDArray[np.float64]  # in `lead_units`
    lead_units: str
    dataset: "xr.Dataset"
    where: str


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """Two starts or more with the same lead times, by reference time; `close` closes the files opened for them."""

    starts: tuple[Start, ...]
    close: Callable[[], None]


def find_starts(source: "Paths | xr.Dataset", holds: "Callable[[xr.Dataset], bool]") -> Forecasts | None:
    """The starts of a dataset, of a file, or of files that each hold one or more with several lead times.

    None where there are fewer than two, and where a file does not hold what is asked for. DataError where starts differ
    in their lead times, or where one comes twice.
    """
    import xarray as xr  # start-up time

    given: Sequence[xr.Dataset | Path] = [source] if isinstance(source, xr.Dataset) else paths_of(source)
    with contextlib.ExitStack() as opened:
        starts: list[Start] = []
        for one in given:
            dataset, where = open_source(one)
            if dataset is not one:
                opened.callback(dataset.close)
            own = list(_starts_of(dataset, where)) if holds(dataset) else []
            if not own:
                return None
            starts += own
        if len(starts) < 2:
            return None
        starts.sort(key=lambda start: start.reference)
        for before, after in pairwise(starts):
            _check(before, after)
        return Forecasts(starts=tuple(starts), close=opened.pop_all().close)


def _starts_of(dataset: "xr.Dataset", where: str) -> Iterator[Start]:
    """The starts of a dataset; none where it has no lead times, or only one."""
    lead = lead_of(dataset)
    reference = None if lead is None or dataset.sizes.get(lead, 1) < 2 else reference_of(dataset, lead)
    if lead is None or reference is None:
        return
    axis, leads = dataset.variables[reference], dataset.variables[lead]
    if leads.dtype.kind == "m":
        values, units = leads.values / np.timedelta64(1, "D"), "day"
    else:
        values, units = leads.values.astype(np.float64), str(leads.attrs["units"])
    for place, date in enumerate(decode_dates(axis, axis, f"the reference times of {where}")):
        own = dataset.isel({reference: place}) if axis.ndim else dataset
        yield Start(reference=date, leads=values, lead_units=units, dataset=own, where=where)


def _check(before: Start, after: Start) -> None:
    """Nothing; DataError where two starts that follow each other are one, or differ in their lead times."""
    if before.reference == after.reference:
        files = " and ".join(dict.fromkeys((before.where, after.where)))
        raise DataError(f"found the reference time {after.reference} twice, in {files}: leave one of them out")
    if before.lead_units != after.lead_units or not np.array_equal(before.leads, after.leads):
        raise DataError(
            f"the forecasts from {before.reference} ({before.where}) and {after.reference} ({after.where}) have "
            "different lead times: select those that all have, or give them in separate runs"
        )


def check_alike(parts: Sequence[Fields]) -> None:
    """Nothing; DataError where the fields of a start have other members or steps than those of the first."""
    for part in parts:
        if part.members != parts[0].members or len(part.times) != len(parts[0].times):
            raise DataError(
                f"the forecasts that begin with {parts[0].times[0]} and {part.times[0]} have different members or "
                "steps: give them in separate runs"
            )


def check_no_times(times: str | None) -> None:
    """Nothing; UsageError where steps of several starts are asked for by a period."""
    if times is not None:
        raise UsageError(
            f"found the times {times} for forecasts from several reference times, expected none: select reference "
            "times or lead times of the data first"
        )
