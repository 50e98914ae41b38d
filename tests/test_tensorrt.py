"""Engines: their index, what is refused, and the session, on a stand-in for the GPU or on a real one."""

import ctypes
import enum
import json
import shutil
import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from fsae.export.engines import BuildOptions, build_engine, build_engines, build_target, pick_flavour
from fsae.runtime import tensorrt as driver
from fsae.runtime.bundle import Bundle, file_entry, open_bundle
from fsae.runtime.engines import (
    INDEX,
    PORTABLE,
    Engine,
    Target,
    engine_folder,
    find_engine,
    index_text,
    read_engine,
    read_index,
    this_platform,
)
from fsae.runtime.errors import BundleError, DeviceError, UsageError
from fsae.runtime.session import INPUTS, OUTPUTS, DenoiserInputs, Graphs, OnnxGraphs

HERE = Target(flavour="trt", version="10.9.0", compute_capability="8.9", platform=this_platform())


@pytest.fixture
def bundle(tiny_bundle_path: Path, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle to build engines in."""
    return open_bundle(shutil.copytree(tiny_bundle_path, tmp_path / "tiny"))


def an_engine(bundle: Bundle, graph: str = "encoder", target: Target = HERE, content: bytes = b"") -> Engine:
    """An index entry of the bundle whose file holds the graph's ONNX file, or `content`."""
    data = content or bundle.read(f"{graph}.fp32.onnx")
    entry = file_entry(data)
    engine = Engine(
        graph=graph,
        precision="fp32",
        graph_sha256=bundle.manifest.files[f"{graph}.fp32.onnx"].sha256,
        target=target,
        profile=(1, 3, 4),
        file=f"{graph}.engine",
        sha256=entry.sha256,
        size=entry.size,
    )
    engine_folder(bundle).mkdir(exist_ok=True)
    (engine_folder(bundle) / engine.file).write_bytes(data)
    return engine


def write_index(bundle: Bundle, *engines: Engine) -> None:
    (engine_folder(bundle) / INDEX).write_text(index_text(list(engines)))


def test_key_depends_on_everything_an_engine_depends_on(bundle: Bundle) -> None:  # oracle: the definition of the key
    engine = an_engine(bundle)
    same = replace(engine, file="other.engine", sha256="0" * 64, size=1)
    assert same.key == engine.key
    targets = [replace(HERE, **{name: "other"}) for name in ("flavour", "version", "compute_capability", "platform")]
    others = [replace(engine, target=target) for target in targets]
    others += [replace(engine, **{name: "other"}) for name in ("graph", "precision", "graph_sha256")]
    others.append(replace(engine, profile=(1, 3, 5)))
    assert len({engine.key, *(other.key for other in others)}) == 1 + len(others)


def test_index_comes_back_as_it_was(bundle: Bundle) -> None:  # oracle: round trip
    engines = [an_engine(bundle, graph) for graph in ("decoder", "encoder")]
    write_index(bundle, *reversed(engines))
    assert read_index(engine_folder(bundle)) == engines
    assert read_index(bundle.folder / "nowhere") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.update(schema_version=2), "newer fsae"),
        (lambda raw: raw["engines"][0].update(file="../../evil.engine"), "plain name"),
        (lambda raw: raw["engines"][0].update(file="/tmp/evil.engine"), "plain name"),  # noqa: S108 - not used
        (lambda raw: raw["engines"][0].update(colour="blue"), "unknown keys"),
        (lambda raw: raw["engines"][0].pop("sha256"), "lacks the keys"),
        (lambda raw: raw["engines"][0].update(profile=[1, 2]), "profile"),
        (lambda raw: raw["engines"][0]["target"].update(version=10), "version"),
    ],
)
def test_bad_index_is_refused(bundle: Bundle, change, words: str) -> None:
    raw = json.loads(index_text([an_engine(bundle)]))
    change(raw)
    (engine_folder(bundle) / INDEX).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=words):
        read_index(engine_folder(bundle))


def test_only_an_engine_made_for_here_is_found(bundle: Bundle) -> None:  # oracle: the rule in find_engine's docstring
    with pytest.raises(DeviceError, match=r"has no trt engine of the encoder.*fsae-export"):
        find_engine(bundle, "encoder", "fp32", HERE)
    good = an_engine(bundle)
    for other, words in (
        (replace(good, target=replace(HERE, version="10.8.0")), "another machine: found trt 10.8.0"),
        (replace(good, target=replace(HERE, compute_capability="9.0")), "compute capability 9.0"),
        (replace(good, target=replace(HERE, platform="win32-amd64")), "win32"),
        (replace(good, graph_sha256="0" * 64), "older graph"),
        (replace(good, target=replace(HERE, flavour="trt-rtx")), "no trt engine"),
    ):
        write_index(bundle, other)
        with pytest.raises(DeviceError, match=words):
            find_engine(bundle, "encoder", "fp32", HERE)
    write_index(bundle, good)
    assert find_engine(bundle, "encoder", "fp32", HERE) == good
    portable = replace(good, target=replace(HERE, compute_capability=PORTABLE))
    write_index(bundle, portable)
    assert find_engine(bundle, "encoder", "fp32", HERE) == portable


