"""The archive stage of a run: the tables of the archive codec for every variable, fitted on the training years.

archive.npz    VARIABLE.NAME                  integer tables (runtime/archive/tables.py)
               VARIABLE.climatology           (1 + 2K, pixel), where the run's own climatology is not that of the field
               VARIABLE.source_climatology    (1 + 2K, point), on the lat-lon grid of the inputs
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.archive.codec import Codec
from fsae.runtime.archive.lookup import CLIMATOLOGY, FILE, SOURCE_CLIMATOLOGY
from fsae.runtime.archive.tables import CELL_ZOOM, TYPES, make_codec_tables
from fsae.runtime.arrays import F32, F64
from fsae.runtime.atomic import write_aside
from fsae.runtime.bundle.tables import read_arrays
from fsae.runtime.climate import climatology
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import Fields, Wanted
from fsae.runtime.input.joining import by_variable, join
from fsae.runtime.input.sources import Source
from fsae.runtime.sphere.grids import LatLonGrid, is_same
from fsae.runtime.sphere.healpix import npix
from fsae.runtime.sphere.interpolated_grid import cells_of
from fsae.training.config import Config
from fsae.training.data.prepared import Prepared, part_of

from .archive_codec import BASE_ZOOM, LONGEST, codec_arrays, fit_codec
from .autoencoder import log
from .run_folder import CONFIG, Facts, read_record, read_statistics

MOST_PATTERNS = 496
MOST_BYTES = 2_000_000  # of the tables of a variable, packed
MOST_CLIMATOLOGY = 0.4  # of them, for the climatology on the grid of the inputs
MOST_VALUES = 1 << 26  # that a variable is fitted to: 256 MiB, and four times as much in float64
FINER = 10  # octaves between a typical anomaly and what climatologies are rounded to
PACKED_PATTERN, PACKED_STENCIL, PACKED_OTHER = 0.795, 0.75, 0.5  # bytes after packing, of one


@dataclass(frozen=True, kw_only=True)
class Training:
    """One variable of fields in the training years, read as it is needed."""

    fields: Fields
    part: slice
    variable: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.part.stop - self.part.start)

    @property
    def phase(self) -> F64:
        """Phases of the year (time)."""
        return self.fields.phase[self.part]

    def read(self, steps: slice) -> F32:
        """Physical values (time, point) of some of the steps."""
        first = self.part.start
        values: F32 = self.fields.read(slice(first + steps.start, first + steps.stop))[0, :, self.variable]
        return values

    def fit(self, harmonics: int) -> F32:
        """Climatology (1 + 2K, point) by least squares."""
        solver = climatology.projection(self.phase, harmonics)
        total = np.zeros((len(solver), self.fields.shape[-1]))
        for steps in stretches(self.steps, self.steps):
            total += solver[:, steps] @ self.read(steps).astype(np.float64)
        return total.astype(np.float32)

    def anomalies(self, about: F32) -> F32:
        """Anomalies (time, point) from a climatology (1 + 2K, point), of stretches of the steps if memory is short."""
        season = climatology.season(self.phase, len(about) // 2)
        chosen = stretches(self.steps, MOST_VALUES // about.shape[1])
        return np.concatenate(
            [self.read(steps) - climatology.evaluate(about[None], season[steps])[:, 0] for steps in chosen]
        )


def stretches(steps: int, most: int) -> list[slice]:
    """Stretches of `LONGEST` steps, all of them or as many as hold `most` steps, evenly spread.

    >>> stretches(250, 300), stretches(600, 240)
    ([slice(0, 120, None), slice(120, 240, None), slice(240, 250, None)], [slice(0, 120, None), slice(480, 600, None)])
    """
    every = [slice(first, min(first + LONGEST, steps)) for first in range(0, steps, LONGEST)]
    count = max(1, most // LONGEST)
    if steps <= most or count >= len(every):
        return every
    return [every[int(place)] for place in np.unique(np.linspace(0, len(every) - 1, count).round())]


def archive_stage(data: Prepared, inputs: Sequence[Path], folder: Path) -> None:
    """Fit the archive codec of every variable to the training years, unless it is there.

    DataError for fields of zoom 0, which have fewer cells than the codec transforms together.
    """
    path = folder / FILE
    if path.exists():
        return
    config, fields = data.config, data.fields
    if fields.zoom < CELL_ZOOM:
        raise DataError(
            f"found fields of zoom {fields.zoom}",
            f"zoom {CELL_ZOOM} or finer for the archive codec",
            "set a finer autoencoder.zoom",
        )
    part = part_of(fields, config.data.training_years)
    own = own_climatologies(config, inputs, read_record(folder / "facts.json", Facts))
    arrays: dict[str, NDArray[Any]] = {}
    for place, variable in enumerate(config.data.variables):
        log.info("archive codec of %s: %d steps of zoom %d", variable.name, part.stop - part.start, fields.zoom)
        training = Training(fields=fields, part=part, variable=place)
        known = data.statistics[CLIMATOLOGY][place] if _is_of_fields(config, place) else None
        tables = variable_tables(training, config.data.harmonics, known, own.get(variable.name))
        arrays |= {f"{variable.name}.{name}": table for name, table in tables.items()}
    with write_aside(path) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _is_of_fields(config: Config, variable: int) -> bool:
    """True if the run's own climatology is that of the field: seasonal, and not of the square root."""
    return config.data.normalisation == "climatology" and config.data.variables[variable].transform == "none"


