"""Open the graphs of a bundle on a named device, or let `auto` choose one and say why."""

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import BundleError, DeviceError
from fsae.runtime.log import log

from .devices import DEVICES
from .graphs import Graphs
from .onnx import PROVIDERS, OnnxGraphs

AUTO = ("trt", "trt-rtx", "cuda", "cpu")  # the order in which `auto` tries: engines, then CUDA, then the CPU


def open_graphs(bundle: Bundle, device: str = "auto", *, precision: str = "fp32", threads: int | None = None) -> Graphs:
    """Graphs of the bundle on `device`, one of `devices.DEVICES`; what `auto` chooses, and why, is logged.

    Raises DeviceError or BundleError if a named device cannot run it, or if none can.
    """
    if device not in DEVICES:
        raise DeviceError(f"found device {device!r}", f"one of {', '.join(DEVICES)}")
    if device != "auto":
        return _open(bundle, device, precision, threads)
    *better, last = AUTO
    refused: list[str] = []
    for name in better:
        try:
            graphs = _open(bundle, name, precision, threads)
        except (DeviceError, BundleError) as error:
            refused.append(
                f"{name} {error.reason}" if isinstance(error, DeviceError) and error.device else error.reason
            )
            continue
        if name in PROVIDERS:
            log.info(f"device {name}: no valid TensorRT engine ({'; '.join(refused)})")
        else:
            log.info(f"device {name}: a valid engine is there")
        return graphs
    graphs = _open(bundle, last, precision, threads)
    log.info(f"device {last}: no other can be used ({'; '.join(refused)})")
    return graphs


def _open(bundle: Bundle, device: str, precision: str, threads: int | None) -> Graphs:
    if device in PROVIDERS:
        return OnnxGraphs(bundle, device, precision, threads)
    from .tensorrt import TensorRTGraphs

    graphs: Graphs = TensorRTGraphs(bundle, device, precision)
    return graphs
