"""The sections of a report: what each says, its pictures, its tables, and the command that makes what it lacks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fsae.training.evaluation.reconstruction import MODEL
from fsae.training.evaluation.report import GENERATED
from fsae.training.evaluation.tables import (
    CARD_CHECKS,
    CARD_RECONSTRUCTION,
    Column,
    Filled,
    Table,
    card_superresolution,
    climate_tables,
    columns,
)

from . import curves, forecasts, maps
from .drawing import Picture, panels
from .maps import draw_maps, map_size
from .results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF_ENSEMBLE = ("generated", "real", "bias", "spread", "error", "member_std", "std", "power", "ranks")
OWN_ROWS = (GENERATED, MODEL)  # emphasised
RATE = Table(
    (
        Column("float32 / stored", lambda row: row[0], ".1f"),
        Column("bits per value", lambda row: row[3], ".3g"),
        Column("RMSE", lambda row: row[1], ".3g"),
        Column("largest error", lambda row: row[2], ".3g"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page: `missing` says which command makes what it lacks."""

    title: str
    text: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Filled] = ()
    missing: str = ""


def sections(found: Results, run: str) -> Iterator[Section]:
    """The sections of one variable; `run` is the folder as commands name it."""
    yield from _overview(found, run)
    yield _reconstruction(found, run)
    yield _rate(found, run)
    if found.figures["superresolution"]:
        yield _superresolution(found)
    if found.climate:
        yield from _ensemble(found, run)
        yield _forecasts(found, run)
    yield Section(
        title="Figures with a tolerance",
        text="A tolerance is the range of real stretches of the training years, or a named one if that is wider.",
        tables=[Filled(heading="Tolerances", table=CARD_CHECKS, rows=found.figures["checks"])],
    )


def pictures(found: Results) -> dict[str, Callable[[], Picture]]:
    """What makes each picture that a variable has the numbers for, by its name."""
    made: dict[str, Callable[[], Picture]] = {}
    if found.climate and found.has(*OF_ENSEMBLE):
        made["overview"] = lambda: overview(found)
        made |= {"climate": lambda: maps.bias_and_variability(found), "spread": lambda: maps.spread_and_error(found)}
        made |= {"spectrum": lambda: curves.spectrum(found), "ranks": lambda: curves.ranks(found)}
    if found.climate:
        made["memory"] = lambda: curves.memory(found)
    if found.has("rebuilt_error"):
        made["rebuilt"] = lambda: maps.rebuilt(found)
    if found.has("rate"):
        made["rate"] = lambda: curves.rate_distortion(found)
    if found.figures["superresolution"]:
        made["superresolution"] = lambda: curves.superresolution(found)
    if (hindcast := found.hindcast) is not None:
        made["reliability"] = lambda: forecasts.reliability(found, hindcast)
        made["forecast-ranks"] = lambda: forecasts.forecast_ranks(found, hindcast)
    return made


def _shown(found: Results, *names: str) -> list[Picture]:
    """The pictures of those names that there are."""
    there = pictures(found)
    return [there[name]() for name in names if name in there]


def _lacks(names: Sequence[Picture], command: str, run: str) -> str:
    return "" if names else f"The numbers of this picture are missing: `fsae-train {command} {run}` makes them."


def overview(found: Results) -> Picture:
    """A generated and a real field, the spectrum beside real stretches and, if there is a codec, its rate and error."""
    top = map_size(2)[1]
    rate = found.has("rate")
    last = " and errors of the archive codec by its ratio" if rate else ""
    return Picture(
        name="overview",
        caption=f"Top: {found.name} of {found.middle} as departure from the climatology of {found.training}, of a "
        f"generated member (seed {found.seed}) and of the real fields; they are not meant to agree, a member is no "
        f"forecast. Below: angular power of {found.members} generated members over that of the real "
        f"{found.evaluation}, beside the range of real stretches of {found.decade}{last}.",
        alt=f"Two world maps of {found.name}, generated and real, look alike in kind; below, power of generated fields "
        f"over real ones by degree{last}.",
        height=top + 2.9,
        draw=lambda figure: _draw_overview(figure, found, top),
    )


def _draw_overview(figure: "Figure", found: Results, top: float) -> None:
    draw_maps(figure, maps.months(found), found.zoom)
    axes = panels(figure, 2 if found.has("rate") else 1, top=top)
    curves.draw_power(axes[0], found, found.arrays["power"])
    axes[0].set(title="angular power over the real one", ylabel="ratio", ylim=(0, 1.8))
    axes[0].legend(loc="lower left", fontsize=7.0)
    if found.has("rate"):
        curves.draw_rate(axes[1], found, largest=False)
        axes[1].set_title("rate and error")
        axes[1].legend(loc="lower right", fontsize=7.0)


