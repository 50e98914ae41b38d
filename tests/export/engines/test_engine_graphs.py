"""TensorRT-RTX and graphs: it builds those of the default bundle in each precision, and refuses broken ones."""

import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from repository_engines import ENGINES, NAMES
from small_graphs import onnx_file
from stand_in_gpu import obstacle

from fsae.export.engines.build import build_engines, build_target
from fsae.export.engines.compile import BuildOptions, OnnxGraph, build_engine
from fsae.export.engines.layer_report import parsed_layers
from fsae.runtime.backends import tensorrt as driver
from fsae.runtime.bundle.files import COMPILED, Bundle, open_bundle
from fsae.runtime.errors import DeviceError

onnx = pytest.importorskip("onnx")
helper, FLOAT, BF16, FP16 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16
FIXED = BuildOptions(profile=(8, 8, 8))
# Nodes of the shipped float32 graphs. More are slower on every backend and take longer to build: where a change of the
# model, of torch or of the optimiser adds some, find out which (names say the module) and whether they can be avoided;
# if they are wanted, time the new graphs beside the old ones, then write the new numbers here.
NODES = {"encoder": 419, "decoder": 453, "denoiser": 561, "fast": 626}  # of which 120 and 30 are dense maps
RANGE = ("decoder", "fp32")  # built for a range of batches, as by default; that takes twice the time


def model(nodes: list, *, weights: int = FLOAT) -> bytes:
    """An ONNX file with x (b, 8, 8) in, y out, both float32, and 8 x 8 weights w of a type."""
    constants = {"w": helper.make_tensor("w", weights, (8, 8), np.eye(8).ravel()), "shape": np.array([3, 3])}
    return onnx_file(nodes, {"x": ["b", 8, 8]}, {"y": None}, constants)


@pytest.mark.parametrize("graph", NODES)
def test_graphs_do_not_grow(default_bundle: Bundle, graph: str) -> None:  # oracle: the counts above, and the manifest
    count = len(onnx.load_from_string(default_bundle.read(f"{graph}.fp32.onnx")).graph.node)
    assert count <= NODES[graph]
    assert default_bundle.manifest.parity["fp32"][graph].nodes == count


@pytest.mark.parametrize("name", NAMES)
def test_shipped_graphs_keep_the_rules(name: str) -> None:  # oracle: the rules in fsae.export.graphs.rules
    from fsae.export.graphs.trace import check_graph
    from fsae.runtime.backends.graphs import INPUTS

    bundle = open_bundle(ENGINES / name)
    golden = bundle.arrays("golden.npz")
    for graph in bundle.manifest.graphs:
        file = f"{graph}.fp32.onnx"
        shapes = {key: golden[f"{graph}.{key}"].shape[1:] for key in INPUTS[graph]}
        check_graph(graph, {file: bundle.read(file)}, shapes)


@pytest.mark.parametrize("graph", NODES)
@pytest.mark.parametrize(("precision", "low"), [("fp32", "FLOAT"), ("fp16", "HALF"), ("bf16", "BF16")])
def test_tensorrt_rtx_builds_every_graph(
    rtx: types.ModuleType, default_bundle: Bundle, graph: str, precision: str, low: str
) -> None:
    # oracle: the types TensorRT itself reads from the graph; it keeps to them, as networks are strongly typed
    from fsae.export.precisions.half import convert

    name = f"{graph}.fp32.onnx"
    data = default_bundle.read(name)
    if precision != "fp32":
        (data,) = convert({name: data}, precision).values()
    layers = parsed_layers(rtx, OnnxGraph(name=graph, model=data))
    kinds = {(layer["type"], tensor["dtype"]) for layer in layers for tensor in layer["outputs"]}
    assert ("MATRIX_MULTIPLY", low) in kinds
    assert {dtype for kind, dtype in kinds if kind in ("SOFTMAX", "NORMALIZATION", "REDUCE")} == {"FLOAT"}
    assert layers[-1]["outputs"][-1]["dtype"] == "FLOAT"
    _, target = build_target("trt-rtx")
    options = BuildOptions() if (graph, precision) == RANGE else FIXED
    assert len(build_engine(rtx, OnnxGraph(name=graph, model=data), target, options).engine) > 100_000


@pytest.mark.parametrize(("kind", "low"), [(FP16, "HALF"), (BF16, "BF16")])
def test_an_engine_computes_in_the_types_of_its_graph(rtx: types.ModuleType, kind: int, low: str) -> None:
    # oracle: the casts that stand in the graph
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind, name="in"),
        helper.make_node("MatMul", ["narrow", "w"], ["scores"], name="query"),
        helper.make_node("Cast", ["scores"], ["wide"], to=FLOAT, name="up"),
        helper.make_node("Softmax", ["wide"], ["y"], name="soft"),
    ]
    graph = OnnxGraph(name="g", model=model(nodes, weights=kind))
    types_of = {layer["name"]: layer["outputs"][0]["dtype"] for layer in parsed_layers(rtx, graph)}
    assert (types_of["query"], types_of["up"], types_of["soft"]) == (low, "FLOAT", "FLOAT")
    _, target = build_target("trt-rtx")
    assert len(build_engine(rtx, graph, target, FIXED).engine) > 10_000


