"""Time steps such as "6 hours", and calendars, by name; apart from calendar.py, so that manifests need no cftime."""

import re

from fsae.runtime.errors import DataError

MOST_HARMONICS = 183  # waves in a year: of its days there are no more
CALENDARS = (
    "standard",
    "gregorian",
    "proleptic_gregorian",
    "julian",
    "noleap",
    "365_day",
    "all_leap",
    "366_day",
    "360_day",
)
STEP = "([1-9][0-9]{0,5}) (minute|hour|day|month|year)s?"
SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}
MONTHS = {"month": 1, "year": 12}


def parse_step(step: str) -> tuple[int, str]:
    """Count and unit (minute, hour, day, month or year) of a step.

    >>> parse_step("6 hours"), parse_step("1 month")
    ((6, 'hour'), (1, 'month'))
    """
    found = re.fullmatch(STEP, step)
    if found is None:
        raise DataError(
            f"found the time step {step!r}",
            "such as '1 month', '1 day', '6 hours' or '1 year'",
            "write a number and a unit",
        )
    return int(found[1]), found[2]


def format_step(count: int, unit: str) -> str:
    """The text of a step.

    >>> format_step(6, "hour"), format_step(1, "day")
    ('6 hours', '1 day')
    """
    return f"{count} {unit}{'' if count == 1 else 's'}"


def same_step(one: str, other: str) -> bool:
    """True if two steps have the same length.

    >>> same_step("24 hours", "1 day"), same_step("12 months", "1 year"), same_step("30 days", "1 month")
    (True, True, False)
    """
    lengths = []
    for count, unit in (parse_step(one), parse_step(other)):
        lengths.append((count * MONTHS[unit], 0) if unit in MONTHS else (0, count * SECONDS[unit]))
    return lengths[0] == lengths[1]
