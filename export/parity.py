"""How far the exported graphs are from the trained model: the same inputs through torch and through ONNX Runtime."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.errors import ToleranceError
from fsae.runtime.manifest import Parity, Variable
from fsae.runtime.session import MIN_BATCH, OUTPUTS, import_onnxruntime

from .samples import BATCH, take

F32 = NDArray[np.float32]

# Both sides compute in float32 and add in another order. What enters and leaves is a field, good to half a unit in the
# last place of its largest value (1.5e-5 K at 300 K), and passes a handful of sums of that size: 8 units. In between it
# is normalised, where some hundred roundings of 6e-8 add up to less than 2e-5 of the scale; ten times that leaves room
# for other processors and GPUs, and is still less than the 16-bit and TensorFloat-32 paths that must not pass (1e-3).
FIELD_ULPS = 8
SCALE_SHARE = 2e-4
# The denoiser's numbers have unit variance; sigma_max times the last place of its input is what cancels at high noise.
DENOISER_TOLERANCE = 5e-4


def run_graph(graph: bytes, output: str, inputs: Mapping[str, F32], batch: int = BATCH) -> F32:
    """Output of an ONNX file for all rows by ONNX Runtime on the CPU, `batch` rows at a time."""
    onnxruntime = import_onnxruntime("cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    count = len(next(iter(inputs.values())))
    starts = range(0, count, batch)
    joined: F32 = np.concatenate([session.run([output], take(inputs, slice(i, i + batch)))[0] for i in starts])
    return joined


def compare(
    graph: str, expected: F32, found: F32, *, fields: F32, scale: F32, variables: Sequence[Variable]
) -> list[Parity]:
    """Largest difference of a graph's output from the trained model's, for each variable, beside its tolerance.

    In physical units: `fields` (row, variable, pixel) are what went in or came out, and latents are multiplied by their
    variable's `scale`. The denoiser is dimensionless and all its variables have one entry.
    """
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    if graph in ("denoiser", "fast"):
        return [Parity(max_abs_error=float(difference.max()), tolerance=DENOISER_TOLERANCE, units="1")]
    entries = []
    for number, variable in enumerate(variables):
        unit = float(scale[number]) if graph == "encoder" else 1.0
        largest = np.float32(np.abs(fields[:, number]).max())
        tolerance = FIELD_ULPS * float(np.spacing(largest)) + SCALE_SHARE * float(scale[number])
        error = unit * float(difference[:, number].max())
        entries.append(Parity(max_abs_error=error, tolerance=tolerance, units=variable.units))
    return entries


def check_parity(graph: str, entries: Sequence[Parity]) -> Parity:
    """The entry with the widest tolerance, for the manifest; ToleranceError where any difference is above its own."""
    for parity in entries:
        if not parity.max_abs_error <= parity.tolerance:  # also where it is not a number
            raise ToleranceError(
                f"the exported {graph} differs from the trained one by {parity.max_abs_error:.3g} {parity.units}, "
                f"expected at most {parity.tolerance:.3g}: nothing was written; try other versions of torch and onnx"
            )
    return max(entries, key=lambda parity: parity.tolerance)


def check_batches(graph: str, data: bytes, inputs: Mapping[str, F32]) -> None:
    """Nothing, or ToleranceError where a row's result depends, in any bit, on how many rows run beside it."""
    rows = take(inputs, slice(0, BATCH))
    count = len(next(iter(rows.values())))
    whole = run_graph(data, OUTPUTS[graph], rows, count)
    for size in {size for size in (MIN_BATCH, MIN_BATCH + 1) if size < count}:
        even = count // size * size
        part = run_graph(data, OUTPUTS[graph], take(rows, slice(0, even)), size)
        if not np.array_equal(part, whole[:even]):
            worst = float(np.abs(part - whole[:even]).max())
            raise ToleranceError(
                f"the exported {graph} gives another result in batches of {size} than of {count} (by {worst:.2g}), "
                "expected the same bits: ensembles would depend on the batch size; an operator in it has to go"
            )
