"""The three graphs of a bundle as calls on NumPy arrays, and the choice of the device that runs them.

A named device is used or the call fails; only `auto` chooses, and it says what and why.
"""

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .devices import DEVICES, LIBRARIES, NOT_ON_CPUS
from .errors import BundleError, DeviceError
from .external import read_graph
from .healpix import npix
from .manifest import graph_file

F32 = NDArray[np.float32]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TensorFloat-32 keeps ten bits of a product's factors: not what a bundle's float32 tolerance was measured with.
PROVIDER_OPTIONS = {"CPUExecutionProvider": {}, "CUDAExecutionProvider": {"use_tf32": "0"}}


class DenoiserInputs(NamedTuple):
    """Inputs of the denoisers, in the order of the graphs: T steps of a window, P before it, 2K season features."""

    noisy: F32  # (batch, T, variable, latent pixel)
    sigma: F32  # (batch,)
    noise_features: F32  # (batch, features)
    season: F32  # (batch, T, 2K)
    forcing: F32  # (batch, T)
    source: F32  # (batch,), place in the labels
    previous: F32  # (batch, P, variable, latent pixel)
    previous_valid: F32  # (batch, P)


INPUTS = {
    "encoder": ("field", "season", "level_mask"),
    "decoder": ("latent", "season"),
    "denoiser": DenoiserInputs._fields,
    "fast": DenoiserInputs._fields,
}
OUTPUTS = {"encoder": "latent", "decoder": "field", "denoiser": "denoised", "fast": "denoised"}
# A row's result must not depend on how many rows run beside it. On a CPU only a batch of one may take other kernels
# (matrix times vector) than a larger one; on a GPU every size may, so there the graph always sees this many rows.
MIN_BATCH = 2
GPU_BATCH = 16
# More rows at once are no faster on a CPU, whose caches they leave, and take more memory; from zoom 7 on it is one.
CPU_PIXELS = 8 * npix(5)


class Graphs(Protocol):
    """What a backend offers: the graphs of a bundle, batch first, float32 in and out."""

    @property
    def device(self) -> str:
        """Name of the device in use: cpu, cuda, trt or trt-rtx."""
        ...

    @property
    def backend(self) -> str:
        """Library and version in use, such as "onnxruntime 1.22.0"."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the graphs: fp32, fp16, bf16 or int8."""
        ...

    def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
        """Latent (batch, variable, latent pixel) of a field (batch, variable, pixel) in physical units."""
        ...

    def decode(self, latent: F32, season: F32) -> F32:
        """Field (batch, variable, pixel) in physical units of a latent."""
        ...

    def denoise(self, inputs: DenoiserInputs, graph: str = "denoiser") -> F32:
        """Clean window (batch, T, variable, latent pixel) of a noisy one, in white space.

        `graph` is "denoiser" or "fast", the distilled one.
        """
        ...


def import_onnxruntime(device: str) -> ModuleType:
    """The onnxruntime module, told to send nothing home; DeviceError naming the extra where it is missing or broken."""
    extra = LIBRARIES[device].extra
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f'device {device} needs onnxruntime, which cannot be imported ({error}): pip install "fsae[{extra}]"'
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):
        raise DeviceError(
            "onnxruntime is broken, as after onnxruntime and onnxruntime-gpu were both installed: "
            f'pip uninstall onnxruntime onnxruntime-gpu, then pip install "fsae[{extra}]"'
        )
    if hasattr(onnxruntime, "disable_telemetry_events"):  # on in some of its builds, such as those for Windows
        onnxruntime.disable_telemetry_events()
    module: ModuleType = onnxruntime
    return module


def missing_provider(device: str) -> str | None:
    """Why onnxruntime cannot run on `device` (cpu or cuda), or None where it can be tried."""
    try:
        onnxruntime = import_onnxruntime(device)
    except DeviceError as error:
        return str(error)
    found = onnxruntime.get_available_providers()
    if PROVIDERS[device] in found:
        return None
    return (
        f"device {device} needs onnxruntime-gpu; the onnxruntime installed here has only {', '.join(found)}: "
        f'pip uninstall onnxruntime, then pip install "fsae[{LIBRARIES[device].extra}]"'
    )


