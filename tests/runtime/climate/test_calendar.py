"""Phases, steps and axes in the calendars of CF; oracles are counts of days done by hand."""

import cftime
import numpy as np
import pytest

from fsae.runtime.climate.calendar import (
    as_dates,
    centres,
    decimal_year,
    infer_step,
    parse_start,
    step_bounds,
    steps,
    time_index,
    year_phase,
)
from fsae.runtime.errors import DataError, UsageError

CALENDARS = ["standard", "proleptic_gregorian", "julian", "noleap", "all_leap", "360_day"]


def date(calendar: str, *parts: int) -> cftime.datetime:
    return cftime.datetime(*parts, calendar=calendar)


@pytest.mark.parametrize(
    ("calendar", "year", "month", "expected"),
    [
        ("noleap", 2004, 1, 15.5 / 365),
        ("standard", 2004, 2, (31 + 14.5) / 366),
        ("proleptic_gregorian", 1900, 2, (31 + 14.0) / 365),
        ("julian", 1900, 2, (31 + 14.5) / 366),  # a leap year there
        ("all_leap", 2001, 12, (335 + 15.5) / 366),
        ("360_day", 2001, 7, 195 / 360),
    ],
)
def test_monthly_means_have_the_phase_of_mid_month(calendar: str, year: int, month: int, expected: float) -> None:
    stamps = [date(calendar, year, month, 1), date(calendar, year, month, 16, 12), date(calendar, year, month, 28)]
    np.testing.assert_allclose(year_phase(stamps, "1 month", "time: mean"), expected, rtol=1e-12)
    np.testing.assert_allclose(decimal_year(stamps, "1 month"), year + expected, rtol=1e-12)


def test_what_decides_the_phase() -> None:
    stamp = [date("noleap", 2001, 3, 1)]
    first_of_march = 59 / 365
    assert year_phase(stamp, "1 month", "area: mean time: point")[0] == pytest.approx(first_of_march)
    assert year_phase(stamp, None)[0] == pytest.approx(first_of_march)
    assert year_phase(stamp, "6 hours", "time: mean")[0] == pytest.approx(first_of_march)
    assert year_phase(stamp, "1 day", "time: mean")[0] == pytest.approx(59.5 / 365)
    assert year_phase(stamp, "1 day")[0] == pytest.approx(first_of_march)
    assert year_phase(stamp, "1 year", "time: mean")[0] == pytest.approx(0.5)
    assert year_phase(stamp, "3 months", "time: mean")[0] == pytest.approx((59 + 46) / 365)  # March to May
    mid_april = [date("noleap", 2001, 4, 16)]
    assert year_phase(mid_april, "3 months", "time: mean")[0] == pytest.approx((59 + 46) / 365)  # not at a start
    bounds = [(date("noleap", 2001, 2, 1), date("noleap", 2001, 3, 1))]  # stamped at the end of the month
    assert year_phase(stamp, "1 month", "time: mean", bounds)[0] == pytest.approx(45 / 365)


def test_december_to_january_bounds_stay_in_the_year_of_their_middle() -> None:
    bounds = [(date("noleap", 2000, 12, 1), date("noleap", 2001, 3, 1))]
    assert decimal_year([date("noleap", 2001, 1, 1)], None, "", bounds)[0] == pytest.approx(2001 + 14 / 365)


def test_datetime64_is_proleptic_gregorian() -> None:
    found = as_dates(np.array(["1948-02-29T06:30", "2262-01-01"], dtype="datetime64[s]"))
    assert found == [date("proleptic_gregorian", 1948, 2, 29, 6, 30), date("proleptic_gregorian", 2262, 1, 1)]
    with pytest.raises(DataError, match="found 1 missing times"):
        as_dates(np.array(["NaT"], dtype="datetime64[s]"))


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize("step", ["1 month", "3 months", "1 year", "1 day", "5 days", "6 hours", "30 minutes"])
def test_made_axes_have_the_step_they_were_made_with(calendar: str, step: str) -> None:  # oracle: round trip
    axis = steps(date(calendar, 1999, 1, 1), 40, step, calendar)
    assert infer_step(axis) == step
    bounds = step_bounds(axis, step)
    assert infer_step(axis[:1], bounds[:1]) == step
    assert [end for _, end in bounds[:-1]] == axis[1:]
    indices = np.array([time_index(t, step) for t in axis])
    assert set(np.diff(indices)) == {3 if step == "3 months" else 1}
    phase = year_phase(axis, step, "time: mean")
    assert phase.min() >= 0
    assert phase.max() < 1


