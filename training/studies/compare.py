"""`fsae-train compare`: runs of one family at several ratios, beside their CNN-VAEs, EOFs and block means.

Everything is fitted on the training years; the evaluation years are only ever compared with. An error on a lat-lon
grid and one on HEALPix are compared at the points of the lat-lon grid: the HEALPix error there is that of the pixel
that holds the point, for interpolation would make it smaller.
"""

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32, F64
from fsae.runtime.climate.transforms import forward
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import read_fields
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix
from fsae.runtime.sphere.regrid import apply
from fsae.training.evaluation.model import Period, Subject, anomalies, of_run, rebuild
from fsae.training.evaluation.periods import period_of
from fsae.training.evaluation.reconstruction import from_block_means, from_eofs
from fsae.training.fitting.cnn_vae import reconstruct
from fsae.training.fitting.run_folder import Run, load_run
from fsae.training.metrics import baselines, scores, spectra

from .compare_tables import (
    BILINEAR,
    CNN,
    EOF,
    FSAE,
    RIDGE,
    UNSHARPENED,
    Band,
    Comparison,
    Row,
    RunSummary,
    VariableComparison,
    checks,
    claims,
)
from .places import COAST, EVERYWHERE, STEEP, Points, places_of, points_of

log = logging.getLogger("fsae.training")


LMAX = 60  # lowered to 2 nside where the grid is coarser

LOWEST_DEGREE = 2  # l = 0 is the global mean and l = 1 little more

BANDS = ((2, 10), (11, 20), (21, 30), (31, 45), (46, 60))

COHERENT = 0.5


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What every method is compared with."""

    values: F32  # (time, variable, pixel) true fields, as the model sees them
    zooms: tuple[int, ...]
    weights: Mapping[str, F64]  # (pixel,) by place, one inside and zero outside; as far as the static files go
    points: Points | None  # None: the source is on HEALPix
    coefficients: tuple[spectra.Coefficients, ...]  # of the true anomalies, by variable

    @property
    def lmax(self) -> int:
        """Highest degree of the spectra."""
        return min(LMAX, 2 << self.zooms[-1])


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """One method and its error (time, variable, pixel), or (time, variable, point) on the source grid."""

    method: str
    run: str | None  # None: a baseline
    ratio: int
    numbers: int
    parameters: int
    error: F32
    on_points: bool = False


def compare_runs(folders: Sequence[Path], static: Sequence[Path] = ()) -> Comparison:
    """The comparison of finished runs on the same data, by rising ratio; `static` files have orog [m] and lsm.

    UsageError for a folder that holds no finished run, DataError where the runs differ in their data.
    """
    runs = sorted(map(load_run, folders), key=ratio_of)
    check_same_data(runs)
    # Baselines and spectra are of anomalies about a climatology, whatever a run takes off its fields.
    reference = next((run for run in runs if run.config.data.normalisation == "climatology"), runs[0])
    subject = of_run(reference).subject
    training, evaluation = _periods(reference)
    log.info("compare: places and spectra of %d true steps", len(evaluation.times))
    grid, method = _grid(reference), reference.config.data.method
    scene = scene_of(subject, evaluation, weights=places_of(static, subject.zooms[-1]), grid=grid, method=method)
    rows: list[list[Row]] = [[] for _ in subject.variables]
    for rebuilt in _methods(runs, subject, training, evaluation):
        for v, own in enumerate(rows):
            own.append(row_of(rebuilt, scene, v))
    return Comparison(
        training_years=reference.config.data.training_years,
        evaluation_years=reference.config.data.evaluation_years,
        zooms=scene.zooms,
        grid=str(grid or f"HEALPix grid of zoom {scene.zooms[-1]}"),
        runs=tuple(map(_summary, runs)),
        variables=tuple(
            VariableComparison(
                name=name, units=units, rows=tuple(own), claims=claims(own), checks=tuple(checks(name, units, own))
            )
            for (name, units), own in zip(subject.variables, rows, strict=True)
        ),
    )


def ratio_of(run: Run) -> int:
    """Values of a field for each number stored."""
    shape = run.config.autoencoder
    return int(4 ** (shape.zoom - shape.latent_zoom))


def check_same_data(runs: Sequence[Run]) -> None:
    """Nothing; DataError where runs differ in inputs, years, variables, zoom or regridding, or share a name."""
    names = [run.path.name for run in runs]
    if len(set(names)) < len(names):
        raise DataError(f"found the runs {', '.join(names)}, expected a name of its own for each: rename a folder")
    for run in runs[1:]:
        for (what, expected), (_, found) in zip(_data(runs[0]), _data(run), strict=True):
            if found != expected:
                raise DataError(
                    f"the {what} of {run.path} are {found}, expected those of {runs[0].path}, {expected}: compare runs"
                    " on the same data"
                )


def _data(run: Run) -> Iterator[tuple[str, object]]:
    """What runs must have in common, by name."""
    data = run.config.data
    files = run.facts.inputs[: len(data.inputs)]  # the rest are static fields, which some of the models read
    yield "inputs (SHA-256)", [f"{file.name} {file.sha256[:12]}" for file in files]
    yield "training years", data.training_years
    yield "evaluation years", data.evaluation_years
    yield "variables", [(v.name, v.units, v.transform) for v in data.variables]
    yield "zoom and regridding", (run.config.autoencoder.zoom, data.method)


def _periods(run: Run) -> tuple[Period, Period]:
    """Training and evaluation period of a run."""
    data, zoom = run.config.data, run.config.autoencoder.zoom
    fields = read_fields(run.fields, data.variables, zoom=zoom, finest_zoom=zoom)
    try:
        return period_of(fields, data.training_years), period_of(fields, data.evaluation_years)
    finally:
        fields.close()


def _grid(run: Run) -> LatLonGrid | None:
    """The grid of the run's inputs; None where that is HEALPix."""
    facts = run.facts
    if not facts.source_lat_deg:
        return None
    return LatLonGrid(lat_deg=np.array(facts.source_lat_deg), lon_deg=np.array(facts.source_lon_deg))


