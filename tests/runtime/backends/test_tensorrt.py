"""Engines run: what is missing is said, and the session, on a stand-in for the GPU or on a real one."""

import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from stand_in_gpu import an_engine, install_stand_ins, obstacle, write_index

from fsae.export.engines.build import build_engines, build_target
from fsae.export.engines.compile import BuildOptions
from fsae.runtime.backends import tensorrt as driver
from fsae.runtime.backends.graphs import INPUTS, OUTPUTS, DenoiserInputs, Graphs
from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.errors import BundleError, DeviceError


@pytest.fixture
def bundle(tiny_bundle_path: Path, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle to put engines in."""
    return open_bundle(shutil.copytree(tiny_bundle_path, tmp_path / "tiny"))


@pytest.mark.parametrize(("flavour", "module"), [("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx")])
def test_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, flavour: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    reason = obstacle(flavour)
    assert reason is not None
    assert module in reason
    assert f'pip install "fsae[{flavour}]"' in reason


def test_missing_cuda_bindings_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    reason = obstacle("trt")
    assert reason is not None
    assert "cuda-bindings" in reason
    assert 'pip install "fsae[trt]"' in reason


def test_unknown_flavour_is_refused() -> None:
    assert "expected one of trt, trt-rtx" in str(obstacle("cuda"))


def test_missing_driver_is_said_before_tensorrt_is_asked(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    install_stand_ins(monkeypatch, driver_error="cudaErrorInsufficientDriver")
    assert "NVIDIA GPU with a recent driver: cudaErrorInsufficientDriver" in str(obstacle("trt"))
    with pytest.raises(DeviceError, match="recent driver"):
        driver.TensorRTGraphs(bundle, "trt")
    with pytest.raises(DeviceError, match="on the GPU they run on"):
        build_target("trt")


def call(graphs: Graphs, graph: str, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Output of a graph by its name."""
    if graph in ("encoder", "decoder"):
        return graphs.encode(*inputs) if graph == "encoder" else graphs.decode(*inputs)
    return graphs.denoise(DenoiserInputs(*inputs), graph)


def golden_inputs(bundle: Bundle, graph: str, rows: int) -> tuple[np.ndarray, ...]:
    """Inputs of a graph: the golden rows in turn, each a little different."""
    golden = bundle.arrays("golden.npz")
    arrays = [
        np.resize(golden[f"{graph}.{name}"], (rows, *golden[f"{graph}.{name}"].shape[1:])) for name in INPUTS[graph]
    ]
    shift = np.arange(rows, dtype=np.float32) / 8
    return tuple(array + shift.reshape(-1, *[1] * (array.ndim - 1)) for array in arrays)


@pytest.mark.parametrize("rows", [1, 3, 7])  # less than, as much as, and more than the engines' best batch
def test_session_moves_and_pads_rows_rightly(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, rows: int) -> None:
    # oracle: ONNX Runtime on the same graphs
    cuda = install_stand_ins(monkeypatch)
    write_index(bundle, *(an_engine(bundle, graph) for graph in bundle.manifest.graphs))
    graphs = driver.TensorRTGraphs(bundle, "trt")
    assert (graphs.device, graphs.backend) == ("trt", "tensorrt 10.9.0")
    expected = OnnxGraphs(bundle, "cpu")
    for graph in bundle.manifest.graphs:
        inputs = golden_inputs(bundle, graph, rows)
        found = call(graphs, graph, inputs)
        np.testing.assert_allclose(found, call(expected, graph, inputs), rtol=1e-6, atol=1e-5)  # batch of 3, of rows
    tensors = sum(len(INPUTS[graph]) + 1 for graph in bundle.manifest.graphs)
    assert len(cuda.blocks) == 2 * tensors  # one on the device and one on the host for each tensor
    del graphs
    assert not cuda.blocks  # all memory is given back


@pytest.mark.parametrize("can_capture", [True, False])
def test_a_captured_call_reads_what_is_given(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, can_capture: bool
) -> None:  # oracle: ONNX Runtime; a stand-in that records while it captures, and runs what it recorded when launched
    cuda = install_stand_ins(monkeypatch)
    cuda.can_capture = can_capture
    write_index(bundle, *(an_engine(bundle, graph) for graph in bundle.manifest.graphs))
    graphs, expected = driver.TensorRTGraphs(bundle, "trt"), OnnxGraphs(bundle, "cpu")
    first = golden_inputs(bundle, "decoder", 3)
    second = tuple(2 * array for array in first)
    found = [call(graphs, "decoder", inputs) for inputs in (first, second, first)]
    for inputs, output in zip((first, second, first), found, strict=True):
        np.testing.assert_allclose(output, call(expected, "decoder", inputs), rtol=1e-6, atol=1e-5)
    assert not np.array_equal(found[0], found[1])
    assert cuda.launched == (2 if can_capture else 0)  # the first call is TensorRT's to prepare itself
    assert cuda.last_error.value == 0
    assert len(cuda.graphs) == (1 if can_capture else 0)  # the captured one went when it was made launchable
    plain = driver.TensorRTGraphs(bundle, "trt", cuda_graphs=False)
    np.testing.assert_array_equal([call(plain, "decoder", inputs) for inputs in (first, second, first)], found)
    del graphs, plain
    assert not cuda.graphs


def test_session_refuses_before_any_work(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    install_stand_ins(monkeypatch)
    engines = [an_engine(bundle, graph) for graph in bundle.manifest.graphs]
    write_index(bundle, *engines[:2])
    with pytest.raises(DeviceError, match="no trt engine of the denoiser"):
        driver.TensorRTGraphs(bundle, "trt")
    swapped = an_engine(bundle, "denoiser", content=bundle.read("decoder.fp32.onnx"))
    write_index(bundle, *engines[:2], swapped)
    with pytest.raises(BundleError, match="has the tensors"):
        driver.TensorRTGraphs(bundle, "trt")
    write_index(bundle, *(an_engine(bundle, graph) for graph in bundle.manifest.graphs))
    with pytest.raises(BundleError, match="no precision int4"):
        driver.TensorRTGraphs(bundle, "trt", "int4")
    graphs = driver.TensorRTGraphs(bundle, "trt")
    with pytest.raises(BundleError, match=r"latent has the shape \(2, 2, 4\), expected"):
        graphs.decode(np.zeros((2, 2, 4), np.float32), np.zeros((2, 4), np.float32))


def test_full_gpu_is_said_and_memory_given_back(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    cuda = install_stand_ins(monkeypatch, memory=4000)
    write_index(bundle, *(an_engine(bundle, graph) for graph in bundle.manifest.graphs))
    with pytest.raises(DeviceError, match="not enough free memory"):
        driver.TensorRTGraphs(bundle, "trt")
    assert not cuda.blocks


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["trt", "trt-rtx"])
def test_two_inputs_give_two_outputs_on_the_gpu(bundle: Bundle, flavour: str) -> None:
    # oracle: the same engine, kernel by kernel
    reason = obstacle(flavour)
    if reason is not None:
        pytest.skip(reason)
    build_engines(bundle, flavour, BuildOptions(profile=(1, 4, 8)))
    captured = driver.TensorRTGraphs(bundle, flavour)
    plain = driver.TensorRTGraphs(bundle, flavour, cuda_graphs=False)
    for graph in bundle.manifest.graphs:
        first = golden_inputs(bundle, graph, 3)
        second = tuple(array[::-1] for array in first)  # other rows, as each is a little different
        outputs = [call(captured, graph, inputs) for inputs in (first, second, first)]
        np.testing.assert_array_equal(outputs, [call(plain, graph, inputs) for inputs in (first, second, first)])
        assert not np.array_equal(outputs[0], outputs[1])


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["trt", "trt-rtx"])
def test_golden_vectors_on_the_gpu(bundle: Bundle, flavour: str) -> None:  # oracle: golden.npz
    reason = obstacle(flavour)
    if reason is not None:
        pytest.skip(reason)
    build_engines(bundle, flavour, BuildOptions(profile=(1, 4, 8)))
    graphs = driver.TensorRTGraphs(bundle, flavour)
    golden = bundle.arrays("golden.npz")
    for graph in bundle.manifest.graphs:
        inputs = [golden[f"{graph}.{name}"] for name in INPUTS[graph]]
        found = call(graphs, graph, inputs)
        np.testing.assert_allclose(found, golden[f"{graph}.{OUTPUTS[graph]}"], rtol=0, atol=1e-3)
        again = call(graphs, graph, [np.concatenate([array] * 5) for array in inputs])
        np.testing.assert_array_equal(again[-len(found) :], found)  # a row does not see its neighbours
