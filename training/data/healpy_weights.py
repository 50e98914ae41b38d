"""Regridding weights with pixel centres and places by healpy, kept in a cache folder."""

import contextlib
import hashlib
import logging
import os
import zipfile
from pathlib import Path

import healpy
import numpy as np
from numpy.typing import NDArray

from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import WeightMaker
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix
from fsae.runtime.sphere.regrid import Weights, bilinear_weights, conservative_weights

log = logging.getLogger("fsae.training")

VERSION = 1  # of the cached files: raise it when the weights of a grid change


def healpy_weights(cache: Path | None = None) -> WeightMaker:
    """A maker of weights that takes pixel centres and places from healpy, and keeps what it made in `cache`."""
    folder = default_cache() if cache is None else cache

    def make(grid: LatLonGrid, zoom: int, method: str) -> Weights:
        axes = np.concatenate([grid.lat_deg, grid.lon_deg]).astype("<f8").tobytes()
        facts = f"{VERSION} {method} {zoom} {grid.shape}".encode()
        path = folder / f"{method}-z{zoom}-{hashlib.sha256(facts + axes).hexdigest()[:20]}.npz"
        known = _load(path, grid.size, npix(zoom))
        if known is not None:
            return known
        weights = _make(grid, zoom, method)
        _keep(path, weights)
        return weights

    return make


def default_cache() -> Path:
    """Where weights are kept if nothing else is said: fsae/weights in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fsae" / "weights"


def _make(grid: LatLonGrid, zoom: int, method: str) -> Weights:
    nside = 1 << zoom
    if method == "bilinear":
        lon, lat = healpy.pix2ang(nside, np.arange(npix(zoom)), nest=True, lonlat=True)
        return bilinear_weights(grid, lat, lon)
    if method != "conservative":
        raise DataError(f"found the regridding method {method!r}, expected auto, bilinear or conservative")

    def find_pixel(_: int, lat: NDArray[np.float64], lon: NDArray[np.float64]) -> NDArray[np.int64]:
        pixel: NDArray[np.int64] = healpy.ang2pix(nside, lon, lat, nest=True, lonlat=True)
        return pixel

    return conservative_weights(grid, zoom, find_pixel)


def _load(path: Path, source_size: int, target_size: int) -> Weights | None:
    """Weights of a cached file; None where there is none or it is damaged, so that it is made again."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            weights = Weights(
                indptr=file["indptr"], index=file["index"], weight=file["weight"], source_size=source_size
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = weights.target_size == target_size and weights.index.size == weights.weight.size == weights.indptr[-1]
    return weights if fits else None


def _keep(path: Path, weights: Weights) -> None:
    """Write weights to the cache, aside and then in place; a cache that cannot be written is no failure."""
    aside = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(file, indptr=weights.indptr, index=weights.index, weight=weights.weight)
        aside.replace(path)
    except OSError as error:
        log.info("prepare: cannot keep weights in %s: %s", path.parent, error.strerror)
        with contextlib.suppress(OSError):
            aside.unlink()
