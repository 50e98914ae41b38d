"""16-bit graphs from float32 ones: only the learned maps and the products of attention are in half precision.

Everything else stays in float32: inputs and outputs, climatology and other statistics (the Wiener filter, maps over the
globe), the pyramid, LayerNorm with its modulation, softmax, gates, and the sums that make a block's field. So the means
that the model conserves are conserved in every precision, and only small updates of an exact field are rounded.

Graphs are strongly typed: they contain the casts, and backends choose nothing.
"""

import numpy as np
import onnx_ir

from fsae.export.graphs.external_data import Files, model_of, split_weights
from fsae.export.graphs.tidy import tidy
from fsae.runtime.errors import UsageError

from .learned_maps import is_inside_map, is_map, module_of, no_maps

TYPES = {"fp16": onnx_ir.DataType.FLOAT16, "bf16": onnx_ir.DataType.BFLOAT16}
POINTWISE = frozenset(("Add", "Mul", "Div", "Erf", "Gelu"))  # biases and GELU
MOVES = frozenset(("Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze", "Gather"))


def convert(files: Files, precision: str) -> dict[str, bytes]:
    """Convert the files of a float32 graph to "fp16" or "bf16"; the same graph gives the same bytes."""
    if precision not in TYPES:
        raise UsageError(
            f"found precision {precision!r}", f"one of {', '.join(TYPES)}", "give one of them as --precision"
        )
    model = model_of(files)
    kind = TYPES[precision]
    low = _low_nodes(model.graph)
    if not low:
        raise no_maps()
    casts: dict[tuple[onnx_ir.Value, onnx_ir.DataType], onnx_ir.Value] = {}
    for node in list(model.graph):
        wanted = kind if node in low else onnx_ir.DataType.FLOAT
        for index, value in enumerate(node.inputs):
            if value is None or node.op_type == "Cast" or not _is_floating(value) or value.dtype == wanted:
                continue
            if (value, wanted) not in casts:
                casts[value, wanted] = _cast(model.graph, value, wanted, before=node)
            node.replace_input_with(index, casts[value, wanted])
        if node in low:
            for value in node.outputs:
                value.dtype = kind
    tidy(model)
    return split_weights(model, next(iter(files)).replace(".fp32.", f".{precision}."))


def _low_nodes(graph: onnx_ir.Graph) -> set[onnx_ir.Node]:
    """Nodes to compute in 16 bits: maps and products, with the biases, GELUs and moves of data that follow them."""
    low: set[onnx_ir.Node] = set()
    for node in graph:
        after = [value is not None and value.producer() in low for value in node.inputs]
        follows = node.op_type in MOVES and after[0]
        bias_or_gelu = node.op_type in POINTWISE and any(after) and is_inside_map(node)
        scaling = node.op_type == "Mul" and any(after) and any(_is_number(value) for value in node.inputs)
        if is_map(node) or follows or bias_or_gelu or scaling:
            low.add(node)
    return low


def _is_floating(value: onnx_ir.Value) -> bool:
    return value.dtype in (onnx_ir.DataType.FLOAT, *TYPES.values())


def _is_number(value: onnx_ir.Value | None) -> bool:
    """True if a value is a constant of one element."""
    return value is not None and value.const_value is not None and value.const_value.size == 1


def _cast(graph: onnx_ir.Graph, value: onnx_ir.Value, kind: onnx_ir.DataType, *, before: onnx_ir.Node) -> onnx_ir.Value:
    """`value` in another type: constants are stored in it, anything else gets a Cast before a node."""
    constant = value.const_value
    producer = value.producer()
    if constant is None and producer is not None and producer.op_type == "Cast":
        source = producer.inputs[0]
        assert source is not None
        if source.dtype == kind and source.const_value is not None:
            return source  # a constant stored in half precision and cast where it is used
        constant = source.const_value
    name = f"{value.name}_{kind.name.lower()}"
    if constant is not None:
        numbers = constant.numpy().astype(np.float32)
        found = onnx_ir.Value(name=name, type=onnx_ir.TensorType(kind), shape=value.shape)
        with np.errstate(over="ignore"):  # too large numbers become infinite, which the comparison finds
            found.const_value = onnx_ir.tensor(numbers.astype(kind.numpy()), dtype=kind, name=name)
        graph.register_initializer(found)
        return found
    node = onnx_ir.node("Cast", [value], attributes={"to": kind.value}, name=f"{module_of(before)}/Cast_{name}")
    result = node.outputs[0]
    result.name, result.type, result.shape = name, onnx_ir.TensorType(kind), value.shape
    if producer is None:
        graph.insert_before(before, node)
    else:
        graph.insert_after(producer, node)
    return result
