"""`fsae-train samplers`: what each sampler and number of steps costs, and how good an ensemble it draws.

Every row draws the same members from the same noise, freely from the first step of the chosen years on, and is compared
with the real steps of these years. They are not evaluation years: a sampler is chosen by them, and would look better
there than it is. That the model was trained on them matters little, as all rows share the model.
"""

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.diffusion.sampler import denoiser_calls
from fsae.runtime.ensemble.members import LatentModel
from fsae.runtime.errors import UsageError
from fsae.runtime.sphere.healpix import coarsen
from fsae.training.config import Config, whole_years
from fsae.training.evaluation.data import with_data
from fsae.training.evaluation.model import TrainedModel, anomalies, draw
from fsae.training.evaluation.periods import Period, read_periods
from fsae.training.evaluation.report import as_json
from fsae.training.evaluation.tables import Column, Table, wrapped
from fsae.training.metrics.ensembles import energy_scores
from fsae.training.metrics.scores import fair_crps
from fsae.training.metrics.spectra import Spectrum, power_spectrum

log = logging.getLogger("fsae.training")
STEPS = (4, 6, 8, 12, 18, 32)
SECOND_ORDER = ("dpm2m", "heun")
DISTILLED = "fast"  # name of the distilled denoiser's graph and row
WITHIN = 0.02  # how far the energy scores of a default may be above the best ones
YEARS = 10  # the last of the training years, unless others are chosen
BLOCK_ZOOM = 2  # 192 cells of some 1,600 km: as much of a monthly field as stands out from noise
LMAX = 60


@dataclass(frozen=True, kw_only=True)
class Energy:
    """A mean energy score and how far it is above the best row's, as a share of that."""

    score: float
    excess: float
    excess_error: float | None  # standard error, from the differences of calendar years; None for a single year


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The ensemble of a row in one variable, in its unit."""

    block_energy: Energy
    pixel_energy: Energy
    crps: float
    spread: float  # mean over pixels of the standard deviation, over that of the truth
    spectrum_median: float  # of |power ratio - 1|


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sampler with its number of steps; `figures` of each variable."""

    sampler: str
    steps: int
    calls: int  # of the denoiser, for a window
    milliseconds: float  # for one member and step, decoding included
    figures: tuple[Figures, ...]

    @property
    def excess(self) -> float:
        """The largest share by which one of its energy scores is above the best."""
        return max(max(f.block_energy.excess, f.pixel_energy.excess) for f in self.figures)


@dataclass(frozen=True, kw_only=True)
class SamplerTable:
    """The report of `fsae-train samplers`."""

    name: str
    device: str
    backend: str
    years: tuple[int, int]
    members: int
    steps: int  # time steps of a member
    block_zoom: int
    lmax: int
    variables: tuple[tuple[str, str], ...]  # name and units
    rows: tuple[Row, ...]
    recommended: int  # its row


def rank(scores: F64, year: Ints) -> list[Energy]:
    """Means of energy scores (row, time), each beside the lowest."""
    mean = scores.mean(axis=1)
    best = int(mean.argmin())
    found = []
    for own in scores:
        excess = (own - scores[best]) / mean[best]
        yearly = np.array([excess[year == y].mean() for y in np.unique(year)])
        error = float(yearly.std(ddof=1) / np.sqrt(len(yearly))) if len(yearly) > 1 else None
        found.append(Energy(score=float(own.mean()), excess=float(excess.mean()), excess_error=error))
    return found


def recommend(rows: Sequence[Row]) -> int:
    """The row of fewest denoiser calls whose energy scores are all within 2 % of the best; the closest if none is."""
    own = [i for i, row in enumerate(rows) if row.sampler != DISTILLED]
    near = [i for i in own if rows[i].excess <= WITHIN]
    if not near:
        return min(range(len(rows)), key=lambda i: rows[i].excess)
    return min(near, key=lambda i: (rows[i].calls, rows[i].excess))


def _energy(title: str, figure: str) -> tuple[Column, Column]:
    """Columns of an energy score and of what it is above the best."""

    def above(row: dict[str, Energy]) -> str:
        energy = row[figure]
        error = "" if energy.excess_error is None else f" ± {100 * energy.excess_error:.1f}"
        return f"{100 * energy.excess:.1f}{error}"

    return Column(title, lambda row: row[figure].score, ".4f"), Column("+ %", above)


