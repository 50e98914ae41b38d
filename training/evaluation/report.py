"""Records of an evaluation: the model beside its baselines and what real stretches span; and any record as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from fsae.runtime.arrays import F64
from fsae.runtime.bundle.records import Record, plain

# Largest RMSE [K] of monthly near-surface temperature at each ratio; at 64 and 256 what EOFs reach, fitted on the same
# years, with as many coefficients.
LARGEST_RMSE_K = {4: 0.105, 16: 0.29, 64: 0.52, 256: 0.80}
GENERATED = "generated"  # name of the first row of the climate if the model generates


@dataclass(frozen=True, kw_only=True)
class FieldErrors:
    """Errors of one way to rebuild the fields, in the variable's unit; pixels are equal in area."""

    name: str
    numbers: int  # stored per step, all variables together
    rmse: float
    level_rmse: tuple[float, ...]  # of each pyramid level of the error; the squares add up to rmse**2
    worst_pixel: float  # largest RMSE over time of any pixel
    psnr_db: float  # range of the true fields over rmse
    cell_mean: float  # largest difference of a base-zoom cell mean


@dataclass(frozen=True, kw_only=True)
class SuperResolution:
    """Rebuilding the fields from their block means on a coarser zoom."""

    zoom: int
    rows: tuple[FieldErrors, ...]


class Memory(Record, frozen=True, kw_only=True):
    """Autocorrelation of the mean over a region."""

    region: str
    autocorrelation: tuple[float, ...]  # lags of 1, 2, ... steps
    difference: float  # largest difference from the truth's over the lags


class Climate(Record, frozen=True, kw_only=True):
    """Statistics of one period or ensemble beside the true evaluation period, each member's own mean map removed.

    `bias` and `mean_map_rmse` are of the removed means, the distances to training fields of the fields as they are.
    Statistics are those of single members, averaged; the pattern is that of all members together.
    """

    name: str
    members: int
    bias: float
    mean_map_rmse: float
    std_correlation: float
    std_ratio: float  # mean over pixels of the standard deviation, over that of the truth
    spectrum_ratio: tuple[float, ...]  # power over the truth's, l = 2 ... lmax
    within_25: float  # share of degrees whose ratio is within 25 % of one
    within_20: float
    within_10: float
    spectrum_median: float  # median of |ratio - 1|
    cell_peak: float | None  # largest ratio at a cell's scale over those around it; None if the grid is too coarse
    edge_jump: float  # largest of the jumps across cell edges over those within, over the truth's
    autocorrelation: tuple[float, ...]  # of the global mean, lags of 1, 2, ... steps
    memory: tuple[Memory, ...]
    pattern_correlation: float  # of the first EOF of the tropical Pacific with the truth's, sign-free
    pattern_share: float  # of the variance there
    low_rmse: float  # of the map of 1st percentiles
    low_correlation: float
    high_rmse: float  # of the map of 99th percentiles
    high_correlation: float
    skewness: float  # mean over pixels
    skewness_rmse: float  # of its map
    kurtosis: float  # in excess of a Gaussian's
    kurtosis_rmse: float
    crps: float | None  # fair CRPS of the members against the truth, step by step; None for a single member
    energy_score: float | None  # fair, all pixels together
    nearest_training: float | None  # median distance to the nearest training field
    nearest: tuple[float, ...] | None  # its 5, 25, 50, 75 and 95 % quantiles
    near_share: float | None  # share that is nearer than the truth's 5 % quantile


class Range(Record, frozen=True, kw_only=True):
    """Lowest and highest value of a figure of `Climate` over real stretches."""

    figure: str
    low: float
    high: float


class MemoryRange(Record, frozen=True, kw_only=True):
    """Lowest and highest autocorrelation of the mean over a region, per lag, over real stretches."""

    region: str
    low: tuple[float, ...]
    high: tuple[float, ...]


class Stretches(Record, frozen=True, kw_only=True):
    """The ranges that stretches of the training years, as long as the evaluation, span among themselves."""

    count: int
    steps: int  # of each
    side_by_side: int  # how many of them share no step
    ranges: tuple[Range, ...]
    memory: tuple[MemoryRange, ...]
    power_low: tuple[float, ...] = ()  # at degrees 2 ... lmax, in the square of the unit
    power_high: tuple[float, ...] = ()

    def range_of(self, figure: str) -> Range | None:
        """The range of a figure; None if the training years are too short for it."""
        return next((found for found in self.ranges if found.figure == figure), None)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure beside its tolerance."""

    name: str
    value: float
    limit: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class VariableReport:
    """All figures of one variable."""

    name: str
    units: str
    reconstruction: tuple[FieldErrors, ...]
    superresolution: tuple[SuperResolution, ...]
    climate: tuple[Climate, ...]
    stretches: Stretches
    checks: tuple[Check, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of `fsae-train evaluate`."""

    name: str
    training: tuple[str, str]  # first and last stamp
    evaluation: tuple[str, str]
    middle: str  # stamp of the step in the middle of the evaluation, which arrays show
    zooms: tuple[int, ...]
    latent_zoom: int
    step: str
    seed: int  # of all ensembles
    variables: tuple[VariableReport, ...]
    arrays: Mapping[str, F64]  # VARIABLE.NAME, of pictures: not in the JSON

    @property
    def passed(self) -> bool:
        """True if every figure that has a tolerance keeps it."""
        return all(check.passed for variable in self.variables for check in variable.checks)


def report_json(report: Report) -> str:
    """The report as JSON, with whether it passed, and without its arrays."""
    figures = {name: value for name, value in vars(report).items() if name != "arrays"}
    return as_json({**figures, "passed": report.passed})


def as_json(record: Any) -> str:
    """A frozen record, or several, as JSON: keys in the order of the fields, infinite and undefined numbers as null."""
    return json.dumps(json.loads(msgspec.json.encode(record, enc_hook=plain)), indent=1) + "\n"
