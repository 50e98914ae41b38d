"""How many members are drawn at once: measured once for a bundle on a device, then kept in the user's cache folder.

Results do not depend on it. On a CPU the time for a member falls with the batch until all cores are busy, then stays;
memory grows with every member. So batches are tried from the smallest on until a larger one is not faster, or would not
fit. Graphs on a GPU see one fixed number of rows whatever the batch, so there is nothing to measure.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.backends.onnx import GPU_BATCH
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import UsageError
from fsae.runtime.log import log
from fsae.runtime.output.provenance import versions

from .members import LatentModel, Steps, sample_window, window_latent, window_noise

GIB = 1 << 30

SHARE = 0.5  # of what is available, where no limit is given: others run here too

ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """The most memory [bytes] that this process should hold; `given` where a user has named it."""

    size: int
    given: bool = False

    @property
    def left(self) -> int:
        """What is left of it now [bytes]."""
        return max(0, self.size - resident_bytes())

    def __str__(self) -> str:
        return f"{self.size / GIB:.3g} GiB"


def memory_limit(max_memory_gib: float | None = None) -> MemoryLimit:
    """The limit that a user names, or else what is held now and half of what is available beyond."""
    if max_memory_gib is None:
        return MemoryLimit(size=resident_bytes() + int(SHARE * available_bytes()))
    if not (math.isfinite(max_memory_gib) and max_memory_gib > 0):
        raise UsageError(f"found the memory limit {max_memory_gib} GiB, expected a number above 0")
    return MemoryLimit(size=int(max_memory_gib * GIB), given=True)


def resident_bytes(root: Path = ROOT) -> int:
    """Memory of this process in use, or where that is not known the most it ever had."""
    pages = _text(root / "proc/self/statm").split()
    if len(pages) > 1:
        return int(pages[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # not there on every system, as is /proc

    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_bytes(root: Path = ROOT) -> int:
    """Memory that can be taken without swapping: of the machine, and within the limits of all control groups."""
    found = [_machine_bytes(root), *_group_bytes(root)]
    return max(0, min(found))


def _machine_bytes(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_bytes(root: Path) -> Iterator[int]:
    """What each control group that holds this process leaves, of version 2 and of version 1."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = Path(path.lstrip("/"))
        for folder in (base / group, *(base / parent for parent in group.parents)):
            limit, used = _text(folder / names[0]).strip(), _text(folder / names[1]).strip()
            if limit.isdecimal() and used.isdecimal():
                rows = (row.split() for row in _text(folder / "memory.stat").splitlines())
                cached = next((int(row[1]) for row in rows if len(row) == 2 and row[0] == names[2]), 0)
                yield int(limit) - int(used) + cached  # files that were read are given back when memory is short


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


FORMAT = 1

BATCHES = (2, 4, 8, 16, 32, 64)

UNMEASURED, WORTH = 4, 16  # the batch of runs of fewer members than are worth measuring

FASTER = 0.95  # of the time for a member, at most, with the next larger batch

SPARE = 1.25  # times what was measured is planned with

REPEATS = 3

