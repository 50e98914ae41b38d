"""Arguments of the Python interface: taken in every form that can mean only one thing, or refused in one sentence."""

import datetime
import itertools
import math
import os
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from .errors import UsageError, shown

PAIRS = '{"tas": "ts"}'
MOST_OF_A_VALUE = 200  # characters
MOST_ENTRIES = 10_000_000  # of a list


def refused(name: str, value: object, expected: str, example: str) -> UsageError:
    """The error that an argument is of another kind; `example` is one as it is typed.

    >>> str(refused("steps", "six", "a whole number", "6"))
    "found steps = 'six' of type str, expected a whole number: give it as in steps=6"
    """
    kind = type(value).__name__
    try:
        plain = isinstance(value, str | bytes | int | float | list | tuple | dict | None)
        found = f"{value!r} of type {kind}" if plain else f"an object of type {kind}"
    except ValueError:  # an integer of more digits than Python writes
        found = f"a huge number of type {kind}"
    return UsageError(f"found {name} = {shown(found, MOST_OF_A_VALUE)}", expected, f"give it as in {name}={example}")


def whole(name: str, value: Any, expected: str = "a whole number", example: str = "4") -> int:
    """A whole number, also one of NumPy; UsageError for any other value, and for true and false.

    >>> import numpy as np
    >>> whole("steps", np.int64(3))
    3
    """
    try:
        if not isinstance(value, bool) and not getattr(value, "ndim", 0):
            return int(value.__index__())
    except (AttributeError, TypeError):
        pass
    raise refused(name, value, expected, example)


def real(name: str, value: Any, expected: str = "a number", example: str = "1.5") -> float:
    """A number, also one of NumPy; UsageError for any other value."""
    try:
        if not isinstance(value, bool | str | bytes) and not getattr(value, "ndim", 0):
            return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        pass
    raise refused(name, value, expected, example)


def switch(name: str, value: Any) -> bool:
    """True or false, also of NumPy.

    >>> import numpy as np
    >>> switch("resume", np.bool_(True))
    True
    """
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise refused(name, value, "True or False", "True")
    return bool(value)


def of_kind(name: str, value: Any, kinds: type | tuple[type, ...], expected: str, example: str) -> Any:
    """The value; UsageError unless it is an instance of one of the kinds."""
    if not isinstance(value, kinds):
        raise refused(name, value, expected, example)
    return value


def text(name: str, value: Any, expected: str, example: str) -> str:
    """A text."""
    return str(of_kind(name, value, str, expected, example))


def _several(name: str, value: Any, expected: str, example: str) -> list[Any]:
    """The entries of a list, tuple, array or set."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection) or getattr(value, "ndim", 1) != 1:
        raise refused(name, value, expected, example)
    found = list(itertools.islice(value, MOST_ENTRIES + 1))
    if len(found) > MOST_ENTRIES:
        raise refused(name, value, f"{expected}, {MOST_ENTRIES} at most", example)
    return found


def texts(name: str, value: Any, example: str) -> tuple[str, ...]:
    """Several texts; one stands for itself, and a set for its entries in the order of the alphabet.

    >>> texts("variables", "tas", "['tas']"), texts("variables", ["tas", "pr"], "['tas']")
    (('tas',), ('tas', 'pr'))
    """
    given = [value] if isinstance(value, str) else _several(name, value, "a list of texts", example)
    found = [text(name, one, "a list of texts", example) for one in given]
    return tuple(sorted(found) if isinstance(value, AbstractSet) else found)


def pairs(name: str, value: Any, example: str = PAIRS) -> dict[str, str]:
    """A table of texts by texts."""
    expected = "a dict of texts"
    found = of_kind(name, value, Mapping, expected, example)
    return {text(name, k, expected, example): text(name, v, expected, example) for k, v in found.items()}


def whole_numbers(name: str, value: Any, expected: str, example: str) -> tuple[int, ...]:
    """Several whole numbers; a set stands for rising ones."""
    found = [whole(name, one, expected, example) for one in _several(name, value, expected, example)]
    return tuple(sorted(found) if isinstance(value, AbstractSet) else found)


def date(name: str, value: Any) -> str:
    """A date as text, also of Python, NumPy and cftime, and an array of a single one.

    >>> import datetime
    >>> date("start", datetime.date(2005, 1, 31)), date("start", "2005-01")
    ('2005-01-31', '2005-01')
    """
    one = getattr(value, "values", value) if getattr(value, "ndim", None) == 0 else value
    if hasattr(one, "dtype") and one.ndim == 0:
        one = one[()]
    if isinstance(one, str):
        return one
    if type(one).__name__ == "datetime64" and str(one) != "NaT":
        return str(one).partition(".")[0]
    if isinstance(one, datetime.datetime) or hasattr(type(one), "has_year_zero"):  # of cftime
        return str(one.isoformat()).partition(".")[0]
    if isinstance(one, datetime.date):
        return one.isoformat()
    raise refused(name, value, "a date, as text or as one of Python, NumPy or cftime", "'2005-01'")


def path(name: str, value: Any) -> Path:
    """A path."""
    found = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not isinstance(found, str) or not found:
        raise refused(name, value, "a path", "'out.zarr'")
    return Path(found)


def check_judgement(*, force: bool, strict: bool) -> None:
    """Raise UsageError if input is both to be taken by force and to be refused already where it is warned of."""
    if force and strict:
        raise UsageError("found both --force (force=True) and --strict (strict=True)", advice="give one of them")
