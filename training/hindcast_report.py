"""Records of `fsae-train hindcast` and their text: one Markdown table per question, leads as columns."""

from collections.abc import Callable
from dataclasses import dataclass

from .report import table

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
