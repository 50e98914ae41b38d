"""Records of a comparison of samplers, the one that is recommended, and their text."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .report import table

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
