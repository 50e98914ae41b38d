"""How many members are drawn at once, and the memory that they may take. Results do not depend on it.

On a CPU the time for a member falls with the batch until the graphs have all the rows they run at once, and hardly
changes beyond: `generate --members 100` takes 24 % less processor time with 16 members at once than with 2, 3 % less
than with 8. So the batch is 16, or fewer if there is not the memory for 16, which is estimated.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fsae.runtime.arguments import real
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.backends.onnx import GPU_BATCH, cpu_rows
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import UsageError
from fsae.runtime.log import log
from fsae.runtime.sphere.healpix import npix

from .members import LatentModel

Batch: TypeAlias = int | Literal["auto"]
LARGEST = 16
PIXEL_BYTES = (5 << 20) / npix(5)  # of a row in a graph: 5 MiB at zoom 5 as measured, fewer bytes a pixel beyond
COPIES = 8  # of a window of latents that a member in flight holds: noise, state and what the sampler holds beside them
GIB = 1 << 30
SHARE = 0.5  # of the available memory, if no limit is given: other programs run here too
ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """The most memory [bytes] that this process should hold; `given` if a user has named it."""

    size: int
    given: bool = False

    @property
    def left(self) -> int:
        """Part of it that is not in use now [bytes]."""
        return max(0, self.size - resident_bytes())

    def __str__(self) -> str:
        return f"{self.size / GIB:.3g} GiB"


UNLIMITED = MemoryLimit(size=sys.maxsize)


def memory_limit(max_memory_gib: float | None = None) -> MemoryLimit:
    """The limit that a user names, else what is in use now and half of what is available beyond."""
    if max_memory_gib is None:
        return MemoryLimit(size=resident_bytes() + int(SHARE * available_bytes()))
    max_memory_gib = real("max_memory_gib", max_memory_gib)
    if not (math.isfinite(max_memory_gib) and max_memory_gib > 0):
        found = f"found the memory limit {max_memory_gib} GiB"
        raise UsageError(found, "a number above 0", "leave it out for half of what is available")
    return MemoryLimit(size=int(max_memory_gib * GIB), given=True)


def resident_bytes() -> int:
    """Memory of this process in use."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def available_bytes(root: Path = ROOT) -> int:
    """Memory that can be taken without swapping: of the machine, and within the limits of all control groups."""
    import psutil

    machine = int(psutil.virtual_memory().available)
    return max(0, min([machine, *_group_bytes(root)]))


def _group_bytes(root: Path) -> Iterator[int]:
    """Yield what each control group of this process leaves, of version 2 and of version 1: psutil knows neither."""
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
                yield int(limit) - int(used) + cached  # cached files are given back when memory is short


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def batch_bytes(batch: int, pixels: int, latents: int) -> int:
    """Memory [bytes] that a batch takes on a CPU: rows of so many pixels inside the graphs, windows of latents around.

    >>> [round(batch_bytes(batch, 12288, 12 * 768) / 2**20, 1) for batch in (1, 8, 16)]
    [5.3, 42.2, 44.5]
    """
    rows = min(batch, cpu_rows(pixels))
    return int(PIXEL_BYTES * rows * pixels) + 4 * COPIES * batch * latents


def choose_batch(
    bundle: Bundle,
    graphs: Graphs,
    model: LatentModel,
    *,
    members: int,
    limit: MemoryLimit,
    kept: int = 0,
    held: int = 0,
) -> int:
    """Number of members to draw at once, which is logged.

    The run needs `kept` [bytes] whatever the batch is, and `held` for each member of it. UsageError if a limit is given
    into which not even one member fits.
    """
    from rich.filesize import decimal

    if graphs.device != "cpu":
        log.info(f"batch {min(GPU_BATCH, members)}: graphs on a GPU run at a fixed number of rows")
        return min(GPU_BATCH, members)
    pixels, latents = npix(bundle.manifest.grid.zoom), model.window * math.prod(model.shape)
    sizes = {size: kept + size * held + batch_bytes(size, pixels, latents) for size in range(1, LARGEST + 1)}
    left = limit.left
    batch = min(max((batch for batch, size in sizes.items() if size <= left), default=0), members)
    if not batch:
        needed = (resident_bytes() + sizes[1]) / GIB
        found, expected = f"found the memory limit {limit}", f"{needed:.2g} GiB or more"
        if limit.given:
            raise UsageError(found, expected, "give a larger --max-memory, or none")
        log.warning(f"{found}, expected {expected} for this run")
        batch = 1
    log.info(f"batch {batch}: about {decimal(sizes[batch])} beside what is loaded, within {limit}")
    return batch
