"""Latents that are read back: of this bundle, whole, and as they were written; DataError for others."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Manifest, Variable, graph_file
from fsae.runtime.climate.calendar import infer_step, year_phase
from fsae.runtime.climate.steps import same_step
from fsae.runtime.errors import DataError
from fsae.runtime.input.dates import Dates
from fsae.runtime.input.sources import READ_ERRORS, Source
from fsae.runtime.output.marks import foreign_reason, is_netcdf
from fsae.runtime.output.seal import SEAL, damage_of
from fsae.runtime.output.times import LEAD, REFERENCE

from .plausibility import check_fields, expected_near

if TYPE_CHECKING:
    import xarray as xr


LATENT = "latent"
NEAR = 0.09  # of a year, a month: how far a phase may be from that of its stamp, whatever the averaging period
ADVICE = "compress the data again"


def latent_key(bundle: Bundle) -> str:
    """A hash of encoder and decoder, which latents share with the bundles that can decompress them."""
    precision = bundle.manifest.precisions[0]
    graphs = [bundle.manifest.files[graph_file(graph, precision)].sha256 for graph in ("encoder", "decoder")]
    return hashlib.sha256(" ".join(graphs).encode()).hexdigest()


def check_latents(bundle: Bundle, dataset: "xr.Dataset", name: str) -> None:
    """Raise DataError unless a dataset was written by this bundle's `compress`."""
    manifest = bundle.manifest
    if dataset.attrs.get("fsae_kind") != LATENT:
        raise DataError(f"{name} holds no latents: give what `fsae-run compress` wrote")
    if dataset.attrs.get("fsae_latent_key") != latent_key(bundle):
        made_by = dataset.attrs.get("fsae_bundle", "another one")
        raise DataError(
            f"{name} was compressed with bundle {made_by!r} in another version than {manifest.name!r} at "
            f"{bundle.folder}: give the bundle it was made with as --model"
        )
    missing = sorted(
        {"time", "year_phase", *(v.name for v in manifest.variables)} - {str(n) for n in dataset.variables}
    )
    if missing:
        raise DataError(f"{name} lacks the variables {missing}: compress the data again")
    cells = dataset.variables.get("cell")
    if cells is not None and not np.array_equal(cells.values, np.arange(cells.size)):
        raise DataError(f"{name} has its cells in another order than they were written in", advice=ADVICE)
    times = (REFERENCE, LEAD) if REFERENCE in dataset.dims else ("time",)
    for variable in manifest.variables:
        array, dims = dataset[variable.name], (*times, "cell")
        if array.dims[-len(dims) :] != dims or array.sizes["cell"] != manifest.latent.shape[1]:
            raise DataError(
                f"{variable.name} in {name} has the shape {dict(array.sizes)}, expected ({', '.join(dims)}) with "
                f"{manifest.latent.shape[1]} cells: compress the data again"
            )


def check_unchanged(source: Source, dataset: "xr.Dataset", manifest: Manifest) -> None:
    """Raise DataError if a store is ours by its mark and metadata, but its content does not fit its checksums.

    What another program has written of it, such as a part of its steps, has other metadata and is taken as it is.
    """
    for path in source.paths if SEAL in dataset.attrs else ():
        if not foreign_reason(path, is_netcdf(path)) and (damaged := damage_of(path)):
            for variable in [v for v in manifest.variables if v.name == damaged]:
                with contextlib.suppress(*READ_ERRORS):  # a more helpful sentence, if it can be read
                    check_finite(np.asarray(dataset[damaged].values)[:, None], [variable], path.name)
            raise DataError(
                f"cannot read {path.name}: {damaged} does not fit its checksum; is it damaged or incomplete, or was it "
                "changed after it was written",
                advice=ADVICE,
            )


def check_phases(phases: NDArray[np.float64], dates: Sequence[Dates], manifest: Manifest, name: str) -> None:
    """Raise DataError unless the phases (start, time) are of a year, and those of the times."""
    methods = manifest.variables[0].cell_methods
    for own, found in zip(dates, phases, strict=True):
        step = infer_step(own.stamps, own.bounds) or manifest.time.step
        expected = year_phase(own.stamps, step, methods, own.bounds)
        away = np.abs((found - expected + 0.5) % 1.0 - 0.5)
        wrong = np.flatnonzero(~((found >= 0) & (found <= 1) & (away <= NEAR)))
        if wrong.size:
            place = int(wrong[0])
            raise DataError(
                f"{name} has the phase of the year {found[place]:.4g} at {own.stamps[place].isoformat()}",
                f"about {expected[place]:.4g}",
                ADVICE,
            )


def check_members(members: Sequence[int] | None, name: str) -> None:
    """Raise DataError if a member is there twice."""
    if members is not None and len(set(members)) < len(members):
        raise DataError(f"{name} has the members {', '.join(map(str, members))}", "each member once", ADVICE)


def check_finite(latent: F32, variables: Sequence[Variable], name: str) -> None:
    """DataError naming the variables whose latents (time, variable, pixel) are missing or infinite in some step."""
    bad = [variable.name for v, variable in enumerate(variables) if not np.isfinite(latent[:, v]).all()]
    if bad:
        raise DataError(
            f"{name} holds latents of {', '.join(bad)} that are not finite, expected a number in every cell, as each "
            "variable is decoded with the help of all: the store is incomplete, compress the data again"
        )


def went_on_with(dataset: "xr.Dataset") -> bool:
    """True if the fields of some latents were compressed although they are far from their climatology (--force)."""
    try:
        return bool(json.loads(str(dataset.attrs.get("fsae_request", "{}"))).get("force", False))
    except (ValueError, AttributeError):
        return False


def check_decoded(bundle: Bundle, values: F32, dates: Dates, step: int, name: str) -> None:
    """Raise DataError if a decoded field (1, variable, pixel) is too far from the climatology: were latents edited?

    Of latents of means over the model's step, whose fields were compared when they were compressed.
    """
    manifest, found = bundle.manifest, infer_step(dates.stamps, dates.bounds)
    if dates.bounds is None or (found is not None and not same_step(found, manifest.time.step)):
        return  # instantaneous fields have no bounds
    expected = expected_near(manifest, bundle.tables.climatology.astype(np.float32), found)
    phase = year_phase(dates.stamps, found or manifest.time.step, manifest.variables[0].cell_methods, dates.bounds)
    try:
        check_fields(manifest, expected, values, phase[step : step + 1], name, [dates.stamps[step].isoformat()])
    except DataError as error:
        raise DataError(
            f"decoded, {error.reason}", advice=f"{ADVICE}, or look for what has changed the latents"
        ) from None
