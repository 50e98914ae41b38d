"""The figures of a generated climate beside what they must keep: the range of real stretches, or a named tolerance.

One decade does not foretell the next, so a figure passes inside the range that stretches of the training years span
among themselves, or inside its tolerance if that is wider.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .report import Check, Climate, Memory, MemoryRange, Stretches

BIAS_K = 0.35  # [K], of the global mean
MEMORY = 0.1  # difference of an autocorrelation from the truth's


@dataclass(frozen=True)
class Limit:
    """Bounds of one figure: the range of real stretches, widened to the tolerance if there is one.

    A tolerance is the largest value if `side` is "most", the smallest if it is "least", and both if it is "inside".
    """

    name: str
    figure: str
    side: Literal["most", "least", "inside"]
    tolerance: float | tuple[float, float] | None = None

    def check(self, own: Climate, stretches: Stretches) -> Iterator[Check]:
        """The check of a row; none if the row lacks the figure, or if there is neither a range nor a tolerance."""
        value = getattr(own, self.figure)
        span = stretches.range_of(self.figure)
        ranges = [] if span is None else [(span.low, span.high)]
        if self.tolerance is not None:
            named = self.tolerance
            ranges.append(named if isinstance(named, tuple) else (named, named))
        if value is None or not ranges:
            return
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        if self.side == "inside":
            limit, passed = f"{low:.3g} to {high:.3g}", low <= value <= high
        elif self.side == "most":
            limit, passed = f"<= {high:.3g}{self._named(high)}", value <= high
        else:
            limit, passed = f">= {low:.3g}{self._named(low)}", value >= low
        yield Check(name=self.name, value=value, limit=limit, passed=passed)

    def _named(self, limit: float) -> str:
        """The tolerance in words, if the range of real stretches is wider."""
        return "" if self.tolerance in (None, limit) else f" (named {self.tolerance:.3g})"


VARIABILITY = (
    Limit("spectrum: median distance of the power ratio from 1", "spectrum_median", "most", 0.10),
    Limit("spectrum: share of degrees within 20 %", "within_20", "least", 0.9),
    Limit("standard deviation: pattern correlation", "std_correlation", "least", 0.95),
    Limit("standard deviation: mean ratio", "std_ratio", "inside", (0.9, 1.1)),
)

DISTRIBUTION = (
    Limit("El Nino-type pattern: correlation", "pattern_correlation", "least", 0.8),
    Limit("1st percentile: RMSE", "low_rmse", "most"),
    Limit("1st percentile: pattern correlation", "low_correlation", "least"),
    Limit("99th percentile: RMSE", "high_rmse", "most"),
    Limit("99th percentile: pattern correlation", "high_correlation", "least"),
    Limit("skewness: mean", "skewness", "inside"),
    Limit("skewness: RMSE", "skewness_rmse", "most"),
    Limit("kurtosis: mean", "kurtosis", "inside"),
    Limit("kurtosis: RMSE", "kurtosis_rmse", "most"),
    Limit("patches: peak at a cell's scale", "cell_peak", "most"),
    Limit("patches: jumps across cell edges", "edge_jump", "most"),
    Limit("energy score", "energy_score", "most"),
)


def climate_checks(
    own: Climate,
    previous: Climate,
    truth: Climate,
    generators: Sequence[Climate],
    stretches: Stretches,
    *,
    kelvin: bool,
) -> Iterator[Check]:
    """Checks of the row `own`, beside the `previous` real period as a forecast, the truth and simple `generators`."""
    if kelvin:
        yield at_most("global-mean bias", abs(own.bias), BIAS_K)
    mean_map = Limit("mean map RMSE", "mean_map_rmse", "most", previous.mean_map_rmse)
    for limit in (mean_map, *VARIABILITY):
        yield from limit.check(own, stretches)
    for found, true, span in zip(own.memory, truth.memory, stretches.memory, strict=True):
        yield _memory_check(found, true, span)
    for limit in DISTRIBUTION:
        yield from limit.check(own, stretches)
    yield from _against_generators(own, generators)
    real = truth.nearest_training or own.nearest_training
    for limit in (
        Limit("nearest training field: median", "nearest_training", "inside", real),
        Limit("nearest training field: share below the truth's 5 %", "near_share", "most"),
    ):
        yield from limit.check(own, stretches)


def _memory_check(found: Memory, true: Memory, span: MemoryRange) -> Check:
    """Check that the autocorrelation at every lag is in the range of real stretches or close to the true one.

    The value is the largest distance outside, over the lags.
    """
    low = np.minimum(span.low, np.array(true.autocorrelation) - MEMORY)
    high = np.maximum(span.high, np.array(true.autocorrelation) + MEMORY)
    value = float(np.maximum(low - found.autocorrelation, found.autocorrelation - high).clip(min=0).max())
    name = f"autocorrelation, {found.region}: outside by"
    return Check(name=name, value=value, limit=f"0 of range or {MEMORY:.3g}", passed=value == 0)


def _against_generators(own: Climate, generators: Sequence[Climate]) -> Iterator[Check]:
    """Check that three figures beat the best simple generator."""
    for figure in ("energy_score", "skewness_rmse", "kurtosis_rmse"):
        best = min((value for row in generators if (value := getattr(row, figure)) is not None), default=None)
        value = getattr(own, figure)
        if best is not None and value is not None:
            name = figure.replace("_", " ").replace("rmse", "RMSE")
            yield below(f"{name}, against VAR(1)", value, best)


def at_most(name: str, value: float, limit: float) -> Check:
    """The check that `value` does not exceed `limit`."""
    return Check(name=name, value=value, limit=f"<= {limit:.3g}", passed=value <= limit)


def below(name: str, value: float, limit: float) -> Check:
    """The check that `value` is smaller than `limit`."""
    return Check(name=name, value=value, limit=f"< {limit:.3g}", passed=value < limit)
