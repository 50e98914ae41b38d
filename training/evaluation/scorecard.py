"""The figures of a trained model on years it has not seen, each beside what simpler methods reach.

All statistics and baselines come from the training period; the evaluation period is only ever compared with. Baselines
work on normalised anomalies, so that several variables can share one regression or one set of EOFs; figures are in
physical units.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.sphere.healpix import npix
from fsae.training.metrics import baselines
from fsae.training.metrics.scores import nearest_distances

from .climate import LAGS, MOST_STRETCHES, View, compare, moments, stretches_among_themselves
from .climate_checks import ClimateTolerances, at_most, climate_checks
from .model import Period, Subject, anomalies, rebuild
from .reconstruction import from_block_means, from_eofs, reconstruction_rows, superresolution_rows
from .report import (
    GENERATED,
    LARGEST_RMSE_K,
    Check,
    Climate,
    FieldErrors,
    Report,
    Stretches,
    SuperResolution,
    VariableReport,
)

Generate = Callable[[int, Any, int, int], F32]  # (members, start, steps, seed) -> (member, time, variable, pixel)

Progress = Callable[[str], None]

PREVIOUS = "previous period"

VAR = ("EOF, VAR(1)", "EOF, VAR(1) + trend")


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """What the figures must keep; the absolute ones apply to variables in `units`, reconstruction by ratio."""

    units: str = "K"
    reconstruction: Mapping[int, float] = field(default_factory=lambda: LARGEST_RMSE_K)
    cell_mean: float = 1e-3
    climate: ClimateTolerances = field(default_factory=ClimateTolerances)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the evaluation: the defaults give the published figures, smaller ones a quick look."""

    members: int = 20
    seed: int = 0
    lmax: int = 60  # lowered to 2 nside where the grid is coarser
    superresolution_zooms: tuple[int, ...] | None = None  # None: the two below the finest
    eof_ensembles: bool = True
    stretches: int = MOST_STRETCHES  # of the training years, at most, that figures are compared with
    tolerances: Tolerances = field(default_factory=Tolerances)

    def __post_init__(self) -> None:
        if min(self.members, self.lmax, self.stretches) < 2:
            raise UsageError(
                f"found {self.members} members, lmax {self.lmax} and {self.stretches} stretches, expected two of each "
                "at least"
            )


def evaluate(
    subject: Subject,
    training: Period,
    evaluation: Period,
    *,
    generate: Generate | None = None,
    land: NDArray[np.float64] | None = None,
    settings: Settings | None = None,
    progress: Progress = lambda message: None,
) -> Report:
    """All figures of `subject` on the evaluation period, beside baselines fitted on the training period.

    `generate(members, start, steps, seed)` draws physical fields over the steps of the evaluation period; without it
    the table has no generated row. `land` is the land fraction (pixel,); without it land and ocean have no figures.
    `progress` is told what comes next.
    """
    settings = settings or Settings()
    _check_periods(subject, training, evaluation)
    known, truth = anomalies(subject, training), anomalies(subject, evaluation)
    progress("empirical orthogonal functions")
    eofs = baselines.fit_eofs(known.reshape(len(known), -1), training.time_years)

    chosen = settings.superresolution_zooms
    zooms = subject.zooms[:-1][-2:] if chosen is None else chosen
    blocks = {}
    for zoom in sorted({subject.latent_zoom, *zooms}):
        progress(f"regressions from zoom {zoom}")
        blocks[zoom] = from_block_means(known, truth, zoom)

    progress("reconstruction")
    rebuilt = rebuild(subject, evaluation, subject.zooms[-1])
    others = [*blocks[subject.latent_zoom], *from_eofs(eofs, truth, len(subject.variables) * npix(subject.latent_zoom))]
    reconstruction = reconstruction_rows(subject, training, evaluation, rebuilt, others)
    sharpened = {}
    for zoom in zooms:
        progress(f"super-resolution from zoom {zoom}")
        sharpened[zoom] = superresolution_rows(subject, evaluation, zoom, blocks[zoom])

    view = View.of(subject.zooms[-1], subject.latent_zoom, settings.lmax, land)
    ensembles = itertools.chain(  # one ensemble at a time is in memory
        _ensembles(subject, evaluation, eofs, generate=generate, settings=settings), _stretches(known, truth, rebuilt)
    )
    physical = subject.scale[:, None]
    climates = _climates(ensembles, known * physical, truth * physical, physical, view, progress)
    variables = []
    for v, (name, units) in enumerate(subject.variables):
        progress(f"stretches of the training years: {name}")
        fields, a_year = known[:, v] * physical[v], _steps_a_year(training)
        stretches = stretches_among_themselves(fields, len(truth), a_year, view, settings.stretches)
        finer = tuple(SuperResolution(zoom=zoom, rows=rows[v]) for zoom, rows in sharpened.items())
        checks = (
            *_codec_checks(subject, units, reconstruction[v][0], finer, settings.tolerances),
            *_ensemble_checks(units, climates[v], stretches, settings.tolerances),
        )
        variables.append(
            VariableReport(
                name=name,
                units=units,
                reconstruction=reconstruction[v],
                superresolution=finer,
                climate=climates[v],
                stretches=stretches,
                checks=checks,
            )
        )
    return Report(
        name=subject.name,
        training=(str(training.times[0]), str(training.times[-1])),
        evaluation=(str(evaluation.times[0]), str(evaluation.times[-1])),
        zooms=subject.zooms,
        latent_zoom=subject.latent_zoom,
        step=subject.step,
        variables=tuple(variables),
    )


