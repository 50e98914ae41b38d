"""Statistics over the members of an ensemble, computed window by window while it is drawn: no member is kept.

Mean and standard deviation are summed in float64 over the members in their order, so that nothing depends on the batch;
quantiles are exact, of all values of one window, which lie in memory or, if they are too many, in a file.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.errors import UsageError
from fsae.runtime.output.files import output_errors
from fsae.runtime.output.layout import Unit
from fsae.runtime.output.store import Attribute

MOMENTS = ("mean", "std", "min", "max")
QUANTILES = ("q05", "q25", "q50", "q75", "q95")  # what the word "quantiles" stands for
FORM = re.compile(r"q(\d{2}(?:\.\d+)?)")
METHODS = {"mean": "mean", "std": "standard_deviation", "min": "minimum", "max": "maximum"}  # CF appendix E
LONG_NAMES = {"mean": "mean", "std": "standard deviation", "min": "least", "max": "largest"}
LEAST_BLOCK_BYTES, BLOCK_BYTES = 1 << 20, 1 << 26  # of values whose quantiles are found at once
SORTING = 3  # times these values are in memory then


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics over members: some of `MOMENTS`, and quantiles by their probabilities, which rise."""

    moments: tuple[str, ...]
    quantiles: tuple[float, ...]

    def record(self) -> list[str]:
        """Their names in one order, however they were asked for."""
        return [*self.moments, *(f"q{100 * q:05.2f}".removesuffix("0").removesuffix(".0") for q in self.quantiles)]


def read_statistics(names: Sequence[str]) -> Statistics | None:
    """The statistics of names such as mean, std, min, max, q05, q97.5 and quantiles; None if there are none.

    >>> read_statistics(["q95", "mean", "q50"]).record()
    ['mean', 'q50', 'q95']
    """
    if not names:
        return None
    moments, percent = set(), set()
    for name in (each for word in names for each in (QUANTILES if word == "quantiles" else (word,))):
        quantile = FORM.fullmatch(name)
        if quantile is None and name not in MOMENTS:
            known = f"{', '.join(MOMENTS)}, quantiles, or two digits of percent such as q05 and q97.5"
            raise UsageError(
                f"found the statistic {name!r}", f"some of {known}", "give such as --statistics mean,std,q05,q95"
            )
        if quantile is None:
            moments.add(name)
        else:
            percent.add(float(quantile[1]))
    return Statistics(
        moments=tuple(name for name in MOMENTS if name in moments),
        quantiles=tuple(sorted(value / 100 for value in percent)),
    )


def variables_of(
    statistics: Statistics, known: Mapping[str, Mapping[str, Attribute]]
) -> tuple[dict[str, dict[str, Attribute]], tuple[str, ...]]:
    """CF attributes of the statistics of variables, given theirs, and the names of those that are by quantile."""
    found, by_quantile = {}, []
    for name, attributes in known.items():
        for moment in statistics.moments:
            own = dict(attributes)
            own["long_name"] = f"{LONG_NAMES[moment]} over the members: {attributes['long_name']}"
            own["cell_methods"] = f"{attributes['cell_methods']} realization: {METHODS[moment]}"
            if moment == "std" and "units_metadata" in own:
                own["units_metadata"] = "temperature: difference"
            found[f"{name}_{moment}"] = own
        if statistics.quantiles:  # CF has no cell method for them
            long_name = f"quantiles over the members: {attributes['long_name']}"
            found[f"{name}_quantile"] = {**attributes, "long_name": long_name}
            by_quantile.append(f"{name}_quantile")
    return found, tuple(by_quantile)


def summarised(
    units: Iterator[Unit], statistics: Statistics, members: int, memory: int, folder: Path | None
) -> Iterator[Unit]:
    """Units (1, time, slot, point) of the statistics of a window's members, given as by `members.generate` by window.

    The slots are those of the variables one after another, as `variables_of` names them. The values that quantiles need
    are kept in `memory` [bytes] if they fit, else in a file without a name in `folder`, by default the system's.
    """
    window: _Window | None = None
    with contextlib.ExitStack() as files:
        for unit in units:
            if window is None:
                window = _Window(statistics, unit.values.shape[1:], members, memory, folder, files)
            window.add(unit.values[0])
            if unit.state is not None:
                values = window.finish()[None]
                yield Unit(members=slice(0, 1), times=unit.times, values=values, state=unit.state)
                window = None
                files.close()


