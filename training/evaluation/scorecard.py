"""The figures of a trained model on years it has not seen, each beside what simpler methods reach.

All statistics and baselines come from the training period; the evaluation period is only ever compared with. Baselines
work on normalised anomalies, so that several variables can share one regression or one set of EOFs; figures are in
physical units.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.sphere.healpix import npix
from fsae.training.metrics import baselines
from fsae.training.metrics.scores import nearest_distances

from .climate import LAGS, MOST_STRETCHES, View, compare, ensemble_arrays, moments, stretches_among_themselves
from .climate_checks import at_most, climate_checks
from .model import TrainedModel, anomalies, rebuild
from .periods import Period
from .reconstruction import rebuilt_rows
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

log = logging.getLogger("fsae.training")
Generate = Callable[[int, Any, int, int], F32]  # (members, start, steps, seed) -> (member, time, variable, pixel)
PREVIOUS = "previous period"
VAR = ("EOF, VAR(1)", "EOF, VAR(1) + trend")
KELVIN = "K"  # the units that absolute tolerances are in
CELL_MEAN_K = 1e-3  # [K], largest change of a cell mean


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Size of the evaluation: the defaults give the published figures, smaller ones a quick look."""

    members: int = 20
    seed: int = 0
    eof_ensembles: bool = True
    stretches: int = MOST_STRETCHES  # of the training years, at most, that figures are compared with

    def __post_init__(self) -> None:
        if min(self.members, self.stretches) < 2:
            raise UsageError(
                f"found {self.members} members and {self.stretches} stretches",
                "at least two of each",
                "raise the lower ones",
            )


