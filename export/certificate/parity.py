"""How far the exported graphs are from the trained model, on the same real fields, by variable and zoom."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from fsae.export.graphs.inputs import BATCH, take
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import MIN_BATCH
from fsae.runtime.bundle.manifest import Difference
from fsae.runtime.climate.transforms import Transform, transformed_units
from fsae.runtime.errors import ToleranceError
from fsae.runtime.input.fields import VariableSpec
from fsae.runtime.sphere.healpix import coarsen
from fsae.training.config import Tolerance

from .runners import Runner, run_rows

DIMENSIONLESS = ("denoiser", "fast")

# A field enters and leaves float32 good to half a unit in the last place of its largest value (1.5e-5 K at 300 K), and
# passes a handful of sums of that size: 8 units.
FIELD_ULPS = 8


def compare(
    graph: str,
    expected: F32,
    found: F32,
    *,
    zooms: Sequence[int],
    fields: F32,
    scale: F32,
    variables: Sequence[VariableSpec],
    transforms: Sequence[Transform],
    tolerance: Tolerance,
    exact: Tolerance,
) -> list[Difference]:
    """Differences of a graph's output (row, [step,] variable, pixel) from the trained model's at every zoom.

    In physical units: `fields` (row, variable, pixel) are what went in or came out, and latents are multiplied by their
    variable's `scale`, which is in the units it is learned in (`transforms`); the denoisers are dimensionless. `zooms`
    are those of the output's pyramid. Means over cells of the coarsest zoom pass encoder and decoder in float32
    whatever the precision, so `exact` holds for them, but for the mean of a squared root.
    """
    difference = found.astype(np.float64) - expected.astype(np.float64)
    entries = []
    for number, variable in enumerate(variables):
        own = difference[..., number, :]
        if graph in DIMENSIONLESS:
            unit, units, limits = 1.0, "1", dict.fromkeys(zooms, tolerance.denoiser)
        else:
            transform, own_scale = transforms[number], float(scale[number])
            largest = float(np.abs(fields[:, number]).max())
            learned = graph == "encoder"  # latents are of the transformed variable
            unit = own_scale if learned else 1.0
            units = transformed_units(variable.units, transform) if learned else variable.units
            slope = steepest(largest, own_scale, transform)
            rounding = FIELD_ULPS * _spacing(math.sqrt(largest) if learned and transform == "sqrt" else largest)
            allowed, least = (each.of(variable.name, own_scale, slope) for each in (tolerance, exact))
            limits = dict.fromkeys(zooms, rounding + allowed * (1.0 if learned else slope))
            if learned or transform == "none":
                limits[zooms[0]] = rounding + least
        for zoom in zooms:
            error = unit * coarsen(own, zooms[-1] - zoom)
            entries.append(
                Difference(
                    variable=variable.name,
                    zoom=zoom,
                    max_abs_error=float(np.abs(error).max()),
                    rmse=float(np.sqrt(np.mean(error**2))),
                    tolerance=limits[zoom],
                    units=units,
                )
            )
    return entries


def steepest(largest: float, scale: float, transform: Transform) -> float:
    """Physical units that one unit of the transformed variable is worth where a field is `largest`: d(r**2)/dr = 2 r.

    Of a field that is nearly zero everywhere it is that of a root as large as its `scale`.

    >>> steepest(9.0, 0.5, "sqrt"), steepest(9.0, 0.5, "none")
    (6.0, 1.0)
    """
    return 2 * max(math.sqrt(largest), scale) if transform == "sqrt" else 1.0


def _spacing(value: float) -> float:
    """One unit in the last place of a float32."""
    return float(np.spacing(np.float32(value)))


def larger(one: Sequence[Difference], other: Sequence[Difference]) -> list[Difference]:
    """Entry by entry the worse of two measurements of the same graph."""
    return [
        replace(a, max_abs_error=_worse(a.max_abs_error, b.max_abs_error), rmse=_worse(a.rmse, b.rmse))
        for a, b in zip(one, other, strict=True)
    ]


def _worse(one: float | None, other: float | None) -> float:
    return float(np.max([np.nan if value is None else value for value in (one, other)]))  # NaN is the worst


def check_parity(graph: str, precision: str, entries: Sequence[Difference], configuration: str) -> None:
    """Nothing, or ToleranceError where any difference is above its tolerance or not a number.

    `configuration` is the file that the tolerances came from.
    """
    for entry in entries:
        if not entry.max_abs_error <= entry.tolerance:  # also where it is not a number
            where = f"{entry.variable} at zoom {entry.zoom}"
            if not np.isfinite(entry.max_abs_error):
                raise ToleranceError(
                    f"the {precision} {graph} gives no finite number for {where}: its values leave the range of "
                    f"{precision}; nothing was written; export it in another precision"
                )
            raise ToleranceError(
                f"the {precision} {graph} differs from the trained one by {entry.max_abs_error:.3g} {entry.units} in "
                f"{where}, expected at most {entry.tolerance:.3g}: nothing was written; export another precision, or "
                f"change [export.{precision}] in {configuration} if the larger error does no harm"
            )


def check_batches(graph: str, runner: Runner, inputs: Mapping[str, F32]) -> None:
    """Nothing, or ToleranceError where a row's result depends, in any bit, on how many rows run beside it."""
    rows = take(inputs, slice(0, BATCH))
    count = len(next(iter(rows.values())))
    whole = run_rows(runner, rows, count)
    for size in {size for size in (MIN_BATCH, MIN_BATCH + 1) if size < count}:
        even = count // size * size
        part = run_rows(runner, take(rows, slice(0, even)), size)
        if not np.array_equal(part, whole[:even]):
            worst = float(np.abs(part - whole[:even]).max())
            raise ToleranceError(
                f"the exported {graph} gives another result in batches of {size} than of {count} (by {worst:.2g}), "
                "expected the same bits: ensembles would depend on the batch size; an operator in it has to go"
            )
