"""TensorRT and TensorRT-RTX driven directly: libraries and GPU found, engines loaded, graphs run on own buffers.

The name-based interface used here is the same in TensorRT 10, 11 and TensorRT-RTX. Device memory comes from
cuda-bindings, which says with an error code that there is no driver; TensorRT prints and fails, so it is asked second.
"""

import ctypes
import importlib
import threading
import weakref
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .devices import LIBRARIES
from .engines import Engine, Target, find_engine, read_engine, this_platform
from .errors import BundleError, DeviceError
from .session import F32, INPUTS, OUTPUTS, GraphCalls, pad_batch

MODULES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}  # flavour, which is also the device, to Python module
HOST_TO_DEVICE, DEVICE_TO_HOST = "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU in use: its name and its compute capability, as "8.9"."""

    name: str
    compute_capability: str


def import_tensorrt(flavour: str) -> ModuleType:
    """The library of a flavour, "trt" or "trt-rtx"; DeviceError naming the extra where it cannot be imported."""
    if flavour not in MODULES:
        raise DeviceError(f"found TensorRT flavour {flavour!r}, expected one of {', '.join(MODULES)}")
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError, RuntimeError) as error:  # its libraries are loaded on import and may be missing
        raise DeviceError(
            f"device {flavour} needs {MODULES[flavour]}, which cannot be imported ({error}): "
            f'pip install "fsae[{LIBRARIES[flavour].extra}]"'
        ) from None


def import_cuda(flavour: str) -> ModuleType:
    """The CUDA runtime bindings; DeviceError naming the extra where they are missing."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise DeviceError(
            f"device {flavour} needs cuda-bindings, which cannot be imported ({error}): "
            f'pip install "fsae[{LIBRARIES[flavour].extra}]"'
        ) from None


def find_gpu(flavour: str) -> Gpu:
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses); DeviceError where driver or GPU is missing."""
    cuda = import_cuda(flavour)
    try:
        error, count = cuda.cudaGetDeviceCount()
    except RuntimeError as problem:  # the bindings raise where they cannot even load the driver's library
        raise DeviceError(f"device {flavour} needs an NVIDIA driver, none was found ({problem})") from None
    if error.name in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorInitializationError"):
        raise DeviceError(f"device {flavour} needs an NVIDIA GPU with a recent driver: {_describe(cuda, error)}")
    _check(cuda, (error,), "cudaGetDeviceCount")
    if not count:
        raise DeviceError(f"device {flavour} needs an NVIDIA GPU: the driver shows none; check nvidia-smi")
    (properties,) = _check(cuda, cuda.cudaGetDeviceProperties(0), "cudaGetDeviceProperties")
    return Gpu(name=properties.name.decode().strip("\0 "), compute_capability=f"{properties.major}.{properties.minor}")


def available(flavour: str) -> str | None:
    """Why graphs cannot run by this flavour here, or None: library, cuda-bindings and driver are looked at in turn."""
    try:
        import_tensorrt(flavour)
        find_gpu(flavour)
    except DeviceError as error:
        return str(error)
    return None