def has_cnn_vae(run: Run) -> bool:
    """Whether a CNN-VAE was trained beside the run's autoencoder."""
    return (run.path / "cnn_vae.safetensors").exists()


def _summary(run: Run) -> RunSummary:
    fit = run.config.autoencoder_fit
    return RunSummary(
        name=run.path.name, ratio=ratio_of(run), updates=fit.steps, batch=fit.batch, has_cnn_vae=has_cnn_vae(run)
    )


def scene_of(
    subject: Subject, evaluation: Period, *, weights: Mapping[str, F64], grid: LatLonGrid | None, method: str = "auto"
) -> Scene:
    """The evaluation period with the `weights` (pixel,) of places, and the source grid with its regridding method."""
    zoom = subject.zooms[-1]
    truth = anomalies(subject, evaluation) * subject.scale[:, None]
    return Scene(
        values=forward(evaluation.values, subject.transforms),
        zooms=tuple(range(zoom + 1)),
        weights=weights,
        points=None if grid is None else points_of(grid, zoom, weights, method),
        coefficients=tuple(
            spectra.harmonic_coefficients(truth[:, v], min(LMAX, 2 << zoom)) for v in range(truth.shape[1])
        ),
    )


def _methods(runs: Sequence[Run], subject: Subject, training: Period, evaluation: Period) -> Iterator[Rebuilt]:
    """Every method, made one by one: at each ratio the models first and then the baselines."""
    known, truth = anomalies(subject, training), anomalies(subject, evaluation)
    log.info("compare: empirical orthogonal functions")
    eofs = baselines.fit_eofs(known.reshape(len(known), -1), training.time_years)
    finest, features = subject.zooms[-1], truth[0].size
    for latent_zoom in sorted({run.config.autoencoder.latent_zoom for run in runs}, reverse=True):
        ratio = 4 ** (finest - latent_zoom)
        for run in runs:
            if ratio_of(run) == ratio:
                yield from _models(run, evaluation)
        log.info("compare: baselines at ratio %d", ratio)
        numbers = features // ratio
        (_, modes, from_modes), *_ = from_eofs(eofs, truth, numbers)
        means = {name: field for name, _, field in from_block_means(known, truth, latent_zoom)}
        for method, stored, parameters, field in (
            (EOF, modes, modes * features, from_modes),
            (BILINEAR, numbers, 0, means[BILINEAR]),
            (RIDGE, numbers, numbers * features, means[RIDGE]),
        ):
            error = (field - truth) * subject.scale[:, None]
            yield Rebuilt(method=method, run=None, ratio=ratio, numbers=stored, parameters=parameters, error=error)


