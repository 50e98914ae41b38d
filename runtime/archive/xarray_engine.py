"""`xr.open_dataset(STORE, engine="fsae")`: an archive as the dataset that it was made of, lazily.

The entry point `fsae` of `xarray.backends`. Values are decoded chunk by chunk when they are asked for.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from fsae.runtime.errors import BundleError, DataError
from fsae.runtime.formats.coded import READ_ERRORS, as_zarr, chunk_indices, chunk_key, payload
from fsae.runtime.formats.containers import is_archive
from fsae.runtime.output.layout import Cells, cell_coordinates

from .chunk import figures_of
from .lookup import ORIGIN
from .quality import Figures
from .zarr_codec import ARCHIVE, FsaeCodec, register

if TYPE_CHECKING:
    import xarray as xr
    import zarr

DECODERS = ("mask_and_scale", "decode_times", "concat_characters", "decode_coords", "use_cftime")
COPY = "take another copy of the archive"


def open_group(path: str | os.PathLike[str]) -> "zarr.Group":
    """The Zarr group of an archive, also of one in NetCDF; DataError if there is none."""
    import zarr

    register()
    try:
        group = zarr.open_group(as_zarr(Path(path)), mode="r", zarr_format=3)
    except READ_ERRORS as error:
        raise DataError(f"cannot read {os.fspath(path)} as an archive ({error})", advice="check the path") from None
    if group.attrs.get("fsae_kind") != ARCHIVE:
        raise DataError(f"{os.fspath(path)} is no archive of fsae", advice="open it with another engine")
    return group


def codec_of(array: "zarr.Array[Any]") -> FsaeCodec | None:
    """The archive codec of an array; None if it has another one."""
    found = [codec for codec in array.metadata.codecs if isinstance(codec, FsaeCodec)]  # type: ignore[union-attr]
    return found[0] if found else None


def figures(path: str | os.PathLike[str]) -> dict[str, Figures]:
    """What the chunks of an archive say of themselves, added up, by variable; DataError naming a damaged chunk."""
    group, found = open_group(path), {}
    for name, array in group.arrays():
        if codec_of(array) is not None:
            total = Figures()
            for key in (chunk_key(array, index) for index in chunk_indices(array)):
                try:
                    total += figures_of(payload(array, key))
                except DataError as error:
                    raise DataError(f"chunk {name}/{key} of {path}: {error.reason}", advice=COPY) from None
            found[name] = total
    return found


class _Archived(BackendArray):
    """An array that decodes the chunks of a selection, and says which one is damaged."""

    def __init__(self, array: "zarr.Array[Any]", where: str) -> None:
        self._array, self._where = array, where
        self.shape, self.dtype = array.shape, np.dtype(array.dtype)

    def __getitem__(self, key: "indexing.ExplicitIndexer") -> NDArray[Any]:
        basic = indexing.IndexingSupport.BASIC
        found: NDArray[Any] = indexing.explicit_indexing_adapter(key, self.shape, basic, self._read)
        return found

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        try:
            return np.asarray(self._array[key])
        except DataError as error:
            raise DataError(f"{self._damaged()} of {self._where}: {error.reason}", advice=COPY) from None

    def _damaged(self) -> str:
        for index in chunk_indices(self._array):
            block = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, self._array.chunks, strict=True))
            try:
                self._array[block]
            except DataError:
                return f"chunk {self._array.basename}/{chunk_key(self._array, index)}"
        return f"variable {self._array.basename}"


class FsaeBackend(BackendEntrypoint):
    """Opens archives written by `fsae-run compress`."""

    description = "Open archives of fsae, the climate codec"
    url = ""
    open_dataset_parameters: ClassVar[tuple[str, ...]] = ("filename_or_obj", "drop_variables", *DECODERS)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """True for a Zarr store or NetCDF-4 file that says it is an archive."""
        try:
            return is_archive(Path(filename_or_obj))
        except (OSError, TypeError, ValueError):
            return False

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        mask_and_scale: bool = True,
        decode_times: bool = True,
        concat_characters: bool = True,
        decode_coords: bool = True,
        use_cftime: bool | None = None,
    ) -> "xr.Dataset":
        """The dataset of an archive; BundleError if the bundle that it was written with is not here.

        The decoders are those of `xarray.open_dataset`.
        """
        import xarray as xr

        where = os.fspath(filename_or_obj)
        group = open_group(where)
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        variables: dict[str, xr.Variable] = {}
        for name, array in group.arrays():
            if name in dropped:
                continue
            codec = codec_of(array)
            dims, attributes = _dims(array), dict(array.attrs)
            if codec is None:
                variables[name] = xr.Variable(dims, array[...], attributes)
                continue
            if "zoom" in codec.grid:
                variables |= _cells(int(codec.grid["zoom"]))
                attributes["grid_mapping"] = "crs"
            try:
                _ = codec.codec  # without its bundle nothing can be decoded
            except BundleError as error:
                raise BundleError(error.found, error.expected, str(group.attrs.get(ORIGIN, error.advice))) from None
            lazy = indexing.LazilyIndexedArray(_Archived(array, where))
            chunks = dict(zip(dims, array.chunks, strict=True))
            variables[name] = xr.Variable(dims, lazy, attributes, {"preferred_chunks": chunks})
        coordinates = {name for name, one in variables.items() if name in one.dims or name in ("lat", "lon", "crs")}
        coordinates |= {name for name in variables if name.endswith("_bnds")}
        return xr.decode_cf(
            xr.Dataset(variables, attrs=dict(group.attrs)).set_coords(sorted(coordinates)),
            mask_and_scale=mask_and_scale,
            decode_times=decode_times,
            concat_characters=concat_characters,
            decode_coords=decode_coords,
            use_cftime=use_cftime,
        )


def _dims(array: "zarr.Array[Any]") -> tuple[str, ...]:
    return tuple(str(name) for name in array.metadata.dimension_names)  # type: ignore[union-attr]


def _cells(zoom: int) -> "dict[str, xr.Variable]":
    import xarray as xr

    return {
        one.name: xr.Variable(one.dims, one.values, dict(one.attributes)) for one in cell_coordinates(Cells(zoom=zoom))
    }
