"""Zarr v3 stores."""

import contextlib
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsae.runtime.arrays import F32

from .store import Array, Attribute, Coordinate

FILTERS = threading.Lock()  # warning filters belong to the process, so threads that restore them must take turns


def dggs_attributes(zoom: int) -> dict[str, Any]:
    """Attributes of a group whose arrays lie on HEALPix cells of a zoom, numbered by its array `cell`.

    Those of the convention `dggs` of Zarr, version 1, https://github.com/zarr-conventions/dggs.
    """
    convention = {
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/dggs/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/dggs/blob/v1/README.md",
        "uuid": "7b255807-140c-42ca-97f6-7a1cfecdbc38",
        "name": "dggs",
        "description": "Discrete Global Grid Systems convention for zarr",
    }
    cells = {
        "name": "healpix",
        "refinement_level": zoom,
        "indexing_scheme": "nested",
        "spatial_dimension": "cell",
        "coordinate": "cell",
        "compression": "none",
    }
    return {"zarr_conventions": [convention], "dggs": cells}


class ZarrStore:
    """A Zarr v3 group, written in whole chunks, so that none is read to write another.

    Without attributes it is the existing group at the path, to be continued. `short`: its metadata takes few bytes.
    """

    def __init__(self, path: "Path | Any", attributes: Mapping[str, Any] | None, *, short: bool = False) -> None:
        import zarr

        place, self._short = str(path) if isinstance(path, Path) else path, short
        if attributes is not None:
            with self._writing():
                self._group = zarr.create_group(store=place, zarr_format=3, attributes=dict(attributes))
        else:
            self._group = zarr.open_group(store=place, mode="r+", zarr_format=3, use_consolidated=False)
        self._arrays: dict[str, Any] = {}

    @classmethod
    def in_memory(cls, attributes: Mapping[str, Any], *, short: bool = False) -> "tuple[ZarrStore, dict[str, Any]]":
        """A store that is not on the disk, and its files by name, each with a method `to_bytes`."""
        from zarr.storage import MemoryStore

        files: dict[str, Any] = {}
        return cls(MemoryStore(files), attributes, short=short), files

    def _writing(self) -> "contextlib.AbstractContextManager[Any]":
        """The setting of zarr under which metadata is written."""
        import zarr

        return zarr.config.set({"json_indent": None}) if self._short else contextlib.nullcontext()

    def describe(self, attributes: Mapping[str, Attribute]) -> None:
        """Add attributes of the group."""
        with self._writing():
            self._group.update_attributes(dict(attributes))

    def put(self, item: Coordinate) -> None:
        """See `Store.put`."""
        with self._writing():
            array = self._group.create_array(
                item.name,
                shape=item.values.shape,
                chunks=item.values.shape,
                dtype=item.values.dtype,
                dimension_names=item.dims,
                attributes=dict(item.attributes),
            )
        array[...] = item.values

    def create(self, array: Array) -> None:
        """See `Store.create`."""
        from zarr.codecs import BloscCodec

        coding: dict[str, Any] = {"compressors": BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")}
        if array.codec is not None:
            from zarr.registry import get_codec_class

            name = str(array.codec["name"])
            coding = {"serializer": get_codec_class(name).from_dict(dict(array.codec)), "compressors": None}
        with self._writing():
            self._arrays[array.name] = self._group.create_array(
                array.name,
                shape=array.shape,
                chunks=array.chunks,
                shards=array.shards,
                dtype="float32",
                dimension_names=array.dims,
                attributes=dict(array.attributes),
                fill_value=float("nan"),
                **coding,
            )

    def write(self, name: str, place: tuple[slice, ...], values: F32) -> None:
        """See `Store.write`."""
        # Its event loop costs about 1 % of `generate`; from 3.3 on zarr can do without (FusedCodecPipeline).
        self.array(name)[place] = values

    def write_chunk(self, name: str, place: tuple[slice, ...], data: bytes) -> None:
        """Put the bytes of a whole chunk of an array with a codec in its place."""
        from zarr.core.sync import sync

        array = self.array(name)
        chunk = tuple(part.start // size for part, size in zip(place, array.chunks, strict=False))
        whole = (*chunk, *(0 for _ in array.shape[len(chunk) :]))
        key = array.metadata.encode_chunk_key(whole)
        sync((array.store_path / key).set(_buffer(data)))

    def read(self, name: str, place: tuple[slice, ...]) -> F32:
        """Read what was written there."""
        found: F32 = self.array(name)[place]
        return found

    def array(self, name: str) -> Any:
        """The array of that name, as zarr has it."""
        if name not in self._arrays:
            self._arrays[name] = self._group[name]
        return self._arrays[name]

    def close(self) -> None:
        """See `Store.close`."""
        import zarr

        if self._short:
            self._group.store.close()
            return
        with FILTERS, warnings.catch_warnings():
            # not yet part of the Zarr v3 specification, but expected by xarray and ignored by other readers
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(self._group.store)
        self._group.store.close()


def _buffer(data: bytes) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(data)
