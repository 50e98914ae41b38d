"""The devices that can run a bundle, the library that drives each, and the extra of this package that installs it."""

from dataclasses import dataclass

NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"  # set to 1 in the environment before onnxruntime is imported, wherever that is


@dataclass(frozen=True, kw_only=True)
class Library:
    """The library of a device: extra to install, Python module, and distributions, one of which must be installed."""

    extra: str
    module: str
    distributions: tuple[str, ...]


LIBRARIES = {
    "cpu": Library(extra="cpu", module="onnxruntime", distributions=("onnxruntime", "onnxruntime-gpu")),
    "cuda": Library(extra="gpu", module="onnxruntime", distributions=("onnxruntime-gpu",)),
    "trt": Library(extra="trt", module="tensorrt", distributions=("tensorrt",)),
    "trt-rtx": Library(extra="trt-rtx", module="tensorrt_rtx", distributions=("tensorrt-rtx-cu13",)),
}

FLAVOURS = ("trt", "trt-rtx")  # of TensorRT; each is also the name of its device
DEVICES = ("auto", *LIBRARIES)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")  # of graphs
MOST_THREADS, MOST_WORKERS = 4096, 1024  # on one machine: more would only bring it down
NOT_ON_CPUS = "bf16"  # ONNX Runtime has no kernels for it there
