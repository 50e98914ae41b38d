"""The graphs: rules that every backend relies on, independence of the batch, and reproducible bytes."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.helper import make_node, make_tensor_value_info
from repository_engines import ENGINES
from small_graphs import onnx_file
from tiny_run import files_of, model_of, rows_of

from fsae.export.certificate.originals import expected_of, original_run
from fsae.export.certificate.runners import onnxruntime_runner, reference_runner
from fsae.export.graphs.external_data import split_weights
from fsae.export.graphs.trace import EncoderGraph, check_graph, export_graph
from fsae.export.precisions.half import convert
from fsae.export.precisions.int8 import without_stored_bytes
from fsae.runtime.backends.graphs import INPUTS, OUTPUTS, call_of
from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.climate.climatology import season
from fsae.runtime.errors import BundleError
from fsae.training.fitting.run_folder import Run
from fsae.training.networks.halo import halo_table

ROWS = 8


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("graph", INPUTS)
def test_rows_are_the_same_bits_in_every_batch(
    bundle: Bundle, graph: str, precision: str
) -> None:  # oracle: the rows of a batch of 8
    graphs = OnnxGraphs(bundle, "cpu", precision)
    call = call_of(graphs, graph)
    inputs = list(rows_of(bundle, graph, ROWS).values())
    whole = call(*inputs)
    assert len(np.unique(whole.reshape(ROWS, -1), axis=0)) == ROWS
    for size in (1, 2, 3, 4):
        parts = [call(*(array[i : i + size] for array in inputs)) for i in range(0, ROWS, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    # any other host may run a single row, for which some processors take another kernel
    session = onnxruntime.InferenceSession(bundle.read(f"{graph}.{precision}.onnx"), providers=["CPUExecutionProvider"])
    (single,) = session.run(None, {name: array[:1] for name, array in zip(INPUTS[graph], inputs, strict=True)})
    np.testing.assert_allclose(
        single, whole[:1], rtol=0, atol=bundle.manifest.parity["fp32"][graph].differences[-1].tolerance
    )


@pytest.mark.parametrize("name", ["default", "ratio-4", "ratio-64"])
@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_dense_maps_stored_as_bytes_are_the_trained_ones(name: str, graph: str) -> None:
    # oracle: golden.npz, what the trained model computes; by two libraries, and after the change that int8 graphs need
    bundle = open_bundle(ENGINES / name)
    model = onnx.load_from_string(bundle.read(f"{graph}.fp32.onnx"))
    kinds = {constant.data_type for constant in model.graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    golden = bundle.arrays("golden.npz")
    inputs = {key: golden[f"{graph}.{key}"] for key in INPUTS[graph]}
    expected = golden[f"{graph}.{OUTPUTS[graph]}"]
    by_casts = without_stored_bytes(model)
    assert not [node for node in by_casts.graph.node if node.op_type == "DequantizeLinear"]
    for runner, stored in ((onnxruntime_runner, model), (reference_runner, model), (onnxruntime_runner, by_casts)):
        found = runner({"graph.onnx": stored.SerializeToString()}, OUTPUTS[graph])(inputs)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_many_rows_run_in_parts(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: all at once
    graphs, inputs = OnnxGraphs(bundle, "cpu"), list(rows_of(bundle, "decoder", ROWS).values())
    whole = graphs.decode(*inputs)
    monkeypatch.setattr("fsae.runtime.backends.onnx.CPU_PIXELS", 3 * 192)  # parts of 3, 3 and 2 rows
    np.testing.assert_array_equal(graphs.decode(*inputs), whole)


def test_large_fields_run_one_by_one(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: ONNX Runtime itself, given one row
    monkeypatch.setattr("fsae.runtime.backends.onnx.CPU_PIXELS", 192)
    inputs = rows_of(bundle, "decoder", 3)
    session = onnxruntime.InferenceSession(bundle.read("decoder.fp32.onnx"), providers=["CPUExecutionProvider"])
    single = [session.run(None, {name: array[i : i + 1] for name, array in inputs.items()})[0] for i in range(3)]
    found = OnnxGraphs(bundle, "cpu").decode(*inputs.values())
    np.testing.assert_array_equal(found, np.concatenate(single))


@pytest.mark.parametrize("graph", INPUTS)
def test_graphs_keep_the_rules(bundle: Bundle, graph: str) -> None:  # oracle: the rules of graphs.py, read anew
    model = onnx.shape_inference.infer_shapes(model_of(bundle, graph), strict_mode=True, data_prop=True)
    assert model.opset_import[0].version in (18, 20)
    assert {node.domain for node in model.graph.node} == {""}
    assert not {node.op_type for node in model.graph.node} & {"Sin", "Cos", "Log", "Loop", "If", "Scan", "GatherND"}
    for value in (*model.graph.input, *model.graph.output):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(size.dim_value > 0 for size in others)
    for value in model.graph.value_info:
        assert len(value.type.tensor_type.shape.dim) <= 6
    large = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer if np.prod(c.dims) > 16}
    assert large
    assert {array.dtype for array in large.values()} <= {np.dtype("int32"), np.dtype("float32"), np.dtype("float16")}
    contents = [array.tobytes() for array in large.values()]
    assert len(set(contents)) == len(contents)  # one copy of each
    if graph in ("encoder", "decoder"):
        tables = [array for array in large.values() if array.dtype == np.int32]
        assert tables  # the halo
        assert max(int(table.max()) for table in tables) == 191


def test_climatology_is_inside(run: Run, bundle: Bundle) -> None:  # oracle: decode(0) - decode(0) of another season
    graphs = OnnxGraphs(bundle, "cpu")
    waves = season(np.array([0.1, 0.6]), 2)
    mean = run.autoencoder.mean(torch.from_numpy(waves)).numpy()
    assert np.abs(mean[0] - mean[1]).max() > 5
    found = graphs.decode(np.zeros((2, 1, 48), np.float32), waves)
    anomaly = (found - mean) / run.statistics["scale"][:, None]
    assert np.abs(anomaly).max() < 1.5  # what is left is the stirred network's own


def test_no_trace_of_this_machine(bundle: Bundle, run: Run) -> None:  # oracle: the folders we are in
    for name in bundle.manifest.files:
        data = bundle.read(name)
        for word in (str(run.path), str(Path(__file__).parents[3]), str(Path.home()), "site-packages", "/somewhere"):
            assert word.encode() not in data, f"{name} holds {word}"
        if name.endswith(".onnx"):
            assert b".py" not in data


def test_same_weights_give_the_same_bytes(run: Run, bundle: Bundle) -> None:  # oracle: the bytes of the first time
    rows = {name: array[:2] for name, array in rows_of(bundle, "encoder", 2).items()}
    again = export_graph("encoder", EncoderGraph(run.autoencoder), rows)
    assert again == files_of(bundle, "encoder")  # other examples of the same shapes change nothing


def test_tables_are_those_of_healpy(bundle: Bundle) -> None:  # oracle: the ring tables, themselves held to healpy
    # encoder of zooms 0 to 2 with tokens of zoom 1, then 0; levels coarser than the cells are seen at the cells' zoom
    wanted = {halo_table(zoom, 1).tobytes() for zoom in (1, 2)} | {halo_table(zoom, 0).tobytes() for zoom in (0, 1)}
    constants = model_of(bundle, "encoder").graph.initializer
    tables = [numpy_helper.to_array(c) for c in constants if c.data_type == onnx.TensorProto.INT32]
    assert {table.tobytes() for table in tables} == wanted


def test_weights_beside_a_graph_change_nothing(bundle: Bundle) -> None:  # oracle: the graph in one file
    whole = files_of(bundle, "decoder")
    (name,) = whole
    parts = split_weights(whole[name], name, limit_bytes=80_000)
    assert list(parts) == [name, f"{name}.data"]
    rows = rows_of(bundle, "decoder", 3)
    check_graph("decoder", parts, {key: value.shape[1:] for key, value in rows.items()})
    for make in (onnxruntime_runner, reference_runner):
        np.testing.assert_array_equal(make(parts, "field")(rows), make(whole, "field")(rows))
    assert convert(parts, "fp16") == convert(whole, "fp16") == files_of(bundle, "decoder", "fp16")


def test_a_newer_opset_computes_the_same(run: Run, bundle: Bundle) -> None:  # oracle: the graph of the usual one
    rows = rows_of(bundle, "encoder", 4)
    files = export_graph("encoder", EncoderGraph(run.autoencoder), rows, opset=22)
    model = onnx.load_from_string(files["encoder.fp32.onnx"])
    assert [entry.version for entry in model.opset_import] == [22]
    usual = onnxruntime_runner(files_of(bundle, "encoder"), "latent")(rows)
    np.testing.assert_allclose(onnxruntime_runner(files, "latent")(rows), usual, rtol=0, atol=1e-5)


def decoder(
    nodes: list[onnx.NodeProto],
    tables: dict[str, np.ndarray] | None = None,
    declared: dict[str, list] | None = None,
    size: int = 4,
) -> dict[str, bytes]:
    """The files of a graph from latent (batch, 4) to field (batch, size), which claims the `declared` shapes inside."""
    data = onnx_file(nodes, {"latent": ["batch", 4]}, {"field": ["batch", size]}, tables, declared)
    return {"decoder.fp32.onnx": data}


@pytest.mark.parametrize(
    ("data", "shape", "words"),
    [
        (decoder([make_node("Sin", ["latent"], ["field"])]), (4,), r"operators \['Sin'\]"),
        (
            decoder([make_node("Gather", ["latent", "t"], ["field"], axis=1)], {"t": np.arange(20) % 4}, size=20),
            (4,),
            "the table t is int64",
        ),
        (decoder([make_node("Abs", ["latent"], ["field"])]), (5,), r"latent has the shape \('batch', 4\)"),
        (decoder([make_node("Abs", ["latent"], ["field"], doc_string="made at /home/me")]), (4,), "metadata"),
        (decoder([make_node("NoSuchOperator", ["latent"], ["field"])]), (4,), "not valid ONNX"),
    ],
)
def test_graphs_that_break_a_rule_are_refused(data: dict[str, bytes], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        check_graph("decoder", data, {"latent": shape})


def refused(words: str, *arguments: object) -> None:
    """The check refuses `decoder(*arguments)` in these words and no others."""
    with pytest.raises(BundleError) as failure:
        check_graph("decoder", decoder(*arguments), {"latent": (4,)})
    assert failure.value.advice == "update torch, or see export/graphs/rules.py for what a graph may hold"
    assert re.fullmatch(rf"the graph decoder cannot be shipped: {words}", failure.value.reason), failure.value


def test_second_copies_are_refused() -> None:
    table = np.arange(4, dtype=np.float32)
    nodes = [make_node("Add", ["latent", "a"], ["x"]), make_node("Mul", ["x", "b"], ["field"])]
    check_graph("decoder", decoder(nodes, {"a": table, "b": 2 * table}), {"latent": (4,)})
    refused("b is a second copy of a", nodes, {"a": table, "b": table})


OTHER = r"it holds the operators \[{}\], expected only those of fsae\.export\.graphs\.rules"


def test_constants_must_be_initializers() -> None:  # oracle: the rule that all of them are initializers
    stored = numpy_helper.from_array(np.arange(4, dtype=np.float32))
    nodes = [make_node("Constant", [], ["a"], value=stored), make_node("Add", ["latent", "a"], ["field"])]
    refused(OTHER.format("'Constant'"), nodes)


def test_subgraphs_are_looked_into_and_refused() -> None:  # oracle: what was planted two graphs deep
    def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(
            list(nodes), "branch", [], [make_tensor_value_info(nodes[-1].output[0], 1, ["batch", 4])]
        )

    inner = make_node(
        "If",
        ["yes"],
        ["i"],
        then_branch=branch(make_node("Sin", ["latent"], ["s"])),
        else_branch=branch(make_node("Abs", ["latent"], ["t"])),
    )
    outer = make_node(
        "If", ["yes"], ["field"], then_branch=branch(inner), else_branch=branch(make_node("Log", ["latent"], ["l"]))
    )
    refused(
        OTHER.format("'If', 'Log', 'Sin'") + "; it holds 4 nodes in subgraphs, expected all in one graph",
        [outer],
        {"yes": np.array(True)},
    )


def test_operators_of_others_are_refused() -> None:  # and nothing can be inferred of what they give, not even a type
    foreign = make_node("FusedMatMul", ["latent", "square"], ["x"], domain="com.microsoft")
    refused(
        r"it holds operators that are not standard ONNX: \['com.microsoft'\]; the shape of x cannot be inferred",
        [foreign, make_node("Abs", ["x"], ["field"])],
        {"square": np.eye(4, dtype=np.float32)},
    )


@pytest.mark.parametrize("declared", [{}, {"loose": ["batch", 4]}], ids=["nothing declared", "a shape declared"])
def test_shapes_that_cannot_be_inferred_are_refused(declared: dict[str, list]) -> None:
    # oracle: a rank that depends on numbers the graph gets; what the file claims of it is not believed
    nodes = [
        make_node("Cast", ["latent"], ["numbers"], to=onnx.TensorProto.INT64),
        make_node("Reshape", ["numbers", "flat"], ["sizes"]),
        make_node("Reshape", ["latent", "sizes"], ["loose"]),
        make_node("Reshape", ["loose", "back"], ["field"]),
    ]
    refused(
        "the shape of loose cannot be inferred", nodes, {"flat": np.array([-1]), "back": np.array([-1, 4])}, declared
    )


def test_tensors_of_many_axes_are_refused() -> None:  # oracle: the shapes they are given
    def through(axes: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        wide = np.array([-1, 4, *[1] * (axes - 2)])
        nodes = [make_node("Reshape", ["latent", "wide"], ["x"]), make_node("Reshape", ["x", "back"], ["field"])]
        return nodes, {"wide": wide, "back": np.array([-1, 4])}

    check_graph("decoder", decoder(*through(6)), {"latent": (4,)})
    refused("x has 7 axes, expected at most 6", *through(7))


def test_sparse_constants_are_refused() -> None:
    files = decoder([make_node("Add", ["latent", "a"], ["field"])], {"a": np.ones(4, np.float32)})
    model = onnx.load_from_string(files["decoder.fp32.onnx"])
    values, places = numpy_helper.from_array(np.ones(1, np.float32), "b"), numpy_helper.from_array(np.array([2]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    with pytest.raises(BundleError, match="shipped: it holds 1 sparse constants"):
        check_graph("decoder", {"decoder.fp32.onnx": model.SerializeToString()}, {"latent": (4,)})


def test_the_original_runs_in_parts(run: Run) -> None:  # oracle: all rows at once
    rows = {"latent": np.random.default_rng(0).normal(size=(19, 1, 48)).astype(np.float32)}
    rows["season"] = season(np.linspace(0, 1, 19), 2)
    with torch.no_grad():
        whole = run.autoencoder.decode(*map(torch.from_numpy, rows.values())).numpy()
    found = expected_of(original_run(run), "decoder", rows)
    np.testing.assert_allclose(found, whole, rtol=0, atol=2e-4)  # sum order, at 300 K
