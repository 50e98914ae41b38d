"""Graphs in 16 and 8 bits: what is computed in them, what stays in float32, and reproducible bytes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from tiny_run import files_of, model_of, rows_of

from fsae.export.certificate import certify
from fsae.export.certificate.originals import make_parts, original_run
from fsae.export.certificate.runners import reference_runner, run_rows
from fsae.export.precisions.half import convert
from fsae.export.precisions.int8 import quantize
from fsae.export.precisions.torch_twin import torch_runner
from fsae.runtime.backends.devices import PRECISIONS
from fsae.runtime.backends.graphs import INPUTS, OUTPUTS
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import BundleError, UsageError
from fsae.training.fitting.run_folder import Run

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LEARNED = ("query_key_value", "attention_out", "mlp.0", "mlp.3", "compress", "decompress")


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every tensor, as full inference finds it."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    return types | {constant.name: constant.data_type for constant in model.graph.initializer}


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("graph", INPUTS)
def test_only_learned_maps_and_attention_are_in_16_bits(bundle: Bundle, graph: str, precision: str) -> None:
    # oracle: the modules of the network, by the names of the nodes
    model, kind = model_of(bundle, graph, precision), KINDS[precision]
    types = types_of(model)
    for value in (*model.graph.input, *model.graph.output):
        assert types[value.name] == TensorProto.FLOAT
    low, full = set(), set()
    for node in model.graph.node:
        module, kinds = node.name.rpartition("/")[0], {types[name] for name in (*node.input, *node.output)}
        if node.op_type in ("LayerNormalization", "Softmax", "ReduceMean", "Sigmoid"):
            assert kinds <= {TensorProto.FLOAT, TensorProto.INT64}, node.name
        if node.op_type in ("MatMul", "Gemm"):
            (low if kind in kinds else full).add(module)
            assert len(kinds) == 1  # no product of two types
    blocks = {name.removesuffix(".query_key_value") for name in low | full if name.endswith(".query_key_value")}
    assert low == {name for name in low | full if name in blocks or name.endswith(LEARNED)}  # a block's own: attention
    assert len(low) >= 5
    assert ("wiener" if graph in ("denoiser", "fast") else "model") in full  # statistics, among them the climatology


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("graph", INPUTS)
def test_a_16_bit_graph_is_the_module_in_16_bits(run: Run, bundle: Bundle, graph: str, precision: str) -> None:
    # oracle: PyTorch's own kernels on the trained module. Roundings differ, their size does not.
    original = original_run(run)
    part = make_parts(original, original.years)[graph]
    twin = run_rows(torch_runner(original.modules[graph], precision), part.inputs)
    found = run_rows(reference_runner(files_of(bundle, graph, precision), OUTPUTS[graph]), part.inputs)
    errors = [float(np.sqrt(np.mean((each - part.expected) ** 2))) for each in (twin, found)]
    assert errors[0] > 0
    assert 0.5 < errors[1] / errors[0] < 2


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_the_same_graph_gives_the_same_bytes(run: Run, bundle: Bundle, precision: str) -> None:  # oracle: first time
    data = files_of(bundle, "encoder")
    if precision == "int8":
        original = original_run(run)
        parts = make_parts(original, original.data.training_years)
        again = quantize(data, parts["encoder"].inputs)
    else:
        again = convert(data, precision)
    assert again == files_of(bundle, "encoder", precision)


@pytest.mark.parametrize("graph", INPUTS)
def test_int8_weights_have_a_scale_for_each_channel(bundle: Bundle, graph: str) -> None:  # oracle: the float32 weights
    model, exact = model_of(bundle, graph, "int8"), model_of(bundle, graph)
    stored = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    whole = {c.name: numpy_helper.to_array(c).astype(np.float32) for c in exact.graph.initializer}
    weights = {name: array for name, array in stored.items() if array.dtype == np.int8 and array.ndim == 2}
    assert len(weights) >= 4
    back = {node.input[0]: node.input[1:] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for name, array in weights.items():
        scale = stored[back[name][0]]
        assert scale.shape == array.shape[1:]
        assert np.abs(array).max() <= 64  # seven bits
        original = whole[name.removesuffix("_quantized").removesuffix("_full") + ("_half" if "_full" in name else "")]
        assert np.abs(array * scale - original).max() <= 0.5001 * scale.max()
    assert not {node.domain for node in model.graph.node} - {""}


def test_calibration_sends_nothing_home(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the order of the calls to the library
    import onnxruntime

    calls: list[str] = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: calls.append("silence"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **o: calls.append("session") or session(*a, **o))
    quantize(files_of(bundle, "encoder"), rows_of(bundle, "encoder", 2))
    assert calls[:2] == ["silence", "session"]


def test_int8_does_not_see_its_neighbours(bundle: Bundle) -> None:  # oracle: the same rows beside a wild one
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle.read("encoder.int8.onnx"), providers=["CPUExecutionProvider"])
    rows = rows_of(bundle, "encoder", 4)
    (before,) = session.run(None, rows)
    rows["field"][3] *= 3
    (after,) = session.run(None, rows)
    np.testing.assert_array_equal(after[:3], before[:3])
    assert np.abs(after[3] - before[3]).max() > 1


def test_graphs_that_cannot_be_converted_are_refused(bundle: Bundle) -> None:
    files = files_of(bundle, "encoder")
    with pytest.raises(UsageError, match="found precision 'fp8', expected one of fp16, bf16"):
        convert(files, "fp8")
    model = model_of(bundle, "encoder")
    for node in model.graph.node:
        node.name = ""
    nameless = {"encoder.fp32.onnx": model.SerializeToString()}
    with pytest.raises(BundleError, match="the nodes are not named by module"):
        quantize(nameless, {})
    with pytest.raises(BundleError, match="the nodes are not named by module"):
        convert(nameless, "fp16")
    with pytest.raises(BundleError, match="above 2 GB, expected less for int8"):
        quantize({**files, "encoder.fp32.onnx.data": b""}, {})


def test_every_precision_has_something_that_measures_it() -> None:
    assert set(certify.RUNNERS) == set(PRECISIONS)
