"""Fields of any readable CF dataset as nested HEALPix arrays, read in time chunks. (Signatures; body follows.)"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from .calendar import Bounds, Date
from .grids import HealpixGrid, LatLonGrid
from .regrid import Weights

if TYPE_CHECKING:
    import xarray as xr

F32 = NDArray[np.float32]
WeightMaker = Callable[[LatLonGrid, int, str], Weights]  # (grid, zoom, "bilinear" or "conservative")


class VariableSpec(Protocol):
    """What is asked of a variable; `manifest.Variable` is one."""

    @property
    def name(self) -> str: ...
    @property
    def standard_name(self) -> str: ...
    @property
    def units(self) -> str: ...
    @property
    def valid_range(self) -> tuple[float, float]: ...
    @property
    def missing(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Fields:
    """An opened source, nothing of it in memory yet: `read` gives (realization, time, variable, pixel)."""

    variables: tuple[str, ...]
    zoom: int
    grid: LatLonGrid | HealpixGrid  # of the source (first variable)
    times: tuple[Date, ...]
    bounds: Bounds | None
    calendar: str
    step: str | None
    cell_methods: str
    phase: NDArray[np.float64]  # (time)
    year: NDArray[np.float64]  # (time), decimal
    members: tuple[int, ...] | None  # labels of `realization`; None: no such dimension, `read` gives one member
    source: str

    def read(self, times: slice = slice(None), member: int | None = None) -> F32:
        """Values (realization, time, variable, pixel); one realization (its index) where `member` is given."""
        raise NotImplementedError

    def chunks(self, size: int = 12) -> Iterator[tuple[slice, F32]]:
        """(slice of time, values) one after the other."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the files."""
        raise NotImplementedError


def read_fields(
    source: "str | os.PathLike[str] | xr.Dataset",
    variables: Sequence[VariableSpec],
    zoom: int | None = None,
    finest_zoom: int = 5,
    method: str = "auto",
    make_weights: WeightMaker | None = None,
) -> Fields:
    """The fields of `variables` in `source` on nested HEALPix of `zoom` (default: the finest the grid supports)."""
    raise NotImplementedError
