"""The interface of output stores, and the coordinates and arrays they take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from fsae.runtime.arrays import F32

Attribute = str | int | float


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """A small variable that is written at once."""

    name: str
    dims: tuple[str, ...]
    values: NDArray[Any]
    attributes: Mapping[str, Attribute]


class Store(Protocol):
    """A file or store being written."""

    def create(self, array: "Array") -> None:
        """Make an array that is written in pieces."""
        ...

    def write(self, name: str, place: tuple[slice, ...], values: F32) -> None:
        """Put values in their place in an array."""
        ...

    def put(self, item: Coordinate) -> None:
        """Write a small variable at once."""
        ...

    def close(self) -> None:
        """Finish; nothing can be written afterwards."""
        ...


@dataclass(frozen=True, kw_only=True)
class Array:
    """A float32 array that is written in pieces; `codec` is the Zarr metadata of what its chunks are coded with.

    In Zarr a file of it is a chunk or, with `shards`, as many chunks as these hold.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    attributes: Mapping[str, Attribute]
    codec: Mapping[str, Any] | None = None
    shards: tuple[int, ...] | None = None

    @property
    def files(self) -> tuple[int, ...]:
        """Shape of what a file of a Zarr store holds."""
        return self.shards or self.chunks
