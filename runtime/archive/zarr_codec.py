"""The archive codec as a Zarr v3 codec, `fsae`: arrays (..., time, lat, lon) or (..., time, cell) to bytes.

Its configuration says which bundle, variable and grid; zarr finds it by the entry point `fsae` of `zarr.codecs`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.sphere.grids import LatLonGrid

from .codec import Codec
from .lookup import find_archive, open_codec
from .quality import Quality

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

NAME = "fsae"
ARCHIVE = "archive"  # attribute fsae_kind of a store or file of such arrays


def axis_facts(axis: F64) -> "dict[str, float] | list[float]":
    """An axis [degrees] for JSON: the first point, step and count if that gives it, else all points.

    >>> axis_facts(np.array([0.0, 2.5, 5.0]))
    {'first': 0.0, 'step': 2.5, 'count': 3}
    """
    step = float(axis[-1] - axis[0]) / max(axis.size - 1, 1)
    if np.array_equal(axis[0] + step * np.arange(axis.size), axis):
        return {"first": float(axis[0]), "step": step, "count": axis.size}
    return [float(point) for point in axis]


def axis_of(facts: Any) -> F64:
    """The axis [degrees] that `axis_facts` described."""
    if isinstance(facts, Mapping):
        return np.asarray(facts["first"] + facts["step"] * np.arange(int(facts["count"])), dtype=np.float64)
    return np.asarray(facts, dtype=np.float64)


def grid_facts(grid: LatLonGrid | int) -> dict[str, Any]:
    """A grid for JSON: the axes, or the zoom of the cells."""
    if isinstance(grid, int):
        return {"zoom": grid, "order": "nested"}
    return {"lat": axis_facts(grid.lat_deg), "lon": axis_facts(grid.lon_deg)}


def grid_of(facts: Mapping[str, Any]) -> LatLonGrid | int:
    """The grid that `grid_facts` described; DataError for anything else."""
    try:
        if "zoom" in facts:
            return int(facts["zoom"])
        return LatLonGrid(lat_deg=axis_of(facts["lat"]), lon_deg=axis_of(facts["lon"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"found the grid {facts!r} ({error})", "axes or a zoom", "write it again") from None


@dataclass(frozen=True)
class FsaeCodec(ArrayBytesCodec):
    """Zarr codec of one variable of a bundle.

    `archive` is the SHA-256 of the bundle's tables. `quality` is asked for each chunk, such as {"rmse": 0.2}. Chunks
    are of whole fields; the phase of the year of their first step is that which fits best, and steps are a month apart,
    or a `steps_per_year`-th of a year.
    """

    is_fixed_size = False

    bundle: str
    archive: str
    variable: str
    grid: Mapping[str, Any]
    quality: Mapping[str, Any]
    steps_per_year: float = 12.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The codec of its Zarr metadata."""
        given = dict(data.get("configuration", {}))
        unknown = sorted(set(given) - {"bundle", "archive", "variable", "grid", "quality", "steps_per_year"})
        try:
            if unknown:
                raise TypeError(f"unknown keys {unknown}")
            return cls(**given)
        except TypeError as error:
            raise UsageError(
                f"found a configuration of the Zarr codec {NAME!r} that does not fit: {error}",
                "bundle, archive, variable, grid and quality",
                "make it with fsae.runtime.zarr_codec",
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Zarr metadata of the codec."""
        configuration = {
            "bundle": self.bundle,
            "archive": self.archive,
            "variable": self.variable,
            "grid": dict(self.grid),
            "quality": dict(self.quality),
            "steps_per_year": self.steps_per_year,
        }
        return {"name": NAME, "configuration": configuration}

    @cached_property
    def codec(self) -> Codec:
        """Encoder and decoder; BundleError if its bundle is not here."""
        return open_codec(find_archive(self.archive, self.bundle), self.variable, grid_of(self.grid))

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: "ArraySpec") -> int:
        """Not known before it is done."""
        raise NotImplementedError

    def _decode_sync(self, chunk_bytes: "Buffer", chunk_spec: "ArraySpec") -> "NDBuffer":
        values = self.codec.decode(chunk_bytes.to_bytes())
        shape = chunk_spec.shape
        steps = int(np.prod(shape[: -len(self._points)]))
        if len(values) > steps:
            raise DataError(
                f"found a chunk of {len(values)} steps", f"at most {steps}", "take another copy of the file"
            )
        whole = np.full((steps, values.shape[1]), np.nan, dtype=np.float32)
        whole[: len(values)] = values
        kind: np.dtype[Any] = chunk_spec.dtype.to_native_dtype()
        made: Any = whole.reshape(shape).astype(kind, copy=False)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(made)

    def _encode_sync(self, chunk_array: "NDBuffer", chunk_spec: "ArraySpec") -> "Buffer | None":
        values = np.asarray(chunk_array.as_ndarray_like(), dtype=np.float32)
        fields = values.reshape(-1, self.codec.grid.area.size)
        there = ~np.isnan(fields).all(axis=1)
        steps = int(np.flatnonzero(there)[-1]) + 1 if there.any() else 1
        fields = fields[:steps]
        data, _ = self.codec.encode(fields, self._phases(fields), Quality(**self.quality))
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, chunk_bytes: "Buffer", chunk_spec: "ArraySpec") -> "NDBuffer":
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_array: "NDBuffer", chunk_spec: "ArraySpec") -> "Buffer | None":
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)

    @property
    def _points(self) -> tuple[int, ...]:
        """Dimensions of the points of a field."""
        return (0,) if "zoom" in self.grid else (0, 0)

    def _phases(self, fields: F32) -> F64:
        """Phases of the year (time) of even steps, whose first is the one that brings the fields nearest to it."""
        count = max(round(self.steps_per_year), 1)
        sample = fields[:12].astype(np.float64)
        every = max(1, fields.shape[1] // 1024)
        best, least = 0.0, np.inf
        for first in range(min(count, 366)):
            start = (first + 0.5) / min(count, 366)
            phases = (start + np.arange(len(sample)) / self.steps_per_year) % 1.0
            expected = self.codec.expected(np.round(phases * (1 << 12)).astype(np.int64))
            error = float(np.nanmean((sample - expected)[:, ::every] ** 2))
            if error < least:
                best, least = start, error
        found: F64 = (best + np.arange(len(fields)) / self.steps_per_year) % 1.0
        return found


def register() -> None:
    """Make the codec known to zarr, as the entry point does for those who do not import this."""
    from zarr.registry import register_codec

    register_codec(NAME, FsaeCodec)
