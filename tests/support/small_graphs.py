"""ONNX graphs of a few nodes, for the checks of graphs."""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[str | int] | None


def onnx_file(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, np.ndarray | TensorProto] | None = None,
    declared: Mapping[str, Shape] | None = None,
) -> bytes:
    """An ONNX file with float32 inputs and outputs of these shapes; `declared` are shapes that it claims inside."""
    stored = (constants or {}).items()
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [one if isinstance(one, TensorProto) else numpy_helper.from_array(one, name) for name, one in stored],
        value_info=[
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (declared or {}).items()
        ],
    )
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(graph, opset_imports=domains, ir_version=9).SerializeToString()
    return data
