"""The devices that can run a bundle: what drives each, and the extra of this package that brings it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Library:
    """What drives a device: the extra to install, and the distributions of which one must be there."""

    extra: str
    distributions: tuple[str, ...]


LIBRARIES = {
    "cpu": Library(extra="cpu", distributions=("onnxruntime", "onnxruntime-gpu")),
    "cuda": Library(extra="gpu", distributions=("onnxruntime-gpu",)),
    "trt": Library(extra="trt", distributions=("tensorrt",)),
    "trt-rtx": Library(extra="trt-rtx", distributions=("tensorrt-rtx-cu13",)),
}

DEVICES = ("auto", *LIBRARIES)

PRECISIONS = ("fp32", "fp16", "bf16", "int8")  # of graphs

NOT_ON_CPUS = "bf16"  # ONNX Runtime has no kernels for it there
