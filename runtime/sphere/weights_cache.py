"""Weights between large grids in the user's cache folder: one copy for all processes, commands and shards.

A file is named by a hash of all that its weights depend on, the code that makes them included. It is written aside and
renamed, so that processes which make the same one at once do not disturb each other. Its checksums (those of a zip
archive) and its form are checked when it is read. Without a folder, or without room in it, weights are made each time.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.atomic import write_aside
from fsae.runtime.log import log

from .grids import LatLonGrid
from .healpix import npix
from .weights import Weights

SWITCH = "FSAE_CACHE"  # environment variable: a folder, or "off"
OFF = "off"
MOST_BYTES = 1 << 30  # of all files together; beyond, those that were not used for the longest time are removed
WORTH_POINTS = 1 << 18  # of both grids together, from which on reading takes less time than making
SUM_ERROR = 1e-6  # of the weights of a target, which add up to 1
CODE = tuple(Path(__file__).with_name(f"{name}.py") for name in ("regrid", "overlaps", "weights", "healpix"))


@dataclass(frozen=True, kw_only=True)
class Between:
    """Two grids and the way from one to the other."""

    method: str
    grid: LatLonGrid
    zoom: int
    back: bool = False  # from the pixels to the grid

    @property
    def sizes(self) -> tuple[int, int]:
        """Targets and sources."""
        points, pixels = self.grid.size, npix(self.zoom)
        return (points, pixels) if self.back else (pixels, points)

    @property
    def key(self) -> str:
        """A hash of what the weights depend on; OSError if the code that makes them cannot be read."""
        said = f"{self.method} {self.zoom} {self.back} {self.grid.shape} numpy {np.__version__}\n"
        axes = (np.ascontiguousarray(axis, dtype="<f8").tobytes() for axis in (self.grid.lat_deg, self.grid.lon_deg))
        parts = (said.encode(), *axes, *(path.read_bytes() for path in CODE))
        return hashlib.sha256(b"".join(parts)).hexdigest()


def cache_folder() -> Path | None:
    """Folder of the weights: $FSAE_CACHE, else fsae in the user's cache folder; None if it is switched off or unknown.

    That is $XDG_CACHE_HOME or ~/.cache by the XDG base directory specification, and %LOCALAPPDATA% on Windows.
    """
    given, local, xdg = (os.environ.get(name, "") for name in (SWITCH, "LOCALAPPDATA", "XDG_CACHE_HOME"))
    if given:
        return None if given.lower() == OFF else Path(given).absolute()
    if sys.platform == "win32" and local:
        return Path(local) / "fsae" / "Cache"
    try:
        return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "fsae"
    except RuntimeError:  # no home, as in some containers
        return None


def cached(between: Between, make: Callable[[], Weights]) -> Weights:
    """The weights that `make` gives, which are made once for all processes."""
    folder = cache_folder()
    if folder is None or sum(between.sizes) < WORTH_POINTS:
        return make()
    try:
        path = folder / f"{between.key}.npz"
    except OSError:
        return make()
    found = _read(path, between.sizes)
    if found is not None:
        return found
    weights = make()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(folder, weights.indptr.nbytes + weights.index.nbytes + weights.weight.nbytes)
        with write_aside(path) as aside, aside.open("wb") as file:
            np.savez(file, indptr=weights.indptr, index=weights.index, weight=weights.weight)
    except OSError as error:
        log.info(
            f"regridding weights are not kept in {folder}: {error.strerror or error}; {SWITCH} names another folder"
        )
    return weights


def kept(folder: Path) -> list[tuple[float, int, Path]]:
    """Time of last use, size and path of the files in the folder, those not used for the longest time first."""
    found = []
    with contextlib.suppress(OSError):  # no such folder
        for path in folder.glob("*.npz*"):  # also what a killed process left unfinished
            with contextlib.suppress(OSError):  # another process has just removed it
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
    return sorted(found)


def _make_room(folder: Path, size: int) -> None:
    """Remove files until one of `size` bytes more is within the bound."""
    files = kept(folder)
    total = sum(own for _, own, _ in files) + size
    for _, own, path in files:
        if total <= MOST_BYTES:
            break
        with contextlib.suppress(OSError):  # another process reads it, on Windows
            path.unlink(missing_ok=True)
            total -= own


def _read(path: Path, sizes: tuple[int, int]) -> Weights | None:
    """The weights in a file between grids of these sizes; None if there is none, or none that is whole."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            weights = Weights(indptr=file["indptr"], index=file["index"], weight=file["weight"], source_size=sizes[1])
        os.utime(path)  # when it was used
        whole = _has_form(weights, sizes[0])
    except Exception:  # a damaged file can fail anywhere
        whole = False
    if not whole:
        log.info(f"{path} is damaged: its weights are made again")
        return None
    return weights


def _has_form(weights: Weights, targets: int) -> bool:
    """True if arrays are weights to that many targets."""
    indptr, index, weight = weights.indptr, weights.index, weights.weight
    right = indptr.shape == (targets + 1,) and index.ndim == 1 and index.shape == weight.shape
    right = right and indptr.dtype == index.dtype == np.int32 and weight.dtype == np.float64
    right = right and indptr[0] == 0 and indptr[-1] == index.size and bool((np.diff(indptr) >= 0).all())
    right = right and bool(((index >= 0) & (index < weights.source_size)).all())
    if not right or not (weight > 0).all():
        return False
    filled = np.diff(indptr) > 0
    sums = np.add.reduceat(weight, indptr[:-1][filled]) if filled.any() else np.ones(0)
    return bool((np.abs(sums - 1) < SUM_ERROR).all())
