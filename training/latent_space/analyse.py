"""`fsae-train analyse`: season, warming and eruptions in the compressed space, with pictures of it.

Every test is made on the monthly latents as the encoder makes them and, beside them, on block means of the same
anomalies at the latent's zoom, which are equally many numbers. The encoder sees fields without their climatology, if
the run removes it: what is left of the season is then in the spread of the anomalies, not in their position. So season
is tested once more with block means of the climatology put back.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F64, Ints
from fsae.runtime.climate import climatology
from fsae.runtime.errors import DataError, OutputError
from fsae.runtime.progress import progress_bar
from fsae.runtime.sphere.healpix import coarsen, pixel_centres, zoom_of
from fsae.training.config import days_of
from fsae.training.data.normalisation import normalise, transforms_of
from fsae.training.data.prepared import encode_series, part_of, read_prepared
from fsae.training.evaluation.tables import Column, Table
from fsae.training.fitting.run_folder import Run, latest_run, load_run, read_record, write_record

from .pictures import Cloud, check_pictures, draw_pictures
from .structure import (
    EL_NINO_LAG,
    ERUPTIONS,
    MODES,
    WINDOW,
    WINDOW_MODES,
    Season,
    Warming,
    Warmth,
    Window,
    annual_means,
    eruption_windows,
    month_name,
    season_of,
    warming_of,
    whole_years,
)

log = logging.getLogger("fsae.training")
RECORD = "analysis.json"
BATCH = 32  # months encoded at once
LEAST_YEARS = 10
YES, PARTLY = 0.5, 0.1  # skills, from 0 (chance, or the mean) to 1 (perfect), from which an answer is given
RARE = 5.0  # [%] of cases in which chance alone may make an eruption stand out

# Oceanic Nino Index of 1.5 K or more (NOAA CPC), here from July of the year to June of the next.
STRONG_EL_NINO = (1957, 1965, 1972, 1982, 1987, 1991, 1997, 2009, 2015, 2023)


@dataclass(frozen=True, kw_only=True)
class Months:
    """All months of the training and evaluation years; arrays are (time, number) in normalised units.

    `cycle` are block means of the climatology about its yearly mean; `means` (time, variable) those of the latents.
    """

    index: Ints  # 12 * year + month - 1
    latents: F64
    blocks: F64
    cycle: F64
    means: F64
    warmth: Warmth | None  # of the first variable in kelvin; None if there is none


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The report of `fsae-train analyse`."""

    name: str
    period: tuple[str, str]
    months: int
    numbers: int  # in each latent
    season: tuple[Season, ...]
    warming: tuple[Warming, ...]
    windows: tuple[Window, ...]


def analyse_run(folder: Path | None, out: Path | None, *, seed: int = 0, progress: bool = False) -> str:
    """The tables on the run in `folder` (default: the newest); writes pictures and analysis.json into `out`.

    `out` is by default the folder `analysis` of the run. DataError if its data is not monthly or too short, OutputError
    or UsageError if there are files in `out` that are not ours.
    """
    run = load_run(folder or latest_run())
    out = out or run.path / "analysis"
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise OutputError(f"{out} holds something else than an analysis", advice="give an empty folder, or a new one")
    if (out / RECORD).exists():
        read_record(out / RECORD, Analysis)
        check_pictures(out)
    months = read_months(run, progress=progress)
    log.info("season, warming, eruptions")
    analysis = analyse(run.path.name, months)
    out.mkdir(parents=True, exist_ok=True)
    log.info("pictures")
    draw_pictures(run.path.name, *clouds(months), out, seed=seed)
    write_record(out / RECORD, analysis)
    return format_analysis(analysis) + f"\nPictures and analysis.json are in {out}.\n"


def read_months(run: Run, *, progress: bool) -> Months:
    """The months of a run, encoded."""
    config = run.config
    fields = read_prepared(config, run.path)
    try:
        if fields.step != "1 month":
            raise DataError(
                f"found data in steps of {fields.step}",
                "1 month, as the analysis is of monthly data",
                "average it first, for example with `cdo monmean IN OUT`",
            )
        periods = sorted((config.data.training_years, config.data.evaluation_years), key=days_of)
        parts = [part for years in periods for part in in_parts(part_of(fields, years))]
        season = climatology.season(fields.phase, config.data.harmonics)
        transforms = transforms_of(config.data)
        finer = config.autoencoder.zoom - config.autoencoder.latent_zoom
        thermometer = next((v for v, variable in enumerate(config.data.variables) if variable.units == "K"), None)
        index, latents, blocks, cycle, temperature = [], [], [], [], []
        with progress_bar("encode", "steps", shown=progress) as moved:
            for done, part in enumerate(parts):
                values, when = fields.read(part)[0], season[part]
                anomalies = normalise(values, when, run.statistics, transforms)
                about_mean = normalise(values, np.zeros_like(when), run.statistics, transforms)
                index += [12 * time.year + time.month - 1 for time in fields.times[part]]
                latents.append(encode_series(run.autoencoder, anomalies, when).astype(np.float64))
                blocks.append(coarsen(anomalies.astype(np.float64), finer))
                cycle.append(coarsen((about_mean - anomalies).astype(np.float64), finer))
                if thermometer is not None:
                    temperature.append(temperatures(values[:, thermometer].astype(np.float64)))
                moved(done + 1, len(parts))
    finally:
        fields.close()
    latent = np.concatenate(latents)
    warmth = None
    if thermometer is not None:
        global_mean, el_nino = np.concatenate(temperature, axis=1)
        warmth = Warmth(
            latent_mean=latent[:, thermometer].mean(axis=-1),
            global_mean=global_mean,
            el_nino=el_nino if np.isfinite(el_nino).all() else None,
        )
    return Months(
        index=np.array(index),
        latents=latent.reshape(len(index), -1),
        blocks=np.concatenate(blocks).reshape(len(index), -1),
        cycle=np.concatenate(cycle).reshape(len(index), -1),
        means=latent.mean(axis=-1),
        warmth=warmth,
    )


