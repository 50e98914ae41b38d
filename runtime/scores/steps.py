"""The steps that an ensemble and its reference have in common, by their dates."""

from collections.abc import Sequence
from typing import NamedTuple

from fsae.runtime.climate.calendar import Date, date_text, parse_period
from fsae.runtime.climate.steps import parse_step, same_step
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import Fields

Key = tuple[int, ...]


class Run(NamedTuple):
    """Steps that follow each other in both: the first in the ensemble, the first in the reference, and their number."""

    ensemble: int
    reference: int
    length: int


def common_steps(ensemble: Fields, reference: Fields, times: str | None) -> list[tuple[int, int]]:
    """Places in the ensemble and in the reference of the steps that both have, in the period `times` if one is given.

    Months are the same by year and month, days by their date, whatever the calendar and the stamp in them; steps of
    another length by their beginning, or by their stamp unless both say when they begin. DataError if there are none,
    or if the steps have different lengths.
    """
    step = _common_step(ensemble, reference)
    known = ensemble.periods is not None and reference.periods is not None
    own, other = (starts(fields) if known else list(fields.times) for fields in (ensemble, reference))
    places = {key: place for place, key in enumerate(_keys(other, step))}
    found = [(place, places[key]) for place, key in enumerate(_keys(own, step)) if key in places]
    if times is not None:
        first, end = parse_period(times, ensemble.calendar)
        found = [pair for pair in found if first <= own[pair[0]] < end]
    if not found:
        within = "" if times is None else f" within {times}"
        raise DataError(
            f"{ensemble.name} ({_period(ensemble)}) and {reference.name} ({_period(reference)}) have no step in "
            f"common{within}",
            advice="give a reference of the same time",
        )
    return found


def runs(steps: Sequence[tuple[int, int]], most: int) -> list[Run]:
    """The steps as runs of at most `most`.

    >>> [tuple(run) for run in runs([(0, 5), (1, 6), (2, 7), (4, 9)], 2)]
    [(0, 5, 2), (2, 7, 1), (4, 9, 1)]
    """
    found: list[Run] = []
    for one, other in steps:
        last = found[-1] if found else Run(0, 0, 0)
        if 0 < last.length < most and (one, other) == (last.ensemble + last.length, last.reference + last.length):
            found[-1] = last._replace(length=last.length + 1)
        else:
            found.append(Run(one, other, 1))
    return found


def starts(fields: Fields) -> list[Date]:
    """The beginning of each step, or its stamp where that is not known."""
    return list(fields.times) if fields.periods is None else [begin for begin, _ in fields.periods]


def _common_step(ensemble: Fields, reference: Fields) -> str | None:
    """The length of the steps of both; that of the other one where a single step does not tell it."""
    one, other = ensemble.step, reference.step
    if one is not None and other is not None and not same_step(one, other):
        raise DataError(
            f"the steps of {ensemble.name} are {one} and those of {reference.name} {other}",
            "the same",
            "average or select the finer ones first, as with cdo monmean",
        )
    return one or other


def _keys(dates: Sequence[Date], step: str | None) -> list[Key]:
    """What tells dates apart, equal for those of one step: the parts that its unit needs."""
    unit = "" if step is None else parse_step(step)[1]
    parts = {"year": 1, "month": 2, "day": 3}.get(unit, 6)
    return [(d.year, d.month, d.day, d.hour, d.minute, d.second)[:parts] for d in dates]


def _period(fields: Fields) -> str:
    dates = starts(fields)
    first, last = (date_text(date, fields.step) for date in (dates[0], dates[-1]))
    return f"{first} to {last}"
