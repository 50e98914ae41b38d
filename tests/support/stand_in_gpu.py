"""A stand-in for CUDA and TensorRT: device memory is host memory, and an "engine" is an ONNX file for ONNX Runtime."""

import ctypes
import enum
import sys
import types

import numpy as np
import onnxruntime
import pytest

from fsae.runtime.backends.cuda import find_gpu
from fsae.runtime.backends.engine_index import INDEX, Engine, Target, engine_folder, index_text, this_platform
from fsae.runtime.backends.tensorrt import import_tensorrt
from fsae.runtime.bundle.files import Bundle, file_entry
from fsae.runtime.errors import DeviceError

HERE = Target(flavour="trt", version="10.9.0", compute_capability="8.9", platform=this_platform())


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


class _Code(enum.Enum):
    cudaSuccess = 0
    cudaErrorInsufficientDriver = 35
    cudaErrorUnknown = 999
    cudaErrorMemoryAllocation = 2
    cudaErrorStreamCaptureUnsupported = 900


class FakeCuda(types.ModuleType):
    cudaError_t = _Code

    class cudaMemcpyKind:
        cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost = 1, 2

    class cudaStreamCaptureMode:
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(self, driver_error: str, memory: int) -> None:
        super().__init__("cuda.bindings.runtime")
        self.driver, self.free_bytes = _Code[driver_error], memory
        self.blocks: dict[int, ctypes.Array] = {}
        self.recording: list | None = None  # what a stream records instead of running it
        self.graphs: dict[int, list] = {}  # captured and launchable ones, by handle
        self.launched, self.can_capture, self.last_error = 0, True, _Code.cudaSuccess

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

    def enqueue(self, work) -> None:
        """Work on the stream, now or, while it is captured, whenever the graph is launched."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert stream == 7
        self.enqueue(lambda: ctypes.memmove(target, source, size))
        return (_Code.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert stream == 7
        assert self.recording is None
        self.recording = []
        return (_Code.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        recorded, self.recording = self.recording, None
        if not self.can_capture:
            self.last_error = _Code.cudaErrorStreamCaptureUnsupported
            return self.last_error, None
        return _Code.cudaSuccess, self._graph(recorded)

    def cudaGetLastError(self):
        error, self.last_error = self.last_error, _Code.cudaSuccess
        return (error,)

    def _graph(self, works) -> int:
        handle = 1 + max(self.graphs, default=0)
        self.graphs[handle] = works
        return handle

    def cudaGraphInstantiate(self, graph, flags):
        return _Code.cudaSuccess, self._graph(self.graphs[graph])

    def cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (_Code.cudaSuccess,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph, stream):
        assert stream == 7
        self.launched += 1
        for work in self.graphs[graph]:
            work()
        return (_Code.cudaSuccess,)


class Logger:
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
        sys.modules["cuda.bindings.runtime"].enqueue(self._execute)
        return True

    def _execute(self) -> None:
        inputs = {name: self._view(name) for name in self.engine.inputs}
        self._view(self.engine.output)[...] = self.engine.session.run(None, inputs)[0]


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


def install_cuda(monkeypatch: pytest.MonkeyPatch, driver_error: str = "cudaSuccess", memory: int = 1 << 30) -> FakeCuda:
    """Put the stand-in where the driver looks for cuda-bindings."""
    cuda = FakeCuda(driver_error, memory)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


def install_stand_ins(
    monkeypatch: pytest.MonkeyPatch, driver_error: str = "cudaSuccess", memory: int = 1 << 30
) -> FakeCuda:
    """Put the stand-ins where the driver looks for tensorrt and cuda-bindings."""
    cuda, trt = install_cuda(monkeypatch, driver_error, memory), types.ModuleType("tensorrt")
    trt.__version__, trt.ILogger = HERE.version, Logger
    trt.DataType = types.SimpleNamespace(FLOAT="float32")
    trt.Runtime = lambda logger: types.SimpleNamespace(deserialize_cuda_engine=_FakeEngine)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    return cuda


def obstacle(flavour: str) -> str | None:
    """The message of the error that keeps a TensorRT flavour from running here, or None."""
    try:
        import_tensorrt(flavour)
        find_gpu(flavour)
    except DeviceError as error:
        return str(error)
    return None


def take_the_cpu_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make onnxruntime offer CUDA and take the CPU whatever is asked for, as it does without cuDNN."""
    real = onnxruntime.InferenceSession

    def on_cpu(model: bytes, options: object, providers: object) -> object:
        return real(model, options, providers=["CPUExecutionProvider"])

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
