"""What codecs are tried on: fields of a source, in K or as anomalies, on HEALPix and on the source's own grid."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32, F64, Floating, Ints
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.climatology import affordable_harmonics, evaluate, fit, season
from fsae.runtime.codec.encoder_input import open_fields
from fsae.runtime.codec.source_climatology import known_climatology
from fsae.runtime.input.fields import Fields
from fsae.runtime.input.reader import VariableReader
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import face_orders, npix, pixel_centres
from fsae.runtime.sphere.regrid import cell_areas, make_weights
from fsae.runtime.sphere.weights import apply

SAMPLE = Path(__file__).parents[2] / "training" / "sample"
TRAINING_FILE = "ncep1-tas-mon-194801-200412.nc"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of monthly temperatures [K], in training/sample or else in the folder of --data."""

    title: str
    file: str
    variable: str = "tas"  # what the file calls it
    own_climatology: bool = True  # as made by `fsae-run climatology`, rather than the bundle's


SOURCES = {
    "ncep": Source(title="NCEP reanalysis 2005-2014", file="ncep1-tas-mon-200501-201412.nc", own_climatology=False),
    "mpi-esm": Source(title="MPI-ESM-LR 2005", file="mpi-esm-lr-tas-uas-vas-mon-2005.nc"),
    "access": Source(
        title="ACCESS-ESM1-5 historical 2000-2014, every 10 degrees",
        file="access-esm15-tas-mon-historical-200001-201412-10deg.nc",
    ),
    "glosea4": Source(
        title="GloSea4 forecasts of 2011, 10 members, skin", file="glosea4-ts-mon-2011-10members.nc", variable="ts"
    ),
    "csm": Source(title="CSM, 100 months, skin", file="csm-b003-ts-mon-100months.nc", variable="ts"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Cells of a sphere: where they are, what they count for, and how they lie in an image."""

    name: str
    axes: LatLonGrid | int  # or the zoom of HEALPix
    lat_deg: F64  # (cell)
    lon_deg: F64  # (cell)
    weight: F64  # (cell), mean 1
    image: Ints  # (row, column) -> cell
    to_healpix: Callable[[F32], F32]  # (..., cell) -> (..., pixel), for spectra


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """Fields that codecs are tried on, with those of training years that a codec may learn from."""

    source: str
    grid: Grid
    kind: str  # one of `KINDS`
    values: F32 = dataclasses.field(repr=False)  # (member, time, cell) [K]
    climatology: F32 = dataclasses.field(repr=False)  # (time, cell) [K], 0 for anomalies
    phases: F64 = dataclasses.field(repr=False)  # (time), fraction of the year
    training: F32 | None = dataclasses.field(repr=False)  # (time, cell), of the same kind and grid
    removed: str = ""  # the climatology that anomalies are about, in words
    bundle: Bundle | None = dataclasses.field(default=None, repr=False)


KINDS = ("K", "anomalies")
GRIDS = ("healpix", "own")


def healpix_image(zoom: int) -> Ints:
    """Pixels (row, column) of the 12 faces in four rows of three, most of which have their neighbours beside them.

    Each row holds a southern, an equatorial and a northern face that touch, and is turned so that two of its faces
    touch those of the row above.
    """
    side = 1 << zoom
    faces = face_orders(zoom)["S, counterclockwise"].reshape(12, side, side)[:, ::-1]  # (face, north-west down, x)
    rows = []
    for k in range(4):
        row = [faces[8 + (k + 3) % 4], faces[4 + k], faces[k]]
        rows.append(np.concatenate([*row[-k % 3 :], *row[: -k % 3]], axis=1))
    return np.concatenate(rows)


def healpix_cells(zoom: int) -> Grid:
    """A whole HEALPix sphere."""
    lat, lon = pixel_centres(zoom)
    return Grid(
        name=f"HEALPix zoom {zoom}",
        axes=zoom,
        lat_deg=lat,
        lon_deg=lon,
        weight=np.ones(npix(zoom)),
        image=healpix_image(zoom),
        to_healpix=lambda fields: fields,
    )


def lat_lon_cells(grid: LatLonGrid, zoom: int) -> Grid:
    """A lat-lon grid, whose spectra are taken at `zoom`."""
    weights = make_weights(grid, zoom)
    areas = cell_areas(grid)
    return Grid(
        name=f"lat-lon {grid.shape[0]} x {grid.shape[1]}",
        axes=grid,
        lat_deg=np.repeat(grid.lat_deg, grid.lon_deg.size),
        lon_deg=np.tile(grid.lon_deg, grid.lat_deg.size),
        weight=areas / areas.mean(),
        image=np.arange(grid.size).reshape(grid.shape),
        to_healpix=lambda fields: np.asarray(apply(weights, fields), dtype=np.float32),
    )


def read_own_grid(fields: Fields) -> F32:
    """Values (member, time, cell) as on the source's own grid, checked and in K like those on HEALPix."""
    (reader,) = fields.readers
    if not isinstance(reader, VariableReader):
        raise TypeError(f"found a reader of several files: {reader}")
    as_stored: Callable[[Floating], Floating] = lambda values: values  # noqa: E731
    return dataclasses.replace(reader, convert=as_stored)(slice(0, len(fields.times)), None)


def own_climatology(values: F32, phases: F64, harmonics: int) -> F32:
    """Coefficients (1, 1 + 2K, cell) fitted to (member, time, cell), with as many harmonics as the steps determine."""
    most = affordable_harmonics(phases, len(values), harmonics)
    return fit(values.mean(axis=0)[:, None], phases, most)


def open_source(bundle: Bundle, source: Source, path: Path, zoom: int | None = None) -> Fields:
    """The fields of a source as the product reads them."""
    return open_fields(bundle, path, zoom, None if source.variable == "tas" else {"tas": source.variable})


def subjects(
    bundle: Bundle, source: Source, path: Path, grids: Sequence[str], kinds: Sequence[str]
) -> Iterator[Subject]:
    """The fields of a source on each of `GRIDS` and of each of `KINDS` that is asked for."""
    fields = open_source(bundle, source, path)
    trained = open_fields(bundle, SAMPLE / TRAINING_FILE, fields.zoom)
    harmonics = bundle.manifest.time.harmonics
    for name in grids:
        if name == "healpix":
            grid, values, learned = healpix_cells(fields.zoom), fields.read()[:, :, 0], trained.read()[0, :, 0]
            known = known_climatology(bundle, fields.zoom)
        else:
            if not isinstance(fields.grid, LatLonGrid) or not isinstance(trained.grid, LatLonGrid):
                raise TypeError(f"found {fields.grid}, expected a lat-lon grid")
            grid, values = lat_lon_cells(fields.grid, fields.zoom), read_own_grid(fields)
            learned = read_own_grid(trained)[0]
            known = fit(learned[:, None], trained.phase, harmonics)
        same = values.shape[-1] == learned.shape[-1]
        coefficients = own_climatology(values, fields.phase, harmonics) if source.own_climatology else known
        normal = evaluate(coefficients, season(fields.phase, (coefficients.shape[1] - 1) // 2))[:, 0]
        usual = evaluate(known, season(trained.phase, harmonics))[:, 0]
        for kind in kinds:
            removed = kind == "anomalies"
            yield Subject(
                source=source.title,
                grid=grid,
                kind=kind,
                values=np.ascontiguousarray(values - normal if removed else values),
                climatology=np.zeros_like(normal) if removed else normal,
                phases=fields.phase,
                training=None if not same else learned - usual if removed else learned,
                removed=("its own" if source.own_climatology else "training years") if removed else "",
                bundle=bundle,
            )
    fields.close()
    trained.close()
