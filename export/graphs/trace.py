"""Trace the trained models into ONNX graphs: one file each, with all tables, and with only the batch axis dynamic."""

import ast
import logging
from collections import Counter
from collections.abc import Mapping

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
from fsae.training.networks.global_map import FEWEST_SCALED, LARGEST_BYTE

from .external_data import Files, check_model_files, split_weights
from .folded import FoldedDecoder, FoldedDenoiser, FoldedEncoder
from .rules import SMALL, constant_problems, interface_problems, operator_problems, shape_problems
from .scratch import quiet
from .tidy import tidy

# All versions of ONNX Runtime and TensorRT in use read 18; at 23 attention becomes one operator, which TensorRT cannot
# build.
OPSET = 18
OPSETS = range(18, 23)
FOLDED = 8192  # elements of the largest result that the optimiser may compute from constants


def export_graph(
    name: str, module: nn.Module, inputs: Mapping[str, NDArray[np.float32]], opset: int = OPSET
) -> dict[str, bytes]:
    """Export `module` as the graph `name`, checked; return its files. The same weights give the same bytes.

    `inputs` are examples in the order of the module's arguments. Their names become those of the graph's inputs, and
    their first axis becomes the dynamic axis `batch` (of two or more rows, as a 1 would be taken for a constant).
    """
    example = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values())
    batch = torch.export.Dim("batch")
    with quiet(logging.getLogger("torch.onnx")), torch.no_grad():  # deprecations in torch, no torchvision
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
        raise BundleError(
            f"torch.onnx.export returned no graph for the {name}", advice="update torch, then export the run again"
        )
    model = program.model
    # A folded result must not be much larger than its inputs: files would grow more than calls get faster.
    optimizer.optimize_ir(model, output_size_limit=FOLDED)
    _name_nodes(model)
    _narrow_tables(model)
    _store_in_bytes(model)
    _halve_constants(model)
    model.graph.name = name
    tidy(model)
    files = split_weights(model, graph_file(name, "fp32"))
    check_graph(name, files, {key: value.shape[1:] for key, value in inputs.items()})
    return files


