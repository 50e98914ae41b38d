"""The scores of an ensemble as records, and as JSON."""

from dataclasses import dataclass

from fsae.runtime.bundle.records import to_json


@dataclass(frozen=True, kw_only=True)
class StepScores:
    """Means over the area of one step, in the unit of the variable; None if it has no value to score."""

    time: str
    crps: float | None
    fair_crps: float | None
    bias: float | None
    rmse: float | None  # of the ensemble mean
    spread: float | None


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The rank histogram of the reference among the members, and how far it is from a flat one."""

    shares: tuple[float, ...]  # by area, of the ranks 0 (below all members) to their number
    reliability_index: float  # sum of |share - 1 / ranks|, 0 for a flat one
    chi_square: float  # of as many degrees as members; cases that are neighbours are not independent
    outside: float  # share outside the ensemble over that of a flat one


@dataclass(frozen=True, kw_only=True)
class Band:
    """The ratio of the members' variance to the reference's in a band of degrees; None if the reference has none."""

    first: int
    last: int
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Mean angular power C_l, l = 0, 1, ..., in the square of the unit."""

    steps: int  # spread over those that are scored
    members: tuple[float, ...]  # of one member a step, in turn
    reference: tuple[float, ...]
    bands: tuple[Band, ...]


@dataclass(frozen=True, kw_only=True)
class VariableScores:
    """The scores of one variable, in its unit: means over the area of all steps."""

    units: str
    members: int
    grid: str  # that both are compared on
    ensemble_grid: str  # and how each came there
    reference_grid: str
    reference_variable: str
    steps: int
    first: str
    last: str
    cases: int  # points and steps with a value of the reference and of every member
    missing: int  # those without
    crps: float
    fair_crps: float
    bias: float  # of the ensemble mean
    rmse: float  # of the ensemble mean
    spread: float  # root of the mean variance of the members, of members - 1 degrees of freedom
    spread_error: float | None  # sqrt((members + 1) / members) spread / rmse; None without an error
    ranks: Ranks
    spectra: Spectra | None  # None if values are missing everywhere
    by_step: tuple[StepScores, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of an ensemble against a reference, and the version of fsae that made them."""

    made_by: str
    ensemble: str  # names of the files
    reference: str
    variables: dict[str, VariableScores]

    def json(self) -> str:
        """The scores as JSON, in the order and by the names of the fields."""
        return to_json(self)
