"""CUDA through its Python bindings: the GPU, device and page-locked memory, and captured calls.

Without a driver the bindings return an error code, while TensorRT prints and fails: so they are asked first.
"""

import ctypes
import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.errors import DeviceError

from .devices import LIBRARIES

HOST_TO_DEVICE, DEVICE_TO_HOST = "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU in use: its name and its compute capability, as "8.9"."""

    name: str
    compute_capability: str


def import_cuda(flavour: str) -> ModuleType:
    """The CUDA runtime bindings; DeviceError naming the extra if they are missing."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise DeviceError(
            f"needs cuda-bindings, which cannot be imported ({error})",
            advice=f'pip install "fsae[{LIBRARIES[flavour].extra}]"',
            device=flavour,
        ) from None


def find_gpu(flavour: str) -> Gpu:
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses); DeviceError if the driver or a GPU is missing."""
    cuda = import_cuda(flavour)
    try:
        error, count = cuda.cudaGetDeviceCount()
    except RuntimeError as problem:  # the bindings raise if they cannot even load the driver's library
        raise DeviceError(
            f"needs an NVIDIA driver, none was found ({problem})",
            advice="install the driver of the GPU, or take --device cpu",
            device=flavour,
        ) from None
    if error.name in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorInitializationError"):
        raise DeviceError(
            f"needs an NVIDIA GPU with a recent driver: {describe(cuda, error)}",
            advice="update the NVIDIA driver, then check nvidia-smi",
            device=flavour,
        )
    if error != cuda.cudaError_t.cudaSuccess:
        raise DeviceError(
            f"cannot be used: CUDA failed in cudaGetDeviceCount: {describe(cuda, error)}",
            advice="update the NVIDIA driver, then check nvidia-smi",
            device=flavour,
        )
    if not count:
        raise DeviceError("needs an NVIDIA GPU: the driver shows none", advice="check nvidia-smi", device=flavour)
    (properties,) = check(cuda, cuda.cudaGetDeviceProperties(0), "cudaGetDeviceProperties")
    return Gpu(name=properties.name.decode().strip("\0 "), compute_capability=f"{properties.major}.{properties.minor}")


def describe(cuda: ModuleType, error: Any) -> str:
    """Name and text of a CUDA error code."""
    _, text = cuda.cudaGetErrorString(error)
    return f"{error.name} ({text.decode() if isinstance(text, bytes) else text})"


def check(cuda: ModuleType, result: tuple[Any, ...], call: str) -> tuple[Any, ...]:
    """The results of a CUDA call without its error code; DeviceError if that is not success."""
    error, *values = result
    if error.name == "cudaErrorMemoryAllocation":
        raise DeviceError(
            "the GPU has not enough free memory", advice="free some, or build engines for a smaller --batch"
        )
    if error != cuda.cudaError_t.cudaSuccess:
        raise DeviceError(
            f"CUDA failed in {call}: {describe(cuda, error)}",
            advice="check the GPU with nvidia-smi, or take --device cpu",
        )
    return tuple(values)


class Buffer:
    """One tensor of a graph: device memory, and page-locked host memory of the same size seen as a NumPy array."""

    def __init__(self, cuda: ModuleType, shape: tuple[int, ...]) -> None:
        self.size = 4 * int(np.prod(shape))  # bytes of float32
        (self.device,) = check(cuda, cuda.cudaMalloc(self.size), "cudaMalloc")
        owned = [(cuda.cudaFree, self.device)]
        weakref.finalize(self, release, owned)
        (self.pinned,) = check(cuda, cuda.cudaMallocHost(self.size), "cudaMallocHost")
        owned.append((cuda.cudaFreeHost, self.pinned))
        memory = (ctypes.c_float * int(np.prod(shape))).from_address(int(self.pinned))
        self.host: F32 = np.ctypeslib.as_array(memory).reshape(shape)


def release(handles: list[tuple[Any, Any]]) -> None:
    """Release CUDA resources, ignoring errors."""
    for free, handle in handles:
        free(handle)


def capture(cuda: ModuleType, stream: Any, enqueue: Callable[[], None]) -> Any:
    """Capture what `enqueue` puts on a stream as a CUDA graph; None if it cannot be captured.

    The addresses it reads and writes are part of it, the numbers there are not. Nothing runs here: the stream records.
    Of what is not to be captured, as an allocation, CUDA says so at the end, and the stream is as before.
    """
    mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    check(cuda, cuda.cudaStreamBeginCapture(stream, mode), "cudaStreamBeginCapture")
    complete = False
    try:
        enqueue()
        complete = True
    except DeviceError:
        pass
    finally:
        error, recorded = cuda.cudaStreamEndCapture(stream)
    if not complete or error != cuda.cudaError_t.cudaSuccess:
        cuda.cudaGetLastError()  # else the next call would report this error
        if recorded:
            cuda.cudaGraphDestroy(recorded)
        return None
    error, launchable = cuda.cudaGraphInstantiate(recorded, 0)
    cuda.cudaGraphDestroy(recorded)
    return launchable if error == cuda.cudaError_t.cudaSuccess else None