def test_steps_of_stamps_that_wander() -> None:
    middles = centres(steps(date("standard", 1999, 1, 1), 30, "1 month", "standard"), "1 month")
    assert infer_step(middles) == "1 month"
    assert infer_step(middles[:5] + middles[12:17]) == "1 month"  # with a gap
    ends = [date("noleap", 2001, m, d) for m, d in ((1, 31), (2, 28), (3, 31))]
    assert infer_step(ends) == "1 month"
    assert infer_step([date("noleap", 2001, 1, 31), date("noleap", 2001, 2, 1)]) == "1 day"
    assert infer_step([date("noleap", 2001, 1, 1), date("noleap", 2001, 1, 2), date("noleap", 2001, 1, 4)]) == "1 day"
    assert infer_step([date("noleap", 2001, 1, 1), date("noleap", 2001, 1, 3), date("noleap", 2001, 1, 6)]) is None
    assert infer_step([date("noleap", 2001, 1, 1)]) is None
    assert infer_step([date("noleap", 2001, 1, 2), date("noleap", 2001, 1, 1)]) is None


def test_axes_start_at_the_step_that_holds_the_start() -> None:
    start = date("360_day", 2004, 2, 30, 7, 20)
    assert steps(start, 2, "1 month", "360_day") == [date("360_day", 2004, 2, 1), date("360_day", 2004, 3, 1)]
    assert steps(start, 1, "1 year", "360_day") == [date("360_day", 2004, 1, 1)]
    assert steps(start, 1, "1 day", "360_day") == [date("360_day", 2004, 2, 30)]
    assert steps(start, 2, "6 hours", "360_day")[1] == date("360_day", 2004, 2, 30, 12)
    with pytest.raises(DataError, match="calendar '360_day', expected 'noleap'"):
        steps(start, 1, "1 month", "noleap")
    with pytest.raises(DataError, match="time step 'fortnight'"):
        steps(start, 1, "fortnight", "360_day")


def test_time_index() -> None:  # oracle: days counted by hand
    assert time_index(date("noleap", 2005, 1, 31), "1 month") == 12 * 2005
    assert time_index(date("noleap", 3, 1, 2, 6), "6 hours") == (2 * 365 + 1) * 4 + 1
    assert time_index(date("360_day", 2, 1, 1), "1 day") == 360


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2005", (2005, 1, 1)),
        ("2005-03", (2005, 3, 1)),
        ("2005-3-9", (2005, 3, 9)),
        (" 2005-03-09T06:30 ", (2005, 3, 9, 6, 30)),
        ("2005-03-09 06:00:00Z", (2005, 3, 9, 6)),
    ],
)
def test_start_dates(text: str, parts: tuple[int, ...]) -> None:
    assert parse_start(text, "noleap") == date("noleap", *parts)


@pytest.mark.parametrize(
    ("text", "calendar"),
    [("2005-02-30", "noleap"), ("2004-02-29", "365_day"), ("2005-01-31", "360_day"), ("1582-10-10", "standard"),
     ("2005-13", "standard"), ("2005-01-01T25:00", "standard"), ("0000-01", "standard"), ("0000", "julian")],
)  # fmt: skip
def test_dates_outside_the_calendar(text: str, calendar: str) -> None:
    with pytest.raises(DataError, match=f"{text}' does not exist in the calendar '{calendar}'"):
        parse_start(text, calendar)


@pytest.mark.parametrize("text", ["", "soon", "05-01-01", "2005/01/01", "2005-01-01T06:00:00+01:00"])
def test_texts_that_are_no_dates(text: str) -> None:
    with pytest.raises(UsageError, match="expected such as 2005"):
        parse_start(text, "noleap")
