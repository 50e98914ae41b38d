"""The fingerprint of an input, which tells whether it is still what was read.

Up to `SMALL` bytes an input is known by its content alone: it may be copied, moved or touched. A larger one is known by
the name, size and date of each file, every chunk of a Zarr store included, and by blocks of bytes: of up to `SAMPLED`
files, evenly spread, the beginning, the middle and the end, and more of them if the files are few.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fsae.runtime.errors import DataError

from .sources import READ_ERRORS, Source, reason

if TYPE_CHECKING:
    import xarray as xr

SMALL = 64 << 20  # [bytes]; reading them takes less than a tenth of a second, and the job reads them all anyway
BLOCK = 4096  # [bytes]
BLOCKS = 256  # of all files together, but at least the beginning, the middle and the end of each
STEPS = 16  # of a large variable in memory, or of a dataset that reads its file on access
SAMPLED = 4096  # files; opening each of a hundred thousand would take minutes on a file system of many hosts


class _File(NamedTuple):
    """A file of an input: its name within the store (empty if it is the input itself), its path, size and date."""

    name: str
    path: Path
    size: int
    date_ns: int


def fingerprint(given: object) -> str:
    """What tells an input, by paths or as a dataset, from others, in a line.

    Empty for what is neither, such as a number, and for files that are not there. Of dask arrays only names and shapes
    are known. DataError if a file cannot be read.
    """
    if isinstance(given, str | os.PathLike | list | tuple | Source) or hasattr(given, "data_vars"):
        source = Source.of(given)  # type: ignore[arg-type]  # a dataset is known by its variables, without importing xarray
        try:
            return _of_paths(source.paths) if source.dataset is None else _of_dataset(source.dataset)
        except READ_ERRORS as error:
            raise DataError(
                f"cannot read {source.name}: {reason(error)}",
                advice="copy it again, as it may be damaged or incomplete",
            ) from None
    return ""


def _of_paths(paths: tuple[Path, ...]) -> str:
    """The fingerprint of files and stores."""
    files = [file for path in paths for file in _files(path)]
    if not files:
        return ""
    total, content = sum(file.size for file in files), hashlib.sha256()
    if total <= SMALL:
        for file in files:
            data = file.path.read_bytes()
            content.update(f"{file.name} {len(data)}\n".encode("utf-8", "surrogateescape"))
            content.update(data)
        return f"{total} bytes, content {content.hexdigest()[:32]}"
    for file in files:
        content.update(f"{file.name} {file.size} {file.date_ns}\n".encode("utf-8", "surrogateescape"))
    chosen = files[:: -(-len(files) // SAMPLED)]
    for file in chosen:
        _sample(file, max(3, BLOCKS // len(chosen)), content)
    return f"{total} bytes in {len(files)} files, {content.hexdigest()[:32]}"


def _files(path: Path) -> Iterator[_File]:
    """The file at a path, or all files of the store there, by name; none if nothing is there."""
    if not path.is_dir():
        if path.exists():
            stat = path.stat()
            yield _File("", path, stat.st_size, stat.st_mtime_ns)
        return
    for folder, inner, names in os.walk(path):
        inner.sort()
        for name in sorted(names):
            file = Path(folder, name)
            stat = file.stat()
            yield _File(os.path.relpath(file, path), file, stat.st_size, stat.st_mtime_ns)


def _sample(file: _File, blocks: int, content: Any) -> None:
    """Add evenly spread blocks of a file, the first and the last among them, to a hash."""
    with file.path.open("rb") as opened:
        last = max(file.size - BLOCK, 0)
        for place in sorted({last * number // (blocks - 1) for number in range(blocks)}):
            opened.seek(place)
            content.update(opened.read(BLOCK))


def _of_dataset(dataset: "xr.Dataset") -> str:
    """The fingerprint of data in memory: names, shapes and values, of large variables those of a few steps."""
    content, lazy = hashlib.sha256(), False
    for name in sorted(map(str, dataset.variables)):
        variable = dataset.variables[name]
        content.update(repr((name, variable.dims, variable.shape, str(variable.dtype))).encode())
        if variable.chunks is not None:
            lazy = True
            continue
        steps = [...] if variable.nbytes <= SMALL else np.linspace(0, len(variable) - 1, STEPS, dtype=int)
        for step in steps:
            values = variable[step].values
            whole = repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
            content.update(whole)
    where = "computed on access" if lazy else "in memory"
    return f"{dataset.nbytes} bytes {where}, {content.hexdigest()[:32]}"
