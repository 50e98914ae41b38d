"""The climatology of a data source of its own: made from its fields, stored, and exchanged for the model's.

The graphs hold the climatology mu of the training source. Data of another source with its own bias enters as
x - mu_source + mu, so that the model sees anomalies of the kind it knows.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.climatology import evaluate, projection, season
from fsae.runtime.climate.transforms import Transform, forward, inverse, transformed_units
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import Fields
from fsae.runtime.input.sources import READ_ERRORS, Source, open_source, reason
from fsae.runtime.output.files import check_store, open_store
from fsae.runtime.output.layout import TIME_CHUNK, Cells, cell_coordinates
from fsae.runtime.output.marks import sealed_among
from fsae.runtime.output.provenance import origin, read_attributes
from fsae.runtime.output.seal import damage_of
from fsae.runtime.output.store import Attribute, Coordinate
from fsae.runtime.sphere.healpix import coarsen, npix, zoom_of

from .plausibility import check_climatology, went_on

if TYPE_CHECKING:
    import xarray as xr


KIND = "climatology"
TRAINING = "training"  # says that the data has the training data's own climatology
UNKNOWN = (
    "No climatology of the input's own source was given, so its bias against the training data is treated as a signal: "
    "make one with `fsae-run climatology`, or give --climatology training if the source is the same."
)


def fit_source(fields: Fields, harmonics: int, transforms: Sequence[Transform]) -> F32:
    """Coefficients (variable, 1 + 2K, pixel) fitted to all steps and members of a source, read in pieces.

    Of variables with a transform they are the transformed variable's.
    """
    solver = projection(fields.phase, harmonics)
    total = np.zeros((solver.shape[0], len(fields.variables), npix(fields.zoom)))  # (coefficient, variable, pixel)
    for times, values in fields.chunks(TIME_CHUNK):
        total += np.tensordot(solver[:, times], forward(values, transforms).mean(axis=0, dtype=np.float64), axes=1)
    if not np.isfinite(total).all():
        raise DataError(
            f"found missing values in {fields.source}",
            "none in data for a climatology",
            "fill them, or take years without",
        )
    return np.ascontiguousarray(total.transpose(1, 0, 2), dtype=np.float32)


def _compared(bundle: Bundle, own: F32, where: str, *, force: bool) -> tuple[str, ...]:
    """Warnings if a climatology is far from the training data's; DataError if too far, unless `force` is given."""
    try:
        return check_climatology(bundle.manifest, own, known_climatology(bundle, zoom_of(own.shape[-1])), where)
    except DataError as error:
        if not force:
            raise
        return (went_on(error),)


def write_source(
    bundle: Bundle, fields: Fields, path: Path, harmonics: int, *, force: bool = False, overwrite: bool = False
) -> tuple[str, ...]:
    """Write the source's climatology to a CF file at `path`; return warnings if it is far from the training data's.

    DataError if it is too far, unless `force` is given. The file says what it was warned of, and `force`.
    """
    check_store(path)  # before all fields are read
    coefficients = fit_source(fields, harmonics, [v.transform for v in bundle.manifest.variables])
    notes = _compared(bundle, coefficients, f"the climatology of {fields.name}", force=force)
    request: dict[str, Any] = {"verb": KIND, "input": fields.source, "zoom": fields.zoom, "harmonics": harmonics}
    attributes: dict[str, Attribute] = {
        "title": "harmonic climatology: mean, then cosine and sine of 1, 2, ... cycles a year",
        "fsae_kind": KIND,
        **origin(bundle, None, request | ({"force": True} if force else {})),
        **({"comment": " ".join(said)} if (said := (*fields.notes, *notes)) else {}),
    }
    names: dict[str, Attribute] = {"long_name": "0 is the mean, 2k - 1 and 2k the cosine and sine of k cycles a year"}
    read = read_attributes(dict(zip(fields.variables, fields.origins, strict=True)))
    numbers = np.arange(1 + 2 * harmonics, dtype=np.int64)
    with open_store(path, attributes, overwrite, fields.zoom) as store:
        store.put(Coordinate(name="coefficient", dims=("coefficient",), values=numbers, attributes=names))
        for item in cell_coordinates(Cells(zoom=fields.zoom)):
            store.put(item)
        for variable, values in zip(bundle.manifest.variables, coefficients, strict=True):
            described: dict[str, Attribute] = {
                "long_name": f"harmonic climatology of {variable.long_name}",
                "units": transformed_units(variable.units, variable.transform),
                "grid_mapping": "crs",
                "coordinates": "lat lon",
                **read[variable.name],
            }
            store.put(Coordinate(name=variable.name, dims=("coefficient", "cell"), values=values, attributes=described))
    return notes


