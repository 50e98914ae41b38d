"""Members generated over decades, reduced window by window: whole fields of all of them would not fit into memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.ensemble.members import Plan, windows_needed

from .model import TrainedModel, departures, generated

Pieces = Iterable[tuple[slice, slice, F32]]  # members, steps, departures (member, time, variable, pixel)
Moved = Callable[[], None]  # called after every piece


@dataclass(frozen=True, kw_only=True)
class LongRun:
    """Statistics of departures from the training climatology, in the variable's unit; spans are stretches of steps."""

    mean: F64  # (member, step, variable), over the globe
    spatial_std: F64  # (member, step, variable), deviation over the pixels of a step
    span_mean: F64  # (span, member, variable, pixel), over the steps of the span
    span_std: F64  # (span, member, variable, pixel), deviation over the steps about that mean
    samples: F32  # (span, member, sample, variable, pixel), every `thin`-th step of the spans, as many in each
    not_finite: int  # values


def reduce_run(
    pieces: Pieces, shape: tuple[int, int, int, int], spans: Sequence[slice], thin: int | None = None
) -> LongRun:
    """Statistics of pieces that together are an ensemble of `shape` (member, step, variable, pixel)."""
    members, steps, variables, pixels = shape
    mean, spatial_std = np.full((2, members, steps, variables), np.nan)
    sums = np.zeros((2, len(spans), members, variables, pixels))
    kept = [np.arange(span.start, span.stop, thin) if thin else np.arange(0) for span in spans]
    count = min(map(len, kept))
    samples = np.zeros((len(spans), members, count, variables, pixels), dtype=np.float32)
    not_finite = 0
    for rows, times, fields in pieces:
        mean[rows, times] = fields.mean(axis=-1, dtype=np.float64)
        spatial_std[rows, times] = fields.std(axis=-1, dtype=np.float64)
        not_finite += int(np.size(fields) - np.count_nonzero(np.isfinite(fields)))
        for number, span in enumerate(spans):
            first, last = max(times.start, span.start), min(times.stop, span.stop)
            if first >= last:
                continue
            part = fields[:, first - times.start : last - times.start]
            sums[0, number, rows] += part.sum(axis=1, dtype=np.float64)
            sums[1, number, rows] += np.square(part, dtype=np.float64).sum(axis=1)
            for place, step in enumerate(kept[number][:count]):
                if first <= step < last:
                    samples[number, rows, place] = fields[:, step - times.start]
    length = np.array([span.stop - span.start for span in spans])[:, None, None, None]
    span_mean, square = sums / length
    return LongRun(
        mean=mean,
        spatial_std=spatial_std,
        span_mean=span_mean,
        span_std=np.sqrt(np.maximum(square - span_mean**2, 0)),
        samples=samples,
        not_finite=not_finite,
    )


def generated_pieces(model: TrainedModel, plan: Plan, moved: Moved) -> Iterator[tuple[slice, slice, F32]]:
    """Pieces of a free-running ensemble."""
    for unit in generated(model, plan):
        yield unit.members, unit.times, departures(model, unit.values, plan.steps.season[unit.times])
        moved()


def count_pieces(model: TrainedModel, steps: int, members: int) -> int:
    """The number of pieces that `generated_pieces` gives."""
    return windows_needed(steps, model.generator.window) * members


def yearly(series: F64, years: Ints) -> F64:
    """Means (member, year, variable) of a series (member, step, variable) over calendar years (step,).

    >>> yearly(np.array([[[1.0], [3.0], [5.0]]]), np.array([1990, 1990, 1991])).tolist()
    [[[2.0], [5.0]]]
    """
    return np.stack([series[:, years == year].mean(axis=1) for year in np.unique(years)], axis=1)


def slope(series: F64, times: F64) -> F64:
    """Least-squares slopes (member, variable) of series (member, time, variable) against `times`.

    >>> slope(np.array([[[1.0], [3.0], [5.0]]]), np.array([0.0, 1.0, 2.0])).tolist()
    [[2.0]]
    """
    since = times - times.mean()
    return np.asarray(np.einsum("t,mtv->mv", since, series) / np.sum(since**2))
