"""Arguments of the Python interface: taken in every form that can mean only one thing, or refused in one sentence."""

import datetime
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import UsageError, shown


def refused(name: str, value: object, expected: str) -> UsageError:
    """The error that an argument is of another kind."""
    try:
        text = repr(value) if isinstance(value, str | bytes | int | float | list | tuple | dict | None) else ""
    except ValueError:  # an integer of more digits than Python writes
        text = "a huge number"
    found = f"{text} of type {type(value).__name__}".strip() if text else f"an object of type {type(value).__name__}"
    return UsageError(f"found {name} = {shown(found, 200)}", expected, f"give {name} in that form, or leave it out")


def whole(name: str, value: Any, expected: str = "a whole number") -> int:
    """A whole number, also one of NumPy; UsageError for any other value, and for true and false.

    >>> import numpy as np
    >>> whole("steps", np.int64(3))
    3
    """
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or getattr(value, "ndim", None):
        raise refused(name, value, expected)
    try:
        return int(value.__index__())
    except TypeError:
        raise refused(name, value, expected) from None


def real(name: str, value: Any, expected: str = "a number") -> float:
    """A number, also one of NumPy; UsageError for any other value."""
    if isinstance(value, bool | str | bytes) or not hasattr(type(value), "__float__") or getattr(value, "ndim", None):
        raise refused(name, value, expected)
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise refused(name, value, expected) from None


def switch(name: str, value: Any) -> bool:
    """True or false."""
    return bool(of_kind(name, value, bool, "True or False"))


def of_kind(name: str, value: Any, kinds: type | tuple[type, ...], expected: str) -> Any:
    """The value; UsageError unless it is an instance of one of the kinds."""
    if not isinstance(value, kinds):
        raise refused(name, value, expected)
    return value


def text(name: str, value: Any, expected: str = "text") -> str:
    """A text."""
    return str(of_kind(name, value, str, expected))


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Several texts; one stands for itself.

    >>> texts("variables", "tas"), texts("variables", ["tas", "pr"])
    (('tas',), ('tas', 'pr'))
    """
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable) or getattr(value, "ndim", None) == 0:
        raise refused(name, value, "a list of texts")
    return tuple(text(name, one, "a list of texts") for one in value)


def pairs(name: str, value: Any) -> dict[str, str]:
    """A table of texts by texts."""
    found = of_kind(name, value, Mapping, 'a dict such as {"tas": "ts"}')
    for one in (*found, *found.values()):
        text(name, one, 'a dict such as {"tas": "ts"}')
    return dict(found)


def whole_numbers(name: str, value: Any, expected: str) -> tuple[int, ...]:
    """Several whole numbers."""
    if (
        isinstance(value, str | bytes | Mapping)
        or not isinstance(value, Iterable)
        or getattr(value, "ndim", None) not in (None, 1)
    ):
        raise refused(name, value, expected)
    return tuple(whole(name, one, expected) for one in value)


def date(name: str, value: Any) -> str:
    """A date as text, also of Python, NumPy and cftime.

    >>> import datetime
    >>> date("start", datetime.date(2005, 1, 31)), date("start", "2005-01")
    ('2005-01-31', '2005-01')
    """
    if isinstance(value, str):
        return value
    if type(value).__name__ == "datetime64" and str(value) != "NaT":
        return str(value).partition(".")[0]
    if isinstance(value, datetime.datetime) or hasattr(type(value), "has_year_zero"):  # of cftime
        return str(value.isoformat()).partition(".")[0]
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise refused(name, value, "a date such as 2005-01, as text or as a date of Python, NumPy or cftime")


def path(name: str, value: Any) -> Path:
    """A path."""
    if not str(of_kind(name, value, (str, os.PathLike), "a path")):
        raise refused(name, value, "a path")
    return Path(value)
