"""`fsae-train samplers`: what each sampler and number of steps costs and how good the ensemble is that it draws.

Every row draws the same members from the same noise, freely from the first step of the chosen years on, and is held
against the real steps of these years. They are none of the evaluation years: a sampler is chosen by them, and would
look better there than it is. That the model was trained on them matters little, as all rows share the model.
"""

import logging
import re
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.manifest import Sampler
from fsae.runtime.diffusion.sampler import denoiser_calls
from fsae.runtime.ensemble.members import LatentModel
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import read_fields
from fsae.runtime.sphere.healpix import coarsen
from fsae.training.config import DEFAULT, Config, read_config
from fsae.training.evaluation.model import Candidate, Period, Subject, anomalies, draw, of_bundle, of_run
from fsae.training.evaluation.periods import period_of, prepared_inputs
from fsae.training.evaluation.report import as_json, table
from fsae.training.fitting.run_folder import latest_run, load_run
from fsae.training.metrics.ensembles import energy_scores
from fsae.training.metrics.scores import fair_crps
from fsae.training.metrics.spectra import Spectrum, power_spectrum

DISTILLED = "fast"  # what the distilled denoiser's row is called

WITHIN = 0.02  # a default's energy scores above the best ones

NOTES = (
    "calls: of the denoiser for a window; ms: for one member and step, decoding included; energy: fair energy score, "
    "of block means on zoom {zoom} and of all pixels, root mean square distance; +: above the best row, in per cent, "
    "with the standard error from differences of whole years; CRPS: fair, pixel by pixel; spread: mean standard "
    "deviation over the truth's; spectrum: median of |power ratio - 1|, l = 2 to {lmax}."
)


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
    """What `fsae-train samplers` prints."""

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


def rank(scores: NDArray[np.float64], year: NDArray[np.int64]) -> list[Energy]:
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


def format_table(found: SamplerTable) -> str:
    """The table as Markdown, one for each variable, and the recommended row."""
    lines = [
        f"# {found.name}: samplers, {found.years[0]}-{found.years[1]}",
        "",
        f"{found.members} members of {found.steps} steps from the same noise, on {found.device} by {found.backend}.",
    ]
    header = ["", "steps", "calls", "ms", "energy", "+ %", "pixels", "+ %", "CRPS", "spread", "spectrum"]
    for v, (name, units) in enumerate(found.variables):
        cells = []
        for row in found.rows:
            figures = row.figures[v]
            cells.append(
                [
                    row.sampler,
                    str(row.steps),
                    str(row.calls),
                    f"{row.milliseconds:.1f}",
                    *_energy_cells(figures.block_energy),
                    *_energy_cells(figures.pixel_energy),
                    f"{figures.crps:.4f}",
                    f"{figures.spread:.3f}",
                    f"{figures.spectrum_median:.3f}",
                ]
            )
        lines += ["", f"## {name} [{units}]", "", *table(header, cells)]
    best = found.rows[found.recommended]
    verdict = "the fewest calls with" if best.excess <= WITHIN else "no row has"
    return "\n".join(
        [
            *lines,
            "",
            *textwrap.wrap(NOTES.format(zoom=found.block_zoom, lmax=found.lmax), 120),
            "",
            f"Recommended: {best.sampler} with {best.steps} steps, {verdict} every energy score within "
            f"{100 * WITHIN:.0f} % of the best.",
        ]
    )


def _energy_cells(energy: Energy) -> list[str]:
    error = "" if energy.excess_error is None else f" ± {100 * energy.excess_error:.1f}"
    return [f"{energy.score:.4f}", f"{100 * energy.excess:.1f}{error}"]


log = logging.getLogger("fsae.training")

STEPS = (4, 6, 8, 12, 18, 32)

SECOND_ORDER = ("dpm2m", "heun")

YEARS = 10  # the last of the training years, where none are chosen

BLOCK_ZOOM = 2  # 192 cells of some 1,600 km: what of a month's field can be told apart from noise

