"""Write an engine's layers as JSON beside it, so that precisions or libraries can be compared line by line.

TensorRT's inspector lists the layers of an engine, but only on a GPU that can load it. Elsewhere the report lists the
layers that the library reads from the graph, before it fuses them, with the types that it will keep.
"""

import json
from types import ModuleType
from typing import Any

from fsae.runtime.backends.cuda import find_gpu
from fsae.runtime.backends.engine_index import Engine
from fsae.runtime.backends.tensorrt import make_logger
from fsae.runtime.errors import DeviceError

from .compile import OnnxGraph, parse_graph

SUFFIX = ".layers.json"
FROM_ENGINE = "layers of the engine, from the library's inspector"
FROM_GRAPH = "layers the library reads from the graph, not those of the engine, which could not be inspected here: "


def report_name(engine_file: str) -> str:
    """File name of an engine's report.

    >>> report_name("encoder.fp16.trt.0123456789abcdef.engine")
    'encoder.fp16.trt.0123456789abcdef.layers.json'
    """
    return engine_file.removesuffix(".engine") + SUFFIX


def layer_report(trt: ModuleType, engine: Engine, data: bytes, graph: OnnxGraph) -> bytes:
    """Text of the report of an engine, whose file holds `data` and was built from `graph`: one layer per line.

    Lines have no numbers: one more cast in one precision would change all that follow.
    """
    try:
        layers, source = inspected_layers(trt, engine.target.flavour, data), FROM_ENGINE
    except DeviceError as error:
        layers, source = parsed_layers(trt, graph), f"{FROM_GRAPH}{error}"
    header = {
        "graph": engine.graph,
        "precision": engine.precision,
        "engine": engine.file,
        "library": f"{trt.__name__} {trt.__version__}",
        "layers_are": source,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in header.items()]
    rows = ",\n".join(f"    {json.dumps(layer)}" for layer in layers)
    return "\n".join(["{", *lines, '  "layers": [', rows, "  ]", "}", ""]).encode()


def parsed_layers(trt: ModuleType, graph: OnnxGraph) -> list[dict[str, Any]]:
    """Layers that the library reads from a graph: name, kind, node, and type and shape (-1: batch) of each output."""
    parsed = parse_graph(trt, graph)
    layers = [parsed.network.get_layer(index) for index in range(parsed.network.num_layers)]
    return [
        {
            "name": layer.name,
            "type": layer.type.name,
            "node": layer.metadata,
            "outputs": [_tensor(layer.get_output(index)) for index in range(layer.num_outputs)],
        }
        for layer in layers
    ]


def inspected_layers(trt: ModuleType, flavour: str, data: bytes) -> list[Any]:
    """Layers of a serialised engine, as the library's inspector lists them; DeviceError if it cannot be loaded."""
    find_gpu(flavour)  # ask CUDA first: it returns an error code, TensorRT would print
    logger, messages = make_logger(trt)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise DeviceError(
            f"{trt.__name__} cannot load the engine ({' '.join(messages[-1:]) or 'no reason given'})",
            advice="build it again with fsae-export BUNDLE --trt",
        )
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, TypeError, KeyError):
        raise DeviceError(
            f"the inspector of {trt.__name__} did not return a list of layers",
            advice="update TensorRT, or leave the report out",
        ) from None
    return list(layers)


def _tensor(tensor: Any) -> dict[str, Any]:
    """Name, type and shape of a network's tensor."""
    return {"name": tensor.name, "dtype": tensor.dtype.name, "shape": list(tensor.shape)}
