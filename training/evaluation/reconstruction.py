"""Tables of fields rebuilt from few numbers: the autoencoder beside climatology, block means, regression and EOFs."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.sphere.healpix import coarsen, npix, refine, zoom_of
from fsae.training.metrics import baselines, scores
from fsae.training.metrics.localised_codes import fit_localised_code, rebuild_from_code

from .model import TrainedModel, anomalies, rebuild
from .periods import Period
from .report import FieldErrors, SuperResolution

log = logging.getLogger("fsae.training")
Rebuilt = tuple[str, int, F32]  # name of the method, numbers stored per step, anomalies (time, variable, pixel)
MODEL = "field-space autoencoder"
LOCALISED = "localised EOF"
SEEN_STRIDE = 7  # every seventh training step: a seventh of the time, and all months of the year


def from_block_means(known: F32, truth: F32, zoom: int) -> tuple[Rebuilt, ...]:
    """Anomalies `truth` (time, variable, pixel) rebuilt from nothing but their block means at `zoom`.

    Two regressions, both on all coarse anomalies of all variables: one of the fine anomalies themselves, which has to
    learn that a pixel is like its surroundings, and one of what bilinear interpolation leaves over, which need not.
    """
    fine_zoom = zoom_of(truth.shape[-1])
    levels = fine_zoom - zoom
    seen, blocks = (coarsen(field.astype(np.float64), levels) for field in (known, truth))
    features, wanted = (field.reshape(len(field), -1).astype(np.float32) for field in (seen, blocks))
    smooth_seen, smooth = (baselines.bilinear(field, fine_zoom) for field in (seen, blocks))
    plain = baselines.fit_ridge(features, known.reshape(len(known), -1))
    corrected = baselines.fit_ridge(features, (known - smooth_seen).reshape(len(known), -1))
    numbers = features.shape[1]
    return (
        ("means: nearest", numbers, refine(blocks, levels).astype(np.float32)),
        ("means: bilinear", numbers, smooth),
        ("means: ridge", numbers, plain.predict(wanted).reshape(truth.shape)),
        ("means: bilinear + ridge", numbers, smooth + corrected.predict(wanted).reshape(truth.shape)),
    )


def from_eofs(eofs: baselines.Eofs, truth: F32, numbers: int) -> tuple[Rebuilt, ...]:
    """Anomalies (time, variable, pixel) rebuilt from as many EOF coefficients as `numbers`, and from all there are."""
    rank = len(eofs.patterns)
    flat = truth.reshape(len(truth), -1)
    counts = sorted({min(numbers, rank), rank})
    names = {count: f"EOF, {count} of {rank}" for count in counts}
    return tuple((names[n], n, baselines.truncate(eofs, flat, n).reshape(truth.shape)) for n in counts)


def from_codes(known: F32, truth: F32, numbers: int) -> Rebuilt:
    """Anomalies (time, variable, pixel) rebuilt by the localised linear code of each variable, `numbers` of all."""
    each = numbers // truth.shape[1]
    parts = [rebuild_from_code(fit_localised_code(known[:, v], each), truth[:, v]) for v in range(truth.shape[1])]
    return LOCALISED, numbers, np.stack(parts, axis=1)


def rebuilt_rows(
    model: TrainedModel, training: Period, evaluation: Period, rebuilt: F32, eofs: baselines.Eofs
) -> list[tuple[tuple[FieldErrors, ...], tuple[SuperResolution, ...]]]:
    """For each variable the rows of the reconstruction, and those of super-resolution from the two coarser zooms.

    `rebuilt` are the anomalies that the model makes of the evaluation years. Beside them stand what it makes of
    training years, the climatology, block means, EOFs and the localised linear code.
    """
    known, truth = anomalies(model, training), anomalies(model, evaluation)
    coarser = model.zooms[:-1][-2:]
    blocks = {}
    for zoom in sorted({model.latent_zoom, *coarser}):
        log.info("evaluate: regressions from zoom %d", zoom)
        blocks[zoom] = from_block_means(known, truth, zoom)
    log.info("evaluate: reconstruction")
    numbers = len(model.variables) * npix(model.latent_zoom)
    seen = training.part(slice(None, None, SEEN_STRIDE))
    own = errors(model, evaluation, [(MODEL, numbers, rebuilt)])
    own_seen = errors(model, seen, [("the same, training years", numbers, rebuild(model, seen, model.zoom))])
    code = from_codes(known, truth, numbers)
    nothing = ("climatology only", 0, np.zeros_like(rebuilt))
    rest = errors(model, evaluation, [nothing, *blocks[model.latent_zoom], *from_eofs(eofs, truth, numbers), code])
    finer: list[list[SuperResolution]] = [[] for _ in model.variables]
    for zoom in coarser:
        log.info("evaluate: super-resolution from zoom %d", zoom)
        means = (MODEL, len(model.variables) * npix(zoom), rebuild(model, evaluation, zoom))
        for found, rows in zip(finer, errors(model, evaluation, [means, *blocks[zoom]]), strict=True):
            found.append(SuperResolution(zoom=zoom, rows=rows))
    return [((*a, *b, *c), tuple(d)) for a, b, c, d in zip(own, own_seen, rest, finer, strict=True)]


def errors(model: TrainedModel, period: Period, rows: Sequence[Rebuilt]) -> list[tuple[FieldErrors, ...]]:
    """For each variable the errors of each way to rebuild the period, in physical units."""
    truth = anomalies(model, period)
    return [
        tuple(
            _field_errors(name, numbers, (field[:, v] - truth[:, v]) * scale, period.values[:, v], model.zooms)
            for name, numbers, field in rows
        )
        for v, scale in enumerate(model.scale)
    ]


def _field_errors(
    name: str, numbers: int, difference: NDArray[np.floating], truth: F32, zooms: Sequence[int]
) -> FieldErrors:
    error = scores.rmse(difference, np.zeros_like(difference))
    return FieldErrors(
        name=name,
        numbers=numbers,
        rmse=error,
        level_rmse=scores.level_rmse(difference, zooms),
        worst_pixel=scores.worst_pixel(difference),
        psnr_db=scores.psnr_db(error, truth),
        cell_mean=scores.cell_mean_error(difference, zooms[-1] - zooms[0]),
    )
