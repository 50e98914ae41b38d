"""Sums over the steps of an ensemble and its reference, from which all scores follow."""

from dataclasses import dataclass, field

import numpy as np

from fsae.runtime.arrays import F32, F64, Ints
from fsae.runtime.sphere.grids import Grid
from fsae.runtime.sphere.regrid import areas
from fsae.runtime.sphere.spectrum import largest_degree, power_spectrum

from .measures import crps, rank_weights

CASE_VALUES = 1 << 20  # scored at once, in float64
SPECTRUM_WORK = 4e8  # points**1.5 of all maps whose power is taken: some seconds
FEWEST_SPECTRA = 4  # of a fine grid
MAP_VALUES = 1 << 19  # transformed together, as the Legendre functions cost more than the maps
TERMS = ("crps", "fair_crps", "error", "square_error", "variance")


@dataclass(kw_only=True)
class Sums:
    """Sums over the points of each step, weighted by the area of their cells."""

    grid: Grid
    with_spectrum: frozenset[int]  # numbers of those steps whose power is taken
    area: F64 = field(repr=False)  # (point,) share of the sphere
    weight: F64 = field(repr=False)  # (step,) area of the points that count
    terms: F64 = field(repr=False)  # (step, term)
    ranks: F64 = field(repr=False)  # (member + 1,) area by the rank of the reference
    cases: int = 0  # points that count, of all steps
    maps: list[F32] = field(default_factory=list, repr=False)  # of members and the reference in turn, for `powers`
    powers: list[F64] = field(default_factory=list, repr=False)  # (map, l)

    def add(self, step: int, members: F32, truth: F32) -> None:
        """Add members (member, point) and reference (point,) at the step of that number, if not missing."""
        good = np.isfinite(truth) & np.isfinite(members).all(axis=0)
        points, block = np.flatnonzero(good), max(1, CASE_VALUES // len(members))
        for first in range(0, points.size, block):
            self._add_points(step, members, truth, points[first : first + block])
        self.cases += points.size
        if step in self.with_spectrum and good.all():
            self.maps += [members[step % len(members)], truth]  # one member a step, in turn
            if len(self.maps) * self.grid.size >= MAP_VALUES:
                self._transform()

    def _add_points(self, step: int, members: F32, truth: F32, points: Ints) -> None:
        values, known = members[:, points].T.astype(np.float64), truth[points].astype(np.float64)  # (point, member)
        area, error = self.area[points], values.mean(axis=-1) - known
        terms = (*crps(values, known), error, error**2, values.var(axis=-1, ddof=1))
        self.weight[step] += area.sum()
        self.terms[step] += [area @ term for term in terms]
        self.ranks += rank_weights(values, known, area)

    def _transform(self) -> None:
        if self.maps:
            self.powers += list(power_spectrum(np.stack(self.maps), self.grid, largest_degree(self.grid)))
            self.maps = []

    def power(self) -> tuple[F64, F64, int] | None:
        """Mean power C_l (l,) of the members and of the reference, and of how many steps; None without one."""
        self._transform()
        if not self.powers:
            return None
        return np.mean(self.powers[::2], axis=0), np.mean(self.powers[1::2], axis=0), len(self.powers) // 2

    def mean(self, steps: slice = slice(None)) -> dict[str, float] | None:
        """The mean of each term over some steps; None if no point counts."""
        weight = float(self.weight[steps].sum())
        if weight == 0:
            return None
        return dict(zip(TERMS, (self.terms[steps].sum(axis=0) / weight).tolist(), strict=True))


def no_sums(grid: Grid, members: int, steps: int) -> Sums:
    """Sums over no step yet of so many; spectra are of steps spread over all of them."""
    most = min(max(FEWEST_SPECTRA, int(SPECTRUM_WORK / grid.size**1.5)), steps)
    return Sums(
        grid=grid,
        with_spectrum=frozenset(np.linspace(0, steps - 1, most).round().astype(int).tolist()),
        area=areas(grid),
        weight=np.zeros(steps),
        terms=np.zeros((steps, len(TERMS))),
        ranks=np.zeros(members + 1),
    )
