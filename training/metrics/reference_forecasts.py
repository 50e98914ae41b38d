"""Forecasts without a network: climatologies, persistence, damped persistence, and an autoregression of EOFs.

All of them know the training years and the last step before the start, nothing later. Fields are departures from the
training climatology (time, variable, pixel); a forecast is (member, lead, variable, pixel) for one start.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import DataError

from .baselines import Eofs, InverseModel, fit_eofs, fit_inverse_model

Forecast = Callable[[int], F32]  # (position of lead 1 in the series) -> (member, lead, variable, pixel)
CLIMATOLOGY_YEARS = 30  # the length that the World Meteorological Organization takes for a climatological normal
RECENT_YEARS = 10


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Departures of the training years and, behind them without a gap, of the evaluation years."""

    values: F32  # (time, variable, pixel)
    phase: F64  # (time,), fraction of the year
    time_years: F64  # (time,), decimal years
    known: int  # number of training steps

    @property
    def year(self) -> NDArray[np.int64]:
        """Calendar year of each step."""
        return np.floor(self.time_years).astype(np.int64)

    def last_training_years(self, count: int) -> NDArray[np.int64]:
        """Up to `count` of the last training years, never the first one, so that there are steps before each."""
        years = np.unique(self.year[: self.known])[1:]
        if len(years) < 2:
            raise DataError(
                f"found {len(years) + 1} training years",
                "3 at least for a climatology",
                "add years to data.training_years",
            )
        return years[-count:]

    def within(self, years: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of all training steps in `years`."""
        return np.flatnonzero(np.isin(self.year[: self.known], years))

    def like(self, position: int, years: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position of the step of each of the training `years` that is nearest to `position` in the season."""
        found = []
        for year in years:
            steps = np.flatnonzero(self.year[: self.known] == year)
            found.append(steps[np.argmin(np.abs(self.phase[steps] - self.phase[position]))])
        return np.array(found)


def reference_forecasts(series: Observed, leads: int, members: int, seed: int) -> dict[str, Forecast]:
    """The forecasts by name; the first is the climatology, the second the climatology of the recent mean."""
    scale = np.sqrt(np.mean(series.values[: series.known] ** 2, axis=(0, 2), dtype=np.float64)).astype(np.float32)
    normal = series.values / scale[:, None]  # so that no variable dominates the EOFs because of its unit
    flat = normal.reshape(len(normal), -1)
    eofs = fit_eofs(flat[: series.known], series.time_years[: series.known])

    def autoregression(trend: bool) -> Forecast:
        model = fit_inverse_model(eofs, trend=trend)

        def forecast(start: int) -> F32:
            generator = np.random.default_rng((seed, start))
            times = series.time_years[start - 1 : start + leads]
            drawn = draw_from_state(eofs, model, flat[start - 1], times, members, generator)
            return np.asarray(drawn.reshape(members, leads, *normal.shape[1:]) * scale[:, None])

        return forecast

    return {
        "climatology": climatology(series, leads, "none"),
        "climatology, recent mean": climatology(series, leads, "recent"),
        "climatology, trend": climatology(series, leads, "trend"),
        "persistence": lambda start: np.repeat(series.values[None, start - 1 : start], leads, axis=1),
        "damped persistence": damped_persistence(series, leads),
        "VAR(1) of EOFs": autoregression(False),
        "VAR(1) of EOFs, trend": autoregression(True),
    }


def recent_mean(series: Observed) -> F64:
    """Mean departure (variable, pixel) of the last training years."""
    mean: F64 = series.values[series.within(series.last_training_years(RECENT_YEARS))].mean(axis=0, dtype=np.float64)
    return mean


def climatology(series: Observed, leads: int, shift: str) -> Forecast:
    """The same season of each of the last 30 training years as a member.

    `shift`: "none"; "recent" moves all members by the recent mean less that of the 30 years; "trend" moves each along
    the linear trend of its pixel over the 30 years, all seasons together, to the year of the forecast.
    """
    years = series.last_training_years(CLIMATOLOGY_YEARS)
    part = series.within(years)
    values, times = series.values[part].astype(np.float64), series.time_years[part]
    since = times - times.mean()
    moved = recent_mean(series) - values.mean(axis=0) if shift == "recent" else np.zeros(values.shape[1:])
    slope = np.tensordot(since, values, axes=1) / np.sum(since**2) if shift == "trend" else np.zeros(values.shape[1:])

    def forecast(start: int) -> F32:
        members = []
        for target in range(start, start + leads):
            like = series.like(target, years)
            gone = series.time_years[target] - series.time_years[like]
            members.append(series.values[like] + moved + gone[:, None, None] * slope)
        return np.stack(members, axis=1).astype(np.float32)

    return forecast


def damped_persistence(series: Observed, leads: int) -> Forecast:
    """The last known departure times its regression at each lead and pixel, dressed with 30 years' errors of that.

    A member is the regression plus the whole error field it made for the same season of one training year.
    """
    known = series.values[: series.known]
    years = series.last_training_years(CLIMATOLOGY_YEARS)
    if leads > series.like(series.known - 1, years)[0]:
        raise DataError(
            f"found {leads} leads",
            f"fewer than the steps before the year {years[0]}",
            "take fewer leads, or later years",
        )
    square = np.einsum("tvp,tvp->vp", known, known, dtype=np.float64)
    factor = [np.einsum("tvp,tvp->vp", known[k:], known[:-k], dtype=np.float64) / square for k in range(1, leads + 1)]

    def forecast(start: int) -> F32:
        members = []
        for lead, damping in enumerate(factor, 1):
            like = series.like(start + lead - 1, years)
            error = series.values[like] - damping * series.values[like - lead]
            members.append(damping * series.values[start - 1] + error)
        return np.stack(members, axis=1).astype(np.float32)

    return forecast


def draw_from_state(
    eofs: Eofs, model: InverseModel, state: F32, time_years: F64, members: int, generator: np.random.Generator
) -> F32:
    """Fields (member, lead, feature) that go on from `state` (feature,), which the first of `time_years` stamps."""
    lines = model.line_at(time_years)  # (1 + lead, mode)
    now = np.repeat((eofs.patterns.astype(np.float64) @ state - lines[0])[None], members, axis=0)
    drawn = []
    for line in lines[1:]:
        now = model.after(now, generator.standard_normal(now.shape))
        drawn.append(now + line)
    fields: F32 = np.stack(drawn, axis=1).astype(np.float32) @ eofs.patterns
    return fields
