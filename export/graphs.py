"""ONNX graphs of the trained models: one file each, every table inside, only the batch axis dynamic."""

import ast
import contextlib
import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir
import torch
from numpy.typing import NDArray
from onnxscript import optimizer
from torch import Tensor, nn

from fsae.runtime.errors import BundleError
from fsae.runtime.external import weights_file
from fsae.runtime.manifest import graph_file
from fsae.runtime.session import OUTPUTS
from fsae.training.autoencoder import Autoencoder

from .external import Files, check_model_files, content_of, split_weights
from .tidy import tidy

F32 = NDArray[np.float32]

# 18 is read by every ONNX Runtime and TensorRT still in use; at 23 attention becomes one op that TensorRT cannot build.
OPSET = 18
OPSETS = range(18, 23)
MAX_RANK = 6  # some execution providers stop there
FOLDED = 8192  # elements of a result that the optimiser may put in place of its constant inputs
SMALL = 16  # elements; shapes and axes, which ONNX wants in int64, stay below
# The vector tail of these depends on a number's place in the batch, so the host computes them (season, noise features).
BATCH_DEPENDENT = frozenset(("Sin", "Cos", "Tan", "Log"))
UNWANTED = frozenset(("Loop", "If", "Scan", "NonZero", "GatherND", "ScatterND", "ScatterElements", "Dropout"))
RANDOM = frozenset(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"))
FORBIDDEN = BATCH_DEPENDENT | UNWANTED | RANDOM


def export_graph(
    name: str, module: nn.Module, inputs: Mapping[str, NDArray[np.float32]], opset: int = OPSET
) -> dict[str, bytes]:
    """The files of graph `name` computed by `module`, checked; the same weights give the same bytes.

    `inputs` are examples in the order of the module's arguments; their names become the graph's, and their first axis
    (two or more, so that it is not taken for a constant) becomes the dynamic axis `batch`.
    """
    example = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values())
    batch = torch.export.Dim("batch")
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=[OUTPUTS[name]],
            dynamic_shapes=tuple({0: batch} for _ in example),
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise BundleError(f"the exporter gave no graph for the {name}; expected one from torch.onnx.export")
    model = program.model
    # What is folded must not be much larger than what it is made of: files would grow by more than calls get faster.
    optimizer.optimize_ir(model, output_size_limit=FOLDED)
    _name_nodes(model)
    _narrow_tables(model)
    _halve_constants(model)
    model.graph.name = name
    tidy(model)
    files = split_weights(model, graph_file(name, "fp32"))
    check_graph(name, files, {key: value.shape[1:] for key, value in inputs.items()})
    return files


def check_graph(name: str, files: Files, inputs: Mapping[str, tuple[int, ...]]) -> None:
    """Nothing, or BundleError saying in what the files of a graph break the rules every backend relies on.

    `inputs` are the expected input names and their shapes without the batch axis.
    """
    model = check_model_files(files)
    weights = files.get(weights_file(next(iter(files))), b"")
    problems = [
        *_interface_problems(model, name, inputs),
        *_operator_problems(model),
        *_constant_problems(model, weights),
    ]
    if problems:
        raise BundleError(f"the graph {name} cannot be shipped: {'; '.join(problems)}")


def node_count(files: Files) -> int:
    """Number of nodes of a graph."""
    return len(onnx.load_from_string(next(iter(files.values()))).graph.node)