def _climates(
    ensembles: Iterable[tuple[str, F32]],
    known: F32,
    truth: F32,
    scale: F32,
    view: View,
    progress: Progress,
) -> list[tuple[Climate, ...]]:
    """For each variable the rows of all ensembles, in their order.

    `known` and `truth` (time, variable, pixel) are in physical units, `scale` (variable, 1) brings the ensembles there.
    """
    variables = range(len(scale))
    true = [moments(truth[None, :, v], view) for v in variables]
    near = [nearest_distances(truth[:, v], known[:, v]) for v in variables]
    rows: list[list[Climate]] = [[] for _ in variables]
    for name, fields in ensembles:
        progress(f"climate of: {name}")
        library = known[: -len(truth)] if name == PREVIOUS else known
        for v in variables:
            members = fields[:, :, v] * scale[v]
            entries = library[:, v] if len(library) else None
            rows[v].append(compare(name, members, truth[:, v], true[v], view, library=entries, true_near=near[v]))
    return [tuple(found) for found in rows]


def _steps_a_year(period: Period) -> int:
    """Steps in the fullest calendar year of the period."""
    return int(np.unique([time.year for time in period.times], return_counts=True)[1].max())


def _check_periods(subject: Subject, training: Period, evaluation: Period) -> None:
    """Nothing; DataError where the periods do not fit the model or each other."""
    expected = (len(subject.variables), npix(subject.zooms[-1]))
    for name, period in (("training", training), ("evaluation", evaluation)):
        if period.values.shape[1:] != expected:
            raise DataError(f"found {name} fields of shape {period.values.shape[1:]}, expected {expected}")
    if not LAGS + 1 < len(evaluation.times) <= len(training.times):
        raise DataError(
            f"found {len(evaluation.times)} evaluation and {len(training.times)} training steps, expected more than"
            f" {LAGS + 1} and at least as many training steps"
        )
    shared = set(map(str, training.times)) & set(map(str, evaluation.times))
    if shared:
        raise DataError(
            f"found {len(shared)} steps in both periods, {min(shared)} first: expected evaluation years apart"
        )


def _ensembles(
    subject: Subject,
    evaluation: Period,
    eofs: baselines.Eofs,
    *,
    generate: Generate | None,
    settings: Settings,
) -> Iterator[tuple[str, F32]]:
    """Name and anomalies (member, time, variable, pixel); made one by one."""
    steps, count, seed = len(evaluation.times), settings.members, settings.seed
    shape = (count, *evaluation.values.shape)
    if generate is not None:
        fields = generate(count, evaluation.times[0], steps, seed)
        if fields.shape != shape or not np.isfinite(fields).all():
            raise DataError(f"found a generated ensemble of shape {fields.shape}, expected finite fields {shape}")
        yield GENERATED, anomalies(subject, evaluation, fields)
    if settings.eof_ensembles:
        years = evaluation.time_years
        for name, trend in zip(VAR, (False, True), strict=True):
            drawn = baselines.linear_inverse_generator(eofs, count, years, seed, trend=trend)
            yield name, drawn.reshape(shape)
        yield "EOF, Gaussian", baselines.gaussian_generator(eofs, count, steps, seed).reshape(shape)


def _stretches(known: F32, truth: F32, rebuilt: F32) -> Iterator[tuple[str, F32]]:
    """The same for single stretches: the previous period as a forecast, what the codec leaves of the truth, the truth.

    What the reconstruction lacks in power the generated fields lack too: the same decoder makes them.
    """
    yield PREVIOUS, known[-len(truth) :][None]
    yield "truth, reconstructed", rebuilt[None]
    yield "truth", truth[None]


def _codec_checks(
    subject: Subject, units: str, own: FieldErrors, finer: tuple[SuperResolution, ...], limits: Tolerances
) -> Iterator[Check]:
    """Figures of the autoencoder. From means finer than its latent it is not expected to beat interpolation."""
    if units == limits.units:
        ratio = 4 ** (subject.zooms[-1] - subject.latent_zoom)
        if ratio in limits.reconstruction:
            yield at_most("reconstruction RMSE", own.rmse, limits.reconstruction[ratio])
        yield at_most("base cell means", own.cell_mean, limits.cell_mean)
    for coarse in finer:
        if coarse.zoom <= subject.latent_zoom:
            errors = {row.name: row.rmse for row in coarse.rows}
            name = f"super-resolution RMSE, zoom {coarse.zoom}, against bilinear"
            yield at_most(name, coarse.rows[0].rmse, errors["means: bilinear"])


def _ensemble_checks(
    units: str, rows: tuple[Climate, ...], stretches: Stretches, limits: Tolerances
) -> Iterator[Check]:
    """Figures of the generated ensemble; none where there is none."""
    named = {row.name: row for row in rows}
    if GENERATED in named:
        simple = [named[name] for name in VAR if name in named]
        own, previous, truth = named[GENERATED], named[PREVIOUS], rows[-1]
        kelvin = units == limits.units
        yield from climate_checks(own, previous, truth, simple, stretches, limits.climate, kelvin=kelvin)
