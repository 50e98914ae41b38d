"""Run ONNX graphs for comparison: by ONNX Runtime on the CPU, or node by node by ONNX's reference implementation.

The reference rounds the result of every node to its type, as GPUs do. ONNX Runtime computes 16-bit nodes in float32 on
CPUs and omits roundings between them, so that errors appear several times too small, and it does not support bfloat16.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fsae.export.graphs.external_data import Files, placed
from fsae.export.graphs.inputs import BATCH, Inputs, take
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import INPUTS, MIN_BATCH, GraphCalls, pad_batch
from fsae.runtime.backends.onnx import import_onnxruntime

Runner = Callable[[Inputs], F32]  # from all inputs of a graph, batch first, to its output


class MatMul(OpRun):
    """A product as devices compute it: 16-bit factors, sums in float32, one rounding."""

    op_domain = ""

    def _run(self, left: NDArray[np.generic], right: NDArray[np.generic]) -> tuple[NDArray[np.generic]]:
        if left.dtype == np.float32:
            return (np.matmul(left, right),)
        return (np.matmul(left.astype(np.float32), right.astype(np.float32)).astype(left.dtype),)


class GatherElements(OpRun):
    """Selected numbers; the library's own version fails for axes longer than 64."""

    op_domain = ""

    def _run(self, data: NDArray[np.generic], indices: NDArray[np.int32], axis: int) -> tuple[NDArray[np.generic]]:
        return (np.take_along_axis(data, indices, axis=axis),)


class DequantizeLinear(OpRun):
    """Numbers from bytes and scales along an axis; the library's own version refuses opsets before 19.

    The last two attributes are those of later opsets, which no graph sets.
    """

    op_domain = ""

    def _run(
        self, data: NDArray[np.int8], scale: NDArray[np.float32], axis: int, block_size: int, output_dtype: int
    ) -> tuple[NDArray[np.float32]]:
        along = np.expand_dims(scale, tuple(i for i in range(data.ndim) if i != axis))
        return (data.astype(np.float32) * along,)


def onnxruntime_runner(files: Files, output: str) -> Runner:
    """A runner of a graph by ONNX Runtime on the CPU."""
    onnxruntime = import_onnxruntime("cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # as the runtime does: constants stored as bytes become numbers once, and a row then depends on no other
    whole = ".int8." not in next(iter(files))
    options.add_session_config_entry("session.disable_quant_qdq", "1" if whole else "0")
    with placed(files) as path:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> F32:
        result: F32 = session.run([output], inputs)[0]
        return result

    return run


def reference_runner(files: Files, output: str) -> Runner:
    """A runner of a graph by ONNX's reference implementation, in NumPy; overflow gives infinities without warnings."""
    with placed(files) as path:
        evaluator = ReferenceEvaluator(onnx.load(path), new_ops=[MatMul, GatherElements, DequantizeLinear])

    def run(inputs: Inputs) -> F32:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (result,) = evaluator.run([output], inputs)
        return np.asarray(result, dtype=np.float32)

    return run


# Makers of runners for a graph's files, by library.
FILE_RUNNERS: dict[str, Callable[[Files, str], Runner]] = {"onnxruntime": onnxruntime_runner, "onnx": reference_runner}


def backend_name(library: str) -> str:
    """Name and version of a runner's library, "onnxruntime", "onnx" or "torch", for the certificate."""
    return f"{'onnx reference' if library == 'onnx' else library} {version(library)}"


def run_rows(runner: Runner, inputs: Mapping[str, F32], batch: int = BATCH) -> F32:
    """Run all rows, `batch` rows at a time."""
    count = len(next(iter(inputs.values())))
    joined: F32 = np.concatenate([runner(take(inputs, slice(i, i + batch))) for i in range(0, count, batch)])
    return joined


@dataclass(frozen=True, kw_only=True)
class RunnerGraphs(GraphCalls):
    """Runners by graph, with the runtime's interface `fsae.runtime.backends.graphs.Graphs`."""

    runners: Mapping[str, Runner]
    backend: str
    precision: str
    device: str = "cpu"

    def _run(self, graph: str, *arrays: F32) -> F32:
        rows = max(len(arrays[0]), MIN_BATCH)
        inputs = {name: pad_batch(array, rows) for name, array in zip(INPUTS[graph], arrays, strict=True)}
        return self.runners[graph](inputs)[: len(arrays[0])]
