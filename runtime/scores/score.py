"""Score an ensemble against a reference, of which a few steps at a time are in memory."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np

from fsae.runtime.arguments import of_kind, pairs, text, texts, whole
from fsae.runtime.climate.calendar import date_text
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.sources import Given, Source
from fsae.runtime.log import log
from fsae.runtime.ownership import MAKER

from .measures import band_ratio, bands, chi_square, outside, reliability_index, spread_error
from .pair import Pair, open_pair
from .records import Band, Ranks, Scores, Spectra, StepScores, VariableScores
from .steps import common_steps, runs, starts
from .sums import Sums, no_sums
from .variables import EnsembleVariable, ensemble_variables

BLOCK_VALUES = 1 << 24  # in memory at once, of all members: 64 MiB, or one step


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The part of an ensemble that is scored, and how.

    `variables`: some of the ensemble's by name; none means all that have members. `times`: first and last date, as in
    "2005-01/2010". `zoom`: HEALPix zoom to compare at, by default the finest that both support. `names`: what the
    reference calls a variable of the ensemble, such as {"tas": "ts"}.
    """

    variables: Sequence[str] = ()
    times: str | None = None
    zoom: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = {
            "variables": texts("variables", self.variables, "['tas']"),
            "times": None if self.times is None else text("times", self.times, "first and last date", "'2005-01/2010'"),
            "zoom": None if self.zoom is None else whole("zoom", self.zoom),
            "names": pairs("names", self.names),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)


EVERYTHING = Comparison()


def score(
    ensemble: Given,
    reference: Given,
    comparison: Comparison = EVERYTHING,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores of an ensemble against a reference, over the steps that both have.

    Each is a path, a pattern such as tas_*.nc, several of either, or a dataset. Variables of the ensemble are looked
    for in the reference by name, standard name and the like, and its units are converted to theirs. On the same lat-lon
    grid both stay there, and points count by the areas of their cells; else both come to HEALPix, whose cells are
    equal. Points where the reference or a member is missing are left out. Memory does not grow with the number of
    steps: all members are held at a few of them, or at one. `progress` is called with the number of fields read and of
    all.

    DataError for files that do not fit, an ensemble without members, and times that have no step in common; UsageError
    for variables and a zoom that are not there.
    """
    of_kind("comparison", comparison, Comparison, "the part that is compared", 'Comparison(variables="tas")')
    members, truth = Source.of(ensemble), Source.of(reference)
    with contextlib.ExitStack() as closing:
        variables = ensemble_variables(members.open(closing), comparison.variables)
    _check_known([*comparison.names, *truth.units], variables)
    found = {}
    for number, variable in enumerate(variables):
        with open_pair(members, truth, variable, comparison.zoom, comparison.names) as pair:
            for note in dict.fromkeys((*pair.ensemble.fields.notes, *pair.reference.fields.notes)):
                log.warning(note)
            steps, done = common_steps(pair.ensemble.fields, pair.reference.fields, comparison.times), 0
            sums = no_sums(pair.grid, pair.members, len(steps))
            for run in runs(steps, max(1, BLOCK_VALUES // pair.values_of_a_step)):
                values, known = pair.read(run)
                for one, other in zip(np.moveaxis(values, 1, 0), known, strict=True):
                    sums.add(done, one, other)
                    done += 1
                if progress is not None:
                    fields = len(steps) * pair.members
                    progress(number * fields + done * pair.members, len(variables) * fields)
            dates = starts(pair.ensemble.fields)
            times = [date_text(dates[place], pair.ensemble.fields.step) for place, _ in steps]
            found[variable.name] = _scores(variable, pair, sums, times)
    made_by = f"{MAKER} {version('fsae')}"
    return Scores(made_by=made_by, ensemble=members.name, reference=truth.name, variables=found)


def _check_known(given: Sequence[str], variables: Sequence[EnsembleVariable]) -> None:
    """Raise UsageError for names or units of variables that are not scored."""
    known = [variable.name for variable in variables]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(
            f"found a name or units for {unknown[0]}, which is not scored",
            f"one of {', '.join(known)}",
            f"give such as --name {known[0]}=NAME",
        )


def _scores(variable: EnsembleVariable, pair: Pair, sums: Sums, times: Sequence[str]) -> VariableScores:
    """The scores of a variable by its sums; DataError if no point counts."""
    mean, reference = sums.mean(), pair.reference.fields
    if mean is None:
        raise DataError(
            f"{variable.name} has no point where {reference.name} and every member have a value",
            advice="give a reference or an ensemble with fewer missing values",
        )
    shares = sums.ranks / sums.ranks.sum()
    ratio = spread_error(mean["variance"], mean["square_error"], pair.members)
    return VariableScores(
        units=variable.units,
        members=pair.members,
        grid=str(pair.grid),
        ensemble_grid=pair.ensemble.way,
        reference_grid=pair.reference.way,
        reference_variable=reference.origins[0].variable,
        steps=len(times),
        first=times[0],
        last=times[-1],
        cases=sums.cases,
        missing=len(times) * pair.grid.size - sums.cases,
        crps=mean["crps"],
        fair_crps=mean["fair_crps"],
        bias=mean["error"],
        rmse=math.sqrt(mean["square_error"]),
        spread=math.sqrt(mean["variance"]),
        spread_error=ratio,
        ranks=Ranks(
            shares=tuple(shares.tolist()),
            reliability_index=reliability_index(shares),
            chi_square=chi_square(shares, sums.cases),
            outside=outside(shares),
        ),
        spectra=_spectra(sums),
        by_step=tuple(_step_scores(time, sums.mean(slice(i, i + 1))) for i, time in enumerate(times)),
    )


def _spectra(sums: Sums) -> Spectra | None:
    """Mean power and its ratio by bands; None if no step has values everywhere."""
    power = sums.power()
    if power is None:
        return None
    members, reference, steps = power
    found = [
        Band(first=first, last=last, ratio=band_ratio(members, reference, first, last))
        for first, last in bands(members.size - 1)
    ]
    return Spectra(
        steps=steps,
        members=tuple(members.tolist()),
        reference=tuple(reference.tolist()),
        bands=tuple(found),
    )


def _step_scores(time: str, mean: Mapping[str, float] | None) -> StepScores:
    if mean is None:
        return StepScores(time=time, crps=None, fair_crps=None, bias=None, rmse=None, spread=None)
    return StepScores(
        time=time,
        crps=mean["crps"],
        fair_crps=mean["fair_crps"],
        bias=mean["error"],
        rmse=math.sqrt(mean["square_error"]),
        spread=math.sqrt(mean["variance"]),
    )
