"""The manifest and the tables of a bundle, from a finished run."""

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from fsae.export.certificate.certify import Certified
from fsae.runtime.archive.lookup import FILE
from fsae.runtime.archive.tables import TYPES, make_codec_tables
from fsae.runtime.bundle.manifest import (
    DenoiserFacts,
    FileEntry,
    Forcing,
    Grid,
    Latent,
    Manifest,
    Provenance,
    Time,
    Variable,
)
from fsae.runtime.bundle.plausible import Plausible
from fsae.runtime.bundle.tables import digest, read_arrays
from fsae.runtime.diffusion.sampler import NOISE_FEATURES
from fsae.runtime.errors import BundleError, DataError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.runtime.sphere.regrid import bilinear_weights, choose_method, conservative_weights, interpolation_weights
from fsae.runtime.sphere.weights import Weights
from fsae.training.data.scenarios import VALUES, YEARS
from fsae.training.fitting.run_folder import Run, samplers_of


def make_tables(run: Run) -> dict[str, NDArray[Any]]:
    """Arrays of tables.npz: pixel centres, weights between the training grid and HEALPix, statistics."""
    zoom, shape = run.config.autoencoder.zoom, _latent(run).shape
    lat, lon = pixel_centres(zoom)
    grid = LatLonGrid(lat_deg=np.array(run.facts.source_lat_deg), lon_deg=np.array(run.facts.source_lon_deg))
    levels = len(run.config.autoencoder.latent_zooms)
    if grid.size:
        method = run.config.data.method if run.config.data.method != "auto" else choose_method(grid, zoom)
        to_healpix = bilinear_weights(grid, lat, lon) if method == "bilinear" else conservative_weights(grid, zoom)
        points = np.meshgrid(grid.lat_deg, grid.lon_deg, indexing="ij")
        to_source = interpolation_weights(zoom, points[0].ravel(), points[1].ravel())
    else:  # trained on HEALPix: there is no lat-lon grid to return to
        to_healpix = _no_weights(npix(zoom), 0)
        to_source = _no_weights(0, npix(zoom))
    scenarios = {name: run.statistics[name] for name in (YEARS, VALUES) if run.config.forcing is not None}
    return {
        **scenarios,
        "lat_deg": lat,
        "lon_deg": lon,
        "source_lat_deg": grid.lat_deg,
        "source_lon_deg": grid.lon_deg,
        **_weight_arrays("to_healpix", to_healpix),
        **_weight_arrays("to_source", to_source),
        "climatology": run.statistics["climatology"],
        "scale": run.statistics["scale"],
        # without a denoiser nothing is whitened and nothing reads these
        "latent_cell_std": run.statistics.get("latent_cell_std", np.ones(shape, dtype=np.float32)),
        "latent_season_std": run.statistics.get("latent_season_std", np.zeros((shape[0], 0, shape[1]), np.float32)),
        "latent_level_std": run.statistics.get("latent_level_std", np.ones((shape[0], levels), dtype=np.float32)),
    }


def read_codec(run: Run) -> bytes | None:
    """The file of the archive codec that was fitted to a run; None if there is none, DataError if it is damaged."""
    path = run.path / FILE
    try:
        data = path.read_bytes()
        arrays = read_arrays(data, str(path))
        for variable in run.config.data.variables:
            own = {name: arrays[f"{variable.name}.{name}"] for name in TYPES if f"{variable.name}.{name}" in arrays}
            make_codec_tables(own, str(path))
    except FileNotFoundError:
        return None
    except (OSError, BundleError) as error:
        why = error.reason if isinstance(error, BundleError) else error.strerror
        advice = "remove it and run the same fsae-train codec command again"
        raise DataError(f"cannot use the archive codec {path}: {why}", advice=advice) from None
    return data


def _no_weights(targets: int, sources: int) -> Weights:
    """Weights without entries."""
    empty = np.zeros(0, dtype=np.int32)
    return Weights(
        indptr=np.zeros(targets + 1, dtype=np.int32), index=empty, weight=empty.astype(np.float64), source_size=sources
    )


