"""The rules that every backend relies on: each check yields a sentence for everything wrong with a graph.

It takes graphs with all shapes inferred (`fsae.export.graphs.external_data.check_model_files`).
"""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from .external_data import content_of

MAX_RANK = 6  # some execution providers support no more
SMALL = 16  # elements; shapes and axes, which ONNX requires in int64, are smaller

# The operators of all graphs, over all options of the models, precisions and opsets 18 to 22. Any other is refused
# until somebody has checked and added it: TensorRT must build it, and a row must not depend on the batch around it.
# Kept out on purpose:
# - Sin, Cos, Tan, Log: their vectorised kernels treat the end of an array differently, so a result depends on its place
#   in the batch; the host computes what needs them (season, noise features).
# - Loop, If, Scan, and with them all subgraphs: a graph is one step, and the host runs the sampler's loop.
# - NonZero, Unique, Compress: the shape of their result depends on its values, which no profile can know.
# - GatherND, ScatterND, ScatterElements: from x[:, table]; index_select and gather avoid the transposes these bring.
# - RandomNormal and the like, Multinomial, Dropout: the host makes the noise, from seed, member, time and draw.
# - Constant, ConstantOfShape: constants are initializers, as the checks below and weights beside a graph expect.
# - DynamicQuantizeLinear: its scale spans the batch, so a member would change with its neighbours.
# - Attention (opset 23): TensorRT does not build it in float32.
ARITHMETIC = frozenset(("Abs", "Add", "Clip", "Div", "Less", "Max", "Min", "Mul", "Pow", "Sqrt", "Sub", "Where"))
SHAPES = frozenset(("Concat", "Expand", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"))
NETWORK = frozenset(
    ("Erf", "Gather", "GatherElements", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Sigmoid", "Softmax")
)
SUMS = frozenset(("ReduceMean", "ReduceSum"))
TYPES = frozenset(("Cast", "DequantizeLinear", "QuantizeLinear"))  # learned maps in bytes, int8
OPERATORS = ARITHMETIC | SHAPES | NETWORK | SUMS | TYPES


def interface_problems(model: onnx.ModelProto, output: str, inputs: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Inputs and outputs that are not float32 with a dynamic first axis and the expected names and shapes."""
    found = {value.name: _shape(value) for value in model.graph.input}
    if list(found) != list(inputs):
        yield f"its inputs are {list(found)}, expected {list(inputs)}"
    if [value.name for value in model.graph.output] != [output]:
        yield f"its outputs are {[value.name for value in model.graph.output]}, expected {output}"
    for value in (*model.graph.input, *model.graph.output):
        shape = _shape(value)
        if shape is None or value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            yield f"{value.name} is not a float32 tensor of known shape"
        elif shape[:1] != ("batch",) or not all(isinstance(size, int) for size in shape[1:]):
            yield f"{value.name} has the shape {shape}, expected a dynamic axis batch and fixed others"
        elif value.name in inputs and shape[1:] != tuple(inputs[value.name]):
            yield f"{value.name} has the shape {shape}, expected (batch, {', '.join(map(str, inputs[value.name]))})"


def operator_problems(model: onnx.ModelProto) -> Iterator[str]:
    """Operators outside `OPERATORS`, also in subgraphs, and the subgraphs and functions themselves."""
    nodes = list(_nodes(model.graph))
    other = sorted({node.op_type for node in nodes if node.domain in ("", "ai.onnx")} - OPERATORS)
    if other:
        yield f"it holds the operators {other}, expected only those of fsae.export.graphs.rules"
    foreign = sorted({node.domain for node in nodes} - {"", "ai.onnx"})
    if foreign or model.functions:
        yield f"it holds operators that are not standard ONNX: {foreign or [f.name for f in model.functions]}"
    if len(nodes) > len(model.graph.node):
        yield f"it holds {len(nodes) - len(model.graph.node)} nodes in subgraphs, expected all in one graph"


def shape_problems(model: onnx.ModelProto) -> Iterator[str]:
    """Results of nodes whose shape was not inferred, and tensors with too many axes."""
    shapes = {value.name: _shape(value) for value in (*model.graph.value_info, *model.graph.output)}
    results = [name for node in model.graph.node for name in node.output if name]  # no name: an unused output
    for name in dict.fromkeys([*results, *shapes]):
        shape = shapes.get(name)
        if shape is None:
            yield f"the shape of {name} cannot be inferred"
        elif len(shape) > MAX_RANK:
            yield f"{name} has {len(shape)} axes, expected at most {MAX_RANK}"


def constant_problems(model: onnx.ModelProto, weights: bytes) -> Iterator[str]:
    """Constants in int64 or stored twice, and text that could reveal the machine the graph was made on.

    `weights` is the content of the file beside the graph, empty if there is none.
    """
    seen: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for constant in model.graph.initializer:
        size = int(np.prod(constant.dims))
        if constant.data_type == onnx.TensorProto.INT64 and size > SMALL:
            yield f"the table {constant.name} is int64, expected int32"
        content = hashlib.sha256(content_of(constant, weights)).digest()
        twin = seen.setdefault((constant.data_type, tuple(constant.dims), content), constant.name)
        if size > 1 and twin != constant.name:
            yield f"{constant.name} is a second copy of {twin}"
    if model.graph.sparse_initializer:
        yield f"it holds {len(model.graph.sparse_initializer)} sparse constants, expected dense ones"
    texts = [model.doc_string, model.graph.doc_string, *(node.doc_string for node in model.graph.node)]
    if any(texts) or model.metadata_props or any(node.metadata_props for node in model.graph.node):
        yield "it holds metadata, which could reveal the machine it was made on"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    """Sizes of a tensor's axes, names for dynamic ones; None if the rank is unknown."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    sizes = value.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else size.dim_param for size in sizes)