def variable_tables(
    training: Training, harmonics: int, known: F32 | None, own: F32 | None
) -> dict[str, NDArray[np.generic]]:
    """The arrays of one variable: integer tables and what climatologies the codec needs, at most `MOST_BYTES` packed.

    `known` is the run's climatology (1 + 2K, pixel) if that serves; without one up to `harmonics` are fitted. `own` is
    that on the grid of the inputs.
    """
    cells = training.fit(climatology.affordable_harmonics(training.phase, 1, harmonics)) if known is None else known
    anomalies = training.anomalies(cells)
    found: dict[str, NDArray[np.generic]] = {}
    spread = float(np.sqrt(np.square(anomalies, dtype=np.float64).mean()))
    if known is None:
        found[CLIMATOLOGY] = cells
    if own is not None:
        rounded = _rounded(own, spread)
        if packed_size({SOURCE_CLIMATOLOGY: rounded}) <= MOST_CLIMATOLOGY * MOST_BYTES:
            found[SOURCE_CLIMATOLOGY] = rounded
        else:
            log.info("archive codec: the climatology on the grid of the inputs is left out, it would be too large")
    patterns = pattern_count(training.steps, training.fields.zoom, MOST_BYTES - packed_size(found))
    while True:
        whole = {**codec_arrays(fit_codec(anomalies, patterns)), **found}
        size = packed_size(whole)
        if size <= MOST_BYTES or patterns == 1:
            log.info("archive codec: %d patterns, %d bytes", patterns, size)
            return whole
        patterns = max(1, patterns * MOST_BYTES // size - 4)  # packed worse than others do


def pattern_count(steps: int, zoom: int, room: int) -> int:
    """Global patterns that `steps` fields determine and whose tables, with all others, fit into `room` bytes.

    More patterns than fields would fit the noise of the covariance. With 84 months of eastward wind, and two years held
    out, the errors of 84 patterns are 9 and 8 % smaller than those of 496 at 16 and 64 times, and 2.7 % larger at 256.

    >>> pattern_count(684, 5, 1_664_000), pattern_count(84, 5, 1_664_000), pattern_count(684, 1, 1_664_000)
    (496, 84, 48)
    """
    base = min(zoom, BASE_ZOOM)
    pixels, levels = npix(base), zoom - base
    stencils = PACKED_STENCIL * 100 * pixels * levels
    others = PACKED_OTHER * 3 * pixels * (1 + 3 * levels) + pixels * (pixels // npix(CELL_ZOOM)) + 6000
    fitting = int((room - stencils - others) / (PACKED_PATTERN * pixels))
    return max(1, min(MOST_PATTERNS, pixels, steps, fitting))


def packed_size(arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """Bytes of arrays as they are written."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **dict(arrays))  # type: ignore[arg-type]
    return packed.tell()


def _rounded(coefficients: F32, spread: float) -> F32:
    """Coefficients as multiples of a power of two that is far below a typical anomaly: they pack better."""
    quantum = 2.0 ** (np.floor(np.log2(spread)) - FINER)
    rounded: F32 = (np.round(coefficients.astype(np.float64) / quantum) * quantum).astype(np.float32)
    return rounded


def codecs_of(folder: Path) -> dict[str, Codec]:
    """The archive codec of each variable of a run, on the cells of its fields; empty if it has none.

    BundleError if the tables are damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    arrays = read_arrays(path.read_bytes(), str(path))
    config, known = read_record(folder / CONFIG, Config), read_statistics(folder)[CLIMATOLOGY]
    found = {}
    for place, variable in enumerate(config.data.variables):
        own = {name: arrays[f"{variable.name}.{name}"] for name in TYPES if f"{variable.name}.{name}" in arrays}
        tables = make_codec_tables(own, str(path))
        cells = np.asarray(arrays.get(f"{variable.name}.{CLIMATOLOGY}", known[place]), dtype=np.float32)
        found[variable.name] = Codec(tables=tables, climatology=cells, grid=cells_of(tables.zoom))
    return found


def own_climatologies(config: Config, inputs: Sequence[Path], facts: Facts) -> dict[str, F32]:
    """Climatology (1 + 2K, point) of each variable on the lat-lon grid of the inputs, which is that of the first one.

    Those on other grids, or with missing values, have none.
    """
    if not facts.source_lat_deg:
        return {}
    grid = LatLonGrid(lat_deg=np.array(facts.source_lat_deg), lon_deg=np.array(facts.source_lon_deg))
    found: dict[str, F32] = {}
    with contextlib.ExitStack() as closing:
        source = Source(paths=tuple(inputs))
        wanted = Wanted(variables=config.data.variables, finest_zoom=config.autoencoder.zoom, own_grid=True)
        for variable, parts in zip(config.data.variables, by_variable(source.open(closing), wanted), strict=True):
            if not all(is_same(part.grid, grid) for part in parts):
                continue
            fields = join(source.name, [parts])
            training = Training(fields=fields, part=part_of(fields, config.data.training_years), variable=0)
            fitted = training.fit(climatology.affordable_harmonics(training.phase, 1, config.data.harmonics))
            if np.isfinite(fitted).all():
                found[variable.name] = fitted
    return found