def _weight_arrays(name: str, weights: Weights) -> dict[str, NDArray[Any]]:
    """The arrays of sparse weights, named as in tables.npz: int32 and float64."""
    return {
        f"{name}_indptr": weights.indptr.astype(np.int32),
        f"{name}_index": weights.index.astype(np.int32),
        f"{name}_weight": weights.weight.astype(np.float64),
    }


def _latent(run: Run) -> Latent:
    """The manifest's entry of the compressed field."""
    shape = run.config.autoencoder
    return Latent(
        zoom=shape.latent_zoom,
        ratio=4 ** (shape.zoom - shape.latent_zoom),
        shape=(len(run.config.data.variables), npix(shape.latent_zoom)),
    )


def with_distances(manifest: Manifest, distances: Sequence[Plausible]) -> Manifest:
    """The manifest with how far the training fields of each variable are from its climatology."""
    names = [variable.name for variable in manifest.variables]
    return replace(manifest, plausible=dict(zip(names, distances, strict=True)))


def with_archive_quality(manifest: Manifest) -> Manifest:
    """The manifest with the quality that archives have by default, where a bundle has a codec for them.

    It is the error that half of the training fields have as latents, rounded up to one digit. Errors of variables
    with a transform are not in their units: quality must then be asked for.
    """
    found = {name: one.round_trip(manifest.grid.zoom) for name, one in (manifest.plausible or {}).items()}
    errors = {name: one.error.median for name, one in found.items() if one is not None}
    plain = all(variable.transform == "none" for variable in manifest.variables)
    if FILE not in manifest.files or not plain or len(errors) < len(manifest.variables) or min(errors.values()) == 0:
        return manifest
    return replace(manifest, archive_rmse={name: _up_to_one_digit(error) for name, error in errors.items()})


def _up_to_one_digit(number: float) -> float:
    """Round up to one significant digit.

    >>> _up_to_one_digit(0.157), _up_to_one_digit(0.2), _up_to_one_digit(93.0)
    (0.2, 0.2, 100.0)
    """
    power = math.floor(math.log10(number))
    return float(f"{math.ceil(float(f'{number:e}'.split('e')[0]))}e{power}")


def with_tables(manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> Manifest:
    """The manifest with the digest of the bundle's tables in the certificate of each precision."""
    found = digest(arrays)
    certificates = {name: replace(entry, tables=found) for name, entry in manifest.certificates.items()}
    return replace(manifest, certificates=certificates)


def make_manifest(run: Run, name: str, certified: Certified, files: Mapping[str, FileEntry]) -> Manifest:
    """The manifest of a run's bundle."""
    config, facts, diffusion = run.config, run.facts, run.config.diffusion
    sampler, fast = samplers_of(config)
    seeds, denoiser = {"autoencoder": config.seed}, None
    if run.denoiser is not None and diffusion is not None:
        low, high = (round(float(end), 2) for end in run.denoiser.forcing_range)
        given = config.forcing
        forcing = Forcing(name="calendar year", units="year", range=(low, high))
        if given is not None:
            forcing = Forcing(
                name=given.name,
                units=given.units,
                range=(low, high),
                scenarios=given.scenarios,
                response_years=given.response_years,
            )
        denoiser = DenoiserFacts(
            window=diffusion.window,
            previous=diffusion.previous,
            noise_features=NOISE_FEATURES,
            forcing=forcing,
            sources=config.sources.labels,
        )
        seeds["diffusion"] = config.seed + 1
    if config.fast is not None:
        seeds["distillation"] = config.seed + 2
    return Manifest(
        name=name,
        grid=Grid(zoom=config.autoencoder.zoom),
        variables=tuple(Variable(**asdict(variable)) for variable in config.data.variables),
        zooms=config.autoencoder.zooms,
        latent=replace(_latent(run), key=certified.key),
        time=Time(calendar=facts.calendar, step=facts.step, harmonics=config.data.harmonics),
        denoiser=denoiser,
        sampler=None if denoiser is None else sampler,
        fast=fast,
        files=files,
        parity=certified.parity,
        certificates=certified.certificates,
        provenance=Provenance(
            data=facts.inputs,
            period=facts.period,
            seeds=seeds,
            revision=facts.versions.get("fsae", version("fsae")),
            versions=facts.versions,
        ),
        licence=config.data.licence,
    )