def _interface_problems(model: onnx.ModelProto, name: str, inputs: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Inputs and outputs that are not float32 with a dynamic first axis and the agreed names and shapes."""
    found = {value.name: _shape(value) for value in model.graph.input}
    if list(found) != list(inputs):
        yield f"its inputs are {list(found)}, expected {list(inputs)}"
    if [value.name for value in model.graph.output] != [OUTPUTS[name]]:
        yield f"its outputs are {[value.name for value in model.graph.output]}, expected {OUTPUTS[name]}"
    for value in (*model.graph.input, *model.graph.output):
        shape = _shape(value)
        if shape is None or value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            yield f"{value.name} is not a float32 tensor of known shape"
        elif shape[:1] != ("batch",) or not all(isinstance(size, int) for size in shape[1:]):
            yield f"{value.name} has the shape {shape}, expected a dynamic axis batch and fixed others"
        elif value.name in inputs and shape[1:] != tuple(inputs[value.name]):
            yield f"{value.name} has the shape {shape}, expected (batch, {', '.join(map(str, inputs[value.name]))})"


def _operator_problems(model: onnx.ModelProto) -> Iterator[str]:
    """Operators that a backend lacks, that depend on the batch, or tensors of too high a rank."""
    forbidden = sorted({node.op_type for node in model.graph.node} & FORBIDDEN)
    if forbidden:
        yield f"it holds the operators {forbidden}"
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign or model.functions:
        yield f"it holds operators that are not standard ONNX: {foreign or [f.name for f in model.functions]}"
    for value in model.graph.value_info:
        shape = _shape(value)
        if shape is None:
            yield f"the shape of {value.name} cannot be inferred"
        elif len(shape) > MAX_RANK:
            yield f"{value.name} has {len(shape)} axes, expected at most {MAX_RANK}"


def _constant_problems(model: onnx.ModelProto, weights: bytes) -> Iterator[str]:
    """Constants in int64 or held twice, and text that tells of the machine it was made on."""
    seen: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for constant in model.graph.initializer:
        size = int(np.prod(constant.dims))
        if constant.data_type == onnx.TensorProto.INT64 and size > SMALL:
            yield f"the table {constant.name} is int64, expected int32"
        content = hashlib.sha256(content_of(constant, weights)).digest()
        twin = seen.setdefault((constant.data_type, tuple(constant.dims), content), constant.name)
        if size > 1 and twin != constant.name:
            yield f"{constant.name} is a second copy of {twin}"
    texts = [model.doc_string, model.graph.doc_string, *(node.doc_string for node in model.graph.node)]
    if any(texts) or model.metadata_props or any(node.metadata_props for node in model.graph.node):
        yield "it holds metadata of the machine it was made on"


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    """Sizes of a tensor, names for dynamic ones; None where the rank is not known."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    sizes = value.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else size.dim_param for size in sizes)


def _name_nodes(model: onnx_ir.Model) -> None:
    """Nodes named by the module they come from, in place, such as blocks.0.mlp.0/MatMul_0: for people and tools."""
    count = Counter[str]()
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = max(scopes[:-1], key=len, default="")  # the last one is the call inside the module
        stem = f"{module}/{node.op_type}" if module else f"model/{node.op_type}"
        node.name = f"{stem}_{count[stem]}"
        count[stem] += 1


def _narrow_tables(model: onnx_ir.Model) -> None:
    """Gather tables back in int32, in place: the exporter casts them to int64, which torch wants and ONNX does not."""
    for node in model.graph:
        if node.op_type != "Gather":
            continue
        table = node.inputs[1]
        producer = table.producer() if table is not None else None
        if producer is not None and producer.op_type == "Cast":  # too large to be folded: skip the cast
            source = producer.inputs[0]
            if source is not None and source.const_value is not None and source.dtype == onnx_ir.DataType.INT32:
                node.replace_input_with(1, source)
            continue
        if table is None or table.const_value is None or table.dtype != onnx_ir.DataType.INT64:
            continue
        if table.const_value.size <= SMALL or any((u.node.op_type, u.idx) != ("Gather", 1) for u in table.uses()):
            continue
        narrow = table.const_value.numpy()
        if narrow.min() < -(2**31) or narrow.max() >= 2**31:
            raise BundleError(f"the table {table.name} reaches {narrow.max()}, expected indices that fit into int32")
        table.const_value = onnx_ir.tensor(narrow.astype(np.int32), name=table.name)
        table.dtype = onnx_ir.DataType.INT32


def _halve_constants(model: onnx_ir.Model) -> None:
    """Large float32 constants that float16 holds without loss, such as rounded maps, stored so, in place."""
    for name, value in list(model.graph.initializers.items()):
        constant = value.const_value
        if constant is None or constant.dtype != onnx_ir.DataType.FLOAT or constant.size <= FOLDED:
            continue
        numbers = constant.numpy()
        half = numbers.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), numbers):
            continue
        stored = onnx_ir.Value(name=f"{name}_half", type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT16))
        stored.shape, stored.const_value = value.shape, onnx_ir.tensor(half, name=f"{name}_half")
        cast = onnx_ir.node("Cast", [stored], attributes={"to": onnx_ir.DataType.FLOAT.value}, name=f"{name}/Cast")
        full = cast.outputs[0]
        full.name, full.type, full.shape = f"{name}_full", value.type, value.shape
        onnx_ir.convenience.replace_all_uses_with(value, full)
        del model.graph.initializers[name]
        model.graph.register_initializer(stored)
        model.graph.insert_before(model.graph[0], cast)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence for what the exporter says of itself (deprecations inside torch, torchvision not being installed)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class EncoderGraph(nn.Module):
    """The encoder of an autoencoder as a module of its own."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, field: Tensor, season: Tensor, level_mask: Tensor) -> Tensor:
        """Latent [B, V, Nzb] of a field [B, V, N] in physical units."""
        return self.autoencoder.encode(field, season, level_mask)


class DecoderGraph(nn.Module):
    """The decoder of an autoencoder as a module of its own."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor, season: Tensor) -> Tensor:
        """Field [B, V, N] in physical units of a latent [B, V, Nzb]."""
        return self.autoencoder.decode(latent, season)
