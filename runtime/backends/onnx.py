"""ONNX Runtime on CPUs and CUDA GPUs: the graphs of a bundle as calls on NumPy arrays."""

import os
import threading
from types import ModuleType
from typing import Any

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.external_data import read_graph
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import graph_file
from fsae.runtime.errors import BundleError, DeviceError
from fsae.runtime.sphere.healpix import npix

from .devices import LIBRARIES, NO_TELEMETRY, NOT_ON_CPUS
from .graphs import INPUTS, MIN_BATCH, OUTPUTS, GraphCalls, pad_batch

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# TensorFloat-32 keeps ten bits of a product's factors: not what a bundle's float32 tolerance was measured with.
PROVIDER_OPTIONS = {"CPUExecutionProvider": {}, "CUDAExecutionProvider": {"use_tf32": "0"}}
GPU_BATCH = 16

# More rows at once are no faster on a CPU, whose caches they leave, and take more memory; from zoom 7 on it is one.
CPU_PIXELS = 8 * npix(5)


def import_onnxruntime(device: str) -> ModuleType:
    """Import onnxruntime with its telemetry off; DeviceError naming the extra if it is missing or broken.

    From 1.29 on it decides once, when it is loaded, whether to write a device id and to look up its telemetry host.
    """
    extra = LIBRARIES[device].extra
    os.environ[NO_TELEMETRY] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"needs onnxruntime, which cannot be imported ({error})",
            advice=f'pip install "fsae[{extra}]"',
            device=device,
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):
        raise DeviceError(
            "onnxruntime is broken, as happens when onnxruntime and onnxruntime-gpu are both installed",
            advice=f'pip uninstall onnxruntime onnxruntime-gpu, then pip install "fsae[{extra}]"',
        )
    if hasattr(onnxruntime, "disable_telemetry_events"):  # the builds for Windows do not look at the environment
        onnxruntime.disable_telemetry_events()
    module: ModuleType = onnxruntime
    return module


def check_provider(device: str) -> ModuleType:
    """Import onnxruntime for `device` (cpu or cuda); DeviceError if it cannot run there."""
    onnxruntime = import_onnxruntime(device)
    found = onnxruntime.get_available_providers()
    if PROVIDERS[device] not in found:
        raise DeviceError(
            f"needs onnxruntime-gpu; the onnxruntime installed here has only {', '.join(found)}",
            advice=f'pip uninstall onnxruntime, then pip install "fsae[{LIBRARIES[device].extra}]"',
            device=device,
        )
    return onnxruntime


def _errors(onnxruntime: ModuleType) -> tuple[type[Exception], ...]:
    """The exceptions onnxruntime raises; they have no common base but Exception."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    found = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return tuple(found)


def cpu_rows(pixels: int) -> int:
    """Largest number of rows to compute at once, for a model whose fields have this many pixels.

    >>> cpu_rows(12288), cpu_rows(49152), cpu_rows(786432)
    (8, 2, 1)
    """
    return max(CPU_PIXELS // pixels, 1)


def cpu_batches(rows: int, most: int) -> list[int]:
    """Split `rows` into batches of nearly equal size, none larger than `most`.

    >>> cpu_batches(17, 8), cpu_batches(1, 8), cpu_batches(3, 1)
    ([6, 6, 5], [1], [1, 1, 1])
    """
    parts = -(-rows // most)
    least, more = divmod(rows, parts)
    return [least + 1] * more + [least] * (parts - more)


class OnnxGraphs(GraphCalls):
    """`Graphs` by ONNX Runtime on "cpu" or "cuda"; a graph is checked and loaded when it is first called.

    Several threads may call a session at once; only loading it needs a lock.
    """

    def __init__(
        self, bundle: Bundle, device: str = "cpu", precision: str = "fp32", threads: int | None = None
    ) -> None:
        self._onnxruntime = check_provider(device)
        if precision not in bundle.manifest.precisions:
            found = ", ".join(bundle.manifest.precisions)
            raise BundleError(
                f"bundle {bundle.manifest.name} has no precision {precision}, it has {found}",
                advice="give one of these as --precision",
            )
        if (device, precision) == ("cpu", NOT_ON_CPUS):
            raise DeviceError(
                f"cannot run {precision}: ONNX Runtime has no kernels for it there",
                advice=f"take another --precision of the bundle ({', '.join(bundle.manifest.precisions)}), or a GPU",
                device=device,
            )
        self.device, self.precision = device, precision
        self._bundle, self._threads = bundle, threads
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        if device == "cuda":
            if hasattr(self._onnxruntime, "preload_dlls"):
                self._onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
            self._session("decoder")  # only a session shows if the driver and the libraries are there

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was opened with: dask sends lazy results to its workers."""
        return OnnxGraphs, (self._bundle, self.device, self.precision, self._threads)

    @property
    def backend(self) -> str:
        """Library and version in use."""
        return f"onnxruntime {self._onnxruntime.__version__}"

    def _session(self, graph: str) -> Any:
        """The session of a graph, opened at the first call."""
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self._open(graph)
            return self._sessions[graph]

    def _open(self, graph: str) -> Any:
        """Open a session of a graph and check its provider and its inputs."""
        if graph not in self._bundle.manifest.graphs:
            raise BundleError(
                f"bundle {self._bundle.manifest.name} has no {graph}: it cannot generate",
                advice="take another --model, such as default",
            )
        name = graph_file(graph, self.precision)
        model, path = read_graph(self._bundle, name)
        runtime = self._onnxruntime
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # fatal only: errors are raised, and stderr belongs to the user
        # `read_graph` cannot check files in the ORT format
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Constants stored as bytes become numbers once, not in each call; int8 graphs need the rule for their products
        options.add_session_config_entry("session.disable_quant_qdq", "0" if self.precision == "int8" else "1")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        asked = PROVIDERS[self.device]
        try:
            source = model if path is None else str(path)
            session = runtime.InferenceSession(source, options, providers=[(asked, PROVIDER_OPTIONS[asked])])
        except _errors(runtime) as error:
            text = str(error).splitlines()[0]
            if self.device != "cpu":
                raise DeviceError(
                    f"cannot be used: {text}",
                    advice='pip install "onnxruntime-gpu[cuda,cudnn]" and check nvidia-smi',
                    device=self.device,
                ) from None
            raise BundleError(f"{self.backend} cannot load {name} ({text})", advice="update onnxruntime") from None
        used = session.get_providers()[0]
        if used != asked:  # onnxruntime falls back silently if a CUDA library is missing
            raise DeviceError(
                f"cannot be used: onnxruntime took {used} instead, so the NVIDIA driver, CUDA or cuDNN is missing",
                advice='pip install "onnxruntime-gpu[cuda,cudnn]" and check nvidia-smi',
                device=self.device,
            )
        found = {i.name for i in session.get_inputs()}
        if found != set(INPUTS[graph]):
            raise BundleError(
                f"{name} has the inputs {sorted(found)}",
                str(sorted(INPUTS[graph])),
                "get the bundle again, or export it anew",
            )
        return session

    def _run(self, graph: str, *arrays: F32) -> F32:
        """Run a graph on inputs in the order of `INPUTS`, in batches whose size does not change the result."""
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
                raise DeviceError(
                    f"{graph} failed on device {self.device}: {text}",
                    advice="check its free memory, or give a smaller --batch",
                ) from None
            parts.append(result[:count])
            first += count
        whole: F32 = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return whole