def _overview(found: Results, run: str) -> Iterator[Section]:
    if not found.climate:
        return
    checks: Sequence[Any] = found.figures["checks"]
    failed = [check["name"] for check in checks if not check["passed"]]
    text = f"{len(checks) - len(failed)} of {len(checks)} figures keep their tolerance."
    text += f" Not kept: {'; '.join(failed)}." if failed else ""
    there = _shown(found, "overview")
    yield Section(title="At a glance", text=text, pictures=there, missing=_lacks(there, "evaluate", run))


def _reconstruction(found: Results, run: str) -> Section:
    there = _shown(found, "rebuilt")
    ratio = 4 ** (found.zoom - found.latent_zoom)
    return Section(
        title="Reconstruction",
        text=f"Fields of {found.evaluation} encoded to {ratio} times fewer numbers and decoded, beside other codes of "
        f"as many numbers; everything is fitted to {found.training}. RMSE in {found.units}.",
        pictures=there,
        tables=[_filled(CARD_RECONSTRUCTION, found.figures["reconstruction"], "Reconstruction")],
        missing=_lacks(there, "evaluate", run),
    )


def _rate(found: Results, run: str) -> Section:
    there = _shown(found, "rate")
    table = [_filled(RATE, found.arrays["rate"].tolist(), f"Archive codec, errors in {found.units}")] if there else []
    missing = (
        ""
        if there
        else (
            "The run has no archive codec, or was evaluated before it had one: `fsae-train codec` with its "
            f"configuration, then `fsae-train evaluate {run}` make the numbers."
        )
    )
    return Section(
        title="Rate and distortion",
        text="What the archive codec of `fsae-run compress` loses at each size, all bytes of its chunks counted.",
        pictures=there,
        tables=table,
        missing=missing,
    )


def _superresolution(found: Results) -> Section:
    tables: Sequence[Any] = found.figures["superresolution"]
    return Section(
        title="Super-resolution",
        text=f"Fields of {found.evaluation} rebuilt from their block means at a coarser zoom. RMSE in {found.units}.",
        pictures=_shown(found, "superresolution"),
        tables=[
            _filled(card_superresolution(one["zoom"]), one["rows"], f"Super-resolution from zoom {one['zoom']}")
            for one in tables
        ],
    )


def _ensemble(found: Results, run: str) -> Iterator[Section]:
    """Mean and variability, spectra, memory, and the members beside the truth."""
    if found.stretches is None:
        return
    mean, memory, autocorrelation, distribution, scores = climate_tables(found.climate, found.stretches, found.step)
    parts = (
        ("Mean and variability", f"The generated climate beside the real {found.evaluation}.", ("climate",), (mean,)),
        ("Spectra", "Power at each degree, beside what real stretches of the same length have.", ("spectrum",), ()),
        ("Memory", "How long departures of regional means last.", ("memory",), (memory, autocorrelation)),
        (
            "Members beside the truth",
            "The generated members as an ensemble: their spread, the ranks of the truth among them, their distribution "
            "at each cell, and how far they are from the nearest training field.",
            ("spread", "ranks"),
            (scores, distribution),
        ),
    )
    for title, text, names, tables in parts:
        there = _shown(found, *names)
        lacks = _lacks(there, "evaluate", run)
        yield Section(title=title, text=text, pictures=there, tables=tables, missing=lacks)


def _forecasts(found: Results, run: str) -> Section:
    there = _shown(found, "reliability", "forecast-ranks")
    hindcast = found.hindcast
    return Section(
        title="Reliability of forecasts",
        text="Ensembles that start from known states: do their spread and their ranks tell how far to trust them?",
        pictures=there,
        tables=[] if hindcast is None else [_lead_table(found, forecasts.model_scores(hindcast))],
        missing=_lacks(there, "hindcast", run),
    )


def _lead_table(found: Results, row: Any) -> Filled:
    names = {
        f"CRPS [{found.units}]": "crps",
        f"RMSE of the ensemble mean [{found.units}]": "rmse",
        f"spread [{found.units}]": "spread",
        "spread / RMSE": "spread_skill",
        "correlation of the ensemble mean": "correlation",
    }
    rows = [
        {"name": name, "values": [None if value is None or math.isnan(value) else value for value in row[key]]}
        for name, key in names.items()
    ]
    table = Table((Column("lead", "name"), *columns(range(1, len(row["crps"]) + 1), "values", ".3f")))
    return _filled(table, rows, "Forecasts of the model, over the globe")


def _filled(table: Table, rows: Sequence[object], heading: str) -> Filled:
    return Filled(heading=heading, table=table, rows=rows)