def _errors(onnxruntime: ModuleType) -> tuple[type[Exception], ...]:
    """The exceptions onnxruntime raises; they have no common base but Exception."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    found = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return tuple(found)


def cpu_rows(pixels: int) -> int:
    """Rows to compute at once, at most, of a model whose fields have so many pixels.

    >>> cpu_rows(12288), cpu_rows(49152), cpu_rows(786432)
    (8, 2, 1)
    """
    return max(CPU_PIXELS // pixels, 1)


def cpu_batches(rows: int, most: int) -> list[int]:
    """Rows to compute at a time, nearly as many each time.

    >>> cpu_batches(17, 8), cpu_batches(1, 8), cpu_batches(3, 1)
    ([6, 6, 5], [1], [1, 1, 1])
    """
    parts = -(-rows // most)
    least, more = divmod(rows, parts)
    return [least + 1] * more + [least] * (parts - more)


def pad_batch(array: F32, rows: int) -> F32:
    """`array` with its last row repeated until the first axis has `rows` entries.

    >>> pad_batch(np.zeros((1, 3), np.float32), 2).shape
    (2, 3)
    """
    lacking = rows - array.shape[0]
    return array if lacking <= 0 else np.concatenate([array, np.repeat(array[-1:], lacking, axis=0)])


class GraphCalls:
    """The calls of `Graphs` by one that takes a graph's name and its inputs in the order of `INPUTS`."""

    def _run(self, graph: str, *arrays: F32) -> F32:
        raise NotImplementedError

    def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
        """See `Graphs.encode`."""
        return self._run("encoder", field, season, level_mask)

    def decode(self, latent: F32, season: F32) -> F32:
        """See `Graphs.decode`."""
        return self._run("decoder", latent, season)

    def denoise(self, inputs: DenoiserInputs, graph: str = "denoiser") -> F32:
        """See `Graphs.denoise`."""
        return self._run(graph, *inputs)


