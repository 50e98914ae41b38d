"""Forecasts of daily weather from known states, and those that a model has to beat.

A forecast is a function of the position of lead 1 in a series; it gives physical fields (member, lead, variable, pixel)
and knows the training days and the days before the start. All but the model's own come from departures of transformed
variables from the climatology, and are brought back to physical units, so none has negative rain.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.climate.calendar import time_index
from fsae.runtime.climate.transforms import inverse
from fsae.runtime.ensemble.members import Initial
from fsae.runtime.errors import DataError
from fsae.runtime.progress import Progress
from fsae.training.evaluation.model import TrainedModel, departures_of, fields_of, plan_of
from fsae.training.evaluation.periods import Period
from fsae.training.metrics.scores import pointwise_crps
from fsae.training.studies.hindcast import encode_white

Forecast = Callable[[int], F32]


@dataclass(frozen=True, kw_only=True)
class Days:
    """Training days, and a series of consecutive days after them that holds those to forecast."""

    model: TrainedModel
    training: Period
    series: Period
    leads: int
    members: int  # of every ensemble

    def __post_init__(self) -> None:
        index = [time_index(time, self.model.time.step) for time in self.series.times]
        if index[-1] - index[0] != len(index) - 1:
            raise DataError(
                f"found {len(index)} steps in {index[-1] - index[0] + 1} from {self.series.times[0]} on",
                "consecutive ones, evaluation years right after the validation years",
                "choose such years",
            )
        if len(self.training.times) <= self.leads:
            raise DataError(
                f"found {len(self.training.times)} training days",
                f"more than the {self.leads} leads",
                "take fewer leads, or more training days",
            )

    def physical(self, departures: F32, start: int) -> F32:
        """Physical fields of departures (member, lead, variable, pixel) of transformed variables."""
        season = self.model.season(self.series.part(slice(start, start + self.leads)))
        mean = harmonic.evaluate(self.model.climatology, season)
        return inverse((departures + mean).astype(np.float32), self.model.transforms)

    def drawn(self, length: int) -> NDArray[np.int64]:
        """Positions of as many training days as members, evenly spread, with at least `length` days before each."""
        return np.linspace(length, len(self.training.times) - 1, self.members).round().astype(np.int64)


def reference_forecasts(days: Days) -> dict[str, Forecast]:
    """Climatology, persistence and damped persistence.

    The climatology is departures of training days, evenly spread, about the climatology of the day to forecast. Damped
    persistence is the last departure times its regression at each lead and pixel on the training days, and on it whole
    fields of the errors that this made in training.
    """
    known = departures_of(days.model, days.training)
    seen = departures_of(days.model, days.series)
    factors = damping(known, days.leads)
    chosen = days.drawn(days.leads)
    climate = np.repeat(known[chosen][:, None], days.leads, axis=1)

    def damped(start: int) -> F32:
        found = [
            factor * seen[start - 1] + known[chosen] - factor * known[chosen - lead]
            for lead, factor in enumerate(factors, 1)
        ]
        return np.stack(found, axis=1).astype(np.float32)

    return {
        "climatology": lambda start: days.physical(climate, start),
        "persistence": lambda start: days.physical(np.repeat(seen[None, start - 1 : start], days.leads, axis=1), start),
        "damped persistence": lambda start: days.physical(damped(start), start),
    }


def damping(departures: F32, leads: int) -> list[F64]:
    """Regression (variable, pixel) of departures (time, variable, pixel) on those 1 ... `leads` steps before."""
    square = np.einsum("tvp,tvp->vp", departures, departures, dtype=np.float64)
    found = []
    for lead in range(1, leads + 1):
        both = np.einsum("tvp,tvp->vp", departures[lead:], departures[:-lead], dtype=np.float64)
        found.append(np.divide(both, square, out=np.zeros_like(both), where=square > 0))
    return found


def model_forecast(days: Days, seed: int = 0) -> Forecast:
    """Members that the diffusion model draws from the days before the start, each start with other noise."""
    model, previous = days.model, days.model.generator.previous

    def forecast(start: int) -> F32:
        white = encode_white(model, days.series.part(slice(start - previous, start)))
        initial = Initial(white=white[None], valid=np.ones(previous, np.float32))
        members = range(start * days.members, (start + 1) * days.members)  # no noise is shared between starts
        return fields_of(model, plan_of(model, members, days.series.times[start], days.leads, seed, initial))

    return forecast


def score(
    forecasts: Mapping[str, Forecast], days: Days, starts: Sequence[int], progress: Progress | None = None
) -> dict[str, F64]:
    """Fair CRPS (lead, variable) of each forecast, mean over starts and pixels, in the variables' units.

    Of a single member it is the absolute error.
    """
    totals = {name: np.zeros((days.leads, len(days.model.variables))) for name in forecasts}
    for number, start in enumerate(starts, 1):
        truth = days.series.values[start : start + days.leads]
        for name, forecast in forecasts.items():
            totals[name] += pointwise_crps(forecast(start), truth).mean(axis=-1)
        if progress is not None:
            progress(number, len(starts))
    return {name: total / len(starts) for name, total in totals.items()}
