"""Open the graphs of a bundle on a named device, or let `auto` choose one and say why."""

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import BundleError, DeviceError
from fsae.runtime.log import log

from .devices import DEVICES
from .graphs import Graphs
from .onnx import PROVIDERS, OnnxGraphs


def _tensorrt(bundle: Bundle, flavour: str, precision: str) -> Graphs:
    from .tensorrt import TensorRTGraphs

    graphs: Graphs = TensorRTGraphs(bundle, flavour, precision)
    return graphs


def _brief(reason: str) -> str:
    """Why a device is not there, without the remedy.

    >>> _brief('device trt needs tensorrt, which is not there: pip install "fsae[trt]"')
    'trt needs tensorrt, which is not there'
    """
    return reason.split(": pip ", maxsplit=1)[0].removeprefix("device ")


def _auto(bundle: Bundle, precision: str, threads: int | None) -> Graphs:
    """Graphs on the best device that works: a valid TensorRT engine, then CUDA, then the CPU."""
    from .tensorrt import available

    reasons = []
    for flavour in ("trt", "trt-rtx"):
        reason = available(flavour)
        try:
            if reason is None:
                graphs = _tensorrt(bundle, flavour, precision)
                log.info(f"device {flavour}: a valid engine is there")
                return graphs
        except (DeviceError, BundleError) as error:
            reason = str(error)
        reasons.append(_brief(reason))
    try:
        cuda = OnnxGraphs(bundle, "cuda", precision, threads)
    except DeviceError as error:
        reasons.append(_brief(str(error)))
    else:
        log.info(f"device cuda: no valid TensorRT engine ({'; '.join(reasons)})")
        return cuda
    cpu = OnnxGraphs(bundle, "cpu", precision, threads)
    log.info(f"device cpu: no other can be used ({'; '.join(reasons)})")
    return cpu


def open_graphs(
    bundle: Bundle,
    device: str = "auto",
    *,
    precision: str = "fp32",
    threads: int | None = None,
) -> Graphs:
    """Graphs of the bundle on `device`, one of `devices.DEVICES`; what `auto` chose, and why, is logged."""
    if device not in DEVICES:
        raise DeviceError(f"found device {device!r}, expected one of {', '.join(DEVICES)}")
    if device == "auto":
        return _auto(bundle, precision, threads)
    if device in PROVIDERS:
        return OnnxGraphs(bundle, device, precision, threads)
    from .tensorrt import available

    reason = available(device)
    if reason is not None:  # most name the device, CUDA's own do not
        named = reason.startswith(f"device {device} ")
        raise DeviceError(reason if named else f"device {device} cannot be used: {reason}")
    return _tensorrt(bundle, device, precision)