LMAX = 60


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A sampler to try, on the graphs whose denoiser it is for."""

    sampler: Sampler
    graphs: Graphs
    graph: str = "denoiser"  # or "fast", the distilled one


def samplers_of_model(
    model: str | None,
    *,
    members: int = 10,
    steps: Sequence[int] = STEPS,
    years: tuple[int, int] | None = None,
    data: Path | None = None,
) -> tuple[str, str]:
    """The table, and the same as JSON, of a run's folder or a bundle (default: the newest run).

    `years` are drawn, by default the last ten of the training years. A bundle, or a run that is given `data`, is shown
    the inputs of that configuration (default: the sample data).
    """
    folder = Path(model) if model is not None else latest_run()
    run = load_run(folder) if (folder / "config.json").exists() else None
    candidate = of_bundle(str(folder)) if run is None else of_run(run)
    if run is not None and data is None:
        found = _table_of(candidate, run.config, run.fields, members, steps, years)
        return format_table(found), as_json(found)
    config = read_config(data or DEFAULT)
    with tempfile.TemporaryDirectory() as scratch:
        store = prepared_inputs(candidate, config, data or DEFAULT, Path(scratch))
        found = _table_of(candidate, config, store, members, steps, years)
    return format_table(found), as_json(found)


def year_range(text: str) -> tuple[int, int]:
    """First and last year of a text.

    >>> year_range("1995-2004")
    (1995, 2004)
    """
    found = re.fullmatch(r"(\d{4})-(\d{4})", text)
    if found is None or found[1] > found[2]:
        raise UsageError(f"found the years {text!r}, expected a first and a last one such as 1995-2004")
    return int(found[1]), int(found[2])


def step_counts(text: str) -> tuple[int, ...]:
    """Numbers of steps of a text.

    >>> step_counts("4,8,32")
    (4, 8, 32)
    """
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UsageError(f"found the steps {text!r}, expected numbers of 1 or more such as 4,8,32")
    return tuple(int(part) for part in text.split(","))


def years_to_use(config: Config, years: tuple[int, int] | None) -> tuple[int, int]:
    """`years`, or the last ten training years without any; UsageError where they touch the evaluation years."""
    first, last = config.data.training_years
    chosen = years or (max(first, last - YEARS + 1), last)
    low, high = config.data.evaluation_years
    if chosen[0] <= high and low <= chosen[1]:
        raise UsageError(
            f"found the years {chosen[0]}-{chosen[1]}, expected years outside the evaluation years {low}-{high}: a "
            "sampler that is chosen on them would look better there than it is"
        )
    return chosen


def choices_of(candidate: Candidate, steps: Sequence[int]) -> list[Choice]:
    """Every sampler of second order with each number of steps, between the noise levels of the model's own.

    Then the distilled denoiser, where the model has one.
    """
    if candidate.latent is None:
        raise DataError("found a model without a denoiser, expected one that generates")
    own = candidate.latent.sampler
    choices = [
        Choice(sampler=replace(own, name=name, steps=count), graphs=candidate.graphs)
        for name in SECOND_ORDER
        for count in steps
    ]
    if candidate.fast is not None:
        choices.append(Choice(sampler=candidate.fast, graphs=candidate.graphs, graph="fast"))
    return choices


def _table_of(
    candidate: Candidate, config: Config, store: Path, members: int, steps: Sequence[int], years: tuple[int, int] | None
) -> SamplerTable:
    """The table from prepared fields."""
    chosen = years_to_use(config, years)
    zoom = candidate.subject.zooms[-1]
    fields = read_fields(store, candidate.variables, zoom=zoom, finest_zoom=zoom)
    try:
        truth = period_of(fields, chosen)
    finally:
        fields.close()
    return compare_samplers(candidate, choices_of(candidate, steps), truth, members)


def compare_samplers(candidate: Candidate, choices: Sequence[Choice], truth: Period, members: int) -> SamplerTable:
    """Rows of `choices`, of ensembles over the steps of `truth`, and the one to recommend."""
    subject, latent = candidate.subject, candidate.latent
    if latent is None or members < 2:
        raise UsageError(f"found {members} members of {subject.name}, expected 2 or more of a model that generates")
    true = anomalies(subject, truth)
    lmax = min(LMAX, 2 << subject.zooms[-1])
    known = [departures(true[None, :, v], lmax) for v in range(true.shape[1])]
    costs, simple, energies = [], [], []
    for choice in choices:
        log.info("samplers: %s, %d steps", choice.sampler.name, choice.sampler.steps)
        drawn, seconds = timed_draw(candidate, latent, choice, truth, members)
        costs.append(1000 * seconds / (members * len(true)))
        fields = anomalies(subject, truth, drawn)
        simple.append([_simple(fields[:, :, v], true[:, v], known[v], lmax) for v in range(true.shape[1])])
        energies.append(_energies(subject, fields, true))  # (variable, block means or pixels, time)
    year = np.array([stamp.year for stamp in truth.times])
    ranked = [[rank(scores, year) for scores in kinds] for kinds in np.moveaxis(np.array(energies), 0, 2)]
    rows = tuple(
        Row(
            sampler=DISTILLED if choice.graph == "fast" else choice.sampler.name,
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
                    simple[i], subject.scale, ranked, strict=True
                )
            ),
        )
        for i, choice in enumerate(choices)
    )
    return SamplerTable(
        name=subject.name,
        device=candidate.graphs.device,
        backend=candidate.graphs.backend,
        years=(int(year[0]), int(year[-1])),
        members=members,
        steps=len(true),
        block_zoom=min(BLOCK_ZOOM, subject.zooms[-1]),
        lmax=lmax,
        variables=subject.variables,
        rows=rows,
        recommended=recommend(rows),
    )


def timed_draw(
    candidate: Candidate, latent: LatentModel, choice: Choice, truth: Period, members: int
) -> tuple[F32, float]:
    """Physical fields (member, time, variable, pixel) over the steps of `truth`, and the seconds they took.

    A first window of one member is drawn and thrown away: graphs are loaded when they are first called.
    """
    model = replace(latent, sampler=choice.sampler, graph=choice.graph)
    chosen = replace(candidate, latent=model, graphs=choice.graphs)
    draw(chosen, 1, truth.times[0], 1, 0)
    start = time.perf_counter()
    whole = draw(chosen, members, truth.times[0], len(truth.times), 0)
    return whole, time.perf_counter() - start


def departures(members: F32, lmax: int) -> tuple[float, Spectrum]:
    """Standard deviation, mean over pixels, and power at degrees 2 ... lmax of (member, time, pixel).

    Each member's own mean map is removed, and averages over members are of variances.
    """
    own = members - members.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.mean(own**2, axis=(0, 1), dtype=np.float64))
    return float(deviation.mean()), power_spectrum(own, lmax)[2:]


def _simple(members: F32, truth: F32, known: tuple[float, Spectrum], lmax: int) -> tuple[float, float, float]:
    """CRPS, ratio of the standard deviations and median of |power ratio - 1| in one variable."""
    spread, power = departures(members, lmax)
    return fair_crps(members, truth), spread / known[0], float(np.median(np.abs(power / known[1] - 1)))


def _energies(subject: Subject, fields: F32, true: F32) -> NDArray[np.float64]:
    """Energy scores (variable, kind, time) in physical units: of block means, then of all pixels."""
    up = max(subject.zooms[-1] - BLOCK_ZOOM, 0)
    scores = [
        (
            energy_scores(coarsen(fields[:, :, v], up), coarsen(true[:, v], up)),
            energy_scores(fields[:, :, v], true[:, v]),
        )
        for v in range(true.shape[1])
    ]
    return np.array(scores) * subject.scale[:, None, None]
