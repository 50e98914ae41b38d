"""`fsae-train hindcast`: ensembles started from observed months, scored at each lead beside simple forecasts.

For every month of the evaluation years that leaves room for the leads, the model starts from the months before it, as
the reanalysis has them, and knows nothing later; nor do the forecasts it is compared with.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.diffusion.whitening import whiten
from fsae.runtime.ensemble.members import Initial
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.progress import Progress
from fsae.runtime.sphere.pyramid import level_mask
from fsae.training.evaluation.data import ModelWithData, open_model_with_data
from fsae.training.evaluation.model import TrainedModel, departures, departures_of, fields_of, plan_of
from fsae.training.evaluation.periods import Period, joined
from fsae.training.evaluation.report import as_json
from fsae.training.evaluation.saved import save_hindcast
from fsae.training.evaluation.tables import Column, Table, columns, wrapped
from fsae.training.metrics.ensembles import lead_of_last_skill, outer_share, spread_skill, unevenness
from fsae.training.metrics.reference_forecasts import Forecast, Observed, reference_forecasts

from .hindcast_scores import Scored, domains, score_all

log = logging.getLogger("fsae.training")
MODEL = "model"
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
class SpreadClasses:
    """Spread and error of the ensemble mean in classes of pixels by their spread, lead by lead (lead, class)."""

    name: str
    spread: tuple[Numbers, ...]  # root of the mean variance, with the factor for the number of members
    rmse: tuple[Numbers, ...]


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
    classes: tuple[SpreadClasses, ...]
    skill: tuple[SkillEnd, ...]


@dataclass(frozen=True, kw_only=True)
class HindcastReport:
    """The report of `fsae-train hindcast`."""

    name: str
    members: int
    leads: int
    step: str
    starts: int
    first: str  # stamp of lead 1 of the first start
    last: str
    training: tuple[str, str]
    variables: tuple[VariableHindcast, ...]


QUESTIONS = (
    ("CRPS", "crps"),
    ("RMSE of the ensemble mean", "rmse"),
    ("spread", "spread"),
    ("spread / RMSE", "spread_skill"),
    ("correlation of the ensemble mean", "correlation"),
)

IN_ONE_UNIT = ("rmse", "spread")  # shown for the globe and the index only

SCORES_NOTE = (
    "CRPS: fair, of a single member the absolute error; spread / RMSE: with the factor for the number of members, 1 if "
    "the spread predicts the error; correlation: of departures from the mean of the last 10 training years. The error "
    "of a mean falls with the number of members, which differs; the fair CRPS does not depend on it."
)

RANKS_NOTE = (
    "Sum over ranks of |share - 1 / ranks|, 0 if flat; outside: cases below or above all members, over those of a flat "
    "histogram: above 1 the ensemble is too narrow. Shares of each rank of the model, in per cent:"
)


def format_hindcast(report: HindcastReport) -> str:
    """The report as Markdown; RMSE and spread for the globe and the index, the rest everywhere."""
    lines = [
        f"# {report.name}: hindcasts of {report.leads} steps of {report.step}",
        "",
        f"{report.starts} starts, lead 1 from {report.first} to {report.last}; {report.members} members; everything",
        f"else is known from {report.training[0]} to {report.training[1]} and from the last steps before the start.",
    ]
    leads = range(1, report.leads + 1)
    for variable in report.variables:
        lines += ["", f"## {variable.name} [{variable.units}]", *_format_scores(variable, leads)]
        lines += [*_format_ranks(variable, leads), *_format_skill(variable, report.leads)]
    return "\n".join(lines) + "\n"


def _format_scores(variable: VariableHindcast, leads: range) -> list[str]:
    lines = []
    names = _domains(variable)
    for domain in names:
        rows = [row for row in variable.scores if row.domain == domain]
        for title, figure in QUESTIONS:
            if domain in (names[0], names[-1]) or figure not in IN_ONE_UNIT:
                shown = [row for row in rows if getattr(row, figure) is not None]
                lines += Table((Column("lead", "name"), *columns(leads, figure, ".3f"))).lines(
                    shown, f"### {domain}: {title}"
                )
    return [*lines, "", *wrapped(SCORES_NOTE)]


def _format_ranks(variable: VariableHindcast, leads: range) -> list[str]:
    rows = [{"name": row.name, "values": row.unevenness} for row in variable.ranks]
    rows += [{"name": f"{row.name}, outside", "values": row.outer_share} for row in variable.ranks]
    uneven = Table((Column("lead", "name"), *columns(leads, "values", ".3f")), RANKS_NOTE)
    own = np.array(variable.ranks[0].counts)  # (lead, rank)
    shares = 100 * own / own.sum(axis=1, keepdims=True)
    ranks = [{"name": str(rank), "values": values} for rank, values in enumerate(shares.T)]
    ranks.append({"name": "flat", "values": [100 / own.shape[1]] * own.shape[0]})
    return [
        *uneven.lines(rows, "### Ranks of the truth among the members"),
        "",
        *Table((Column("rank", "name"), *columns(leads, "values", ".1f"))).lines(ranks),
    ]


def _format_skill(variable: VariableHindcast, leads: int) -> list[str]:
    names = _domains(variable)
    rows: dict[str, dict[str, str]] = {}
    for end in variable.skill:
        row = rows.setdefault(end.reference, {"name": end.reference})
        row[end.domain] = f"{end.lower} ({end.clearly_lower})"
    ends = Table(
        (Column("CRPS lower than", "name"), *(Column(name, name) for name in names)),
        "Until which lead the model's CRPS is lower; in brackets: by more than two standard errors.",
    )
    sentences = [skill_sentence(variable, domain, leads) for domain in names]
    return [*ends.lines(rows.values(), "### Where skill ends"), "", *sentences]


def _domains(variable: VariableHindcast) -> list[str]:
    return list(dict.fromkeys(row.domain for row in variable.scores))


def skill_sentence(variable: VariableHindcast, domain: str, leads: int) -> str:
    """Where skill ends in a domain, against the climatology and the climatology of the recent mean."""

    def until(lead: int) -> str:
        return {0: "at no lead", leads: f"at all {leads} leads"}.get(lead, f"until lead {lead}")

    parts = [
        f'than of "{end.reference}" {until(end.lower)} (beyond two standard errors {until(end.clearly_lower)})'
        for end in [end for end in variable.skill if end.domain == domain][:2]
    ]
    return f"- {domain}: the model's CRPS is lower {' and '.join(parts)}."


def hindcast_model(
    model: str | None,
    data: Path | None,
    *,
    members: int = 20,
    leads: int = 6,
    every: int = 1,
    progress: Progress | None = None,
) -> tuple[str, str]:
    """The tables of a run's or a bundle's hindcasts (default: the newest run) and the same as JSON.

    A run on its own data keeps the scores in hindcast.json, for its report.
    """
    if members < 2 or leads < 1 or every < 1:
        raise UsageError(
            f"found {members} members, {leads} leads and every {every}",
            "2 members, 1 lead and 1 or more",
            "raise the lower ones",
        )
    case = open_model_with_data(model, data)
    report = hindcast(case, members=members, leads=leads, every=every, progress=progress)
    record = as_json(report)
    if case.run is not None:
        save_hindcast(case.run, record)
    return format_hindcast(report), record


def hindcast(
    case: ModelWithData, *, members: int, leads: int, every: int = 1, seed: int = 0, progress: Progress | None = None
) -> HindcastReport:
    """Scores of the model and of simple forecasts over every `every`-th start of the evaluation years."""
    whole = joined(case.training, case.evaluation)
    series = Observed(
        values=departures_of(case.model, whole),
        phase=whole.phase,
        time_years=whole.time_years,
        known=len(case.training.times),
    )
    starts = range(series.known, len(whole.times) - leads + 1, every)
    if not starts:
        raise DataError(
            f"found {len(case.evaluation.times)} evaluation steps",
            f"{leads} or more",
            "take fewer leads, or more evaluation years",
        )
    log.info("hindcast: %d starts of %d members", len(starts), members)
    forecasts = {MODEL: model_forecast(case.model, whole, leads, members, seed)}
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
            classes=tuple(_spread_classes(scored[k], k, v) for k in scored if scored[k].members > 1),
            skill=tuple(
                _skill_end(scored, other, v, d, names[d], years) for d in range(len(names)) for other in others
            ),
        )
        for v, (name, units) in enumerate(case.model.named_units)
    ]
    return HindcastReport(
        name=case.model.name,
        members=members,
        leads=leads,
        step=case.model.time.step,
        starts=len(starts),
        first=str(whole.times[starts[0]]),
        last=str(whole.times[starts[-1]]),
        training=case.training.first_and_last,
        variables=tuple(variables),
    )


def model_forecast(model: TrainedModel, whole: Period, leads: int, members: int, seed: int) -> Forecast:
    """Forecasts of the diffusion model from the steps of `whole` before the start, each start with other noise."""
    previous = model.generator.previous
    if previous == 0:
        raise DataError(
            "found a denoiser that knows no earlier steps",
            "diffusion.previous of 1 or more",
            "set diffusion.previous, and train again",
        )

    def forecast(start: int) -> F32:
        white = encode_white(model, whole.part(slice(start - previous, start)))
        initial = Initial(white=white[None], valid=np.ones(previous, np.float32))
        ids = range(start * members, (start + 1) * members)  # overlapping forecasts must not share their noise
        plan = plan_of(model, ids, whole.times[start], leads, seed, initial)
        return departures(model, fields_of(model, plan), plan.steps.season[:leads])

    return forecast


def encode_white(model: TrainedModel, period: Period) -> F32:
    """Latents (time, variable, latent pixel) of a period, in white space."""
    latent, season = model.generator, model.season(period)
    mask = np.repeat(level_mask(model.zooms, model.zoom)[None], len(season), axis=0)
    encoded = model.graphs.encode(period.values.astype(np.float32), season, mask)
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


def _spread_classes(scored: Scored, name: str, variable: int) -> SpreadClasses:
    def roots(squares: F64) -> tuple[Numbers, ...]:
        return tuple(tuple(row) for row in np.sqrt(squares[:, :, variable].mean(axis=0)).tolist())

    factor = (scored.members + 1) / scored.members  # as in `spread_skill`
    return SpreadClasses(name=name, spread=roots(factor * scored.class_variance), rmse=roots(scored.class_square_error))


def _skill_end(
    scored: dict[str, Scored], other: str, variable: int, domain: int, domain_name: str, years: Ints
) -> SkillEnd:
    crps = [scored[name].crps[:, :, variable, domain] for name in (MODEL, other)]
    lower, clearly = lead_of_last_skill(crps[0], crps[1], years)
    return SkillEnd(domain=domain_name, reference=other, lower=lower, clearly_lower=clearly)
