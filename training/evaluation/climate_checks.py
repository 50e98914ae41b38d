"""The figures of a generated climate beside what they must keep: the range of real stretches, or a named tolerance.

One decade does not foretell the next, so a figure passes inside the range that stretches of the training years span
among themselves, or inside its tolerance where that is wider.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .report import Check, Climate, Memory, MemoryRange, Stretches


@dataclass(frozen=True, kw_only=True)
class ClimateTolerances:
    """What is good enough, whatever real stretches do; `bias` is in kelvin."""

    bias: float = 0.35
    spectrum_median: float = 0.10
    spectrum_share: float = 0.9  # of degrees within 20 % of the power
    std_correlation: float = 0.95
    std_ratio: tuple[float, float] = (0.9, 1.1)
    memory: float = 0.1  # difference of an autocorrelation from the truth's
    pattern_correlation: float = 0.8


def climate_checks(
    own: Climate,
    previous: Climate,
    truth: Climate,
    generators: Sequence[Climate],
    stretches: Stretches,
    limits: ClimateTolerances,
    *,
    kelvin: bool,
) -> Iterator[Check]:
    """Checks of the row `own`, beside the `previous` real period as a forecast, the truth and simple `generators`.

    Where there is neither a range nor a tolerance there is no check.
    """
    if kelvin:
        yield at_most("global-mean bias", abs(own.bias), limits.bias)
    yield from _at_most_wider("mean map RMSE", own.mean_map_rmse, stretches, "mean_map_rmse", previous.mean_map_rmse)
    yield from _at_most_wider(
        "spectrum: median distance of the power ratio from 1",
        own.spectrum_median,
        stretches,
        "spectrum_median",
        limits.spectrum_median,
    )
    yield from _at_least_wider(
        "spectrum: share of degrees within 20 %", own.within_20, stretches, "within_20", limits.spectrum_share
    )
    yield from _at_least_wider(
        "standard deviation: pattern correlation",
        own.std_correlation,
        stretches,
        "std_correlation",
        limits.std_correlation,
    )
    yield from _inside("standard deviation: mean ratio", own.std_ratio, stretches, "std_ratio", limits.std_ratio)
    for found, true, span in zip(own.memory, truth.memory, stretches.memory, strict=True):
        yield _memory_check(found, true, span, limits.memory)
    yield from _at_least_wider(
        "El Nino-type pattern: correlation",
        own.pattern_correlation,
        stretches,
        "pattern_correlation",
        limits.pattern_correlation,
    )
    for figure, name in (("low", "1st percentile"), ("high", "99th percentile")):
        yield from _at_most_wider(f"{name}: RMSE", getattr(own, f"{figure}_rmse"), stretches, f"{figure}_rmse")
        yield from _at_least_wider(
            f"{name}: pattern correlation", getattr(own, f"{figure}_correlation"), stretches, f"{figure}_correlation"
        )
    for figure in ("skewness", "kurtosis"):
        yield from _inside(f"{figure}: mean", getattr(own, figure), stretches, figure)
        yield from _at_most_wider(f"{figure}: RMSE", getattr(own, f"{figure}_rmse"), stretches, f"{figure}_rmse")
    if own.cell_peak is not None:
        yield from _at_most_wider("patches: peak at a cell's scale", own.cell_peak, stretches, "cell_peak")
    yield from _at_most_wider("patches: jumps across cell edges", own.edge_jump, stretches, "edge_jump")
    yield from _scores(own, generators, stretches)
    if own.near_share is not None and own.nearest_training is not None:
        real = truth.nearest_training or own.nearest_training
        yield from _inside(
            "nearest training field: median", own.nearest_training, stretches, "nearest_training", (real, real)
        )
        yield from _at_most_wider(
            "nearest training field: share below the truth's 5 %", own.near_share, stretches, "near_share"
        )


def _memory_check(found: Memory, true: Memory, span: MemoryRange, tolerance: float) -> Check:
    """Whether the autocorrelation at every lag is in the range of real stretches or within the tolerance of the true.

    The value is how far it is outside at the lag where that is most.
    """
    low = np.minimum(span.low, np.array(true.autocorrelation) - tolerance)
    high = np.maximum(span.high, np.array(true.autocorrelation) + tolerance)
    value = float(np.maximum(low - found.autocorrelation, found.autocorrelation - high).clip(min=0).max())
    name = f"autocorrelation, {found.region}: outside by"
    return Check(name=name, value=value, limit=f"0 of range or {tolerance:.3g}", passed=value == 0)


def _scores(own: Climate, generators: Sequence[Climate], stretches: Stretches) -> Iterator[Check]:
    """The energy score beside that of real stretches; then whether three figures beat the best simple generator."""
    if own.energy_score is not None:
        yield from _at_most_wider("energy score", own.energy_score, stretches, "energy_score")
    for figure in ("energy_score", "skewness_rmse", "kurtosis_rmse"):
        best = min((value for row in generators if (value := getattr(row, figure)) is not None), default=None)
        value = getattr(own, figure)
        if best is not None and value is not None:
            name = figure.replace("_", " ").replace("rmse", "RMSE")
            yield Check(name=f"{name}, against VAR(1)", value=value, limit=f"< {best:.3g}", passed=value < best)


def _at_most_wider(
    name: str, value: float, stretches: Stretches, figure: str, tolerance: float | None = None
) -> Iterator[Check]:
    """Whether `value` is no larger than the largest of real stretches or the tolerance."""
    span = stretches.range_of(figure)
    limits = [limit for limit in (None if span is None else span.high, tolerance) if limit is not None]
    if limits:
        limit = f"<= {max(limits):.3g}{_named(tolerance, max(limits))}"
        yield Check(name=name, value=value, limit=limit, passed=value <= max(limits))


def _at_least_wider(
    name: str, value: float, stretches: Stretches, figure: str, tolerance: float | None = None
) -> Iterator[Check]:
    """Whether `value` is no smaller than the smallest of real stretches or the tolerance."""
    span = stretches.range_of(figure)
    limits = [limit for limit in (None if span is None else span.low, tolerance) if limit is not None]
    if limits:
        limit = f">= {min(limits):.3g}{_named(tolerance, min(limits))}"
        yield Check(name=name, value=value, limit=limit, passed=value >= min(limits))


def _named(tolerance: float | None, limit: float) -> str:
    """The tolerance in words where the range of real stretches is wider."""
    return "" if tolerance is None or tolerance == limit else f" (named {tolerance:.3g})"


def _inside(
    name: str, value: float, stretches: Stretches, figure: str, tolerance: tuple[float, float] | None = None
) -> Iterator[Check]:
    """Whether `value` lies in the range of real stretches, widened by the tolerance."""
    span = stretches.range_of(figure)
    ranges = [] if span is None else [(span.low, span.high)]
    ranges += [] if tolerance is None else [tolerance]
    if ranges:
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        yield Check(name=name, value=value, limit=f"{low:.3g} to {high:.3g}", passed=low <= value <= high)


def at_most(name: str, value: float, limit: float) -> Check:
    """The check that `value` does not exceed `limit`."""
    return Check(name=name, value=value, limit=f"<= {limit:.3g}", passed=value <= limit)