def known_climatology(bundle: Bundle, zoom: int) -> F32:
    """The training data's climatology (variable, 1 + 2K, pixel) at `zoom`: block means of mu are mu of block means."""
    return coarsen(bundle.tables.climatology, bundle.manifest.grid.zoom - zoom).astype(np.float32)


def read_source(
    source: "str | os.PathLike[str] | xr.Dataset", bundle: Bundle, zoom: int, *, force: bool = False
) -> tuple[F32, tuple[str, ...]]:
    """Coefficients (variable, 1 + 2K, pixel) at `zoom` from what `write_source` wrote at that zoom or a finer one.

    Also warnings, if they are far from the training data's. DataError if they are too far, unless `force` is given.
    """
    given = Source.of(source)
    with open_source(given) as (dataset, name):
        coefficients = _read_coefficients(dataset, name, bundle)
        _check_unchanged(given, dataset, name)
    levels = zoom_of(coefficients.shape[-1]) - zoom
    if levels < 0:
        raise DataError(
            f"{name} is at zoom {zoom + levels}, coarser than the input at zoom {zoom}", advice="make it from the input"
        )
    own = coarsen(coefficients, levels).astype(np.float32)
    return own, _compared(bundle, own, f"the climatology {name}", force=force)


def _check_unchanged(source: Source, dataset: "xr.Dataset", name: str) -> None:
    """Raise DataError if a climatology is ours, by its metadata, but does not fit its checksums."""
    for path in sealed_among(source.paths, dataset.attrs):
        if damaged := damage_of(path):
            raise DataError(
                f"cannot read {name}: {damaged} does not fit its checksum; is it damaged or incomplete, or was it "
                "changed after it was written",
                advice="make it again with `fsae-run climatology`",
            )


def _read_coefficients(dataset: "xr.Dataset", name: str, bundle: Bundle) -> F32:
    """The coefficients in a dataset; DataError if it is not a climatology of the bundle's variables."""
    if dataset.attrs.get("fsae_kind") != KIND:
        raise DataError(f"{name} holds no climatology", advice="give a file made by `fsae-run climatology`")
    found = []
    for variable in bundle.manifest.variables:
        if variable.name not in dataset or set(dataset[variable.name].dims) != {"coefficient", "cell"}:
            raise DataError(f"{name} has no climatology of {variable.name}", advice="make it again with this model")
        array = dataset[variable.name]
        units = transformed_units(variable.units, variable.transform)
        if array.attrs.get("units") != units:
            raise DataError(
                f"{name} has {variable.name} in {array.attrs.get('units')!r}",
                repr(units),
                "make it again with `fsae-run climatology`",
            )
        try:
            found.append(np.asarray(array.transpose("coefficient", "cell").values, dtype=np.float32))
        except READ_ERRORS as error:
            raise DataError(
                f"cannot read {name}: {reason(error)}",
                advice="make it again with `fsae-run climatology`, as it may be damaged or incomplete",
            ) from None
        if not np.isfinite(found[-1]).all():
            raise DataError(
                f"the climatology of {variable.name} in {name} has missing or infinite values", advice="make it again"
            )
    for dim in ("coefficient", "cell"):
        if dim in dataset.variables and not np.array_equal(dataset[dim].values, np.arange(dataset.sizes[dim])):
            raise DataError(
                f"{name} has its {dim}s in another order",
                "0, 1, 2 and so on",
                f'sort them with xarray\'s `sortby("{dim}")`, or make it again with `fsae-run climatology`',
            )
    if not dataset.sizes["coefficient"] % 2:
        raise DataError(f"{name} has {dataset.sizes['coefficient']} coefficients", "an odd number", "make it again")
    return np.stack(found)  # (variable, 1 + 2K, pixel)


def exchange(values: F32, phase: np.ndarray, own: F32, bundle: Bundle) -> F32:
    """Fields (..., time, variable, pixel) with their source's climatology `own` exchanged for the training source's."""
    trained = known_climatology(bundle, zoom_of(values.shape[-1]))
    before = evaluate(own, season(phase, (own.shape[1] - 1) // 2))
    after = evaluate(trained, season(phase, bundle.manifest.time.harmonics))
    transforms = [variable.transform for variable in bundle.manifest.variables]
    return inverse(np.asarray(forward(values, transforms) - before + after, dtype=np.float32), transforms)
