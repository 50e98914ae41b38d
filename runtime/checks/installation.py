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

from fsae.runtime.errors import DeviceError, FsaeError

CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")

MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container or a batch job; the word "max" where there is none

DRIVER = Path("/proc/driver/nvidia/version")

# What fast kernels ask for: wide products (avx2, avx512f; neon and sve on ARM) and int8 or bf16 ones (the others).
CPU_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16")

ARM_FEATURES = ("asimd", "sve", "asimddp", "i8mm", "bf16")

# Module, the distributions that bring it, and whether nothing runs without it.
LIBRARIES = (
    ("numpy", ("numpy",), True),
    ("xarray", ("xarray",), True),
    ("zarr", ("zarr",), True),
    ("h5netcdf", ("h5netcdf",), True),
    ("cftime", ("cftime",), True),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), False),
    ("tensorrt", ("tensorrt",), False),
    ("tensorrt_rtx", ("tensorrt-rtx-cu13",), False),
    ("cuda.bindings.runtime", ("cuda-bindings",), False),
)

UNKNOWN = "cannot be read here"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report; `advice` where it is a problem, and then what to do."""

    section: str
    name: str
    value: str
    advice: str | None = None


def problem(section: str, name: str, error: FsaeError, otherwise: str) -> Finding:
    """The finding of an error; `otherwise` is the advice if it has none."""
    value = " ".join(error.reason.split())
    return Finding(section=section, name=name, value=value, advice=error.advice or otherwise)


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, which is not imported; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str:
    """Content of a file of the system, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _colon_values(text: str) -> dict[str, str]:
    """Values by name of lines such as "flags : fpu vme", the first of each name.

    >>> _colon_values("processor : 0\\nflags : fpu\\nprocessor : 1")
    {'processor': '0', 'flags': 'fpu'}
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def platform_findings() -> list[Finding]:
    """System, processor with the features that matter, cores and memory."""
    cpu, memory = _colon_values(_text(CPU_INFO)), _colon_values(_text(MEMORY_INFO))
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    known = ARM_FEATURES if "Features" in cpu else CPU_FEATURES
    features = ", ".join(name if name in flags else f"no {name}" for name in known) if flags else UNKNOWN
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    sizes = []
    for key, words in (("MemTotal", ""), ("MemAvailable", " available")):
        if key in memory:
            sizes.append(f"{int(memory[key].split()[0]) * 1024 / 1e9:.1f} GB{words}")
    limit = _text(MEMORY_LIMIT).strip()
    if limit.isdigit():
        sizes.append(f"limited to {int(limit) / 1e9:.1f} GB")
    rows = {
        "system": platform.platform(),
        "processor": cpu.get("model name") or platform.processor() or platform.machine(),
        "features": features,
        "cores": f"{os.cpu_count()}, {usable} usable",
        "memory": ", ".join(sizes) or UNKNOWN,
        "python": f"{platform.python_version()} ({sys.executable})",
        "fsae": f"{version_of('fsae') or 'not installed'} ({Path(__file__).parent})",
    }
    return [Finding(section="platform", name=name, value=value) for name, value in rows.items()]


def library_finding(module: str, distributions: Sequence[str], needed: bool) -> Finding:
    """Version of a library, or why it cannot be imported; a problem where it is installed or `needed`."""
    name = distributions[0] if module.startswith("cuda.") else module
    packages = {d: version for d in distributions if (version := version_of(d)) is not None}
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever an import raises is the finding
        if not packages and not needed and isinstance(error, ModuleNotFoundError):
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
            value=f"{own}: broken, as where onnxruntime and onnxruntime-gpu were both installed into their one folder",
            advice='pip uninstall onnxruntime onnxruntime-gpu, then pip install "fsae[gpu]" or "fsae[cpu]"',
        )
    return Finding(section="libraries", name=name, value=f"{own} with {', '.join(found.get_available_providers())}")


def library_findings() -> list[Finding]:
    """Every library of the runtime, by `library_finding`; without NumPy those that need it are left alone."""
    first, *others = LIBRARIES
    findings = [library_finding(*first)]
    for module, distributions, needed in others:
        if findings[0].advice is not None and (needed or module == "onnxruntime"):
            findings.append(Finding(section="libraries", name=module, value="not tried: it needs numpy"))
        else:
            findings.append(library_finding(module, distributions, needed))
    return findings


def driver_version() -> str | None:
    """Version of the NVIDIA driver that the system has loaded, None where there is none or it does not say."""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _text(DRIVER))
    return found.group() if found is not None else None


def gpu_findings() -> list[Finding]:
    """The NVIDIA driver and the GPUs it shows; a problem where there is a driver and yet no GPU can be used."""
    from fsae.runtime.backends.cuda import find_gpu, import_cuda

    driver = driver_version()
    findings = [Finding(section="gpu", name="driver", value=driver or "none found")]
    try:
        cuda = import_cuda("trt")
    except DeviceError:
        words = "not looked for: cuda-bindings cannot be imported"
        return [*findings, Finding(section="gpu", name="gpus", value=words)]
    try:
        find_gpu("trt")
    except DeviceError as error:
        advice = (error.advice or "update the NVIDIA driver, then check nvidia-smi") if driver else None
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
