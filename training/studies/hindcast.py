"""`fsae-train hindcast`: ensembles started from observed months, scored at each lead beside simple forecasts.

For every month of the evaluation years that leaves room for the leads, the model starts from the months before it, as
the reanalysis has them, and knows nothing later; so do the forecasts it is compared with.
"""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsae.runtime import climatology as harmonic
from fsae.runtime.ensemble import Initial, generate
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.generation import timeline
from fsae.runtime.pyramid import level_mask, whiten

from .ensemble_scores import lead_of_last_skill, outer_share, spread_skill, unevenness
from .hindcast_report import HindcastReport, LeadScores, Ranks, SkillEnd, VariableHindcast, format_hindcast
from .hindcast_scores import Progress, Scored, domains, score_all
from .periods import Material, departures, departures_of, joined, open_material
from .record_json import as_json
from .reference_forecasts import Forecast, Observed, reference_forecasts
from .subject import Period

log = logging.getLogger("fsae.training")
Array = NDArray[np.float64]
Fields = NDArray[np.float32]

MODEL = "model"


def hindcast_model(
    model: str | None,
    *,
    data: Path | None = None,
    members: int = 20,
    leads: int = 6,
    every: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[str, str]:
    """The tables of a run's or a bundle's hindcasts (default: the newest run) and the same as JSON."""
    if members < 2 or leads < 1 or every < 1:
        raise UsageError(
            f"found {members} members, {leads} leads and every {every}, expected 2 members, 1 lead and 1 or more"
        )
    material = open_material(model, data)
    report = hindcast(material, members=members, leads=leads, every=every, seed=seed, progress=progress)
    return format_hindcast(report), as_json(report)


def hindcast(
    material: Material, *, members: int, leads: int, every: int = 1, seed: int = 0, progress: Progress | None = None
) -> HindcastReport:
    """Scores of the model and of simple forecasts over every `every`-th start of the evaluation years."""
    whole = joined(material.training, material.evaluation)
    series = Observed(
        values=departures_of(material.subject, whole),
        phase=whole.phase,
        time_years=whole.time_years,
        known=len(material.training.times),
    )
    starts = range(series.known, len(whole.times) - leads + 1, every)
    if not starts:
        raise DataError(f"found {len(material.evaluation.times)} evaluation steps, expected {leads} or more")
    log.info("hindcast: %d starts of %d members", len(starts), members)
    forecasts = {MODEL: model_forecast(material, whole, leads, members, seed)}
    forecasts |= reference_forecasts(series, leads, members, seed)
    scored = score_all(forecasts, series, starts, leads, progress)
    others = [name for name in scored if name != MODEL]
    years = series.year[list(starts)]
    names = tuple(domains(series.values.shape[-1]))
    variables = [
        VariableHindcast(
            name=name,
            units=units,
            scores=tuple(_lead_scores(scored[k], k, v, d, names[d]) for d in range(len(names)) for k in scored),
            ranks=tuple(_ranks(scored[k], k, v) for k in scored if scored[k].members > 1),
            skill=tuple(
                _skill_end(scored, other, v, d, names[d], years) for d in range(len(names)) for other in others
            ),
        )
        for v, (name, units) in enumerate(material.subject.variables)
    ]
    return HindcastReport(
        name=material.subject.name,
        members=members,
        leads=leads,
        step=material.candidate.time.step,
        starts=len(starts),
        first=str(whole.times[starts[0]]),
        last=str(whole.times[starts[-1]]),
        training=(str(material.training.times[0]), str(material.training.times[-1])),
        variables=tuple(variables),
    )


def model_forecast(material: Material, whole: Period, leads: int, members: int, seed: int) -> Forecast:
    """Forecasts of the diffusion model from the steps of `whole` before the start, each start with other noise."""
    candidate, latent = material.candidate, material.latent
    if latent.previous == 0:
        raise DataError("found a denoiser that knows no earlier steps, expected diffusion.previous of 1 or more")

    def forecast(start: int) -> Fields:
        known = slice(start - latent.previous, start)
        initial = Initial(white=encode_white(material, whole, known)[None], valid=np.ones(latent.previous, np.float32))
        line = timeline(candidate.time, latent.window, candidate.cell_methods, whole.times[start], leads)
        ids = range(start * members, (start + 1) * members)  # overlapping forecasts must not share their noise
        values = np.empty((members, leads, *whole.values.shape[1:]), dtype=np.float32)
        for unit in generate(latent, candidate.graphs, ids, line.steps, leads, seed, members, initial):
            values[unit.members, unit.times] = unit.values
        return departures(material.subject, values, line.steps.season[:leads])

    return forecast


def encode_white(material: Material, period: Period, part: slice) -> Fields:
    """Latents (time, variable, latent pixel) of some steps of a period, in white space."""
    subject, latent = material.subject, material.latent
    season = harmonic.season(period.phase[part], subject.harmonics)
    mask = np.repeat(level_mask(subject.zooms, subject.zooms[-1])[None], len(season), axis=0)
    encoded = material.candidate.graphs.encode(period.values[part].astype(np.float32), season, mask)
    return np.asarray(whiten(encoded, latent.zooms, latent.deviation(season), latent.level_std), dtype=np.float32)


def _lead_scores(scored: Scored, name: str, variable: int, domain: int, domain_name: str) -> LeadScores:
    """Means over starts of one forecast for one variable in one domain."""

    def mean(values: Array) -> Array:
        return np.asarray(values[:, :, variable, domain].mean(axis=0))  # (lead,)

    error, variance = mean(scored.square_error), mean(scored.variance)
    single = scored.members == 1
    size = np.sqrt(mean(scored.square_mean) * mean(scored.square_truth))
    known = np.divide(mean(scored.product), size, out=np.full_like(size, np.nan), where=size > 0)
    return LeadScores(
        name=name,
        domain=domain_name,
        members=scored.members,
        crps=tuple(mean(scored.crps).tolist()),
        rmse=tuple(np.sqrt(error).tolist()),
        spread=None if single else tuple(np.sqrt(variance).tolist()),
        spread_skill=None if single else tuple(spread_skill(variance, error, scored.members).tolist()),
        correlation=tuple(known.tolist()),
    )


def _ranks(scored: Scored, name: str, variable: int) -> Ranks:
    counts = scored.ranks[:, variable]
    return Ranks(
        name=name,
        counts=tuple(tuple(row) for row in counts.tolist()),
        unevenness=tuple(unevenness(counts).tolist()),
        outer_share=tuple(outer_share(counts).tolist()),
    )


def _skill_end(
    scored: dict[str, Scored],
    other: str,
    variable: int,
    domain: int,
    domain_name: str,
    years: NDArray[np.int64],
) -> SkillEnd:
    crps = [scored[name].crps[:, :, variable, domain] for name in (MODEL, other)]
    lower, clearly = lead_of_last_skill(crps[0], crps[1], years)
    return SkillEnd(domain=domain_name, reference=other, lower=lower, clearly_lower=clearly)
