"""Pictures of forecasts from known states: their error and spread by lead, how well one tells the other, and ranks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .curves import draw_ranks
from .drawing import OTHER, OWN, REAL, Picture, panels
from .results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GLOBE = "global"
GREYS = ("0.25", "0.45", "0.6", "0.72", "0.8")
DASHES = ("-", "--", ":", "-.", (0, (1, 1)))


def model_scores(hindcast: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scores of the model over the globe."""
    found: Mapping[str, Any] = next(row for row in hindcast["scores"] if row["domain"] == GLOBE)
    return found


def reliability(found: Results, hindcast: Mapping[str, Any]) -> Picture:
    """CRPS beside simple forecasts, spread beside error, and both in classes of spread."""
    ratio = model_scores(hindcast)["spread_skill"]
    return Picture(
        name="reliability",
        caption=f"Forecasts of {found.name} from the states of the months before, {found.forecasts}, over the globe. "
        f"Left: fair CRPS by lead in steps of {found.step}, beside simple forecasts that know as much. Middle: spread "
        "of the members and error of their mean. Right: the same in ten classes of cells by the spread of each "
        f"forecast; on the diagonal the spread tells how large errors are. Spread / error is {ratio[0]:.2f} at lead 1 "
        f"and {ratio[-1]:.2f} at lead {len(ratio)}, with the factor for the number of members.",
        alt=f"Three charts of forecasts of {found.name}: CRPS by lead, spread and error by lead, spread against error; "
        f"spread over error is {ratio[0]:.2f} at lead 1 and {ratio[-1]:.2f} at lead {len(ratio)}.",
        height=3.6,
        draw=lambda figure: _draw_reliability(figure, hindcast, found.units),
    )


def _draw_reliability(figure: "Figure", hindcast: Mapping[str, Any], units: str) -> None:
    left, middle, right = panels(figure, 3, top=0.0)
    rows = [row for row in hindcast["scores"] if row["domain"] == GLOBE]
    leads = np.arange(1, len(rows[0]["crps"]) + 1)
    for place, row in enumerate(rows[1:]):
        colour, dashes = GREYS[place % len(GREYS)], DASHES[place % len(DASHES)]
        left.plot(leads, row["crps"], color=colour, linestyle=dashes, linewidth=1.0, label=row["name"])
    left.plot(leads, rows[0]["crps"], color=OWN, marker="o", markersize=3, label="model")
    left.set(title="CRPS", ylabel=f"CRPS [{units}]")
    low = min(min(row["crps"]) for row in rows)
    high = max(max(row["crps"]) for row in rows)
    left.set_ylim(low - 0.06 * (high - low), high + 0.75 * (high - low))
    left.legend(loc="upper left", fontsize=6.3, handlelength=1.6, labelspacing=0.3)
    middle.plot(leads, rows[0]["rmse"], color=REAL, marker="o", markersize=3, label="error of the mean")
    middle.plot(leads, rows[0]["spread"], color=OWN, marker="o", markersize=3, label="spread")
    middle.set(title="spread and error", ylabel=f"[{units}]", ylim=(0, 1.35 * max(rows[0]["rmse"])))
    middle.legend(loc="lower right")
    for axes in (left, middle):
        axes.set(xlabel="lead", xticks=leads)
    own = hindcast["classes"][0]
    top = 1.08 * max(max(max(values) for values in own[name]) for name in ("spread", "rmse"))
    right.plot([0, top], [0, top], color="0.5", linewidth=0.7)
    for lead, colour in ((0, OWN), (len(leads) - 1, OTHER)):
        label = f"lead {lead + 1}"
        right.plot(own["spread"][lead], own["rmse"][lead], "o-", color=colour, markersize=3, linewidth=1.0, label=label)
    right.set(
        title="classes of spread", xlabel=f"spread [{units}]", ylabel=f"RMSE [{units}]", xlim=(0, top), ylim=(0, top)
    )
    right.legend(loc="upper left")


def forecast_ranks(found: Results, hindcast: Mapping[str, Any]) -> Picture:
    """Rank histograms of the truth among the members of forecasts, at three leads."""
    counts = np.array(hindcast["ranks"][0]["counts"])  # (lead, rank)
    leads = sorted({0, len(counts) // 2, len(counts) - 1})
    shown = {f"lead {lead + 1}": counts[lead] for lead in leads}
    outside = hindcast["ranks"][0]["outer_share"]
    return Picture(
        name="forecast-ranks",
        caption=f"How often the real {found.name} has each rank among the members of a forecast, over what a flat "
        f"histogram has: {found.forecasts}, at one cell in each of zoom 2. Outside of all members: {outside[0]:.2f} "
        f"times as often as if flat at lead 1, {outside[-1]:.2f} at lead {len(counts)}; above 1 the ensemble is too "
        "narrow.",
        alt=f"Rank histograms of forecasts at {', '.join(shown)}.",
        height=2.3,
        draw=lambda figure: draw_ranks(figure, shown, columns=3),
    )
