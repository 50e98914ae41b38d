"""The quality that is asked of the archive codec, and the figures of what came of it."""

import math
from dataclasses import dataclass

import numpy as np

from fsae.runtime.arguments import real, switch
from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality of an archive: exactly one of these, in the unit of the variable.

    `rmse`: root mean square error of a chunk, at most. `max_error`: largest error of any value, of its size if
    `relative`. `ratio`: bytes in float32 over bytes of a chunk, at least.
    """

    rmse: float = 0.0
    max_error: float = 0.0
    relative: bool = False
    ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rmse", "max_error", "ratio"):
            object.__setattr__(self, name, real(name, getattr(self, name), example="0.2"))
        object.__setattr__(self, "relative", switch("relative", self.relative))
        asked = [value for value in (self.rmse, self.max_error, self.ratio) if value]
        if len(asked) != 1 or not math.isfinite(asked[0]) or asked[0] <= 0:
            raise UsageError(
                f"found rmse={self.rmse:g}, max_error={self.max_error:g} and ratio={self.ratio:g}",
                "exactly one of them, a positive number",
                "give one, such as rmse=0.2",
            )
        if self.ratio and self.ratio < 1:
            raise UsageError(f"found a ratio of {self.ratio:g}", "at least 1", "give a larger ratio, such as 64")


def read_quality(kind: str, text: str) -> Quality:
    """The quality of an option's value; a bound that ends in % is relative to each value.

    UsageError for anything else.

    >>> read_quality("max-error", "0.1%")
    Quality(rmse=0.0, max_error=0.001, relative=True, ratio=0.0)
    """
    relative = kind == "max-error" and text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if relative else 1)
    except ValueError:
        raise UsageError(f"found --{kind} {text!r}", "a number", f"give it as in --{kind} tas=0.2") from None
    return Quality(**{kind.replace("-", "_"): number}, relative=relative)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Errors of decoded values, in their unit, and the bytes they take; sums, so that chunks can be added up."""

    squares: float = 0.0  # sum over the points of weight * error^2
    weight: float = 0.0
    largest: float = 0.0
    values: int = 0
    stored_bytes: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            squares=self.squares + other.squares,
            weight=self.weight + other.weight,
            largest=max(self.largest, other.largest),
            values=self.values + other.values,
            stored_bytes=self.stored_bytes + other.stored_bytes,
        )

    @property
    def rmse(self) -> float:
        """Root mean square error, weighted by area."""
        return math.sqrt(self.squares / self.weight) if self.weight else 0.0

    @property
    def ratio(self) -> float:
        """Bytes in float32 over stored bytes."""
        return 4 * self.values / self.stored_bytes

    @property
    def bits_per_value(self) -> float:
        """Stored bits per value."""
        return 8 * self.stored_bytes / self.values


def measure(values: F32, decoded: F32, area: F64, stored_bytes: int) -> Figures:
    """Figures of decoded values (time, point) whose points have these areas; missing values have no error."""
    error = np.abs(decoded.astype(np.float64) - values)
    there = np.isfinite(error)
    error = np.where(there, error, 0.0)
    return Figures(
        squares=float((error**2 @ area).sum()),
        weight=float((there @ area).sum()),
        largest=float(error.max(initial=0.0)),
        values=values.size,
        stored_bytes=stored_bytes,
    )
