"""Curves of a report: spectra, rate and distortion, memory, errors of super-resolution, ranks of the truth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.pictures.panels import squared
from fsae.runtime.sphere.healpix import npix
from fsae.training.evaluation.reconstruction import LOCALISED, MODEL

from .drawing import BAND, OTHER, OWN, REAL, Picture, panels
from .results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATE = 4  # columns of VARIABLE.rate: ratio, RMSE, largest error, bits per value
NEAR = 0.2  # of the power ratio, which a tolerance counts


def spectrum(found: Results) -> Picture:
    """The power of generated and real fields at each degree, beside the range of real stretches."""
    count = 0 if found.stretches is None else found.stretches.count
    within = f"{100 * found.climate[0].within_20:.0f} %"
    return Picture(
        name="spectrum",
        caption=f"Angular power of {found.name} at degrees l = 2 … {len(found.arrays['power']) + 1}, members' own "
        f"means removed: {found.members} generated members (seed {found.seed}), the real {found.evaluation}, the same "
        f"after encoding and decoding, and the range of {count} real stretches of {found.decade} in {found.training}. "
        f"{within} of the degrees are within 20 % (dotted) of the real power. Left: in {_power(found)}; right: over "
        "the real power.",
        alt=f"Two line charts of angular power over degree: generated fields beside real ones and the range of {count} "
        f"real stretches; {within} of the degrees are within 20 % of the real power.",
        height=3.0,
        draw=lambda figure: _draw_spectrum(figure, found),
    )


def _power(found: Results) -> str:
    return "K²" if found.units == "K" else squared(found.units)


def _draw_spectrum(figure: "Figure", found: Results) -> None:
    absolute, relative = panels(figure, 2)
    real = found.arrays["power"]
    absolute.set_yscale("log")
    for axes, over in ((absolute, np.ones_like(real)), (relative, real)):
        draw_power(axes, found, over)
    absolute.set(title="angular power", ylabel=f"power C_l [{_power(found)}]")
    absolute.legend(loc="lower left")
    relative.set(title="over the real power", ylabel="ratio", ylim=(0.5, 1.6))


def draw_power(axes: "Axes", found: Results, over: F64) -> None:
    """Draw the spectra divided by a power `over` (l,), and the range of real stretches."""
    real, span = found.arrays["power"], found.stretches
    degree = np.arange(2, real.size + 2)
    rows = {row.name: np.array(row.spectrum_ratio) * real for row in found.climate}
    if span is not None and span.power_low:
        low, high = np.array(span.power_low) / over, np.array(span.power_high) / over
        label = f"{span.count} real stretches of {found.training}"
        axes.fill_between(degree, low, high, color=BAND, linewidth=0, label=label)
    axes.plot(degree, real / over, color=REAL, linewidth=1.1, label=f"real, {found.evaluation}")
    if "truth, reconstructed" in rows:
        rebuilt = rows["truth, reconstructed"] / over
        axes.plot(degree, rebuilt, color=OTHER, linewidth=1.0, linestyle="--", label="the same, encoded and decoded")
    axes.plot(degree, rows[found.climate[0].name] / over, color=OWN, label=f"generated, {found.members} members")
    if over is real:
        for limit in (1 - NEAR, 1 + NEAR):
            axes.axhline(limit, color="0.5", linewidth=0.7, linestyle=":")
    axes.set(xscale="log", xlabel="degree l", xlim=(2, degree[-1]))
    ticks = [tick for tick in (2, 5, 10, 20, 50, 100, 200, 500) if tick <= degree[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()


def rate_distortion(found: Results) -> Picture:
    """Errors of the archive codec by its ratio, beside codes of as few numbers."""
    rate = found.arrays["rate"]
    return Picture(
        name="rate",
        caption=f"Error of {found.name} in {found.evaluation} on HEALPix zoom {found.zoom} against the ratio of "
        f"float32 to stored bytes, tables fitted to {found.training}. Line: chunks of the archive codec, in their true "
        "bytes (climatology and tables not counted); light: their largest error. Points: errors of codes that keep as "
        "many times fewer numbers, each as float32, so that their bytes are not coded.",
        alt=f"Line chart of error over compression ratio, from {rate[0, 1]:.3f} {found.units} at {rate[0, 0]:.0f} to "
        f"{rate[-1, 1]:.3f} {found.units} at {rate[-1, 0]:.0f}, with points of other codes.",
        height=3.3,
        draw=lambda figure: draw_rate(panels(figure, 1)[0], found),
    )


def draw_rate(axes: "Axes", found: Results, *, largest: bool = True) -> None:
    """Draw error over ratio: the archive codec, and codes by the numbers that they keep."""
    rate = found.arrays["rate"]
    if largest:
        axes.plot(
            rate[:, 0], rate[:, 2], color=OWN, alpha=0.35, linewidth=1.0, marker=".", label="archive, largest error"
        )
    axes.plot(rate[:, 0], rate[:, 1], color=OWN, marker="o", markersize=3.5, label="archive, RMSE in true bytes")
    kinds = {MODEL: ("s", REAL), LOCALISED: ("^", OTHER), "means: bilinear + ridge": ("D", "0.55")}
    for row in found.figures["reconstruction"]:
        if row["name"] in kinds and row["numbers"]:
            mark, colour = kinds[row["name"]]
            ratio = npix(found.zoom) / row["numbers"] * _variables(found)
            label = f"{row['name']}, RMSE by numbers"
            axes.plot(ratio, row["rmse"], mark, color=colour, markersize=5, label=label)
    axes.set(
        xscale="log", yscale="log", xlabel="float32 / stored", ylabel=f"error [{found.units}]", title="rate and error"
    )
    ratios = [2**power for power in range(2, 12) if 2**power <= 1.1 * rate[-1, 0] and 2**power >= 0.9 * rate[0, 0]]
    axes.set_xticks(ratios, [f"{ratio}" for ratio in ratios], minor=False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.legend(loc="lower right")


def _variables(found: Results) -> int:
    """Variables of the model: numbers are those of all of them."""
    own = next(row for row in found.figures["reconstruction"] if row["name"] == MODEL)
    return int(own["numbers"]) // npix(found.latent_zoom)


def superresolution(found: Results) -> Picture:
    """The errors of each way to rebuild fields from their block means, zoom by zoom."""
    tables: Sequence[Mapping[str, Any]] = found.figures["superresolution"]
    best = {table["zoom"]: table["rows"][0]["rmse"] for table in tables}
    told = ", ".join(f"{error:.3f} {found.units} from zoom {zoom}" for zoom, error in best.items())
    return Picture(
        name="superresolution",
        caption=f"RMSE of {found.name} at zoom {found.zoom} in {found.evaluation}, rebuilt from block means of the "
        f"real fields at a coarser zoom; regressions were fitted to {found.training} for this task, the autoencoder "
        "was not.",
        alt=f"Bar charts of the error of super-resolution by method; the autoencoder has {told}.",
        height=2.2,
        draw=lambda figure: _draw_bars(figure, tables, found.units),
    )


def _draw_bars(figure: "Figure", tables: Sequence[Mapping[str, Any]], units: str) -> None:
    width, height = figure.get_size_inches()
    left, gap, below, above = 1.75, 0.35, 0.48, 0.34
    wide = (width - left - 0.35 - (len(tables) - 1) * gap) / max(len(tables), 1)
    for place, table in enumerate(tables):
        box = ((left + place * (wide + gap)) / width, below / height, wide / width, (height - below - above) / height)
        axes = figure.add_axes(box)
        rows = table["rows"][::-1]
        errors = [row["rmse"] for row in rows]
        colours = [OWN if row["name"] == MODEL else "0.75" for row in rows]
        bars = axes.barh(range(len(rows)), errors, color=colours, height=0.62)
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=7.5)
        axes.set_yticks(range(len(rows)), [row["name"] if not place else "" for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set(title=f"from zoom {table['zoom']}", xlabel=f"RMSE [{units}]", xlim=(0, 1.22 * max(errors)))


def memory(found: Results) -> Picture:
    """Autocorrelation of regional means, beside the range of real stretches."""
    rows, span = (found.climate[0], found.climate[-1]), found.stretches
    regions = [one.region for one in rows[0].memory]
    columns = 4 if len(regions) <= 4 else 3
    count = 0 if span is None else span.count
    return Picture(
        name="memory",
        caption=f"Autocorrelation of means of {found.name} over a region at lags in steps of {found.step}: "
        f"{found.members} generated members (seed {found.seed}), averaged, the real {found.evaluation}, and the range "
        f"of {count} real stretches of {found.decade} in {found.training}.",
        alt=f"Line charts of the autocorrelation of means over {', '.join(regions)}: generated beside real.",
        height=2.35 * -(-len(regions) // columns),
        draw=lambda figure: _draw_memory(figure, found, columns),
    )


def _draw_memory(figure: "Figure", found: Results, columns: int) -> None:
    own, real, span = found.climate[0], found.climate[-1], found.stretches
    all_axes = panels(figure, columns, -(-len(own.memory) // columns))
    for place, (axes, region) in enumerate(zip(all_axes, own.memory, strict=False)):
        lags = np.arange(1, len(region.autocorrelation) + 1)
        if span is not None:
            low, high = span.memory[place].low, span.memory[place].high
            axes.fill_between(lags, low, high, color=BAND, linewidth=0, label="real stretches")
        axes.plot(lags, real.memory[place].autocorrelation, color=REAL, linewidth=1.1, label="real")
        axes.plot(lags, region.autocorrelation, color=OWN, marker="o", markersize=2.5, label="generated")
        axes.axhline(0, color="0.5", linewidth=0.6)
        axes.set(title=region.region, xlabel="lag", ylim=(-0.4, 1), xlim=(1, lags[-1]), xticks=lags)
        if place % columns == 0:
            axes.set_ylabel("autocorrelation")
    all_axes[0].legend(loc="upper right", fontsize=7.0)
    for axes in all_axes[len(own.memory) :]:
        axes.remove()


def ranks(found: Results) -> Picture:
    """Rank histograms of the truth among the generated members, by region."""
    counts, regions = found.arrays["ranks"], [one.region for one in found.climate[0].memory]
    outside = (counts[0, 0] + counts[0, -1]) / counts[0].sum() * counts.shape[1] / 2
    return Picture(
        name="ranks",
        caption=f"How often the real {found.name} of a step in {found.evaluation} has each rank among the "
        f"{found.members} generated members (seed {found.seed}) of that step, at one cell in each of zoom 2, over what "
        "a flat histogram has (line). A slope is a bias, a hill too much spread, a trough too little. Outside of all "
        f"members: {outside:.2f} times as often as if flat.",
        alt=f"Rank histograms for {', '.join(regions)}; the real fields lie outside of all members {outside:.2f} times "
        "as often as in a flat histogram.",
        height=2.2 * -(-len(regions) // 4),
        draw=lambda figure: draw_ranks(figure, dict(zip(regions, counts, strict=True))),
    )


def draw_ranks(figure: "Figure", counts: Mapping[str, F64], columns: int = 4) -> None:
    """Draw rank histograms (rank,) by their titles, over what flat ones have."""
    all_axes = panels(figure, columns, -(-len(counts) // columns))
    relative = {title: np.array(row) / np.mean(row) for title, row in counts.items()}
    top = 1.15 * max(1.2, *(row.max() for row in relative.values()))
    for place, (axes, (title, row)) in enumerate(zip(all_axes, relative.items(), strict=False)):
        axes.bar(np.arange(row.size), row, width=0.85, color=OWN, alpha=0.8)
        axes.axhline(1, color=REAL, linewidth=0.8)
        axes.grid(visible=False, axis="x")
        axes.set(title=title, xlabel="rank", ylim=(0, top))
        if place % columns == 0:
            axes.set_ylabel("share over flat")
    for axes in all_axes[len(counts) :]:
        axes.remove()
