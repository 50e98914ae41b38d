"""Differences of exported graphs from the trained model on the same real fields, by variable and zoom."""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from fsae.export.graphs.inputs import BATCH, take
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import MIN_BATCH
from fsae.runtime.bundle.manifest import Difference, Variable
from fsae.runtime.climate.transforms import SQUARE_ROOTS, Transform, transformed_units
from fsae.runtime.errors import ToleranceError
from fsae.runtime.sphere.healpix import coarsen
from fsae.training.config import Tolerance, VariableConfig

from .originals import Part
from .runners import Runner, run_rows

DIMENSIONLESS = ("denoiser", "fast")

# Float32 holds a field to half a unit in the last place of its largest value (1.5e-5 K at 300 K), and it passes through
# a handful of sums of that size: 8 units.
FIELD_ULPS = 8


def compare(
    graph: str,
    part: Part,
    found: F32,
    variables: Sequence[Variable | VariableConfig],
    scale: F32,
    tolerance: Tolerance,
    exact: Tolerance,
) -> list[Difference]:
    """Differences of a graph's results `found` (row, [step,] variable, pixel) from the expected ones, at every zoom.

    They are in physical units: latents are multiplied by their variable's `scale`, which is in units of the transformed
    variable; the denoisers are dimensionless. Means over cells of the coarsest zoom pass encoder and decoder in float32
    in every precision, so the `exact` tolerance of float32 applies to them, except to the mean of a root's power.
    """
    difference = found.astype(np.float64) - part.expected.astype(np.float64)
    zooms, entries = part.zooms, []
    for number, variable in enumerate(variables):
        own = difference[..., number, :]
        if graph in DIMENSIONLESS:
            unit, units, limits = 1.0, "1", dict.fromkeys(zooms, tolerance.denoiser)
        else:
            transform, own_scale = variable.transform, float(scale[number])
            largest = float(np.abs(part.fields[:, number]).max())
            learned = graph == "encoder"  # latents have units of the transformed variable
            unit = own_scale if learned else 1.0
            units = transformed_units(variable.units, transform) if learned else variable.units
            slope = steepest(largest, own_scale, transform)
            rounding = FIELD_ULPS * _spacing(root_of(largest, transform) if learned else largest)
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
    """Physical units per unit of the transformed variable at the `largest` value of a field: d(r**n)/dr = n r**(n - 1).

    For a field that is nearly zero everywhere, at a root as large as its `scale`.

    >>> steepest(9.0, 0.5, "sqrt"), steepest(16.0, 0.5, "fourth_root"), steepest(9.0, 0.5, "none")
    (6.0, 32.0, 1.0)
    """
    power: int = 2 ** SQUARE_ROOTS[transform]
    root: float = max(root_of(largest, transform), scale)
    return power * root ** (power - 1)


def root_of(value: float, transform: Transform) -> float:
    """The transformed value."""
    return float(value**0.5 ** SQUARE_ROOTS[transform])


def _spacing(value: float) -> float:
    """One unit in the last place of a float32."""
    return float(np.spacing(np.float32(value)))


def larger(one: Sequence[Difference], other: Sequence[Difference]) -> list[Difference]:
    """The worse of two measurements of the same graph, entry by entry."""
    return [
        replace(a, max_abs_error=_worse(a.max_abs_error, b.max_abs_error), rmse=_worse(a.rmse, b.rmse))
        for a, b in zip(one, other, strict=True)
    ]


def _worse(one: float | None, other: float | None) -> float:
    return float(np.max([np.nan if value is None else value for value in (one, other)]))  # NaN is the worst


def check_parity(graph: str, precision: str, entries: Sequence[Difference], configuration: str) -> None:
    """Raise ToleranceError if any difference is above its tolerance or not a number.

    `configuration` is the file with the tolerances.
    """
    for entry in entries:
        if not entry.max_abs_error <= entry.tolerance:  # true for NaN too
            where = f"{entry.variable} at zoom {entry.zoom}"
            if not np.isfinite(entry.max_abs_error):
                raise ToleranceError(
                    f"the {precision} {graph} gives no finite number for {where}: its values leave the range of "
                    f"{precision}; nothing was written",
                    advice="export another precision",
                )
            units = "" if entry.units == "1" else f" {entry.units}"
            raise ToleranceError(
                f"the {precision} {graph} differs from the trained one by {entry.max_abs_error:.3g}{units} in {where}",
                f"at most {entry.tolerance:.3g}{units}",
                f"nothing was written; export another precision, or change [export.{precision}] in {configuration} if "
                "the larger error does no harm",
            )


def check_batches(graph: str, runner: Runner, inputs: Mapping[str, F32]) -> None:
    """Raise ToleranceError if any bit of a row's result depends on how many rows run beside it."""
    rows = take(inputs, slice(0, BATCH))
    count = len(next(iter(rows.values())))
    whole = run_rows(runner, rows, count)
    for size in {size for size in (MIN_BATCH, MIN_BATCH + 1) if size < count}:
        even = count // size * size
        part = run_rows(runner, take(rows, slice(0, even)), size)
        if not np.array_equal(part, whole[:even]):
            worst = float(np.abs(part - whole[:even]).max())
            raise ToleranceError(
                f"the exported {graph} gives another result in batches of {size} than of {count} (by {worst:.2g})",
                "the same bits",
                "ensembles would depend on the batch size; replace the operator that causes this",
            )