COLUMNS = (
    Column("", "sampler"),
    Column("steps", "steps"),
    Column("calls", "calls"),
    Column("ms", "milliseconds", ".1f"),
    *_energy("energy", "block_energy"),
    *_energy("pixels", "pixel_energy"),
    Column("CRPS", "crps", ".4f"),
    Column("spread", "spread", ".3f"),
    Column("spectrum", "spectrum_median", ".3f"),
)


def format_table(found: SamplerTable) -> str:
    """The table as Markdown, one for each variable, and the recommended row."""
    lines = [
        f"# {found.name}: samplers, {found.years[0]}-{found.years[1]}",
        "",
        f"{found.members} members of {found.steps} steps from the same noise, on {found.device} by {found.backend}.",
    ]
    for v, (name, units) in enumerate(found.variables):
        rows = [{**vars(row), **vars(row.figures[v])} for row in found.rows]
        lines += Table(COLUMNS).lines(rows, f"## {name} [{units}]")
    best = found.rows[found.recommended]
    verdict = "the fewest calls with" if best.excess <= WITHIN else "no row has"
    notes = (
        "calls: of the denoiser for a window; ms: for one member and step, decoding included; energy: fair energy "
        f"score, of block means on zoom {found.block_zoom} and of all pixels, root mean square distance; +: above the "
        "best row, in per cent, with the standard error from differences of whole years; CRPS: fair, pixel by pixel; "
        "spread: mean standard deviation over the truth's; spectrum: median of |power ratio - 1|, l = 2 to "
        f"{found.lmax}."
    )
    recommended = (
        f"Recommended: {best.sampler} with {best.steps} steps, {verdict} every energy score within "
        f"{100 * WITHIN:.0f} % of the best."
    )
    return "\n".join([*lines, "", *wrapped(notes), "", recommended])


def samplers_of_model(
    model: str | None,
    data: Path | None,
    *,
    members: int = 10,
    steps: Sequence[int] = STEPS,
    years: tuple[int, int] | None = None,
) -> tuple[str, str]:
    """The table of a run or a bundle (default: the newest run) and the same as JSON.

    The `years` that are drawn are by default the last ten of the training years.
    """
    with with_data(model, data) as (trained, config, store):
        chosen = years_to_use(config, years)
        (truth,) = read_periods(store, trained.variables, trained.zoom, chosen)
        found = compare_samplers(trained, choices_of(trained, steps), truth, members)
    return format_table(found), as_json(found)


def year_range(text: str) -> tuple[int, int]:
    """First and last year in a text.

    >>> year_range("1995-2004")
    (1995, 2004)
    """
    found = re.fullmatch(r"(\d{4})-(\d{4})", text)
    if found is None or found[1] > found[2]:
        raise UsageError(
            f"found the years {text!r}", "a first and a last one such as 1995-2004", "give such as 1995-2004"
        )
    return int(found[1]), int(found[2])


def step_counts(text: str) -> tuple[int, ...]:
    """Numbers of steps in a text.

    >>> step_counts("4,8,32")
    (4, 8, 32)
    """
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UsageError(f"found the steps {text!r}", "numbers of 1 or more such as 4,8,32", "give such as 4,8,32")
    return tuple(int(part) for part in text.split(","))


def years_to_use(config: Config, years: tuple[int, int] | None) -> tuple[int, int]:
    """`years`, or the last ten training years by default; UsageError if they touch the evaluation years."""
    first, last = whole_years(config.data.training_years, "a choice of samplers")
    chosen = years or (max(first, last - YEARS + 1), last)
    low, high = whole_years(config.data.evaluation_years, "a choice of samplers")
    if chosen[0] <= high and low <= chosen[1]:
        raise UsageError(
            f"found the years {chosen[0]}-{chosen[1]}",
            f"years outside the evaluation years {low}-{high}",
            "give other years: a sampler that is chosen on these would look better there than it is",
        )
    return chosen


def choices_of(model: TrainedModel, steps: Sequence[int]) -> list[LatentModel]:
    """The model with every sampler of second order and number of steps, between the noise levels of its own sampler.

    Then the distilled denoiser, if the model has one.
    """
    own = model.generator
    choices = [
        replace(own, sampler=msgspec.structs.replace(own.sampler, name=name, steps=count))
        for name in SECOND_ORDER
        for count in steps
    ]
    if model.fast is not None:
        choices.append(replace(own, sampler=model.fast, graph=DISTILLED))
    return choices


