"""TensorRT and TensorRT-RTX, driven directly: find the library and the GPU, load engines, run them on our own buffers.

The name-based interface used here is the same in TensorRT 10, 11 and TensorRT-RTX. A call is a CUDA graph: its copies
and kernels are captured once and launched together. TensorRT-RTX captures its kernels itself.
"""

import importlib
import threading
import weakref
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import BundleError, DeviceError

from .cuda import DEVICE_TO_HOST, HOST_TO_DEVICE, Buffer, Gpu, capture, check, find_gpu, import_cuda, release
from .devices import FLAVOURS, LIBRARIES
from .engine_index import Engine, Target, find_engine, read_engine, this_platform
from .graphs import INPUTS, OUTPUTS, GraphCalls, pad_batch


def import_tensorrt(flavour: str) -> ModuleType:
    """The library of a flavour, "trt" or "trt-rtx"; DeviceError naming the extra if it cannot be imported."""
    if flavour not in FLAVOURS:
        raise DeviceError(
            f"found TensorRT flavour {flavour!r}",
            f"one of {', '.join(FLAVOURS)}",
            "take --device trt or --device trt-rtx",
        )
    library = LIBRARIES[flavour]
    try:
        return importlib.import_module(library.module)
    except (ImportError, OSError, RuntimeError) as error:  # its libraries are loaded on import and may be missing
        raise DeviceError(
            f"needs {library.module}, which cannot be imported ({error})",
            advice=f'pip install "fsae[{library.extra}]"',
            device=flavour,
        ) from None


def make_logger(trt: ModuleType) -> tuple[Any, list[str]]:
    """A TensorRT logger and the list that it appends errors and warnings to."""
    messages: list[str] = []
    worth = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING)

    class Listener(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in worth:
                messages.append(f"{severity.name.lower().replace('_', ' ')}: {message.strip()}")

    return Listener(), messages


class _Graph:
    """One engine with its context and buffers, run at one fixed batch."""

    def __init__(
        self, trt: ModuleType, cuda: ModuleType, runtime: Any, data: bytes, engine: Engine, cuda_graphs: bool
    ) -> None:
        self.batch = engine.profile[1]
        self._cuda = cuda
        name = f"the engine of the {engine.graph}"
        self._engine = runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            library = f"{trt.__name__} {trt.__version__}"
            raise DeviceError(
                f"{name} cannot be loaded by {library}", advice="build it again with fsae-export BUNDLE --trt"
            )
        found = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        expected = {*INPUTS[engine.graph], OUTPUTS[engine.graph]}
        if found != expected:
            raise BundleError(
                f"{name} has the tensors {sorted(found)}",
                str(sorted(expected)),
                "build it again with fsae-export BUNDLE --trt",
            )
        self._context = _make_context(trt, self._engine, cuda_graphs)
        self._to_capture, self._captured = cuda_graphs and not _captures_itself(trt), None
        if self._context is None:
            raise DeviceError(
                f"{name} cannot run: TensorRT made no execution context",
                advice="free memory of the GPU, or take --device cuda",
            )
        for tensor in INPUTS[engine.graph]:
            shape = (self.batch, *tuple(self._engine.get_tensor_shape(tensor))[1:])
            if not self._context.set_input_shape(tensor, shape):
                raise DeviceError(
                    f"{name} refuses the shape {shape} of {tensor}",
                    advice="build it again with fsae-export BUNDLE --trt",
                )
        unknown = self._context.infer_shapes()
        if unknown:
            raise BundleError(
                f"{name} leaves the shapes of {unknown} open", advice="build it again with fsae-export BUNDLE --trt"
            )
        self._inputs, self._output = INPUTS[engine.graph], OUTPUTS[engine.graph]
        self._buffers: dict[str, Buffer] = {}
        for tensor in (*self._inputs, self._output):
            if self._engine.get_tensor_dtype(tensor) != trt.DataType.FLOAT:
                raise BundleError(
                    f"{tensor} of {name} is {self._engine.get_tensor_dtype(tensor)}",
                    "float32",
                    "build it again with fsae-export BUNDLE --trt",
                )
            buffer = Buffer(cuda, tuple(self._context.get_tensor_shape(tensor)))
            self._buffers[tensor] = buffer
            if not self._context.set_tensor_address(tensor, int(buffer.device)):
                raise DeviceError(
                    f"{name} refuses the memory of {tensor}", advice="free memory of the GPU, or take --device cuda"
                )

    def run(self, stream: Any, arrays: tuple[F32, ...]) -> F32:
        """Output rows of at most `batch` input rows."""
        for tensor, array in zip(self._inputs, arrays, strict=True):
            buffer = self._buffers[tensor]
            padded = pad_batch(np.asarray(array, dtype=np.float32), self.batch)
            if padded.shape != buffer.host.shape:
                raise BundleError(
                    f"{tensor} has the shape {array.shape}",
                    f"(batch, *{buffer.host.shape[1:]})",
                    "give an array with the batch first",
                )
            buffer.host[...] = padded
        if self._captured is not None:
            check(self._cuda, self._cuda.cudaGraphLaunch(self._captured, stream), "cudaGraphLaunch")
        else:
            self._enqueue(stream)
        check(self._cuda, self._cuda.cudaStreamSynchronize(stream), "cudaStreamSynchronize")
        if self._to_capture:  # TensorRT prepares itself in the first call, which cannot be captured
            self._to_capture = False
            self._captured = capture(self._cuda, stream, lambda: self._enqueue(stream))
            if self._captured is not None:
                weakref.finalize(self, release, [(self._cuda.cudaGraphExecDestroy, self._captured)])
        result: F32 = self._buffers[self._output].host[: arrays[0].shape[0]].copy()
        return result

    def _enqueue(self, stream: Any) -> None:
        """Put the copies in, the kernels and the copy out on the stream."""
        for tensor in self._inputs:
            buffer = self._buffers[tensor]
            self._copy(int(buffer.device), int(buffer.pinned), buffer.size, HOST_TO_DEVICE, stream)
        if not self._context.execute_async_v3(int(stream)):
            raise DeviceError(
                f"TensorRT could not run the graph that gives {self._output}",
                advice="check the GPU with nvidia-smi, or take --device cuda",
            )
        out = self._buffers[self._output]
        self._copy(int(out.pinned), int(out.device), out.size, DEVICE_TO_HOST, stream)

    def _copy(self, target: int, source: int, size: int, kind: str, stream: Any) -> None:
        way = getattr(self._cuda.cudaMemcpyKind, kind)
        check(self._cuda, self._cuda.cudaMemcpyAsync(target, source, size, way, stream), "cudaMemcpyAsync")


def _captures_itself(trt: ModuleType) -> bool:
    """True if the library captures CUDA graphs itself; others can then capture special engines only."""
    return hasattr(trt, "CudaGraphStrategy")


def _make_context(trt: ModuleType, engine: Any, cuda_graphs: bool) -> Any:
    """Execution context of an engine whose kernels do not change while it runs.

    TensorRT-RTX compiles on the machine and by default swaps in specialised kernels when they are ready, so that the
    same input gives other last bits later on. At one fixed batch the specialised ones are wanted from the start.
    """
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    if cuda_graphs and _captures_itself(trt):
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)


