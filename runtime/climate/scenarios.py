"""Scenarios of a forcing: yearly series, as far as the climate has responded to them.

The surface follows a change of the effective radiative forcing within the fast response time, C / (lambda + gamma) of
the two-layer energy balance of Geoffroy et al. 2013 (doi:10.1175/JCLI-D-12-00195.1): 7.3 W a m-2 K-1 over the sum of
1.13 and 0.73 W m-2 K-1, the averages over their models, is 3.9 years. A forcing that has only begun, such as that of a
volcano, has moved the climate less than its value says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fsae.runtime.arrays import F64, Floating
from fsae.runtime.errors import DataError

MIDDLE = 0.5  # of a year: where a yearly value stands


def responded(years: Floating, values: Floating, response_years: float) -> F64:
    """The part of a forcing that the climate has responded to, at the same times (n,) [decimal years].

    Exponential relaxation to each value in the time since the one before; before the first, that value has lasted.

    >>> responded(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]), 1 / np.log(2))
    array([0.  , 0.5 , 0.75])
    """
    found = np.array(values, dtype=np.float64)
    if response_years > 0:
        shares = 1 - np.exp(-np.diff(np.asarray(years, dtype=np.float64)) / response_years)
        for step, share in enumerate(shares):
            found[step + 1] = found[step] + share * (found[step + 1] - found[step])
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenarios:
    """Yearly series of a forcing by name, the first of them that of the training data; see `responded`."""

    years: F64  # (year,), consecutive calendar years
    values: Mapping[str, F64]  # (year,) each
    response_years: float

    @property
    def names(self) -> list[str]:
        """Names of the scenarios."""
        return list(self.values)

    def at(self, name: str, decimal_years: Floating) -> F64:
        """The forcing of a scenario at decimal years (...), linear between the middles of years.

        DataError outside the years that are known.
        """
        times = np.asarray(decimal_years, dtype=np.float64)
        first, last = int(self.years[0]), int(self.years[-1])
        outside = times[(times < first) | (times > last + 1)]
        if outside.size:
            raise DataError(
                f"the forcing {name!r} is known from {first} to {last}, found {outside.flat[0]:.2f}",
                "steps within these years",
                "give other steps, a constant, or a series of your own as --forcing",
            )
        return np.interp(times, self.years + MIDDLE, self._responded[name])

    @cached_property
    def _responded(self) -> dict[str, F64]:
        """The response (year,) to each series, by name."""
        middles = self.years + MIDDLE
        return {name: responded(middles, values, self.response_years) for name, values in self.values.items()}

    def of_training(self, decimal_years: Floating) -> F64:
        """The forcing of the training data at decimal years (...)."""
        return self.at(self.names[0], decimal_years)


def forcing_in(scenarios: Scenarios | None, decimal_years: Floating) -> F64:
    """What a model that was trained with these scenarios takes as forcing; without any, the decimal years."""
    if scenarios is None:
        return np.asarray(decimal_years, dtype=np.float64)
    return scenarios.of_training(decimal_years)