def make_logger(trt: ModuleType) -> tuple[Any, list[str]]:
    """A logger for TensorRT and the list into which it writes errors and warnings, the newest last."""
    messages: list[str] = []
    worth = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING)

    class Listener(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in worth:
                messages.append(f"{severity.name.lower().replace('_', ' ')}: {message.strip()}")

    return Listener(), messages


def _describe(cuda: ModuleType, error: Any) -> str:
    """Name and text of a CUDA error code."""
    _, text = cuda.cudaGetErrorString(error)
    return f"{error.name} ({text.decode() if isinstance(text, bytes) else text})"


def _check(cuda: ModuleType, result: tuple[Any, ...], call: str) -> tuple[Any, ...]:
    """What a CUDA call gave beside its error code; DeviceError where the code is not success."""
    error, *values = result
    if error.name == "cudaErrorMemoryAllocation":
        raise DeviceError("the GPU has not enough free memory: free some, or build engines for a smaller --batch")
    if error != cuda.cudaError_t.cudaSuccess:
        raise DeviceError(f"CUDA failed in {call}: {_describe(cuda, error)}")
    return tuple(values)


class _Buffer:
    """One tensor of a graph: device memory, and page-locked host memory of the same size seen as a NumPy array."""

    def __init__(self, cuda: ModuleType, shape: tuple[int, ...]) -> None:
        self.size = 4 * int(np.prod(shape))  # bytes of float32
        (self.device,) = _check(cuda, cuda.cudaMalloc(self.size), "cudaMalloc")
        release = [(cuda.cudaFree, self.device)]
        self._free = weakref.finalize(self, _release, release)
        (self.pinned,) = _check(cuda, cuda.cudaMallocHost(self.size), "cudaMallocHost")
        release.append((cuda.cudaFreeHost, self.pinned))
        memory = (ctypes.c_float * int(np.prod(shape))).from_address(int(self.pinned))
        self.host: F32 = np.ctypeslib.as_array(memory).reshape(shape)


def _release(handles: list[tuple[Any, Any]]) -> None:
    """Nothing; gives CUDA resources back, and errors are of no use any more then."""
    for free, handle in handles:
        free(handle)


class _Graph:
    """One engine with its context and buffers, run at one fixed batch."""

    def __init__(self, trt: ModuleType, cuda: ModuleType, runtime: Any, data: bytes, engine: Engine) -> None:
        self.batch = engine.profile[1]
        self._cuda = cuda
        name = f"the engine of the {engine.graph}"
        self._engine = runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            library = f"{trt.__name__} {trt.__version__}"
            raise DeviceError(f"{name} cannot be loaded by {library}: build it again with fsae-export BUNDLE --trt")
        found = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        expected = {*INPUTS[engine.graph], OUTPUTS[engine.graph]}
        if found != expected:
            raise BundleError(
                f"{name} has the tensors {sorted(found)}, expected {sorted(expected)}: build it again with "
                "fsae-export BUNDLE --trt"
            )
        self._context = _make_context(trt, self._engine)
        if self._context is None:
            raise DeviceError(f"{name} cannot run: TensorRT made no execution context, likely for want of GPU memory")
        for tensor in INPUTS[engine.graph]:
            shape = (self.batch, *tuple(self._engine.get_tensor_shape(tensor))[1:])
            if not self._context.set_input_shape(tensor, shape):
                raise DeviceError(f"{name} refuses the shape {shape} of {tensor}")
        unknown = self._context.infer_shapes()
        if unknown:
            raise BundleError(f"{name} leaves the shapes of {unknown} open")
        self._inputs, self._output = INPUTS[engine.graph], OUTPUTS[engine.graph]
        self._buffers: dict[str, _Buffer] = {}
        for tensor in (*self._inputs, self._output):
            if self._engine.get_tensor_dtype(tensor) != trt.DataType.FLOAT:
                raise BundleError(f"{tensor} of {name} is {self._engine.get_tensor_dtype(tensor)}, expected float32")
            buffer = _Buffer(cuda, tuple(self._context.get_tensor_shape(tensor)))
            self._buffers[tensor] = buffer
            if not self._context.set_tensor_address(tensor, int(buffer.device)):
                raise DeviceError(f"{name} refuses the memory of {tensor}")

    def run(self, stream: Any, arrays: tuple[F32, ...]) -> F32:
        """Output rows for input rows, as many as `batch` or fewer; only these are copied out."""
        rows = arrays[0].shape[0]
        kinds = self._cuda.cudaMemcpyKind
        for tensor, array in zip(self._inputs, arrays, strict=True):
            buffer = self._buffers[tensor]
            padded = pad_batch(np.asarray(array, dtype=np.float32), self.batch)
            if padded.shape != buffer.host.shape:
                raise BundleError(f"{tensor} has the shape {array.shape}, expected (batch, *{buffer.host.shape[1:]})")
            buffer.host[...] = padded
            self._copy(int(buffer.device), int(buffer.pinned), buffer.size, getattr(kinds, HOST_TO_DEVICE), stream)
        if not self._context.execute_async_v3(int(stream)):
            raise DeviceError(f"TensorRT could not run the graph that gives {self._output}")
        out = self._buffers[self._output]
        self._copy(int(out.pinned), int(out.device), out.size, getattr(kinds, DEVICE_TO_HOST), stream)
        _check(self._cuda, self._cuda.cudaStreamSynchronize(stream), "cudaStreamSynchronize")
        result: F32 = out.host[:rows].copy()
        return result

    def _copy(self, target: int, source: int, size: int, kind: Any, stream: Any) -> None:
        _check(self._cuda, self._cuda.cudaMemcpyAsync(target, source, size, kind, stream), "cudaMemcpyAsync")


def _make_context(trt: ModuleType, engine: Any) -> Any:
    """Execution context of an engine whose kernels do not change while it runs.

    TensorRT-RTX compiles on the machine and by default swaps in specialised kernels when they are ready, so that the
    same input gives other last bits later on. At one fixed batch the specialised ones are wanted from the start.
    """
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


class TensorRTGraphs(GraphCalls):
    """`Graphs` by TensorRT engines of the bundle; every call runs at the engine's best batch, padded where needed.

    One stream and one set of buffers, so calls are serialised by a lock. All engines are found, hash checked and loaded
    here: a missing, stale or foreign one fails before any work is done.
    """

    def __init__(self, bundle: Bundle, flavour: str = "trt", precision: str = "fp32") -> None:
        trt = import_tensorrt(flavour)
        gpu = find_gpu(flavour)
        if precision not in bundle.manifest.precisions:
            found = ", ".join(bundle.manifest.precisions)
            raise BundleError(f"bundle {bundle.manifest.name} has no precision {precision}, it has {found}")
        self.device, self.precision = flavour, precision
        self._trt, self._cuda = trt, import_cuda(flavour)
        self._lock = threading.Lock()
        target = this_target(flavour, trt, gpu)
        engines = [find_engine(bundle, graph, precision, target) for graph in bundle.manifest.graphs]
        contents = [read_engine(bundle, engine) for engine in engines]
        _check(self._cuda, self._cuda.cudaSetDevice(0), "cudaSetDevice")
        (self._stream,) = _check(self._cuda, self._cuda.cudaStreamCreate(), "cudaStreamCreate")
        weakref.finalize(self, _release, [(self._cuda.cudaStreamDestroy, self._stream)])
        logger, messages = make_logger(trt)
        self._logger = logger  # TensorRT keeps a bare pointer to it
        self._runtime = trt.Runtime(logger)
        self._graphs: dict[str, _Graph] = {}
        for engine, data in zip(engines, contents, strict=True):
            try:
                self._graphs[engine.graph] = _Graph(trt, self._cuda, self._runtime, data, engine)
            except DeviceError as error:
                raise DeviceError(f"{error}; {' '.join(messages[-2:]) or 'TensorRT gave no reason'}") from None

    @property
    def backend(self) -> str:
        """Library and version in use."""
        return f"{self._trt.__name__} {self._trt.__version__}"

    def _run(self, graph: str, *arrays: F32) -> F32:
        """Output of a graph for any number of rows, in parts of the engine's batch."""
        if graph not in self._graphs:
            raise BundleError(f"this bundle has no {graph}: it cannot generate")
        engine = self._graphs[graph]
        with self._lock:
            # the current device belongs to the thread, and this may be another one than the one that opened the session
            _check(self._cuda, self._cuda.cudaSetDevice(0), "cudaSetDevice")
            starts = range(0, arrays[0].shape[0], engine.batch)
            parts = [engine.run(self._stream, tuple(a[i : i + engine.batch] for a in arrays)) for i in starts]
        whole: NDArray[np.float32] = np.concatenate(parts)
        return whole


def this_target(flavour: str, trt: ModuleType, gpu: Gpu) -> Target:
    """What an engine must have been built for to be loaded here."""
    return Target(
        flavour=flavour,
        version=trt.__version__,
        compute_capability=gpu.compute_capability,
        platform=this_platform(),
    )