def in_parts(steps: slice) -> list[slice]:
    """`steps` in parts of at most `BATCH`.

    >>> in_parts(slice(10, 50))
    [slice(10, 42, None), slice(42, 50, None)]
    """
    return [slice(first, min(first + BATCH, steps.stop)) for first in range(steps.start, steps.stop, BATCH)]


def temperatures(field: F64) -> F64:
    """Global mean and Nino 3.4 (2, time) of (time, pixel); NaN for the second if no pixel centre lies in the box."""
    lat_deg, lon_deg = pixel_centres(zoom_of(field.shape[-1]))
    box = (np.abs(lat_deg) <= 5) & (lon_deg >= 190) & (lon_deg <= 240)
    el_nino = field[:, box].mean(axis=-1) if box.any() else np.full(len(field), np.nan)
    return np.stack([field.mean(axis=-1), el_nino])


def analyse(name: str, months: Months) -> Analysis:
    """All figures; DataError if there are fewer than ten whole years."""
    index, whole = months.index, whole_years(months.index)
    if len(whole) < LEAST_YEARS:
        raise DataError(
            f"found {len(whole)} whole years", f"at least {LEAST_YEARS}", "take more years, as some must be left out"
        )
    spaces = {"latents": months.latents, "block means": months.blocks}
    averages = {**spaces, "global mean alone": months.means}
    if months.cycle.any():
        spaces |= {f"{space} + climatology": values + months.cycle for space, values in spaces.items()}
    return Analysis(
        name=name,
        period=(month_name(int(index[0])), month_name(int(index[-1]))),
        months=len(index),
        numbers=months.latents.shape[1],
        season=tuple(season_of(space, values, index) for space, values in spaces.items()),
        warming=tuple(warming_of(space, annual_means(v, index), whole) for space, v in averages.items()),
        windows=tuple(eruption_windows(months.latents, months.blocks, months.warmth, index)),
    )


