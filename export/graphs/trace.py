"""ONNX graphs of the trained models: one file each, every table inside, only the batch axis dynamic."""

import ast
import contextlib
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

from fsae.runtime.backends.graphs import OUTPUTS
from fsae.runtime.bundle.external_data import weights_file
from fsae.runtime.bundle.manifest import graph_file
from fsae.runtime.errors import BundleError
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.denoiser import Denoiser

from .external_data import Files, check_model_files, split_weights
from .folded import FoldedDecoder, FoldedDenoiser, FoldedEncoder
from .rules import SMALL, constant_problems, interface_problems, operator_problems, shape_problems
from .tidy import tidy

# 18 is read by every ONNX Runtime and TensorRT still in use; at 23 attention becomes one op that TensorRT cannot build.
OPSET = 18

OPSETS = range(18, 23)

FOLDED = 8192  # elements of a result that the optimiser may put in place of its constant inputs


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
            folded(module).eval(),
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
        *interface_problems(model, OUTPUTS[name], inputs),
        *operator_problems(model),
        *shape_problems(model),
        *constant_problems(model, weights),
    ]
    if problems:
        raise BundleError(f"the graph {name} cannot be shipped: {'; '.join(problems)}")


def node_count(files: Files) -> int:
    """Number of nodes of a graph."""
    return len(onnx.load_from_string(next(iter(files.values()))).graph.node)


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
    """Tables of indices back in int32, in place: the exporter casts them to int64, as torch wants them."""
    for node in model.graph:
        if node.op_type not in ("Gather", "GatherElements"):
            continue
        indices = node.inputs[1]
        spread = indices.producer() if indices is not None else None
        if spread is None or spread.op_type != "Expand":
            _narrow_table(node, 1)
            continue
        _narrow_table(spread, 0)  # the same table for all rows
        if spread.inputs[0] is not None and spread.inputs[0].dtype is not None:
            spread.outputs[0].dtype = spread.inputs[0].dtype


def _narrow_table(user: onnx_ir.Node, place: int) -> None:
    """See `_narrow_tables`, of one input of a node."""
    table = user.inputs[place]
    producer = table.producer() if table is not None else None
    if producer is not None and producer.op_type == "Cast":  # too large to be folded: skip the cast
        source = producer.inputs[0]
        if source is not None and source.const_value is not None and source.dtype == onnx_ir.DataType.INT32:
            user.replace_input_with(place, source)
        return
    if table is None or table.const_value is None or table.dtype != onnx_ir.DataType.INT64:
        return
    others = {(use.node.op_type, use.idx) for use in table.uses()} - {("Gather", 1), ("Expand", 0)}
    if table.const_value.size <= SMALL or others:
        return
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


def folded(module: nn.Module) -> nn.Module:
    """The module in the form it is exported in, the same function; as it is where there is no other."""
    if isinstance(module, EncoderGraph):
        return FoldedEncoder(module.autoencoder)
    if isinstance(module, DecoderGraph):
        return FoldedDecoder(module.autoencoder)
    return FoldedDenoiser(module) if isinstance(module, Denoiser) else module