LONGEST_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of one call of the denoiser for one member, by batch, and the memory [bytes] of a member in flight.

    `ended` says why no larger batch was tried: "slower", "memory", "time" or "largest".
    """

    seconds: Mapping[int, float]
    size: int
    ended: str

    def best(self, room: int) -> int:
        """The smallest of the batches that are nearly as fast as any, of those that fit into `room` [bytes]."""
        fitting = {batch: s for batch, s in self.seconds.items() if SPARE * batch * self.size <= room}
        least = min(fitting.values(), default=0.0)
        return min((batch for batch, s in fitting.items() if s * FASTER <= least), default=0)

    def enough(self, room: int) -> bool:
        """Whether nothing more can be learned with so much room."""
        return self.ended != "memory" or SPARE * 2 * max(self.seconds) * self.size > room


def choose_batch(
    bundle: Bundle,
    graphs: Graphs,
    model: LatentModel,
    *,
    members: int,
    limit: MemoryLimit,
    kept: int = 0,
    threads: int | None = None,
) -> int:
    """Members to draw at once; `kept` [bytes] is what the run needs beside them. The choice is logged.

    UsageError where a limit is given that not even two members fit into.
    """
    from rich.filesize import decimal

    if graphs.device != "cpu":
        log.info(f"batch {min(GPU_BATCH, members)}: graphs on a GPU run at a fixed number of rows")
        return min(GPU_BATCH, members)
    path = measured_path(bundle, graphs, model, threads)
    found, harmonics = read_measured(path), bundle.manifest.time.harmonics
    if found is None and members < WORTH and not limit.given:
        return min(UNMEASURED, members)
    warm_up(graphs, model, harmonics)
    room = limit.left - kept
    if found is None or not found.enough(room):
        before = resident_bytes()
        found = measure(graphs, model, harmonics, room)
        if resident_bytes() > before:  # else a run before has taken that memory already, and it was not measured
            write_measured(path, found)
    batch = found.best(room)
    if not batch:
        needed = resident_bytes() + kept + SPARE * BATCHES[0] * found.size
        sentence = f"found the memory limit {limit}, expected {needed / GIB:.2g} GiB or more"
        if limit.given:
            raise UsageError(f"{sentence}: give a larger --max-memory, or none")
        log.warning(f"{sentence} for this run")
        batch = BATCHES[0]
    batch = min(batch, members)
    log.info(
        f"batch {batch}: {1000 * found.seconds.get(batch, min(found.seconds.values())):.3g} ms for a member and "
        f"denoiser call, {decimal(found.size)} for a member in flight, within {limit}"
    )
    return batch


def measure(graphs: Graphs, model: LatentModel, harmonics: int, room: int) -> Measured:
    """Time and memory of batches that rise for as long as that makes a member faster and there is room [bytes]."""
    began, seconds = time.monotonic(), dict[int, float]()
    least = 8 * 4 * model.window * int(np.prod(model.shape))  # noise, state and what the sampler holds beside it
    size, first = least, 0
    for batch in BATCHES:
        if seconds and SPARE * batch * size > room:
            return Measured(seconds=seconds, size=size, ended="memory")
        taken = [_denoise(graphs, model, harmonics, batch) for _ in range(1 + REPEATS)]
        resident = resident_bytes()
        if first:
            size = max(size, (resident - first) // (batch - BATCHES[0]))
        else:
            first = resident
        now, before = min(taken[1:]) / batch, min(seconds.values(), default=np.inf)
        seconds[batch] = now
        if now > FASTER * before:
            return Measured(seconds=seconds, size=size, ended="slower")
        if time.monotonic() - began > LONGEST_S:
            return Measured(seconds=seconds, size=size, ended="time")
    return Measured(seconds=seconds, size=size, ended="largest")


def warm_up(graphs: Graphs, model: LatentModel, harmonics: int) -> None:
    """Nothing; what every batch needs is loaded, the graphs and the memory of the smallest batch."""
    steps, white = _inputs(model, harmonics, 1)
    graphs.decode(window_latent(model, white[0], model.deviation(steps.season)), steps.season)
    _denoise(graphs, model, harmonics, BATCHES[0])


def _denoise(graphs: Graphs, model: LatentModel, harmonics: int, batch: int) -> float:
    """Seconds of one call of the denoiser with all that the sampler does around it."""
    steps, noise = _inputs(model, harmonics, batch)
    once = dataclasses.replace(model, sampler=msgspec.structs.replace(model.sampler, steps=1))
    previous = np.zeros((batch, model.previous, *model.shape), dtype=np.float32)
    valid = np.zeros((batch, model.previous), dtype=np.float32)
    began = time.monotonic()
    sample_window(graphs, once, noise, steps, previous, valid)
    return time.monotonic() - began


def _inputs(model: LatentModel, harmonics: int, batch: int) -> tuple[Steps, F32]:
    """Steps of a window, and noise (member, time, variable, latent pixel): any will do."""
    season = np.zeros((model.window, 2 * harmonics), dtype=np.float32)
    steps = Steps(season=season, index=np.arange(model.window), forcing=np.zeros(model.window, dtype=np.float32))
    frame = window_noise(0, 0, steps.index, model.shape)
    return steps, np.repeat(frame[None], batch, axis=0)


def cache_folder() -> Path:
    """The folder of this package in the user's cache (XDG Base Directory Specification 0.8)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache")) / "fsae"


def measured_path(bundle: Bundle, graphs: Graphs, model: LatentModel, threads: int | None) -> Path:
    """Where a measurement is kept, by a hash of all that it depends on."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    whole = {
        "format": FORMAT,
        "bundle": bundle.manifest_sha256,
        "graph": model.graph,
        "device": graphs.device,
        "precision": graphs.precision,
        "versions": versions(graphs),
        "threads": threads,
        "cores": cores,
        "processor": platform.processor() or platform.machine(),
        "host": platform.node(),  # home folders are shared by machines that differ
    }
    key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"batch-{key[:16]}.json"


def read_measured(path: Path) -> Measured | None:
    """What was kept; None where nothing was, or nothing that can be used."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = Measured(
            seconds={int(batch): float(s) for batch, s in raw["seconds"].items()},
            size=int(raw["size"]),
            ended=str(raw["ended"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    good = found.size > 0 and found.seconds and set(found.seconds) <= set(BATCHES)
    return found if good and all(0 < s < np.inf for s in found.seconds.values()) else None


def write_measured(path: Path, measured: Measured) -> None:
    """Nothing; it is kept, where that is possible: without it the next run measures again."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(dataclasses.asdict(measured)), encoding="utf-8")
        aside.replace(path)
