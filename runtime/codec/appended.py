"""An archive that new steps are appended to: its chunks are kept byte by byte, and the last one may be gone on with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsae.runtime.archive.xarray_engine import FsaeBackend, codec_of, open_group
from fsae.runtime.archive.zarr_codec import FsaeCodec
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.calendar import Bounds, Date, centres
from fsae.runtime.errors import DataError
from fsae.runtime.formats.coded import chunk_key, payload
from fsae.runtime.input.fields import Fields
from fsae.runtime.input.sources import Opened
from fsae.runtime.output.marks import SEAL
from fsae.runtime.output.seal import damage_of

from .encoder_input import own_points


@dataclass(frozen=True, kw_only=True, eq=False)
class Earlier:
    """The steps that are there: their number, dates and periods, and the length of a chunk (0: none is there)."""

    steps: int = 0
    chunk: int = 0
    times: tuple[Date, ...] = ()
    bounds: Bounds | None = ()
    request: Mapping[str, Any]
    history: str = ""
    input_bytes: int = 0
    arrays: Mapping[str, Any]  # of zarr, by variable

    def followed_by(self, fields: Fields) -> tuple[tuple[Date, ...], Bounds | None]:
        """The middles of all averaging periods, and the periods if all have them."""
        periods = fields.periods
        middles = tuple(centres(fields.times, bounds=periods))
        whole = None if self.bounds is None or periods is None else (*self.bounds, *periods)
        return (*self.times, *middles), whole

    def chunk_of(self, name: str, member: int, number: int) -> bytes:
        """Bytes of a chunk of time that is there; none behind the end."""
        if number * self.chunk >= self.steps:
            return b""
        array = self.arrays[name]
        lead = (member,) if array.metadata.dimension_names[0] == "realization" else ()
        index = (*lead, number, *(0 for _ in array.shape[len(lead) + 1 :]))
        return payload(array, chunk_key(array, index))


def no_earlier(_fields: Fields) -> Earlier:
    """The beginning of an archive."""
    return Earlier(request={}, arrays={})


def open_earlier(bundle: Bundle, path: Path, fields: Fields, wanted: Mapping[str, FsaeCodec]) -> Earlier:
    """The archive at a path, which fields are to go on with.

    DataError if it is damaged, or has another grid, codec, quality, members or calendar, or ends after they begin.
    """
    group = open_group(path)
    if damaged := damage_of(path):
        raise DataError(f"{path} is damaged: {damaged} does not fit its checksum", advice="append to another copy")
    there = own_points(bundle, path.name, [Opened(FsaeBackend().open_dataset(path, decode_times=False), path.name)])
    arrays: dict[str, Any] = {name: group[name] for name in wanted}
    for name, array in arrays.items():
        if codec_of(array) != wanted[name]:
            raise DataError(
                f"{path} holds {name} on another grid, or of another quality or bundle",
                advice="give what it was written with, or begin another archive",
            )
    facts = [(one.members, one.calendar, one.periods is None) for one in (there, fields)]
    if facts[0] != facts[1]:
        raise DataError(f"{path} has other members, another calendar or other bounds", advice="begin another archive")
    last, begin = there.times[-1], centres(fields.times[:1], bounds=fields.periods and fields.periods[:1])[0]
    if last >= begin:
        raise DataError(
            f"{path} ends with {last.isoformat()}, and the input begins with {begin.isoformat()}",
            advice="select the steps that follow",
        )
    first = next(iter(arrays.values()))
    return Earlier(
        steps=len(there.times),
        chunk=first.chunks[len(first.shape) - (2 if "zoom" in wanted[first.basename].grid else 3)],
        times=there.times,
        bounds=there.periods,
        request={"append_to": str(group.attrs[SEAL])},
        history=str(group.attrs.get("history", "")),
        input_bytes=int(str(group.attrs.get("fsae_input_bytes", 0))),
        arrays=arrays,
    )