def test_altered_engine_is_not_read(bundle: Bundle) -> None:
    engine = an_engine(bundle)
    assert read_engine(bundle, engine) == bundle.read("encoder.fp32.onnx")
    path = engine_folder(bundle) / engine.file
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BundleError, match="altered or truncated"):
        read_engine(bundle, engine)
    path.unlink()
    with pytest.raises(BundleError, match="cannot read"):
        read_engine(bundle, engine)


@pytest.mark.parametrize(("flavour", "module"), [("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx")])
def test_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, flavour: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    reason = driver.available(flavour)
    assert reason is not None
    assert module in reason
    assert f'pip install "fsae[{flavour}]"' in reason


def test_missing_cuda_bindings_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    reason = driver.available("trt")
    assert reason is not None
    assert "cuda-bindings" in reason
    assert 'pip install "fsae[trt]"' in reason


def test_unknown_flavour_is_refused() -> None:
    assert "expected one of trt, trt-rtx" in (driver.available("cuda") or "")


def test_missing_driver_is_said_before_tensorrt_is_asked(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    install_stand_ins(monkeypatch, driver_error="cudaErrorInsufficientDriver")
    assert "NVIDIA GPU with a recent driver: cudaErrorInsufficientDriver" in (driver.available("trt") or "")
    with pytest.raises(DeviceError, match="recent driver"):
        driver.TensorRTGraphs(bundle, "trt")
    with pytest.raises(DeviceError, match="on the GPU they run on"):
        build_target("trt")


# A stand-in for CUDA and TensorRT: device memory is host memory, an "engine" is an ONNX file for ONNX Runtime.


class _Code(enum.Enum):
    cudaSuccess = 0
    cudaErrorInsufficientDriver = 35
    cudaErrorMemoryAllocation = 2


class FakeCuda(types.ModuleType):
    cudaError_t = _Code

    class cudaMemcpyKind:
        cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost = 1, 2

    def __init__(self, driver_error: str, memory: int) -> None:
        super().__init__("cuda.bindings.runtime")
        self.driver, self.free_bytes = _Code[driver_error], memory
        self.blocks: dict[int, ctypes.Array] = {}

    def cudaGetDeviceCount(self):
        return self.driver, 1 if self.driver is _Code.cudaSuccess else None

    def cudaGetErrorString(self, error):
        return _Code.cudaSuccess, f"text of {error.value}".encode()

    def cudaGetDeviceProperties(self, device):
        return _Code.cudaSuccess, types.SimpleNamespace(name=b"Stand-in", major=8, minor=9)

    def cudaMalloc(self, size):
        if size > self.free_bytes:
            return _Code.cudaErrorMemoryAllocation, None
        block = (ctypes.c_char * size)()
        self.blocks[ctypes.addressof(block)] = block
        return _Code.cudaSuccess, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address):
        del self.blocks[address]
        return (_Code.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaSetDevice(self, device):
        return (_Code.cudaSuccess,)

    def cudaStreamCreate(self):
        return _Code.cudaSuccess, 7

    def cudaStreamDestroy(self, stream):
        return (_Code.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        return (_Code.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert stream == 7
        ctypes.memmove(target, source, size)
        return (_Code.cudaSuccess,)


class _Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class _FakeContext:
    def __init__(self, engine) -> None:
        self.engine, self.shapes, self.addresses = engine, {}, {}

    def set_input_shape(self, name, shape) -> bool:
        self.shapes[name] = shape
        return True

    def infer_shapes(self):
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name):
        batch = next(iter(self.shapes.values()))[0]
        return (batch, *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name, address) -> bool:
        self.addresses[name] = address
        return True

    def _view(self, name):
        shape = self.get_tensor_shape(name)
        memory = (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])
        return np.ctypeslib.as_array(memory).reshape(shape)

    def execute_async_v3(self, stream) -> bool:
        assert stream == 7
        inputs = {name: self._view(name) for name in self.engine.inputs}
        self._view(self.engine.output)[...] = self.engine.session.run(None, inputs)[0]
        return True


class _FakeEngine:
    def __init__(self, data: bytes) -> None:
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.output = self.session.get_outputs()[0].name
        self.tensors = {v.name: v.shape for v in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_shape(self, name):
        return (-1, *self.tensors[name][1:])

    def get_tensor_dtype(self, name):
        return "float32"

    def create_execution_context(self):
        return _FakeContext(self)


def install_stand_ins(
    monkeypatch: pytest.MonkeyPatch, driver_error: str = "cudaSuccess", memory: int = 1 << 30
) -> FakeCuda:
    """Put the stand-ins where the driver looks for tensorrt and cuda-bindings."""
    cuda, trt = FakeCuda(driver_error, memory), types.ModuleType("tensorrt")
    trt.__version__, trt.ILogger = HERE.version, _Logger
    trt.DataType = types.SimpleNamespace(FLOAT="float32")
    trt.Runtime = lambda logger: types.SimpleNamespace(deserialize_cuda_engine=_FakeEngine)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


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


# TensorRT-RTX builds engines without a GPU: for real, wherever it is installed.


@pytest.fixture
def rtx() -> types.ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'fsae[trt-rtx]'")


def test_engines_are_built_indexed_and_kept(rtx: types.ModuleType, bundle: Bundle) -> None:
    # oracle: the library's own header check, and the rules in build_engines's docstring
    said: list[str] = []
    built = build_engines(bundle, "trt-rtx", BuildOptions(profile=(1, 2, 4)), say=said.append)
    assert [engine.graph for engine in built] == list(bundle.manifest.graphs)
    assert sum("building with tensorrt_rtx" in line for line in said) == 3
    assert sorted(read_index(engine_folder(bundle)), key=lambda e: e.key) == sorted(built, key=lambda e: e.key)
    _, target = build_target("trt-rtx")
    for engine in built:
        assert engine.target == target
        assert find_engine(bundle, engine.graph, "fp32", target) == engine
        assert len(read_engine(bundle, engine)) == engine.size > 1000
    # again: nothing is built; another batch: beside the first; a graph that changed: the old engine goes
    said.clear()
    assert build_engines(bundle, "trt-rtx", BuildOptions(profile=(1, 2, 4)), say=said.append) == built
    assert said == [f"{graph} fp32: up to date" for graph in bundle.manifest.graphs]
    wider = build_engines(bundle, "trt-rtx", BuildOptions(profile=(1, 4, 8)))
    assert len(read_index(engine_folder(bundle))) == 6
    path = engine_folder(bundle) / wider[0].file
    path.write_bytes(path.read_bytes()[:-1])
    said.clear()
    build_engines(bundle, "trt-rtx", BuildOptions(profile=(1, 4, 8)), say=said.append)
    assert f"dropping {wider[0].file}: missing or altered" in said
    assert {p.name for p in engine_folder(bundle).iterdir()} == {
        INDEX,
        *(engine.file for engine in read_index(engine_folder(bundle))),
    }


def test_engines_of_an_older_graph_are_dropped(rtx: types.ModuleType, bundle: Bundle) -> None:
    old = an_engine(bundle, target=build_target("trt-rtx")[1])
    write_index(bundle, replace(old, graph_sha256="1" * 64))
    said: list[str] = []
    build_engines(bundle, "trt-rtx", BuildOptions(profile=(2, 2, 2)), say=said.append)
    assert f"dropping {old.file}: it was built from an older graph" in said
    assert not (engine_folder(bundle) / old.file).exists()


def test_a_failed_build_names_the_node(rtx: types.ModuleType) -> None:  # oracle: the node we broke
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def model(node) -> bytes:
        value = helper.make_tensor_value_info
        shape = onnx.numpy_helper.from_array(np.array([3, 3]), "shape")
        graph = helper.make_graph([node], "g", [value("x", 1, ["b", 4])], [value("y", 1, None)], [shape])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()

    trt, target = build_target("trt-rtx")
    node = helper.make_node("Det", ["x"], ["y"], name="broken_determinant")
    with pytest.raises(DeviceError, match="Det node 'broken_determinant'"):
        build_engine(trt, model(node), "g", target, BuildOptions())
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="broken_reshape")
    with pytest.raises(DeviceError, match=r"cannot build g: .*broken_reshape"):
        build_engine(trt, model(node), "g", target, BuildOptions())


def test_neither_library_names_both_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DeviceError, match=r"fsae\[trt\].*fsae\[trt-rtx\]"):
        pick_flavour()


def test_tensorrt_is_preferred_where_both_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    assert pick_flavour() == "trt"


@pytest.mark.parametrize("profile", [(0, 1, 2), (2, 1, 4), (1, 8, 4)])
def test_batches_must_rise(profile: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="rising"):
        BuildOptions(profile=profile)


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["trt", "trt-rtx"])
def test_golden_vectors_on_the_gpu(bundle: Bundle, flavour: str) -> None:  # oracle: golden.npz
    reason = driver.available(flavour)
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
