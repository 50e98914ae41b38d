"""The store of a run: the files of a finished unit in it, their checksums, and the one file that is made of it."""

import contextlib
import errno
import itertools
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from fsae.runtime.atomic import force
from fsae.runtime.errors import OutputError
from fsae.runtime.grib.written import write_messages
from fsae.runtime.log import log
from fsae.runtime.output.files import ASSEMBLED, FIELDS, clear, output_errors
from fsae.runtime.output.layout import Layout, data_arrays
from fsae.runtime.output.marks import form_of
from fsae.runtime.output.seal import METADATA, assemble, checksum, damage_of, frame_files, mend
from fsae.runtime.output.zarr import ZarrStore

from .lock import Hold


def chunk_names(layout: Layout, member: int, times: slice) -> list[str]:
    """Files of a unit of one member, of every variable, by their path below the store, such as tas/c/0/3/0."""
    return [f"{name}/{chunk}" for name, chunk in _chunks(layout, member, times)]


def _chunks(layout: Layout, member: int, times: slice) -> Iterator[tuple[str, str]]:
    place = layout.place(slice(member, member + 1), times)
    for array in data_arrays(layout):
        lead = len(array.shape) - len(layout.shape)  # quantiles stand before all others, in one chunk
        starts = [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(place, array.chunks[lead:], strict=False)
        ]
        others = [range(1)] * (len(array.shape) - lead - len(place))
        for index in itertools.product(*[range(1)] * lead, *starts, *others):
            yield array.name, "/".join(["c", *map(str, index)])


def keep(store: Path, names: list[str], known: set[Path]) -> tuple[str, ...]:
    """Force files of a store to the disk, with the folders they are in, and return their checksums.

    `known` are folders whose own names are on the disk already; those of these files join them.
    """
    for name in names:
        force(store / name)
        for folder in (store / name).parents[: name.count("/")]:
            force(folder)
            if folder in known:
                break
            known.add(folder)
    sums = tuple(checksum(store / name) for name in names)
    if not all(sums):
        raise OSError(errno.EIO, f"{names[sums.index('')]} is gone as soon as it is written")
    return sums


def make_store(folder: Path, layout: Layout) -> None:
    """Make the store of a run's fields, without values, or what is missing or damaged of it.

    Processes may do that at the same time: each file comes whole, and is the same whoever writes it.
    """
    begun = (folder / FIELDS).is_dir()
    mended = [name for name in mend(folder / FIELDS, frame_files(layout)) if name != METADATA]
    if begun and mended:
        log.info(f"{folder / FIELDS} lacked {mended[0]}, or it was damaged: made again")


def remove_torn(folder: Path) -> None:
    """Remove half-written files left by killed writers. No other process may be writing."""
    clear(folder, [ASSEMBLED])
    for torn in (folder / FIELDS).rglob("*.partial"):  # chunks that zarr was writing aside
        torn.unlink()


def assembled(folder: Path, layout: Layout, path: Path, whole: Hold) -> Path:
    """Make a NetCDF or GRIB file of the chunks in the folder of a run, and read it again. Returns where it is.

    It is made under a name that no other process has: one that was taken over does not touch the file of the other.
    """
    place = folder / FIELDS / f"{METADATA}.{uuid4().hex}.partial"  # `remove_torn` removes it too
    try:
        with output_errors(path, ""):
            make_store(folder, layout)
            store = ZarrStore(folder / FIELDS, None)
        if form_of(path) == "GRIB":
            write_messages(store, layout, place, path)
        else:
            assemble(store, layout, layout.summary(folder / FIELDS) if layout.summary else {}, place, path)
        damaged = damage_of(place)
        whole.check()  # else it is the other process that removed it
        if damaged:
            raise OutputError(
                f"{path} was damaged while it was written ({damaged})", advice="check the disk that it is on"
            )
        with output_errors(path, ""):
            place.replace(folder / ASSEMBLED)
        return folder / ASSEMBLED
    except BaseException:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
        raise
