"""int8 graphs for CPUs: the products with learned weights in 8 bits, everything else as it was.

Static and calibrated on training fields: dynamic scales span the batch, so a member would change with its neighbours.
Weights have a scale for each channel and 7 bits, because processors without VNNI saturate sums of full products;
activations have one scale and an offset, and the results stay in float32. Maps of single cells and attention's products
stay in float32: the former have no kernels, the latter no weights.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import numpy_helper

from fsae.runtime.errors import BundleError
from fsae.runtime.session import import_onnxruntime

from .external import Files, split_weights
from .precision import is_map
from .samples import Inputs, take
from .scratch import scratch_errors, scratch_folder
from .tidy import tidy

F32 = NDArray[np.float32]
CALIBRATION_ROWS = 4  # rows a call


def quantize(files: Files, inputs: Mapping[str, F32]) -> dict[str, bytes]:
    """The int8 files of a float32 graph, calibrated on real `inputs`; the same bytes for the same graph and inputs.

    Ranges are the smallest and largest number seen: cutting off rare large ones was four times worse at its worst.
    BundleError for a graph above 2 GB, which the quantiser cannot hold; OutputError where its temporary files fail.
    """
    import_onnxruntime("cpu")  # tells it to send nothing home, before its own tools run it
    from onnxruntime import quantization

    if len(files) > 1:
        raise BundleError(f"{next(iter(files))} is above 2 GB, expected less for int8: leave int8 out")
    ((name, data),) = files.items()
    model = onnx.load_from_string(data)
    names = quantized_nodes(model)
    if not names:
        raise BundleError(
            "found no products with learned weights to quantise: the nodes are not named by module, as those of older "
            "bundles; export the run again"
        )
    _widen(model, names)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(inputs.values())))
            self.rows = iter(range(0, count, CALIBRATION_ROWS))

        def get_next(self) -> Inputs | None:
            first = next(self.rows, None)
            return None if first is None else take(inputs, slice(first, first + CALIBRATION_ROWS))

    with scratch_folder() as folder, scratch_errors(), _quiet():
        path = folder / "int8.onnx"
        quantization.quantize_static(
            model,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=names,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        quantized = onnx_ir.from_proto(onnx.load(path))
    tidy(quantized)
    return split_weights(quantized, name.replace(".fp32.", ".int8."))


def quantized_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the products with a matrix of learned weights."""
    constants = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    stored = {
        n.output[0]: constants[n.input[0]] for n in model.graph.node if n.op_type == "Cast" and n.input[0] in constants
    }
    axes = constants | stored
    maps = {node.name for node in onnx_ir.from_proto(model).graph if is_map(node)}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and n.name in maps and axes.get(n.input[1]) == 2]


def _widen(model: onnx.ModelProto, names: list[str]) -> None:
    """Weights of the named nodes that are stored in half precision back in float32, in place."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {node.input[1] for node in model.graph.node if node.name in names}
    for node in [n for n in model.graph.node if n.op_type == "Cast" and n.output[0] in weights]:
        numbers = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(numbers, node.output[0]))
        model.graph.node.remove(node)
        if not any(node.input[0] in other.input for other in model.graph.node):
            model.graph.initializer.remove(stored[node.input[0]])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence for the quantiser's advice to run a step that the exporter has run."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
