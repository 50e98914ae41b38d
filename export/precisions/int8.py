"""int8 graphs for CPUs: products with learned weights in 8 bits, everything else in float32.

Quantisation is static and calibrated on training fields: with dynamic scales, which span the batch, a member would
change with its neighbours. Weights have 7 bits and a scale per channel, as processors without VNNI saturate sums of
full products; activations have one scale and offset, and results are float32. Maps of single cells have no kernels
and attention's products no weights, so both stay in float32.
"""

import logging
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
from onnx import numpy_helper

from fsae.export.graphs.external_data import Files, split_weights
from fsae.export.graphs.inputs import Inputs, take
from fsae.export.graphs.scratch import quiet, scratch_errors, scratch_folder
from fsae.export.graphs.tidy import tidy
from fsae.runtime.arrays import F32
from fsae.runtime.backends.onnx import import_onnxruntime
from fsae.runtime.errors import BundleError

from .learned_maps import is_map, no_maps

CALIBRATION_ROWS = 4  # rows per call


def quantize(files: Files, inputs: Mapping[str, F32]) -> dict[str, bytes]:
    """Quantise the files of a float32 graph, calibrated on real `inputs`; the same arguments give the same bytes.

    Ranges cover all numbers seen: cutting off rare large ones made the largest error four times larger. BundleError for
    a graph above 2 GB, which the quantiser cannot hold; OutputError if its temporary files cannot be written.
    """
    import_onnxruntime("cpu")  # turns its telemetry off before its own tools run it
    from onnxruntime import quantization

    if len(files) > 1:
        raise BundleError(f"{next(iter(files))} is above 2 GB", "less for int8", "leave int8 out")
    ((name, data),) = files.items()
    model = onnx.load_from_string(data)
    names = quantized_nodes(model)
    if not names:
        raise no_maps()
    model = without_stored_bytes(widened(model, names))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(inputs.values())))
            self.rows = iter(range(0, count, CALIBRATION_ROWS))

        def get_next(self) -> Inputs | None:
            first = next(self.rows, None)
            return None if first is None else take(inputs, slice(first, first + CALIBRATION_ROWS))

    with scratch_folder() as folder, scratch_errors(), quiet(logging.getLogger()):  # it advises steps done already
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
    """Names of the products with matrices of learned weights."""
    constants = Constants(model)
    maps = {node.name for node in onnx_ir.from_proto(model).graph if is_map(node)}
    candidates = [node for node in model.graph.node if node.op_type == "MatMul" and node.name in maps]
    return [
        node.name for node in candidates if (found := constants.value(node.input[1])) is not None and found.ndim == 2
    ]


class Constants:
    """The constants of a graph, and what follows from them by casts and products, as weights do."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes = {name: node for node in model.graph.node for name in node.output}

    def value(self, name: str) -> F32 | None:
        """The numbers of a value; None if they depend on an input or on other operations."""
        if name in self.stored:
            return numpy_helper.to_array(self.stored[name]).astype(np.float32)
        node = self.nodes.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            whole, scale = (self.value(part) for part in node.input)
            assert whole is not None
            assert scale is not None
            return whole * (scale if onnx.helper.get_node_attr_value(node, "axis") else scale[:, None])
        if node is None or node.op_type not in ("Cast", "Mul"):
            return None
        product: F32 | None = np.ones((), np.float32)
        for factor in map(self.value, node.input):
            product = None if product is None or factor is None else product * factor
        return product


def widened(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with the weights of the named nodes as float32 matrices, as the quantiser requires."""
    constants = Constants(model)
    for name in {node.input[1] for node in model.graph.node if node.name in names} - set(constants.stored):
        numbers = np.ascontiguousarray(constants.value(name))
        model.graph.initializer.append(numpy_helper.from_array(numbers, name))
        model.graph.node.remove(constants.nodes[name])
    without_sources = onnx_ir.from_proto(model)
    tidy(without_sources)
    return onnx_ir.to_proto(without_sources)


def without_stored_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with dense maps from bytes by a cast and a product: DequantizeLinear is computed anew in each call.

    ONNX Runtime leaves it alone in graphs whose products are to be done in 8 bits.
    """
    stored = onnx_ir.from_proto(model)
    for node in [node for node in stored.graph if node.op_type == "DequantizeLinear"]:
        to_float = {"to": onnx_ir.DataType.FLOAT.value}
        cast = onnx_ir.node("Cast", node.inputs[:1], attributes=to_float, name=f"{node.name}/Cast")
        full, floats = node.outputs[0], cast.outputs[0]
        floats.name, floats.type, floats.shape = f"{full.name}_floats", full.type, full.shape
        if node.attributes["axis"].as_int() == 0:  # a scale a row
            _as_column(node.inputs[1])
        product = onnx_ir.node("Mul", [floats, node.inputs[1]], name=f"{node.name}/Mul")
        result = product.outputs[0]
        result.type, result.shape = full.type, full.shape
        stored.graph.insert_before(node, [cast, product])
        onnx_ir.convenience.replace_all_uses_with(full, result)
        stored.graph.remove(node, safe=True)
        result.name = full.name
    return onnx_ir.to_proto(stored)


def _as_column(scale: onnx_ir.Value | None) -> None:
    """Give a constant (row,) the shape (row, 1), in place."""
    assert scale is not None
    assert scale.const_value is not None
    column = scale.const_value.numpy()[:, None]
    scale.const_value, scale.shape = onnx_ir.tensor(column, name=scale.name), onnx_ir.Shape(column.shape)
