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
from onnx import numpy_helper

from fsae.export.graphs.external_data import Files, split_weights
from fsae.export.graphs.inputs import Inputs, take
from fsae.export.graphs.scratch import scratch_errors, scratch_folder
from fsae.export.graphs.tidy import tidy
from fsae.runtime.arrays import F32
from fsae.runtime.backends.onnx import import_onnxruntime
from fsae.runtime.errors import BundleError

from .half import is_map

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
    model = widened(model, names)

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
    constants = Constants(model)
    maps = {node.name for node in onnx_ir.from_proto(model).graph if is_map(node)}
    candidates = [node for node in model.graph.node if node.op_type == "MatMul" and node.name in maps]
    return [
        node.name for node in candidates if (found := constants.value(node.input[1])) is not None and found.ndim == 2
    ]


class Constants:
    """What stands in a graph, and what follows from it alone by casts and products, as weights do."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes = {name: node for node in model.graph.node for name in node.output}

    def value(self, name: str) -> F32 | None:
        """The numbers; None where they depend on an input, or follow in another way."""
        if name in self.stored:
            return numpy_helper.to_array(self.stored[name]).astype(np.float32)
        node = self.nodes.get(name)
        if node is None or node.op_type not in ("Cast", "Mul"):
            return None
        product: F32 | None = np.ones((), np.float32)
        for factor in map(self.value, node.input):
            product = None if product is None or factor is None else product * factor
        return product


def widened(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with the weights of the named nodes as float32 matrices, the only ones that the quantiser takes."""
    constants = Constants(model)
    for name in {node.input[1] for node in model.graph.node if node.name in names} - set(constants.stored):
        numbers = np.ascontiguousarray(constants.value(name))
        model.graph.initializer.append(numpy_helper.from_array(numbers, name))
        model.graph.node.remove(constants.nodes[name])
    without_sources = onnx_ir.from_proto(model)
    tidy(without_sources)
    return onnx_ir.to_proto(without_sources)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence for the quantiser's advice to run a step that the exporter has run."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