class OnnxGraphs(GraphCalls):
    """`Graphs` by ONNX Runtime on "cpu" or "cuda"; a graph is loaded, hash checked, when it is first called.

    Sessions may be called by several threads at once; only the loading of them needs a lock.
    """

    def __init__(
        self, bundle: Bundle, device: str = "cpu", precision: str = "fp32", threads: int | None = None
    ) -> None:
        reason = missing_provider(device)
        if reason is not None:
            raise DeviceError(reason)
        if precision not in bundle.manifest.precisions:
            found = ", ".join(bundle.manifest.precisions)
            raise BundleError(f"bundle {bundle.manifest.name} has no precision {precision}, it has {found}")
        if (device, precision) == ("cpu", NOT_ON_CPUS):
            raise DeviceError(
                f"device cpu cannot run {precision}: ONNX Runtime has no kernels for it there: take another "
                f"--precision of the bundle ({', '.join(bundle.manifest.precisions)}), or a GPU"
            )
        self.device, self.precision = device, precision
        self._onnxruntime = import_onnxruntime(device)
        self._bundle, self._threads = bundle, threads
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        if device == "cuda":
            if hasattr(self._onnxruntime, "preload_dlls"):
                self._onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
            self._session("decoder")  # whether the driver and the libraries are there shows only in a session

    def __reduce__(self) -> tuple[Any, ...]:
        """How another process opens the same: dask sends lazy results to workers."""
        return OnnxGraphs, (self._bundle, self.device, self.precision, self._threads)

    @property
    def backend(self) -> str:
        """Library and version in use."""
        return f"onnxruntime {self._onnxruntime.__version__}"

    def _session(self, graph: str) -> Any:
        """The session of a graph, made and checked at the first call."""
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self._open(graph)
            return self._sessions[graph]

    def _open(self, graph: str) -> Any:
        """A new session of a graph, checked."""
        if graph not in self._bundle.manifest.graphs:
            raise BundleError(f"bundle {self._bundle.manifest.name} has no {graph}: it cannot generate")
        name = graph_file(graph, self.precision)
        model, path = read_graph(self._bundle, name)
        runtime = self._onnxruntime
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # fatal only: what matters is raised, and stderr is the user's
        # Its own format would pass unseen by `read_graph`.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        asked = PROVIDERS[self.device]
        try:
            source = model if path is None else str(path)
            session = runtime.InferenceSession(source, options, providers=[(asked, PROVIDER_OPTIONS[asked])])
        except _errors(runtime) as error:
            text = str(error).splitlines()[0]
            if self.device != "cpu":
                raise DeviceError(f"device {self.device} cannot be used: {text}") from None
            raise BundleError(f"{self.backend} cannot load {name} ({text}): update onnxruntime") from None
        used = session.get_providers()[0]
        if used != asked:  # onnxruntime falls back without an error where a CUDA library is missing
            raise DeviceError(
                f"device {self.device} cannot be used: onnxruntime took {used} instead, so the NVIDIA driver, CUDA or "
                f'cuDNN is missing: pip install "onnxruntime-gpu[cuda,cudnn]" and check nvidia-smi'
            )
        found = {i.name for i in session.get_inputs()}
        if found != set(INPUTS[graph]):
            raise BundleError(f"{name} has the inputs {sorted(found)}, expected {sorted(INPUTS[graph])}")
        return session

    def _run(self, graph: str, *arrays: F32) -> F32:
        """The graph's output for inputs in the order of `INPUTS`, run in batches whose size cannot show."""
        session = self._session(graph)
        rows = arrays[0].shape[0]
        if self.device == "cpu":
            most = cpu_rows(npix(self._bundle.manifest.grid.zoom))
            counts, fewest = cpu_batches(rows, most), min(most, MIN_BATCH)
        else:
            counts, fewest = [min(GPU_BATCH, rows - first) for first in range(0, rows, GPU_BATCH)], GPU_BATCH
        parts, first = [], 0
        for count in counts:
            part = {
                name: np.ascontiguousarray(pad_batch(array[first : first + count], fewest), dtype=np.float32)
                for name, array in zip(INPUTS[graph], arrays, strict=True)
            }
            try:
                (result,) = session.run([OUTPUTS[graph]], part)
            except _errors(self._onnxruntime) as error:
                text = str(error).splitlines()[0]
                raise DeviceError(f"{graph} failed on device {self.device}: {text}") from None
            parts.append(result[:count])
            first += count
        whole: F32 = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return whole


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


def _auto(bundle: Bundle, precision: str, threads: int | None, say: Callable[[str], None]) -> Graphs:
    """Graphs on the best device that works: a valid TensorRT engine, then CUDA, then the CPU."""
    from .tensorrt import available

    reasons = []
    for flavour in ("trt", "trt-rtx"):
        reason = available(flavour)
        try:
            if reason is None:
                graphs = _tensorrt(bundle, flavour, precision)
                say(f"device {flavour}: a valid engine is there")
                return graphs
        except (DeviceError, BundleError) as error:
            reason = str(error)
        reasons.append(_brief(reason))
    try:
        cuda = OnnxGraphs(bundle, "cuda", precision, threads)
    except DeviceError as error:
        reasons.append(_brief(str(error)))
    else:
        say(f"device cuda: no valid TensorRT engine ({'; '.join(reasons)})")
        return cuda
    cpu = OnnxGraphs(bundle, "cpu", precision, threads)
    say(f"device cpu: no other can be used ({'; '.join(reasons)})")
    return cpu


def open_graphs(
    bundle: Bundle,
    device: str = "auto",
    *,
    precision: str = "fp32",
    threads: int | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Graphs:
    """Graphs of the bundle on `device`, one of `devices.DEVICES`; `say` is told what `auto` chose and why."""
    if device not in DEVICES:
        raise DeviceError(f"found device {device!r}, expected one of {', '.join(DEVICES)}")
    if device == "auto":
        return _auto(bundle, precision, threads, say)
    if device in PROVIDERS:
        return OnnxGraphs(bundle, device, precision, threads)
    from .tensorrt import available

    reason = available(device)
    if reason is not None:  # most name the device, CUDA's own do not
        named = reason.startswith(f"device {device} ")
        raise DeviceError(reason if named else f"device {device} cannot be used: {reason}")
    return _tensorrt(bundle, device, precision)
