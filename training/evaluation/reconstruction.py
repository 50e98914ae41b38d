"""Tables of fields rebuilt from few numbers: the autoencoder beside climatology, block means, regression and EOFs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.sphere.healpix import coarsen, npix, refine, zoom_of
from fsae.training.metrics import baselines, scores

from .model import Period, Subject, anomalies, rebuild
from .report import FieldErrors

Rebuilt = tuple[str, int, F32]  # name of the method, numbers stored per step, anomalies (time, variable, pixel)

MODEL = "field-space autoencoder"

SEEN_STRIDE = 7  # every seventh training step: a seventh of the time, and all months of the year


def from_block_means(known: F32, truth: F32, zoom: int) -> tuple[Rebuilt, ...]:
    """Anomalies `truth` (time, variable, pixel) rebuilt from nothing but their block means at `zoom`.

    Two regressions, both on all coarse anomalies of all variables: of the fine anomalies themselves, which has to learn
    that a pixel is like its surroundings, and of what bilinear interpolation leaves over, which has not.
    """
    fine_zoom = zoom_of(truth.shape[-1])
    levels = fine_zoom - zoom
    seen, blocks = (coarsen(field.astype(np.float64), levels) for field in (known, truth))
    features, wanted = seen.reshape(len(seen), -1), blocks.reshape(len(blocks), -1)
    smooth_seen, smooth = (baselines.bilinear(field, fine_zoom) for field in (seen, blocks))
    plain = baselines.fit_ridge(features, known.reshape(len(known), -1))
    corrected = baselines.fit_ridge(features, (known - smooth_seen).reshape(len(known), -1))
    numbers = features.shape[1]
    return (
        ("means: nearest", numbers, refine(blocks, levels).astype(np.float32)),
        ("means: bilinear", numbers, smooth),
        ("means: ridge", numbers, baselines.predict(plain, wanted).reshape(truth.shape)),
        ("means: bilinear + ridge", numbers, smooth + baselines.predict(corrected, wanted).reshape(truth.shape)),
    )


def from_eofs(eofs: baselines.Eofs, truth: F32, numbers: int) -> tuple[Rebuilt, ...]:
    """Anomalies (time, variable, pixel) rebuilt from as many EOF coefficients as `numbers`, and from all there are."""
    rank = len(eofs.patterns)
    flat = truth.reshape(len(truth), -1)
    counts = sorted({min(numbers, rank), rank})
    names = {count: f"EOF, {count} of {rank}" for count in counts}
    return tuple((names[n], n, baselines.truncate(eofs, flat, n).reshape(truth.shape)) for n in counts)


def reconstruction_rows(
    subject: Subject, training: Period, evaluation: Period, rebuilt: F32, others: Sequence[Rebuilt]
) -> list[tuple[FieldErrors, ...]]:
    """Rows of every variable: the model on the evaluation and on training years, the climatology, the `others`."""
    numbers = len(subject.variables) * npix(subject.latent_zoom)
    seen = training.every(SEEN_STRIDE)
    seen_again = ("the same, training years", numbers, rebuild(subject, seen, subject.zooms[-1]))
    own = errors(subject, evaluation, [(MODEL, numbers, rebuilt)])
    own_seen = errors(subject, seen, [seen_again])
    rest = errors(subject, evaluation, [("climatology only", 0, np.zeros_like(rebuilt)), *others])
    return [(*a, *b, *c) for a, b, c in zip(own, own_seen, rest, strict=True)]


def superresolution_rows(
    subject: Subject, evaluation: Period, zoom: int, others: Sequence[Rebuilt]
) -> list[tuple[FieldErrors, ...]]:
    """Rows of every variable: the model fed with block means at `zoom`, and the `others` from the same means."""
    numbers = len(subject.variables) * npix(zoom)
    return errors(subject, evaluation, [(MODEL, numbers, rebuild(subject, evaluation, zoom)), *others])


def errors(subject: Subject, period: Period, rows: Sequence[Rebuilt]) -> list[tuple[FieldErrors, ...]]:
    """For each variable the errors of each row, in physical units."""
    truth = anomalies(subject, period)
    return [
        tuple(
            _field_errors(name, numbers, (field[:, v] - truth[:, v]) * scale, period.values[:, v], subject.zooms)
            for name, numbers, field in rows
        )
        for v, scale in enumerate(subject.scale)
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
