"""Periods of real fields in memory: read from a prepared store, joined and cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import DataError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.input.reader import VariableSpec
from fsae.training.config import Years
from fsae.training.data.prepared import part_of


@dataclass(frozen=True, kw_only=True)
class Period:
    """Physical fields (time, variable, pixel), the fraction of the year (time,) and the cftime stamp of each step."""

    values: F32
    phase: F64
    times: Sequence[Any]

    def __post_init__(self) -> None:
        counts = (len(self.values), len(self.phase), len(self.times))
        if len(set(counts)) > 1:
            raise DataError(
                "found {} fields, {} phases and {} times".format(*counts),
                "one of each per step",
                "give as many of each",
            )
        if not np.isfinite(self.values).all():
            raise DataError("found missing values in the fields to evaluate with", "none", "fill them first")

    @property
    def time_years(self) -> F64:
        """Decimal year of each step: the calendar year and the fraction of it gone."""
        return np.array([time.year for time in self.times]) + self.phase

    def part(self, steps: slice) -> "Period":
        """Some steps of the period."""
        return Period(values=self.values[steps], phase=self.phase[steps], times=self.times[steps])

    def since(self, year: int) -> "Period":
        """The steps from the start of `year` on."""
        return self.part(slice([time.year for time in self.times].index(year), None))

    @property
    def first_and_last(self) -> tuple[str, str]:
        """The stamps of the first and the last step."""
        return str(self.times[0]), str(self.times[-1])


def read_periods(store: Path, variables: Sequence[VariableSpec], zoom: int, *years: Years) -> list[Period]:
    """One period for each pair of `years`, first and last, of the fields prepared in `store` at `zoom`."""
    fields = read_fields(store, variables, zoom=zoom, finest_zoom=zoom)
    try:
        parts = [part_of(fields, pair) for pair in years]
        return [Period(values=fields.read(p)[0], phase=fields.phase[p], times=fields.times[p]) for p in parts]
    finally:
        fields.close()


def joined(one: Period, other: Period) -> Period:
    """Two periods, one after the other."""
    return Period(
        values=np.concatenate([one.values, other.values]),
        phase=np.concatenate([one.phase, other.phase]),
        times=[*one.times, *other.times],
    )