def clouds(months: Months) -> tuple[Cloud, Cloud | None, Cloud]:
    """The clouds of points to draw: the months, the months with the climatology put back, and annual means."""
    index = months.index
    warm = {"strong El Niño": np.isin((index - 6) // 12, STRONG_EL_NINO)}  # July to June
    marks = {}
    for name, year, month in ERUPTIONS:
        first = 12 * year + month
        marks[f"{name} {year}, two years after"] = (index >= first) & (index < first + 2 * WINDOW)
    monthly = Cloud(
        title="months, climatology removed" if months.cycle.any() else "months",
        points=months.latents,
        month=index % 12,
        year=index / 12,
        marks=marks,
        rings=warm,
    )
    whole = None
    if months.cycle.any():
        whole = replace(monthly, title="months, climatology put back", points=months.latents + months.cycle)
    years = whole_years(index)
    return (
        monthly,
        whole,
        Cloud(
            title="annual means",
            points=annual_means(months.latents, index),
            month=years[:0],
            year=years.astype(np.float64),
            marks={name: mostly(inside, index) for name, inside in marks.items()},
            rings={name: mostly(inside, index) for name, inside in warm.items()},
            labels=tuple(f"{year % 100:02d}" for year in years),
        ),
    )


def mostly(inside: NDArray[np.bool_], index: Ints) -> NDArray[np.bool_]:
    """True for each whole year with at least half of its months inside."""
    return np.asarray(annual_means(inside.astype(np.float64), index) >= 0.5)


class Answer(NamedTuple):
    """A row of the first table."""

    question: str
    answer: str
    evidence: str


QUESTIONS = Table(
    (Column("question", "question"), Column("answer", "answer"), Column("evidence", "evidence")),
    f"Season, warming: yes from a skill of {YES}, partly from {PARTLY}; 0 is chance or the mean year, 1 perfect.",
)

SEASON = Table(
    (
        Column("", "space"),
        Column("classes", "classes"),
        Column("linear", "linear", ".0%"),
        Column("nearest", "nearest", ".0%"),
        Column("quadratic", "quadratic", ".0%"),
        Column("chance", "chance", ".0%"),
        Column("silhouette", "silhouette", "+.2f"),
    ),
    "linear: by class means; nearest: the class of the nearest month; quadratic: by a mean and a covariance of each "
    f"class; all on the leading {MODES} principal components. If the climatology is removed, what is left of class "
    "means has the opposite sign in the years left out, which puts linear below chance.",
)

WARMING = Table(
    (
        Column("", "space"),
        Column("numbers", "numbers"),
        Column("rank corr. of PC 1", "rank", ".2f"),
        Column("R² of ridge", "r2", ".2f"),
        Column("rank corr. of ridge", "predicted_rank", ".2f"),
    )
)


def _percent(title: str, figure: str) -> Column:
    """A column of percentiles [%] that may be missing."""
    return Column(title, lambda row: None if (value := getattr(row, figure)) is None else f"{value:.0f} %")


WINDOWS = (
    Column("", "eruption"),
    Column("months", "period"),
    _percent("departure", "departure"),
    _percent("of blocks", "block_departure"),
    _percent("colder", "colder"),
    Column("global mean", "global_mean", "+.2f"),
    Column("Niño 3.4", "el_nino", "+.2f"),
    _percent("colder without", "colder_without_el_nino"),
)


def format_analysis(analysis: Analysis) -> str:
    """The tables as Markdown, the answers first."""
    seasons = [_shares(row, place, classes) for place, classes in enumerate((4, 12)) for row in analysis.season]
    lines = [
        f"# {analysis.name}: compressed space, {analysis.period[0]} to {analysis.period[1]}",
        "",
        f"{analysis.months} months; latents of {analysis.numbers} numbers beside block means of the same anomalies.",
        "",
        *QUESTIONS.lines(answers(analysis)),
        *SEASON.lines(seasons, "## Season: shares of months put right, blocks of years left out"),
        *WARMING.lines(analysis.warming, "## Warming: annual means and their year"),
    ]
    if analysis.windows:
        note = (
            f"departure: share of windows nearer to the mean one (Mahalanobis, {WINDOW_MODES} principal components); "
            "of blocks: the same in block means; colder: share of windows with a warmer mean latent; means in kelvin. "
            "Season and a cubic trend are removed. El Niño warms the globe and hides cooling, above all after El "
            f"Chichón; colder without: its regression on Niño 3.4 {EL_NINO_LAG} months before is removed as well. An "
            "eruption stands out if departure or colder of one of its two years reaches "
            f"{threshold(analysis.windows[0]):.4g} %: by chance alone at most {RARE:.0f} % of eruptions would."
        )
        lines += Table(WINDOWS, note).lines(
            analysis.windows, "## Eruptions: twelve months beside all other windows of twelve months"
        )
    return "\n".join(lines) + "\n"


def _shares(row: Season, place: int, classes: int) -> dict[str, object]:
    """A row of the table of seasons: the scores of four or of twelve classes."""
    return {
        "space": row.space,
        "classes": classes,
        "linear": row.linear[place],
        "nearest": row.nearest[place],
        "quadratic": row.quadratic[place],
        "chance": 1 / classes,
        "silhouette": row.silhouette[place],
    }


def answers(analysis: Analysis) -> list[Answer]:
    """The rows of the first table."""
    rows = []
    for season in analysis.season:
        if season.space.startswith("latents"):
            for what, (share, _) in (("position (linear)", season.linear), ("spread (quadratic)", season.quadratic)):
                answer = degree((share - 1 / 4) / (1 - 1 / 4))
                evidence = f"{100 * share:.0f} % right, chance 25 %"
                rows.append(Answer(f"Does season show in the {what} of {season.space}?", answer, evidence))
    own, *_, alone = analysis.warming
    evidence = f"R² {own.r2:.2f}, global mean alone {alone.r2:.2f}"
    rows.append(Answer("Does warming order the years?", degree(own.r2), evidence))
    for eruption in dict.fromkeys(window.eruption for window in analysis.windows):
        windows = [window for window in analysis.windows if window.eruption == eruption]
        found = [(value, name, window.period) for window in windows for name, value in tested(window).items()]
        highest, name, period = max(found, key=lambda one: one[0])
        answer = "yes" if highest >= threshold(windows[0]) else "no"
        rows.append(Answer(f"Does {eruption} stand out?", answer, f"{name} than {highest:.1f} % of windows, {period}"))
    return rows


def degree(skill: float) -> str:
    """The answer that a skill, 0 for chance and 1 for perfect, gives.

    >>> [degree(skill) for skill in (-0.1, 0.2, 0.8)]
    ['no', 'partly', 'yes']
    """
    return "yes" if skill >= YES else "partly" if skill >= PARTLY else "no"


def tested(window: Window) -> dict[str, float]:
    """The percentiles that the answer rests on."""
    found = {"colder": window.colder, "further out": window.departure}
    return {name: value for name, value in found.items() if value is not None}


def threshold(window: Window) -> float:
    """Percentile that one of those of an eruption's two years exceeds by chance in at most `RARE` % (Bonferroni)."""
    return 100 - RARE / (2 * len(tested(window)))