class TensorRTGraphs(GraphCalls):
    """`Graphs` by TensorRT engines of the bundle; every call runs at the engine's best batch, padded if needed.

    One stream and one set of buffers, so a lock serialises the calls. All engines are found, checked and loaded here: a
    missing, stale or foreign one fails before any work is done. `cuda_graphs=False` launches kernel by kernel.
    """

    def __init__(
        self, bundle: Bundle, flavour: str = "trt", precision: str = "fp32", *, cuda_graphs: bool = True
    ) -> None:
        trt = import_tensorrt(flavour)
        gpu = find_gpu(flavour)
        if precision not in bundle.manifest.precisions:
            found = ", ".join(bundle.manifest.precisions)
            raise BundleError(
                f"bundle {bundle.manifest.name} has no precision {precision}, it has {found}",
                advice="give one of these as --precision",
            )
        self.device, self.precision = flavour, precision
        self._trt, self._cuda = trt, import_cuda(flavour)
        self._lock = threading.Lock()
        target = this_target(flavour, trt, gpu)
        engines = [find_engine(bundle, graph, precision, target) for graph in bundle.manifest.graphs]
        contents = [read_engine(bundle, engine) for engine in engines]
        check(self._cuda, self._cuda.cudaSetDevice(0), "cudaSetDevice")
        (self._stream,) = check(self._cuda, self._cuda.cudaStreamCreate(), "cudaStreamCreate")
        weakref.finalize(self, release, [(self._cuda.cudaStreamDestroy, self._stream)])
        logger, messages = make_logger(trt)
        self._logger = logger  # TensorRT keeps a bare pointer to it
        self._runtime = trt.Runtime(logger)
        self._graphs: dict[str, _Graph] = {}
        for engine, data in zip(engines, contents, strict=True):
            try:
                self._graphs[engine.graph] = _Graph(trt, self._cuda, self._runtime, data, engine, cuda_graphs)
            except DeviceError as error:
                raise DeviceError(
                    f"{error.reason}; {' '.join(messages[-2:]) or 'TensorRT gave no reason'}", advice=error.advice
                ) from None

    @property
    def backend(self) -> str:
        """Library and version in use."""
        return f"{self._trt.__name__} {self._trt.__version__}"

    def _run(self, graph: str, *arrays: F32) -> F32:
        """Output of a graph for any number of rows, in parts of the engine's batch."""
        if graph not in self._graphs:
            raise BundleError(
                f"this bundle has no {graph}: it cannot generate", advice="take another --model, such as default"
            )
        engine = self._graphs[graph]
        with self._lock:
            # the current device is a property of the thread, which may not be the one that opened the session
            check(self._cuda, self._cuda.cudaSetDevice(0), "cudaSetDevice")
            starts = range(0, arrays[0].shape[0], engine.batch)
            parts = [engine.run(self._stream, tuple(a[i : i + engine.batch] for a in arrays)) for i in starts]
        whole: NDArray[np.float32] = np.concatenate(parts)
        return whole


def this_target(flavour: str, trt: ModuleType, gpu: Gpu) -> Target:
    """The target that an engine must have been built for to be loaded here."""
    return Target(
        flavour=flavour,
        version=trt.__version__,
        compute_capability=gpu.compute_capability,
        platform=this_platform(),
    )
