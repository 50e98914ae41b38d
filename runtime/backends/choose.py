"""Open the graphs of a bundle on a named device, or let `auto` choose one and say why."""

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import BundleError, DeviceError
from fsae.runtime.log import log

from .devices import DEVICES
from .graphs import Graphs
from .onnx import PROVIDERS, OnnxGraphs

AUTO = ("trt", "trt-rtx", "cuda", "cpu")  # the order in which `auto` tries: engines, then CUDA, then the CPU


def open_graphs(bundle: Bundle, device: str = "auto", *, precision: str = "fp32", threads: int | None = None) -> Graphs:
    """Graphs of the bundle on `device`, one of `devices.DEVICES`; what `auto` chooses is logged.

    Why it takes no other is what `checks/doctor.py` finds out.
    Raises DeviceError or BundleError if a named device cannot run it, or if none can.
    """
    if device not in DEVICES:
        raise DeviceError(
            f"found device {device!r}", f"one of {', '.join(DEVICES)}", "`fsae-run doctor` says which of them work here"
        )
    if device != "auto":
        return _open(bundle, device, precision, threads)
    *better, last = AUTO
    for name in better:
        try:
            graphs = _open(bundle, name, precision, threads)
        except (DeviceError, BundleError) as error:
            log.debug(f"device {name} is not used: {error.reason}")
            continue
        log.info(f"device {name}")
        return graphs
    graphs = _open(bundle, last, precision, threads)
    log.info(f"device {last} (fsae-run doctor says what a GPU would need)")
    return graphs


def _open(bundle: Bundle, device: str, precision: str, threads: int | None) -> Graphs:
    if device in PROVIDERS:
        return OnnxGraphs(bundle, device, precision, threads)
    from .tensorrt import TensorRTGraphs

    graphs: Graphs = TensorRTGraphs(bundle, device, precision)
    return graphs