def compare_samplers(model: TrainedModel, choices: Sequence[LatentModel], truth: Period, members: int) -> SamplerTable:
    """Rows of `choices`, of ensembles over the steps of `truth`, and the one to recommend."""
    if members < 2:
        raise UsageError(f"found {members} members", "2 or more", "give more members")
    true = anomalies(model, truth)
    lmax = min(LMAX, 2 << model.zoom)
    known = [spread_and_power(true[None, :, v], lmax) for v in range(true.shape[1])]
    costs, simple, energies = [], [], []
    for choice in choices:
        log.info("samplers: %s, %d steps", choice.sampler.name, choice.sampler.steps)
        drawn, seconds = timed_draw(replace(model, latent=choice), truth, members)
        costs.append(1000 * seconds / (members * len(true)))
        fields = anomalies(model, truth, drawn)
        simple.append([_simple(fields[:, :, v], true[:, v], known[v], lmax) for v in range(true.shape[1])])
        energies.append(_energies(model, fields, true))  # (variable, block means or pixels, time)
    year = np.array([stamp.year for stamp in truth.times])
    ranked = [[rank(scores, year) for scores in kinds] for kinds in np.moveaxis(np.array(energies), 0, 2)]
    rows = tuple(
        Row(
            sampler=DISTILLED if choice.graph == DISTILLED else choice.sampler.name,
            steps=choice.sampler.steps,
            calls=denoiser_calls(choice.sampler.name, choice.sampler.steps),
            milliseconds=costs[i],
            figures=tuple(
                Figures(
                    block_energy=blocks[i],
                    pixel_energy=pixels[i],
                    crps=crps * float(scale),
                    spread=spread,
                    spectrum_median=spectrum,
                )
                for (crps, spread, spectrum), scale, (blocks, pixels) in zip(
                    simple[i], model.scale, ranked, strict=True
                )
            ),
        )
        for i, choice in enumerate(choices)
    )
    return SamplerTable(
        name=model.name,
        device=model.graphs.device,
        backend=model.graphs.backend,
        years=(int(year[0]), int(year[-1])),
        members=members,
        steps=len(true),
        block_zoom=min(BLOCK_ZOOM, model.zoom),
        lmax=lmax,
        variables=model.named_units,
        rows=rows,
        recommended=recommend(rows),
    )


def timed_draw(model: TrainedModel, truth: Period, members: int) -> tuple[F32, float]:
    """Physical fields (member, time, variable, pixel) over the steps of `truth`, and the seconds they took.

    A first window of one member is drawn and thrown away: graphs are loaded when they are first called.
    """
    draw(model, 1, truth.times[0], 1, 0)
    start = time.perf_counter()
    fields = draw(model, members, truth.times[0], len(truth.times), 0)
    return fields, time.perf_counter() - start


def spread_and_power(members: F32, lmax: int) -> tuple[float, Spectrum]:
    """Standard deviation, mean over pixels, and power at degrees 2 ... lmax of (member, time, pixel).

    Each member's own mean map is removed, and averages over members are of variances.
    """
    own = members - members.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.mean(own**2, axis=(0, 1), dtype=np.float64))
    return float(deviation.mean()), power_spectrum(own, lmax)[2:]


def _simple(members: F32, truth: F32, known: tuple[float, Spectrum], lmax: int) -> tuple[float, float, float]:
    """CRPS, ratio of the standard deviations and median of |power ratio - 1| in one variable."""
    spread, power = spread_and_power(members, lmax)
    return fair_crps(members, truth), spread / known[0], float(np.median(np.abs(power / known[1] - 1)))


def _energies(model: TrainedModel, fields: F32, true: F32) -> F64:
    """Energy scores (variable, kind, time) in physical units: of block means, then of all pixels."""
    up = max(model.zoom - BLOCK_ZOOM, 0)
    scores = [
        (
            energy_scores(coarsen(fields[:, :, v], up), coarsen(true[:, v], up)),
            energy_scores(fields[:, :, v], true[:, v]),
        )
        for v in range(true.shape[1])
    ]
    return np.array(scores) * model.scale[:, None, None]