def check_graph(name: str, files: Files, inputs: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BundleError if the files of a graph break a rule that every backend relies on.

    `inputs` are the names of the expected inputs and their shapes without the batch axis.
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
        raise BundleError(
            f"the graph {name} cannot be shipped: {'; '.join(problems)}",
            advice="update torch, or see export/graphs/rules.py for what a graph may hold",
        )


def node_count(files: Files) -> int:
    """Number of nodes of a graph."""
    return len(onnx.load_from_string(next(iter(files.values()))).graph.node)


def _name_nodes(model: onnx_ir.Model) -> None:
    """Name nodes after the module they come from, such as blocks.0.mlp.0/MatMul_0; in place."""
    count = Counter[str]()
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = max(scopes[:-1], key=len, default="")  # the last scope is the call inside the module
        stem = f"{module}/{node.op_type}" if module else f"model/{node.op_type}"
        node.name = f"{stem}_{count[stem]}"
        count[stem] += 1


def _narrow_tables(model: onnx_ir.Model) -> None:
    """Turn tables of indices back to int32, in place: the exporter casts them to int64, which torch requires."""
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
    """Turn one input of a node to int32 if it is a large table."""
    table = user.inputs[place]
    producer = table.producer() if table is not None else None
    if producer is not None and producer.op_type == "Cast":  # the table was too large to be folded: skip the cast
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
        raise BundleError(
            f"the table {table.name} reaches {narrow.max()}", "indices that fit into int32", "take a lower zoom"
        )
    table.const_value = onnx_ir.tensor(narrow.astype(np.int32), name=table.name)
    table.dtype = onnx_ir.DataType.INT32


def _store_in_bytes(model: onnx_ir.Model) -> None:
    """Store large constants as bytes with a scale a column or a row if nothing is lost, as for dense maps; in place.

    DequantizeLinear knows scales along one axis, so the columns of all matrices of a constant stand side by side, and
    rows above one another. Single matrices are halved after it, of twice the scales: ONNX Runtime from 1.25 on takes
    such a matrix right behind DequantizeLinear for weights of a language model, and rounds what it multiplies to bytes.
    """
    for name, value in list(model.graph.initializers.items()):
        constant = value.const_value
        if constant is None or constant.dtype != onnx_ir.DataType.FLOAT or constant.size <= FOLDED:
            continue
        numbers = constant.numpy()
        axes = [axis for axis in (-2, -1) if numbers.ndim >= 2 and numbers.shape[axis] >= FEWEST_SCALED]
        kept = [(axis, found) for axis in axes if (found := bytes_of(numbers, axis)) is not None]
        if not kept:
            continue
        axis, (whole, scale) = kept[0]
        by_columns = axis == -2
        rows = numbers.shape[-2] if by_columns else scale.size
        ordered = np.moveaxis(whole, -2, 0) if by_columns else whole  # (row, ..., column), or as it is
        flat = ordered.reshape(rows, -1)
        nodes = [
            onnx_ir.node(
                "DequantizeLinear",
                [
                    _constant(model, f"{name}_bytes", np.ascontiguousarray(flat)),
                    _constant(model, f"{name}_scale", scale.ravel() * np.float32(2 if numbers.ndim == 2 else 1)),
                ],
                attributes={"axis": int(by_columns)},
                name=f"{name}/DequantizeLinear",
            )
        ]
        _describe(nodes[0], f"{name}_floats", flat.shape)
        if numbers.ndim == 2:
            half = _constant(model, f"{name}_half", np.array(0.5, dtype=np.float32))
            nodes.append(onnx_ir.node("Mul", [nodes[0].outputs[0], half], name=f"{name}/Mul"))
            _describe(nodes[1], f"{name}_full", numbers.shape)
        if numbers.ndim > 2:
            shape = _constant(model, f"{name}_shape", np.array(ordered.shape, dtype=np.int64))
            nodes.append(onnx_ir.node("Reshape", [nodes[0].outputs[0], shape], name=f"{name}/Reshape"))
            _describe(nodes[1], f"{name}_columns", ordered.shape)
        if numbers.ndim > 2 and by_columns:
            order = [*range(1, numbers.ndim - 1), 0, numbers.ndim - 1]
            nodes.append(
                onnx_ir.node("Transpose", nodes[1].outputs[:1], attributes={"perm": order}, name=f"{name}/Transpose")
            )
            _describe(nodes[2], f"{name}_full", numbers.shape)
        onnx_ir.convenience.replace_all_uses_with(value, nodes[-1].outputs[0])
        del model.graph.initializers[name]
        model.graph.insert_before(model.graph[0], nodes)


def bytes_of(numbers: NDArray[np.float32], axis: int = -2) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Bytes (..., row, column) and scales (..., 1, column) whose products are these numbers; None if there are none.

    Or scales (..., row, 1), with `axis` -1.

    >>> bytes_of(np.array([[0.5, 254.0], [-63.5, 2.0]], dtype=np.float32))
    (array([[   1,  127],
           [-127,    1]], dtype=int8), array([[0.5, 2. ]], dtype=float32))
    """
    scale = np.abs(numbers).max(axis=axis, keepdims=True) / np.float32(LARGEST_BYTE)
    whole = np.round(numbers / np.where(scale > 0, scale, 1)).astype(np.int8)
    return (whole, scale) if np.array_equal(whole * scale, numbers) else None


def _constant(model: onnx_ir.Model, name: str, numbers: NDArray[np.generic]) -> onnx_ir.Value:
    """A new constant of a graph."""
    tensor = onnx_ir.tensor(numbers, name=name)
    value = onnx_ir.Value(name=name, type=onnx_ir.TensorType(tensor.dtype), shape=onnx_ir.Shape(numbers.shape))
    value.const_value = tensor
    model.graph.register_initializer(value)
    return value


def _describe(node: onnx_ir.Node, name: str, shape: tuple[int, ...]) -> None:
    """Give the result of a node its name and shape, in float32."""
    result = node.outputs[0]
    result.name, result.shape = name, onnx_ir.Shape(shape)
    result.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)


def _halve_constants(model: onnx_ir.Model) -> None:
    """Store large constants as float16 if nothing is lost, as for rounded maps, with a cast; in place."""
    for name, value in list(model.graph.initializers.items()):
        constant = value.const_value
        if constant is None or constant.dtype != onnx_ir.DataType.FLOAT or constant.size <= FOLDED:
            continue
        numbers = constant.numpy()
        half = numbers.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), numbers):
            continue
        cast = onnx_ir.node(
            "Cast",
            [_constant(model, f"{name}_half", half)],
            attributes={"to": onnx_ir.DataType.FLOAT.value},
            name=f"{name}/Cast",
        )
        _describe(cast, f"{name}_full", numbers.shape)
        onnx_ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del model.graph.initializers[name]
        model.graph.insert_before(model.graph[0], cast)


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
    """The module in the form that is exported, which computes the same function; any other module as it is."""
    if isinstance(module, EncoderGraph):
        return FoldedEncoder(module.autoencoder)
    if isinstance(module, DecoderGraph):
        return FoldedDecoder(module.autoencoder)
    return FoldedDenoiser(module) if isinstance(module, Denoiser) else module
