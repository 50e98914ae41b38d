"""The tables of a bundle: pixel centres, regridding weights and statistics, read without pickle."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.climate.scenarios import Scenarios
from fsae.runtime.errors import BundleError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix
from fsae.runtime.sphere.weights import Weights

from .manifest import Manifest
from .schema import ADVICE
from .table_values import check_values

SAME_DEG = 1e-4  # axes of the training data's own grid may differ by that much
MOST_SWELLING, MOST_BYTES = 200, 1 << 26  # of packed arrays: times their size, and what any may have


def read_arrays(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; pickled objects, and files that swell when they are unpacked, are refused."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > MOST_SWELLING * len(data) + MOST_BYTES:
            raise BundleError(f"{where} would swell from {len(data)} bytes to {size}", advice=ADVICE)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except BundleError:
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen kinds for damaged files
        raise BundleError(f"{where} holds no readable arrays ({error})", advice=ADVICE) from None


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the names, types, shapes and numbers of arrays, however they are stored.

    >>> [digest({"a": np.array([number])})[:6] for number in (0.0, 1.0)]
    ['1e336d', 'fb2477']
    """
    whole = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        little = array.astype(array.dtype.newbyteorder("<"))
        whole.update(repr((name, little.dtype.str, little.shape)).encode())
        whole.update(np.ascontiguousarray(little).tobytes())
    return whole.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Constants of a bundle: grids, weights between them, climatology and statistics (see the fields' comments)."""

    lat_deg: NDArray[np.float64]  # (pixel)
    lon_deg: NDArray[np.float64]  # (pixel)
    source_lat_deg: NDArray[np.float64]  # (lat), axis of the training data's own grid
    source_lon_deg: NDArray[np.float64]  # (lon)
    to_healpix: Weights  # training grid, flattened (lat, lon) -> pixel
    to_source: Weights  # pixel -> training grid
    climatology: NDArray[np.float32]  # (variable, 1 + 2K, pixel), physical units
    scale: NDArray[np.float32]  # (variable), physical units
    latent_cell_std: NDArray[np.float32]  # (variable, latent pixel), see pyramid.seasonal_std
    latent_season_std: NDArray[np.float32]  # (variable, 2H, latent pixel)
    latent_level_std: NDArray[np.float32]  # (variable, level up to the latent zoom)
    scenarios: Scenarios | None  # of the forcing; None: it is the calendar year

    @property
    def source_shape(self) -> tuple[int, int]:
        """(lat, lon) of the training data's own grid."""
        return self.source_lat_deg.size, self.source_lon_deg.size

    def on_source(self, grid: LatLonGrid) -> bool:
        """True if a grid is the training data's own, in its order."""
        return grid.shape == self.source_shape and bool(
            np.allclose(grid.lat_deg, self.source_lat_deg, rtol=0, atol=SAME_DEG)
            and np.allclose(grid.lon_deg, self.source_lon_deg, rtol=0, atol=SAME_DEG)
        )


def make_tables(arrays: dict[str, NDArray[Any]], manifest: Manifest, where: str) -> Tables:
    """Tables out of their arrays, with every shape, and what the numbers mean, checked against the manifest."""
    variables, pixels = len(manifest.variables), npix(manifest.grid.zoom)
    latent_levels = manifest.zooms.index(manifest.latent.zoom) + 1
    shapes: dict[str, tuple[int | None, ...]] = {
        "lat_deg": (pixels,),
        "lon_deg": (pixels,),
        "source_lat_deg": (None,),
        "source_lon_deg": (None,),
        "climatology": (variables, 1 + 2 * manifest.time.harmonics, pixels),
        "scale": (variables,),
        "latent_cell_std": manifest.latent.shape,
        "latent_season_std": (variables, None, manifest.latent.shape[1]),
        "latent_level_std": (variables, latent_levels),
    }
    parts = {
        f"{name}_{part}": (None,) for name in ("to_healpix", "to_source") for part in ("indptr", "index", "weight")
    }
    # bundles of a model without seasons in its deviations have no such table
    arrays = {"latent_season_std": np.zeros((variables, 0, manifest.latent.shape[1]), np.float32), **arrays}
    missing = sorted({*shapes, *parts} - set(arrays))
    if missing:
        raise BundleError(f"{where} lacks the tables {missing}", advice=ADVICE)
    for name, shape in (shapes | parts).items():
        found = arrays[name].shape
        if len(found) != len(shape) or any(e not in (None, f) for f, e in zip(found, shape, strict=True)):
            raise BundleError(f"{where}: table {name} has the shape {found}", str(shape), ADVICE)
    source = arrays["source_lat_deg"].size * arrays["source_lon_deg"].size
    tables: dict[str, Any] = {
        name: arrays[name].astype(np.float64 if name.endswith("_deg") else np.float32) for name in shapes
    }
    for name, source_size, rows in (("to_healpix", source, pixels), ("to_source", pixels, source)):
        indptr, index, weight = (arrays[f"{name}_{part}"] for part in ("indptr", "index", "weight"))
        good = indptr.size == rows + 1 and index.size == weight.size == int(indptr[-1])
        if not good or (index.size and not 0 <= int(index.min()) <= int(index.max()) < source_size):
            raise BundleError(f"{where}: the weights {name} do not fit {source_size} points to {rows}", advice=ADVICE)
        tables[name] = Weights(indptr=indptr, index=index, weight=weight, source_size=source_size)
    made = Tables(**tables, scenarios=_scenarios(arrays, manifest, where))
    check_values(made, manifest, where)
    return made


def _scenarios(arrays: Mapping[str, NDArray[Any]], manifest: Manifest, where: str) -> Scenarios | None:
    """The scenarios of the manifest's forcing: forcing_years (year,) and forcing_scenarios (scenario, year)."""
    forcing = None if manifest.denoiser is None else manifest.denoiser.forcing
    names = () if forcing is None else forcing.scenarios or ()
    if forcing is None or not names:
        return None
    missing = sorted({"forcing_years", "forcing_scenarios"} - set(arrays))
    if missing:
        raise BundleError(f"{where} lacks the tables {missing}", advice=ADVICE)
    years, values = (arrays[name].astype(np.float64) for name in ("forcing_years", "forcing_scenarios"))
    if years.ndim != 1 or values.shape != (len(names), years.size) or years.size < 2:
        shape = f"({len(names)}, year), of two or more years"
        raise BundleError(f"{where}: table forcing_scenarios has the shape {values.shape}", shape, ADVICE)
    by_name = dict(zip(names, values, strict=True))
    return Scenarios(years=years, values=by_name, response_years=forcing.response_years or 0.0)