def _models(run: Run, evaluation: Period) -> Iterator[Rebuilt]:
    """The field-space autoencoder of a run, the same without its sharpening, and its CNN-VAE, as far as there."""
    candidates = [(FSAE, run)]
    if run.config.autoencoder.sharpen:
        plain = copy.deepcopy(run.autoencoder)
        plain.sharpening.zero_()
        candidates.append((UNSHARPENED, replace(run, autoencoder=plain)))
    for method, candidate in candidates:
        log.info("compare: %s of %s", method, run.path)
        subject = of_run(candidate).subject
        error = rebuild(subject, evaluation, subject.zooms[-1]) - anomalies(subject, evaluation)
        yield Rebuilt(
            method=method,
            run=run.path.name,
            ratio=ratio_of(run),
            numbers=len(subject.variables) * npix(subject.latent_zoom),
            parameters=sum(weights.numel() for weights in run.autoencoder.parameters()),
            error=error * subject.scale[:, None],
        )
    if has_cnn_vae(run):
        log.info("compare: %s of %s", CNN, run.path)
        made = reconstruct(run.path)
        yield Rebuilt(
            method=CNN,
            run=run.path.name,
            ratio=ratio_of(run),
            numbers=made.numbers,
            parameters=made.parameters,
            error=made.error.reshape(*made.error.shape[:2], -1),
            on_points=True,
        )


def row_of(rebuilt: Rebuilt, scene: Scene, variable: int) -> Row:
    """The figures of one method and variable."""
    error, points, weights = rebuilt.error[:, variable], scene.points, scene.weights
    sampled, on_pixels, lat_lon_rmse = error, error, None
    if points is not None and rebuilt.on_points:
        weights = points.weights
        sampled, on_pixels = error[:, points.nearest], apply(points.to_pixels, error)
        lat_lon_rmse = scores.weighted_rmse(error, weights[EVERYWHERE])
    elif points is not None:
        lat_lon_rmse = scores.weighted_rmse(error[:, points.pixel], points.weights[EVERYWHERE])
    rmse = {place: scores.weighted_rmse(error, weight) for place, weight in weights.items()}
    psnr_db = scores.psnr_db(rmse[EVERYWHERE], scene.values[:, variable])
    true = scene.coefficients[variable]
    of_error = spectra.harmonic_coefficients(on_pixels, scene.lmax)
    error_power, true_power = (spectra.cross_power(part, part)[LOWEST_DEGREE:] for part in (of_error, true))
    coherence = np.nan_to_num(spectra.coherence(true + of_error, true)[LOWEST_DEGREE:])  # nothing rebuilt: no phase
    above = coherence > COHERENT
    leading = len(above) if above.all() else int(np.argmin(above))
    return Row(
        method=rebuilt.method,
        run=rebuilt.run,
        ratio=rebuilt.ratio,
        numbers=rebuilt.numbers,
        parameters=rebuilt.parameters,
        rmse=rmse[EVERYWHERE],
        lat_lon_rmse=lat_lon_rmse,
        psnr_db=psnr_db if math.isfinite(psnr_db) else None,
        level_rmse=scores.level_rmse(sampled, scene.zooms),
        worst_pixel=scores.worst_pixel(error),
        steep_rmse=rmse.get(STEEP),
        coast_rmse=rmse.get(COAST),
        error_share=tuple(map(float, error_power / true_power)),
        coherence=tuple(map(float, coherence)),
        coherent_share=float(above.mean()),
        coherent_degree=LOWEST_DEGREE + leading - 1 if leading else None,
        bands=tuple(_bands(error_power, true_power, coherence)),
    )


def _bands(error_power: F64, true_power: F64, coherence: F64) -> Iterator[Band]:
    """The bands of spectra from `LOWEST_DEGREE` on, as far as these go; every order of every degree counts alike."""
    degree = LOWEST_DEGREE + np.arange(coherence.size)
    for first, last in BANDS:
        inside = (degree >= first) & (degree <= last)
        if inside.any():
            orders = 2 * degree[inside] + 1
            yield Band(
                first=first,
                last=min(last, int(degree[-1])),
                error_share=float(np.sum(orders * error_power[inside]) / np.sum(orders * true_power[inside])),
                coherence=float(coherence[inside].mean()),
            )
