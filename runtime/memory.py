"""How much memory this process holds, how much more it may take, and the limit that a run is given."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError

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
