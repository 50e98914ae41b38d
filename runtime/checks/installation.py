"""The machine and what is installed on it, as findings for `fsae-run doctor`: platform, libraries, GPUs.

Nothing here may fail: every library is imported inside a function, and whatever its import raises is the finding.
"""

import importlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsae.runtime.backends.devices import LIBRARIES, NO_TELEMETRY
from fsae.runtime.errors import DeviceError, FsaeError

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container or a batch job; the word "max" if there is none
DRIVER = Path("/proc/driver/nvidia/version")

# What fast kernels ask for: wide products (avx2, avx512f; neon and sve on ARM) and int8 or bf16 ones (the others).
CPU_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16")
ARM_FEATURES = ("asimd", "sve", "asimddp", "i8mm", "bf16")
NEEDED = ("numpy", "xarray", "zarr", "h5netcdf", "cftime")  # without which nothing runs
UNKNOWN = "cannot be read here"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report; a problem has `advice`, which says what to do."""

    section: str
    name: str
    value: str
    advice: str | None = None


def problem(section: str, name: str, error: FsaeError) -> Finding:
    """The finding of an error."""
    value = " ".join(error.reason.split())
    return Finding(section=section, name=name, value=value, advice=error.advice)


def version_of(distribution: str) -> str | None:
    """Version of a distribution, or None if it is not installed; it is not imported."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str:
    """Content of a file of the system, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_facts() -> dict[str, str]:
    """Lines such as "flags : fpu vme" of /proc/cpuinfo as values by name, the first of each name."""
    found: dict[str, str] = {}
    for line in _text(CPU_INFO).splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def platform_findings() -> list[Finding]:
    """System, processor with the features that matter, cores and memory."""
    import psutil

    cpu, memory, limit = _cpu_facts(), psutil.virtual_memory(), _text(MEMORY_LIMIT).strip()
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    known = ARM_FEATURES if "Features" in cpu else CPU_FEATURES
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limited = f", limited to {int(limit) / 1e9:.1f} GB" if limit.isdigit() else ""
    rows = {
        "system": platform.platform(),
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "features": ", ".join(name if name in flags else f"no {name}" for name in known) if flags else UNKNOWN,
        "cores": f"{os.cpu_count()}, {usable} usable",
        "memory": f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB available{limited}",
        "python": f"{platform.python_version()} ({sys.executable})",
        "fsae": f"{version_of('fsae') or 'not installed'} ({Path(__file__).parents[1]})",
    }
    return [Finding(section="platform", name=name, value=value) for name, value in rows.items()]


def library_finding(module: str, distributions: Sequence[str]) -> Finding:
    """Version of a library, or why it cannot be imported: a problem if it is installed or needed."""
    name = distributions[0] if module.startswith("cuda.") else module
    packages = {d: version for d in distributions if (version := version_of(d)) is not None}
    os.environ[NO_TELEMETRY] = "1"
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever an import raises is the finding
        if not packages and module not in NEEDED and isinstance(error, ModuleNotFoundError):
            return Finding(section="libraries", name=name, value="not installed")
        advice = f"pip install --force-reinstall {' '.join(packages) or distributions[0]}"
        value = " ".join(f"cannot be imported ({type(error).__name__}: {error})".split())
        return Finding(section="libraries", name=name, value=value, advice=advice)
    own = ", ".join(version if d == module else f"{d} {version}" for d, version in packages.items())
    own = own or str(getattr(found, "__version__", "of unknown version"))
    if module != "onnxruntime":
        return Finding(section="libraries", name=name, value=own)
    if len(packages) > 1 or not hasattr(found, "InferenceSession"):
        return Finding(
            section="libraries",
            name=name,
            value=f"{own}: broken, as when onnxruntime and onnxruntime-gpu are both installed into their one folder",
            advice='pip uninstall onnxruntime onnxruntime-gpu, then pip install "fsae[gpu]" or "fsae[cpu]"',
        )
    return Finding(section="libraries", name=name, value=f"{own} with {', '.join(found.get_available_providers())}")


def library_findings() -> list[Finding]:
    """Every library of the runtime; those that need NumPy are not tried without it."""
    modules: dict[str, tuple[str, ...]] = {name: (name,) for name in NEEDED}
    for library in LIBRARIES.values():
        modules.setdefault(library.module, library.distributions)
    modules["cuda.bindings.runtime"] = ("cuda-bindings",)
    findings: list[Finding] = []
    for module, distributions in modules.items():
        if findings and findings[0].advice is not None and module in (*NEEDED, "onnxruntime"):
            findings.append(Finding(section="libraries", name=module, value="not tried: it needs numpy"))
        else:
            findings.append(library_finding(module, distributions))
    return findings


def cache_findings() -> list[Finding]:
    """Where regridding weights are kept, and how much room they take."""
    from fsae.runtime.sphere.weights_cache import MOST_BYTES, OFF, SWITCH, cache_folder, kept

    folder = cache_folder()
    if folder is None:
        value = f"not kept: {SWITCH} is {OFF!r}, or there is no home"
    else:
        sizes = [size for _, size, _ in kept(folder)]
        room = f"{sum(sizes) / 1e6:.0f} MB of {MOST_BYTES / 1e6:.0f} MB at most"
        value = f"{folder}: {len(sizes)} files, {room}; {SWITCH} names another folder, or is {OFF!r}"
    return [Finding(section="cache", name="regridding weights", value=value)]


def driver_version() -> str | None:
    """Version of the NVIDIA driver that the system has loaded, or None if it reports none."""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _text(DRIVER))
    return found.group() if found is not None else None


def gpu_findings() -> list[Finding]:
    """The NVIDIA driver and the GPUs it shows; a problem if there is a driver and yet no GPU can be used."""
    from fsae.runtime.backends.cuda import find_gpu, import_cuda

    driver = driver_version()
    findings = [Finding(section="gpu", name="driver", value=driver or "none found")]
    try:
        cuda = import_cuda("trt")
    except DeviceError:
        value = "not looked for: cuda-bindings cannot be imported"
        return [*findings, Finding(section="gpu", name="gpus", value=value)]
    try:
        find_gpu("trt")
    except DeviceError as error:
        advice = error.advice if driver else None
        return [*findings, Finding(section="gpu", name="gpus", value=f"none: {error.reason}", advice=advice)]
    _, newest = cuda.cudaDriverGetVersion()  # 13020 is 13.2
    findings.append(Finding(section="gpu", name="cuda", value=f"up to {newest // 1000}.{newest % 1000 // 10}"))
    _, count = cuda.cudaGetDeviceCount()
    for place in range(count):
        _, gpu = cuda.cudaGetDeviceProperties(place)
        name, memory = gpu.name.decode().strip("\0 "), f"{gpu.totalGlobalMem / 1e9:.1f} GB"
        value = f"{name}, compute capability {gpu.major}.{gpu.minor}, {memory}"
        findings.append(Finding(section="gpu", name=f"gpu {place}", value=value))
    return findings