def cast_then(*node: object, to: int = BF16, **attributes: object) -> list:
    """x in 16 bits, given to a node, whose result comes back in float32."""
    return [
        helper.make_node("Cast", ["x"], ["narrow"], to=to, name="in"),
        helper.make_node(*node, **attributes),
        helper.make_node("Cast", ["wrong"], ["y"], to=FLOAT, name="out"),
    ]


REFUSED = {
    "operator": ([helper.make_node("Det", ["x"], ["y"], name="broken")], r"Det node 'broken': unsupported node"),
    "16-bit operator": (cast_then("Det", ["narrow"], ["wrong"], name="broken"), r"Det node 'broken'"),
    "com.microsoft": (
        [helper.make_node("FusedMatMul", ["x", "w"], ["y"], name="broken", domain="com.microsoft")],
        r"FusedMatMul node 'broken'.*Plugin not found",
    ),
    "two types": (
        cast_then("MatMul", ["narrow", "w"], ["wrong"], name="broken"),
        r"MatMul node 'broken'.*BFloat16 and `B` is of type Float",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_cannot_be_read_names_the_node(rtx: types.ModuleType, case: str) -> None:
    # oracle: the node we broke
    nodes, words = REFUSED[case]
    _, target = build_target("trt-rtx")
    with pytest.raises(DeviceError, match=r"tensorrt_rtx cannot read the graph g: " + words) as failure:
        build_engine(rtx, OnnxGraph(name="g", model=model(nodes)), target, FIXED)
    assert "\n" not in str(failure.value)
    assert "driver" not in str(failure.value)  # that there is none is not the reason


def test_a_failed_build_names_the_layer(rtx: types.ModuleType) -> None:  # oracle: the node we broke
    _, target = build_target("trt-rtx")
    reshape = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="broken")]
    with pytest.raises(DeviceError, match=r"cannot build g: .*IShuffleLayer broken"):
        build_engine(rtx, OnnxGraph(name="g", model=model(reshape)), target, FIXED)
    with pytest.raises(DeviceError, match=r"cannot read the graph g: .*parse the ONNX model"):
        build_engine(rtx, OnnxGraph(name="g", model=b"no graph"), target, FIXED)


def test_too_small_a_workspace_is_reported(rtx: types.ModuleType, default_bundle: Bundle) -> None:
    _, target = build_target("trt-rtx")
    options = BuildOptions(profile=(8, 8, 8), workspace_bytes=1)
    with pytest.raises(DeviceError, match=r"within workspace limit.*\(it is 9\.31323e-10 GiB: allow more\)"):
        build_engine(rtx, OnnxGraph(name="g", model=default_bundle.read("encoder.fp32.onnx")), target, options)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "error"), [("fp16", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("flavour", ["trt", "trt-rtx"])
def test_16_bits_on_the_gpu(default_bundle: Bundle, tmp_path: Path, flavour: str, precision: str, error: float) -> None:
    # oracle: golden.npz, outputs of the trained model in float32; `error` is several roundings of 11 or 8 bits
    reason = obstacle(flavour)
    if reason is not None:
        pytest.skip(reason)
    from fsae.export.precisions.half import convert
    from fsae.runtime.backends.graphs import INPUTS, OUTPUTS, call_of
    from fsae.runtime.bundle.files import write_manifest

    source = tmp_path / "default"
    shutil.copytree(default_bundle.folder, source, ignore=shutil.ignore_patterns(COMPILED, "*.onnx", "*.data"))
    for graph in default_bundle.manifest.graphs:
        name = f"{graph}.fp32.onnx"
        for file, data in convert({name: default_bundle.read(name)}, precision).items():
            (source / file).write_bytes(data)
    write_manifest(source, replace(default_bundle.manifest, parity={}, certificates={}))
    bundle = open_bundle(source)
    build_engines(bundle, flavour, FIXED)
    graphs = driver.TensorRTGraphs(bundle, flavour, precision)
    golden = bundle.arrays("golden.npz")
    for graph in bundle.manifest.graphs:
        inputs = [golden[f"{graph}.{name}"] for name in INPUTS[graph]]
        found = call_of(graphs, graph)(*inputs)
        expected = golden[f"{graph}.{OUTPUTS[graph]}"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=error * float(np.abs(expected).max()))
