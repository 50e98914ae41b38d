"""`fsae-train hindcast`: ensembles started from observed months, scored at each lead beside simple forecasts.

For every month of the evaluation years that leaves room for the leads, the model starts from the months before it, as
the reanalysis has them, and knows nothing later; so do the forecasts it is compared with.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.diffusion.whitening import whiten
from fsae.runtime.ensemble.generate import timeline
from fsae.runtime.ensemble.members import Initial, Plan, generate
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.sphere.pyramid import level_mask
from fsae.training.evaluation.model import Period
from fsae.training.evaluation.periods import Material, departures, departures_of, joined, open_material
from fsae.training.evaluation.report import as_json, table
from fsae.training.metrics.ensembles import lead_of_last_skill, outer_share, spread_skill, unevenness
from fsae.training.metrics.reference_forecasts import Forecast, Observed, reference_forecasts

from .hindcast_scores import Progress, Scored, domains, score_all

Numbers = tuple[float, ...]  # one for each lead


@dataclass(frozen=True, kw_only=True)
class LeadScores:
    """Scores of one forecast in one domain, means over starts and equal-area pixels, in the variable's unit."""

    name: str
    domain: str
    members: int
    crps: Numbers  # fair; of a single member the mean absolute error
    rmse: Numbers  # of the ensemble mean
    spread: Numbers | None  # root of the members' mean unbiased variance; None for a single member
    spread_skill: Numbers | None  # spread over RMSE, with the factor for the number of members
    correlation: Numbers  # of the ensemble mean's departures from the recent mean with the truth's


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Rank histograms of the truth among the members, pooled over starts and thinned pixels."""

    name: str
    counts: tuple[Numbers, ...]  # lead, rank; ties are shared out
    unevenness: Numbers  # sum over ranks of |share - 1 / ranks|: 0 is flat
    outer_share: Numbers  # cases outside the ensemble over those of a flat histogram


@dataclass(frozen=True, kw_only=True)
class SkillEnd:
    """The last lead until which the model's CRPS is lower than a reference's; 0 for none."""

    domain: str
    reference: str
    lower: int
    clearly_lower: int  # by more than two standard errors, those of the means of start years


@dataclass(frozen=True, kw_only=True)
class VariableHindcast:
    """All of one variable; the model is the first forecast."""

    name: str
    units: str
    scores: tuple[LeadScores, ...]
    ranks: tuple[Ranks, ...]
    skill: tuple[SkillEnd, ...]


@dataclass(frozen=True, kw_only=True)
class HindcastReport:
    """What `fsae-train hindcast` prints."""

    name: str
    members: int
    leads: int
    step: str
    starts: int
    first: str  # stamp of lead 1 of the first start
    last: str
    training: tuple[str, str]
    variables: tuple[VariableHindcast, ...]


def format_hindcast(report: HindcastReport) -> str:
    """The report as text for people: Markdown; RMSE and spread for the globe and the index, the rest everywhere."""
    lines = [
        f"# {report.name}: hindcasts of {report.leads} steps of {report.step}",
        "",
        f"{report.starts} starts, lead 1 from {report.first} to {report.last}; {report.members} members; everything",
        f"else is known from {report.training[0]} to {report.training[1]} and from the last steps before the start.",
    ]
    for variable in report.variables:
        lines += ["", *_format_variable(report, variable)]
    return "\n".join(lines) + "\n"


def skill_sentence(variable: VariableHindcast, domain: str, leads: int) -> str:
    """Where skill ends in a domain, against the climatology and the climatology of the recent mean."""

    def until(lead: int) -> str:
        return {0: "at no lead", leads: f"at all {leads} leads"}.get(lead, f"until lead {lead}")

    parts = [
        f'than of "{end.reference}" {until(end.lower)} (beyond two standard errors {until(end.clearly_lower)})'
        for end in [end for end in variable.skill if end.domain == domain][:2]
    ]
    return f"- {domain}: the model's CRPS is lower {' and '.join(parts)}."


def _format_variable(report: HindcastReport, variable: VariableHindcast) -> list[str]:
    lines = [f"## {variable.name} [{variable.units}]"]
    header = ["lead", *(str(lead) for lead in range(1, report.leads + 1))]
    questions: tuple[tuple[str, Callable[[LeadScores], Numbers | None]], ...] = (
        ("CRPS", lambda row: row.crps),
        ("RMSE of the ensemble mean", lambda row: row.rmse),
        ("spread", lambda row: row.spread),
        ("spread / RMSE", lambda row: row.spread_skill),
        ("correlation of the ensemble mean", lambda row: row.correlation),
    )
    names = list(dict.fromkeys(row.domain for row in variable.scores))
    for domain in names:
        rows = [row for row in variable.scores if row.domain == domain]
        for title, values in questions if domain in (names[0], names[-1]) else (questions[0], *questions[3:]):
            cells = [[row.name, *map(_number, found)] for row in rows if (found := values(row)) is not None]
            lines += ["", f"### {domain}: {title}", "", *table(header, cells)]
    lines += [
        "",
        "CRPS: fair, of a single member the absolute error; spread / RMSE: with the factor for the number of members,",
        "1 where the spread tells the error; correlation: of departures from the mean of the last 10 training years.",
        "The error of a mean falls with the number of members, which differs; the fair CRPS does not depend on it.",
        "",
        "### Ranks of the truth among the members",
        "",
    ]
    cells = [[row.name, *map(_number, row.unevenness)] for row in variable.ranks]
    cells += [[f"{row.name}, outside", *map(_number, row.outer_share)] for row in variable.ranks]
    lines += table(header, cells)
    lines += [
        "",
        "Sum over ranks of |share - 1 / ranks|, 0 where flat; outside: cases below or above all members, over those of",
        "a flat histogram: above 1 the ensemble is too narrow. Shares of each rank of the model, in per cent:",
        "",
    ]
    own = variable.ranks[0].counts
    shares = [[100 * count / sum(row) for count in row] for row in own]
    ranks = [[str(rank), *(f"{row[rank]:.1f}" for row in shares)] for rank in range(len(own[0]))]
    flat = 100 / len(own[0])
    lines += table(["rank", *header[1:]], [*ranks, ["flat", *[f"{flat:.1f}"] * report.leads]])
    lines += ["", "### Where skill ends", ""]
    lines += table(
        ["CRPS lower than", *names],
        [
            [reference, *(_until(variable, domain, reference) for domain in names)]
            for reference in dict.fromkeys(end.reference for end in variable.skill)
        ],
    )
    lines += ["", "Until which lead the model's CRPS is lower; in brackets: by more than two standard errors.", ""]
    return lines + [skill_sentence(variable, domain, report.leads) for domain in names]


def _until(variable: VariableHindcast, domain: str, reference: str) -> str:
    (end,) = (end for end in variable.skill if (end.domain, end.reference) == (domain, reference))
    return f"{end.lower} ({end.clearly_lower})"


def _number(value: float) -> str:
    return f"{value:.3f}"


log = logging.getLogger("fsae.training")


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

    def forecast(start: int) -> F32:
        known = slice(start - latent.previous, start)
        initial = Initial(white=encode_white(material, whole, known)[None], valid=np.ones(latent.previous, np.float32))
        line = timeline(candidate.time, latent.window, candidate.cell_methods, whole.times[start], leads)
        ids = range(start * members, (start + 1) * members)  # overlapping forecasts must not share their noise
        values = np.empty((members, leads, *whole.values.shape[1:]), dtype=np.float32)
        plan = Plan(members=ids, steps=line.steps, count=leads, seed=seed, initial=initial)
        for unit in generate(latent, candidate.graphs, plan, batch=members):
            values[unit.members, unit.times] = unit.values
        return departures(material.subject, values, line.steps.season[:leads])

    return forecast


def encode_white(material: Material, period: Period, part: slice) -> F32:
    """Latents (time, variable, latent pixel) of some steps of a period, in white space."""
    subject, latent = material.subject, material.latent
    season = harmonic.season(period.phase[part], subject.harmonics)
    mask = np.repeat(level_mask(subject.zooms, subject.zooms[-1])[None], len(season), axis=0)
    encoded = material.candidate.graphs.encode(period.values[part].astype(np.float32), season, mask)
    return np.asarray(whiten(encoded, latent.zooms, latent.deviation(season), latent.level_std), dtype=np.float32)


def _lead_scores(scored: Scored, name: str, variable: int, domain: int, domain_name: str) -> LeadScores:
    """Means over starts of one forecast for one variable in one domain."""

    def mean(values: F64) -> F64:
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
