"""Read one variable of a dataset: the values of some steps and members, in the units asked for, checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, Floating
from fsae.runtime.errors import DataError

from .lat_lon import Located
from .sources import READ_ERRORS, reason

if TYPE_CHECKING:
    import xarray as xr


HALVES = "expver"  # ECMWF: final data, and preliminary data of the last months, each missing where the other is


class VariableSpec(Protocol):
    """A variable as it is asked for, such as a `manifest.Variable`; `valid_range` is in `units`."""

    @property
    def name(self) -> str: ...
    @property
    def standard_name(self) -> str: ...
    @property
    def long_name(self) -> str: ...
    @property
    def cell_methods(self) -> str: ...
    @property
    def units(self) -> str: ...
    @property
    def valid_range(self) -> tuple[float, float]: ...
    @property
    def missing(self) -> bool: ...


def read_points(array: "xr.DataArray", lead: Sequence[str | None], place: Located, where: str) -> NDArray[Any]:
    """Stored values (..., point) of a variable at its place, behind the dimensions in `lead` that it has.

    DataError if they cannot be read.
    """
    dims = [dim for dim in lead if dim is not None]
    try:
        return place.points(array.transpose(*dims, *place.dims).values)
    except READ_ERRORS as error:
        raise DataError(
            f"cannot read {array.name} in {where}: {reason(error)}",
            advice="copy it again, as it may be damaged or incomplete",
        ) from None


@dataclass(frozen=True, kw_only=True)
class VariableReader:
    """Reads and checks one variable: values (realization, time, pixel) in the units asked for."""

    spec: VariableSpec
    array: "xr.DataArray"
    time: str | None  # dimensions
    member: str | None
    halves: str | None
    place: Located
    units: tuple[float, float]  # factor, offset
    convert: Callable[[Floating], Floating]
    where: str

    def __call__(self, times: slice, member: int | None) -> F32:
        """The values of a time slice, of one member or of all."""
        part = self.array if self.time is None else self.array.isel({self.time: times})
        if self.member is not None and member is not None:
            part = part.isel({self.member: slice(member, member + 1)})
        values = read_points(part, (self.halves, self.member, self.time), self.place, self.where)
        if self.halves is not None:
            values = self._merged(values)
        shape = (part.sizes[dim] if dim is not None else 1 for dim in (self.member, self.time))
        values = values.reshape(*shape, -1)  # (realization, time, source point)
        if values.dtype.kind not in "fiu":
            raise DataError(
                f"{self.array.name} in {self.where} holds values of type {values.dtype}",
                "numbers",
                "convert them first, or name another variable, as in --name tas=ts",
            )
        factor, offset = self.units
        values = values.astype(np.float32 if values.dtype == np.float32 else np.float64, copy=False)
        if (factor, offset) != (1.0, 0.0):
            values = values * factor + offset
        self._check(values)
        return self.convert(values).astype(np.float32, copy=False)

    def _merged(self, values: NDArray[Any]) -> NDArray[Any]:
        """Of values (half, ...) the one of each place that is not missing; DataError if there are several."""
        there = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, dtype=bool)
        if (there.sum(axis=0) > 1).any():
            raise DataError(
                f"{self.array.name} in {self.where} has more than one value along {self.halves} in the same place",
                advice="select one entry of it first",
            )
        merged: NDArray[Any] = np.take_along_axis(values, there.argmax(axis=0)[None], axis=0)[0]
        return merged

    def _check(self, values: Floating) -> None:
        """Raise DataError for infinite and implausible values, and for missing ones unless the model knows them."""
        name, low, high = self.spec.name, *self.spec.valid_range
        if not values.size:
            return
        least, most = float(values.min()), float(values.max())  # NaN if there is one
        count = int(np.isnan(values).sum()) if np.isnan(least) else 0
        if count and not self.spec.missing:
            raise DataError(
                f"{name} in {self.where} has {count} missing values in {values.shape[1]} steps",
                "none",
                "fill them first",
            )
        if count == values.size:
            return
        if count:
            least, most = float(np.nanmin(values)), float(np.nanmax(values))
        if not (low <= least and most <= high and np.isfinite([least, most]).all()):
            raise DataError(
                f"{name} in {self.where} runs from {least:g} to {most:g} {self.spec.units}",
                f"within {low:g} to {high:g} {self.spec.units}",
                f"are the units of the data, {self.array.attrs.get('units', 'none')!r}, right? "
                f"--units {self.spec.name}=UNIT says others",
            )