def evaluate(
    model: TrainedModel,
    training: Period,
    evaluation: Period,
    *,
    generate: Generate | None = None,
    land: F64 | None = None,
    settings: Settings | None = None,
) -> Report:
    """All figures of `model` on the evaluation period, beside baselines fitted on the training period.

    `generate(members, start, steps, seed)` draws physical fields over the steps of the evaluation period; without it
    the table has no generated row. `land` is the land fraction (pixel,); without it land and ocean have no figures.
    """
    settings = settings or Settings()
    _check_periods(model, training, evaluation)
    known, truth = anomalies(model, training), anomalies(model, evaluation)
    log.info("evaluate: empirical orthogonal functions")
    eofs = baselines.fit_eofs(known.reshape(len(known), -1), training.time_years)
    rebuilt = rebuild(model, evaluation, model.zoom)
    codec = rebuilt_rows(model, training, evaluation, rebuilt, eofs)
    view = View.of(model.zoom, model.latent_zoom, land)
    ensembles = itertools.chain(  # one ensemble at a time is in memory
        _ensembles(model, evaluation, eofs, generate, settings), _stretches(known, truth, rebuilt)
    )
    physical = model.scale[:, None]
    climates, arrays = _climates(ensembles, known * physical, truth * physical, physical, view)
    left = np.sqrt(np.mean(((rebuilt - truth) * physical) ** 2, axis=0, dtype=np.float64))
    variables = []
    for v, (name, units) in enumerate(model.named_units):
        log.info("evaluate: stretches of the training years: %s", name)
        fields, a_year = known[:, v] * physical[v], _steps_a_year(training)
        stretches = stretches_among_themselves(fields, len(truth), a_year, view, settings.stretches)
        reconstruction, finer = codec[v]
        checks = _codec_checks(model, units, reconstruction[0], finer), _ensemble_checks(units, climates[v], stretches)
        variables.append(
            VariableReport(
                name=name,
                units=units,
                reconstruction=reconstruction,
                superresolution=finer,
                climate=climates[v],
                stretches=stretches,
                checks=tuple(itertools.chain(*checks)),
            )
        )
    return Report(
        name=model.name,
        training=training.first_and_last,
        evaluation=evaluation.first_and_last,
        middle=str(evaluation.times[len(evaluation.times) // 2]),
        zooms=model.zooms,
        latent_zoom=model.latent_zoom,
        step=model.time.step,
        seed=settings.seed,
        variables=tuple(variables),
        arrays={
            f"{name}.{kind}": array
            for v, (name, _) in enumerate(model.named_units)
            for kind, array in {**arrays[v], "rebuilt_error": left[v]}.items()
        },
    )


def _climates(
    ensembles: Iterable[tuple[str, F32]],
    known: F32,
    truth: F32,
    scale: F32,
    view: View,
) -> tuple[list[tuple[Climate, ...]], list[dict[str, F64]]]:
    """For each variable the rows of all ensembles, in their order, and the arrays of pictures.

    These are power and standard deviation of the truth, (l,) and (pixel,), and those of the generated ensemble.
    `known` and `truth` (time, variable, pixel) are in physical units, `scale` (variable, 1) brings the ensembles there.
    """
    variables = range(len(scale))
    true = [moments(truth[None, :, v], view) for v in variables]
    near = [nearest_distances(truth[:, v], known[:, v]) for v in variables]
    rows: list[list[Climate]] = [[] for _ in variables]
    arrays = [{"power": part.power, "std": part.std} for part in true]
    for name, fields in ensembles:
        log.info("evaluate: climate of: %s", name)
        library = known[: -len(truth)] if name == PREVIOUS else known
        for v in variables:
            members = fields[:, :, v] * scale[v]
            entries = library[:, v] if len(library) else None
            if name == GENERATED:
                arrays[v] |= ensemble_arrays(members, truth[:, v], view)
            rows[v].append(compare(name, members, truth[:, v], true[v], view, library=entries, true_near=near[v]))
    return [tuple(found) for found in rows], arrays


def _steps_a_year(period: Period) -> int:
    """Steps in the fullest calendar year of the period."""
    return int(np.unique([time.year for time in period.times], return_counts=True)[1].max())


def _check_periods(model: TrainedModel, training: Period, evaluation: Period) -> None:
    """Raise DataError unless the periods fit the model and each other."""
    expected = (len(model.variables), npix(model.zoom))
    for name, period in (("training", training), ("evaluation", evaluation)):
        if period.values.shape[1:] != expected:
            raise DataError(
                f"found {name} fields of shape {period.values.shape[1:]}",
                f"{expected}",
                "give all fields on the grid of the model",
            )
    if not LAGS + 1 < len(evaluation.times) <= len(training.times):
        raise DataError(
            f"found {len(evaluation.times)} evaluation and {len(training.times)} training steps",
            f"more than {LAGS + 1} and at least as many training steps",
            "take fewer evaluation years, or more training years",
        )
    shared = set(map(str, training.times)) & set(map(str, evaluation.times))
    if shared:
        raise DataError(
            f"found {len(shared)} steps in both periods, {min(shared)} first",
            "evaluation years apart",
            "change the years of the configuration, so that none is in both",
        )


def _ensembles(
    model: TrainedModel, evaluation: Period, eofs: baselines.Eofs, generate: Generate | None, settings: Settings
) -> Iterator[tuple[str, F32]]:
    """Name and anomalies (member, time, variable, pixel) of each ensemble, made one by one."""
    steps, count, seed = len(evaluation.times), settings.members, settings.seed
    shape = (count, *evaluation.values.shape)
    if generate is not None:
        fields = generate(count, evaluation.times[0], steps, seed)
        if fields.shape != shape or not np.isfinite(fields).all():
            raise DataError(
                f"found a generated ensemble of shape {fields.shape}",
                f"finite fields {shape}",
                "check the members: some may hold values that are not finite",
            )
        yield GENERATED, anomalies(model, evaluation, fields)
    if settings.eof_ensembles:
        years = evaluation.time_years
        for name, trend in zip(VAR, (False, True), strict=True):
            drawn = baselines.linear_inverse_generator(eofs, count, years, seed, trend=trend)
            yield name, drawn.reshape(shape)
        yield "EOF, Gaussian", baselines.gaussian_generator(eofs, count, steps, seed).reshape(shape)


def _stretches(known: F32, truth: F32, rebuilt: F32) -> Iterator[tuple[str, F32]]:
    """The same for single stretches: the previous period as a forecast, the reconstructed truth, the truth.

    What the reconstruction lacks in power the generated fields lack too: the same decoder makes them.
    """
    yield PREVIOUS, known[-len(truth) :][None]
    yield "truth, reconstructed", rebuilt[None]
    yield "truth", truth[None]


def _codec_checks(
    model: TrainedModel, units: str, own: FieldErrors, finer: tuple[SuperResolution, ...]
) -> Iterator[Check]:
    """Checks of the autoencoder. From means finer than its latent it is not expected to beat interpolation."""
    if units == KELVIN:
        ratio = 4 ** (model.zoom - model.latent_zoom)
        if ratio in LARGEST_RMSE_K:
            yield at_most("reconstruction RMSE", own.rmse, LARGEST_RMSE_K[ratio])
        yield at_most("base cell means", own.cell_mean, CELL_MEAN_K)
    for coarse in finer:
        if coarse.zoom <= model.latent_zoom:
            errors = {row.name: row.rmse for row in coarse.rows}
            name = f"super-resolution RMSE, zoom {coarse.zoom}, against bilinear"
            yield at_most(name, coarse.rows[0].rmse, errors["means: bilinear"])


def _ensemble_checks(units: str, rows: tuple[Climate, ...], stretches: Stretches) -> Iterator[Check]:
    """Checks of the generated ensemble; none if there is none."""
    named = {row.name: row for row in rows}
    if GENERATED in named:
        simple = [named[name] for name in VAR if name in named]
        own, previous, truth = named[GENERATED], named[PREVIOUS], rows[-1]
        yield from climate_checks(own, previous, truth, simple, stretches, kelvin=units == KELVIN)
