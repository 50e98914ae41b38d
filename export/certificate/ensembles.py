"""Compare generated ensembles in a precision with float32: their members, spectrum and score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.manifest import EnsembleParity
from fsae.runtime.errors import ToleranceError
from fsae.runtime.input.reader import VariableSpec
from fsae.runtime.sphere.healpix import zoom_of
from fsae.training.config import Tolerance, Years
from fsae.training.evaluation.model import TrainedModel, draw
from fsae.training.evaluation.periods import read_periods
from fsae.training.metrics.scores import pointwise_crps
from fsae.training.metrics.spectra import power_spectrum

MEMBERS, STEPS = 8, 24  # for months two years: each season twice, and several windows in a row
LMAX = 60  # higher degrees have little power, at zoom 5 and finer


NOTHING_WRITTEN = "nothing was written; export another precision"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """An ensemble (member, step, variable, pixel) and the real fields (step, variable, pixel) of the same dates."""

    members: F32
    truth: F32


def draw_ensemble(model: TrainedModel, store: Path, years: Years) -> Drawn:
    """Draw a model's ensemble from the beginning of the `years`, with the prepared fields in `store` of its dates."""
    (period,) = read_periods(store, model.variables, model.zoom, years)
    steps = min(STEPS, len(period.values))
    return Drawn(members=draw(model, MEMBERS, period.times[0], steps, seed=0), truth=period.values[:steps])


def compare_ensembles(
    variables: Sequence[VariableSpec], exact: Drawn, found: Drawn, tolerance: Tolerance
) -> tuple[EnsembleParity, ...]:
    """One entry per variable: `found` is drawn in another precision with the same seed as `exact`.

    The spectrum is that of the members' deviations from the mean of the `exact` members at each step.
    """
    mean = exact.members.mean(axis=0, dtype=np.float64)
    lmax = min(LMAX, 2 << zoom_of(mean.shape[-1]))
    entries = []
    for number, variable in enumerate(variables):
        one, other = exact.members[:, :, number], found.members[:, :, number]
        truth = exact.truth[:, number]
        powers = [power_spectrum(part - mean[:, number], lmax)[1:] for part in (one, other)]
        scores = [float(pointwise_crps(part, truth).mean()) for part in (one, other)]
        entries.append(
            EnsembleParity(
                variable=variable.name,
                rmse=float(np.sqrt(np.mean((other - one.astype(np.float64)) ** 2))),
                spectrum=float(np.abs(powers[1] / powers[0] - 1).max()),
                spectrum_tolerance=tolerance.spectrum,
                crps=scores[1],
                crps_fp32=scores[0],
                crps_tolerance=tolerance.crps * scores[0],
            )
        )
    return tuple(entries)


def check_ensembles(ensembles: Mapping[str, tuple[EnsembleParity, ...]]) -> None:
    """Raise ToleranceError if a precision changes the spectrum or the score too much."""
    for precision, entries in ensembles.items():
        for entry in entries:
            if not entry.spectrum <= entry.spectrum_tolerance:
                raise ToleranceError(
                    f"{precision} changes the power of {entry.variable} at some degree by {entry.spectrum:.2%}",
                    f"at most {entry.spectrum_tolerance:.2%}",
                    NOTHING_WRITTEN,
                )
            if not abs(entry.crps - entry.crps_fp32) <= entry.crps_tolerance:
                raise ToleranceError(
                    f"{precision} takes the CRPS of {entry.variable} from {entry.crps_fp32:.4g} to {entry.crps:.4g}",
                    f"a change of at most {entry.crps_tolerance:.2g}",
                    NOTHING_WRITTEN,
                )