def values_held(statistics: Statistics, members: int, places: int, memory: int) -> int:
    """Memory [bytes] that a window of so many places, of time, variable and point, takes at most."""
    sums = 6 * 8 * places
    if not statistics.quantiles:
        return sums
    values = 4 * members * places
    return sums + SORTING * min(_block(memory), values) + (values if values <= memory else 0)


def _block(memory: int) -> int:
    """Values [bytes] whose quantiles are found at once."""
    return min(BLOCK_BYTES, max(LEAST_BLOCK_BYTES, memory // 8))


class _Window:
    """Running statistics of the members of one window; fields are (time, variable, point)."""

    def __init__(
        self,
        statistics: Statistics,
        shape: tuple[int, ...],
        members: int,
        memory: int,
        folder: Path | None,
        files: contextlib.ExitStack,
    ) -> None:
        self._statistics, self._shape, self._count = statistics, shape, 0
        self._low: F32 = np.full(shape, np.inf, dtype=np.float32)
        self._high: F32 = np.full(shape, -np.inf, dtype=np.float32)
        self._mean: NDArray[np.float64] = np.zeros(shape)
        self._squares: NDArray[np.float64] = np.zeros(shape)  # sum of squared departures from the mean
        self._values: _Values | None = None
        if statistics.quantiles:
            self._values = _Values(members, int(np.prod(shape)), memory, folder, files)

    def add(self, field: F32) -> None:
        """Add one member (Welford's update, Technometrics 4, 1962)."""
        if self._values is not None:
            self._values.put(self._count, field.reshape(-1))
        self._count += 1
        if not self._statistics.moments:
            return
        departure = field - self._mean
        self._mean += departure / self._count
        self._squares += departure * (field - self._mean)
        np.minimum(self._low, field, out=self._low)
        np.maximum(self._high, field, out=self._high)

    def finish(self) -> F32:
        """Statistics (time, slot, point) of all members, of every variable its moments, then its quantiles."""
        made = {
            "mean": self._mean,
            "std": np.sqrt(self._squares / self._count),  # of these members, not an estimate for others
            "min": self._low,
            "max": self._high,
        }
        parts = [made[name][:, :, None] for name in self._statistics.moments]  # (time, variable, 1, point)
        if self._values is not None:
            found = self._values.quantiles(self._statistics.quantiles).reshape(-1, *self._shape)
            parts.append(np.moveaxis(found, 0, 2))  # (time, variable, quantile, point)
        whole = np.concatenate([part.astype(np.float32) for part in parts], axis=2)
        return whole.reshape(self._shape[0], -1, self._shape[2])  # (time, slot, point)


class _Values:
    """Values of all members, (member, place), in memory or in a file that has no name: nothing is ever left of it."""

    def __init__(
        self, members: int, places: int, memory: int, folder: Path | None, files: contextlib.ExitStack
    ) -> None:
        self._members, self._places, self._block = members, places, _block(memory)
        self._array: F32 | None = None
        self._folder = folder or Path(tempfile.gettempdir())
        if 4 * members * places <= memory:
            self._array = np.empty((members, places), dtype=np.float32)
        else:
            with output_errors(self._folder):
                self._file: IO[bytes] = files.enter_context(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115

    def put(self, member: int, values: F32) -> None:
        """Keep the values (place) of a member."""
        if self._array is not None:
            self._array[member] = values
            return
        with output_errors(self._folder):
            self._file.seek(4 * member * self._places)
            self._file.write(np.ascontiguousarray(values).data)

    def _read(self, part: slice) -> F32:
        """Values (member, place) of some places."""
        if self._array is not None:
            return self._array[:, part].copy()
        found: F32 = np.empty((self._members, part.stop - part.start), dtype=np.float32)
        with output_errors(self._folder):
            for member in range(self._members):
                self._file.seek(4 * (member * self._places + part.start))
                self._file.readinto(found[member].data)  # type: ignore[attr-defined]
        return found

    def quantiles(self, wanted: tuple[float, ...]) -> F32:
        """Quantiles (quantile, place) over the members, linear between two of them as numpy's default."""
        found: F32 = np.empty((len(wanted), self._places), dtype=np.float32)
        size = max(1, self._block // (4 * self._members))
        for first in range(0, self._places, size):
            part = slice(first, min(first + size, self._places))
            found[:, part] = np.quantile(self._read(part), wanted, axis=0, overwrite_input=True)
        return found
