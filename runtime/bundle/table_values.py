"""What the numbers in the tables of a bundle mean: those that no climate, grid or model can have are refused."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import Floating
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.climate.transforms import inverse
from fsae.runtime.errors import BundleError
from fsae.runtime.sphere.healpix import pixel_centres
from fsae.runtime.sphere.weights import Weights

from .manifest import Manifest
from .schema import ADVICE

if TYPE_CHECKING:
    from .tables import Tables

DEGREES = 1e-3  # centres of pixels agree up to this
SUM = 1e-3  # and the weights of a point have this sum, but for 1
FORCING = 1e3  # W m-2 or whatever its units are: nothing that moves the climate of a planet is larger
OVERSHOOT = 0.05  # of the width of a valid range: how far a few waves of the year can be beyond its ends


def check_values(tables: "Tables", manifest: Manifest, where: str) -> None:
    """Raise BundleError, naming the table and a value, for numbers that cannot be those of the bundle's model."""
    for name in ("source_lat_deg", "source_lon_deg", "climatology", "latent_season_std"):
        values = getattr(tables, name)
        _refuse(name, values, np.isfinite(values), "a finite number", where)
    for name in ("scale", "latent_cell_std", "latent_level_std"):
        values = getattr(tables, name)
        _refuse(name, values, np.isfinite(values) & (values > 0), "a finite number above 0", where)
    lat, lon = pixel_centres(manifest.grid.zoom)
    turned = (tables.lon_deg - lon + 180.0) % 360.0 - 180.0
    for name, found, away in (("lat_deg", tables.lat_deg, tables.lat_deg - lat), ("lon_deg", tables.lon_deg, turned)):
        if not np.abs(away).max() <= DEGREES:
            place = int(np.argmax(~(np.abs(away) <= DEGREES)))
            expected = (lat if name == "lat_deg" else lon)[place]
            raise _error(name, found[place], f"{expected:g}, the centre of pixel {place}", where)
    _check_axis("source_lat_deg", tables.source_lat_deg, 90.0, where)
    _check_axis("source_lon_deg", tables.source_lon_deg, 360.0, where)
    for name in ("to_healpix", "to_source"):
        _check_weights(name, getattr(tables, name), where)
    _check_climatology(tables.climatology, manifest, where)
    if tables.scenarios is not None:
        years = tables.scenarios.years
        whole = (years == np.round(years)) & (np.diff(years, prepend=years[0] - 1) == 1)
        _refuse("forcing_years", years, whole, "consecutive years", where)
        values = np.concatenate(list(tables.scenarios.values.values()))
        _refuse("forcing_scenarios", values, np.abs(values) <= FORCING, f"at most {FORCING:g} either way", where)


def _error(name: str, value: object, expected: str, where: str) -> BundleError:
    return BundleError(f"{where}: table {name} has the value {value}", expected, ADVICE)


def _refuse(name: str, values: Floating, good: NDArray[np.bool_], expected: str, where: str) -> None:
    """Raise BundleError for the first value that is not good."""
    if not good.all():
        raise _error(name, values[~good][0], expected, where)


def _check_axis(name: str, axis: Floating, most: float, where: str) -> None:
    """Raise BundleError unless an axis rises or falls within `most` degrees."""
    outside = np.abs(axis) > most + DEGREES
    if outside.any():
        raise _error(name, axis[outside][0], f"within {most:g} degrees of 0", where)
    steps = np.diff(axis)
    if axis.size > 1 and not ((steps > 0).all() or (steps < 0).all()):
        wrong = int(np.argmax(np.sign(steps) != np.sign(steps[0]))) + 1
        raise _error(name, axis[wrong], f"values that only rise or only fall (this is number {wrong})", where)


def _check_weights(name: str, weights: Weights, where: str) -> None:
    """Raise BundleError unless every point that has weights has those of a mean."""
    starts = weights.indptr.astype(np.int64)
    if starts[0] != 0 or (np.diff(starts) < 0).any():
        raise _error(f"{name}_indptr", starts[0], "numbers that begin with 0 and never fall", where)
    weight = weights.weight.astype(np.float64)
    bad = ~((weight >= -SUM) & (weight <= 1 + SUM))
    if bad.any():
        raise _error(f"{name}_weight", weight[bad][0], "0 to 1", where)
    sums = np.diff(np.concatenate([[0.0], np.cumsum(weight)])[starts])
    bad = (np.diff(starts) > 0) & ~(np.abs(sums - 1) <= SUM)
    if bad.any():
        raise _error(f"{name}_weight", sums[bad][0], f"1 as the sum of point {int(np.argmax(bad))}", where)


def _check_climatology(climatology: Floating, manifest: Manifest, where: str) -> None:
    """Raise BundleError for a month of the year outside the valid range."""
    transforms = [variable.transform for variable in manifest.variables]
    for month in range(12):
        waves = season(np.array([(month + 0.5) / 12]), manifest.time.harmonics)
        fields = inverse(evaluate(climatology, waves), transforms)[0]
        for variable, field in zip(manifest.variables, fields, strict=True):
            low, high = variable.valid_range
            beyond = OVERSHOOT * (high - low)
            bad = ~((field >= low - beyond) & (field <= high + beyond))
            if bad.any():
                expected = f"{variable.name} within {low:g} to {high:g} {variable.units} in month {month + 1}"
                raise _error("climatology", field[bad][0], expected, where)
