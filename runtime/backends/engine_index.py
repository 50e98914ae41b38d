"""Index of the compiled engines in a bundle's `trt/`: what each was built for, so that no unfit one is ever loaded.

An engine belongs to one graph, one library version, one kind of GPU and one operating system. The bundle's manifest
does not list engines, because every machine builds its own; `trt/index.json` does, with a hash of each. So it does with
TensorRT's timing caches, which only a build reads. What the index does not list, or lists with another hash, is never
given to a library.
"""

import hashlib
import json
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import asdict, replace

from fsae.runtime.bundle.external_data import weights_file
from fsae.runtime.bundle.files import COMPILED, INDEX, Bundle, file_entry
from fsae.runtime.bundle.manifest import Manifest, PlainName, graph_file
from fsae.runtime.bundle.records import Line, Record, check, decode_record, read_json, short, to_json
from fsae.runtime.errors import BundleError, DeviceError

LOCK_FOLDER = f".{COMPILED}"  # beside the engines' folder, so that no lock file is left among them

# Names of what a build writes: each carries the beginning of its hash.
BUILT = re.compile(r"(index\.json|.+\.[0-9a-f]{16}\.(engine|layers\.json|timings))(\.partial-\d+-[0-9a-f]{8})?")

INDEX_SCHEMA = 3  # 1 had no timing caches; 1 and 2 did not record the workspace
PORTABLE = "portable"  # a TensorRT-RTX engine for every GPU that the library compiles for by default


def this_platform() -> str:
    """Operating system and processor, as in "linux-x86_64": serialised engines do not move between them."""
    return f"{sys.platform}-{platform.machine().lower()}"


class Target(Record, frozen=True, kw_only=True):
    """The platform of an engine: everything beside the graph that decides if it can be loaded here."""

    flavour: Line  # trt or trt-rtx
    version: Line  # of that library, complete
    compute_capability: Line  # of the GPU, as "8.9", or "portable"
    platform: Line


class Engine(Record, frozen=True, kw_only=True):
    """One compiled graph; `profile` is the smallest, the best and the largest batch it takes.

    `workspace_bytes` is the scratch memory that its kernels may use, None if it was built before that was recorded.
    """

    graph: Line
    precision: Line
    graph_sha256: Line
    target: Target
    profile: tuple[int, int, int]
    file: PlainName
    sha256: str
    size: int
    workspace_bytes: int | None = None

    def __post_init__(self) -> None:
        low, best, high = self.profile
        check(1 <= low <= best <= high, f"batches of {self.profile}, expected rising ones from 1")

    @property
    def key(self) -> str:
        """Hash over everything that a host chooses an engine by; of equal keys only the newest is kept."""
        facts = [self.graph, self.precision, self.graph_sha256, asdict(self.target), self.profile]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class TimingCache(Record, frozen=True, kw_only=True):
    """Kernel timings of TensorRT on a target, for any graph: later builds there reuse them."""

    target: Target
    file: PlainName
    sha256: str
    size: int


class Index(Record, frozen=True, kw_only=True):
    """The content of index.json."""

    schema_version: int = INDEX_SCHEMA
    engines: tuple[Engine, ...]
    timing_caches: tuple[TimingCache, ...] = ()


def engine_folder(bundle: Bundle) -> Path:
    """Folder of the bundle's compiled engines."""
    return bundle.folder / COMPILED


def graph_hash(manifest: Manifest, graph: str, precision: str) -> str | None:
    """Hash of a graph and its weights, also those in a file beside it; None if the bundle has no such graph."""
    name = graph_file(graph, precision)
    own, weights = manifest.files.get(name), manifest.files.get(weights_file(name))
    if own is None or weights is None:
        return None if own is None else own.sha256
    return hashlib.sha256(f"{own.sha256} {weights.sha256}".encode()).hexdigest()


def index_text(engines: Sequence[Engine], timing_caches: Sequence[TimingCache] = ()) -> str:
    """The text of index.json, its entries in a fixed order."""
    index = Index(
        engines=tuple(sorted(engines, key=lambda e: (e.graph, e.precision, e.file))),
        timing_caches=tuple(sorted(timing_caches, key=lambda cache: cache.file)),
    )
    return to_json(index)


def read_index(folder: Path) -> list[Engine]:
    """Engines listed in `folder`/index.json; see `load_index`."""
    return list(load_index(folder).engines)


def load_index(folder: Path) -> Index:
    """`folder`/index.json, an empty one if it is absent; BundleError if it is damaged or newer."""
    path, todo = folder / INDEX, f"delete {folder} and run fsae-export BUNDLE --trt"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Index(engines=())
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot read {path} ({error})", advice=todo) from None
    where = f"{path} is damaged"
    raw = read_json(text, where, BundleError, todo)
    if isinstance(raw, dict) and isinstance(raw.get("schema_version"), int) and raw["schema_version"] > INDEX_SCHEMA:
        raise BundleError(f"{path} was written by a newer fsae (schema {short(raw['schema_version'])})", advice=todo)
    return decode_record(Index, raw, where, BundleError, todo)


def find_engine(bundle: Bundle, graph: str, precision: str, target: Target) -> Engine:
    """The engine of a graph that may be loaded here; DeviceError if there is none.

    An engine counts only if it was built from the very graph of the manifest by the same library version for this kind
    of GPU (or as a portable one) on this platform.
    """
    sha256 = graph_hash(bundle.manifest, graph, precision)
    name = bundle.manifest.name
    todo = f"build one on this machine with: fsae-export {bundle.folder} --trt"
    candidates = [e for e in read_index(engine_folder(bundle)) if (e.graph, e.precision) == (graph, precision)]
    candidates = [e for e in candidates if e.target.flavour == target.flavour]
    if not candidates:
        raise DeviceError(f"bundle {name} has no {target.flavour} engine of the {graph} in {precision}", advice=todo)
    fresh = [e for e in candidates if e.graph_sha256 == sha256]
    if not fresh:
        raise DeviceError(f"the {target.flavour} engine of the {graph} was built from an older graph", advice=todo)
    capabilities = (target.compute_capability, PORTABLE)
    for capability in capabilities:
        wanted = replace(target, compute_capability=capability)
        fitting = [e for e in fresh if e.target == wanted]
        if fitting:
            return max(fitting, key=lambda e: (e.profile[1], e.key))  # the largest best batch
    found = "; ".join(
        f"{e.target.flavour} {e.target.version}, compute capability {e.target.compute_capability}, {e.target.platform}"
        for e in fresh
    )
    raise DeviceError(
        f"the engines of the {graph} are for another machine: found {found}; expected "
        f"{target.flavour} {target.version}, compute capability {target.compute_capability}, {target.platform}",
        advice=todo,
    )


def read_engine(bundle: Bundle, entry: Engine | TimingCache) -> bytes:
    """Content of a file of the index; BundleError if it is missing or differs from its entry."""
    path = engine_folder(bundle) / entry.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"cannot read {path}: {error.strerror}", advice=f"run fsae-export {bundle.folder} --trt"
        ) from None
    found = file_entry(data)
    if (found.sha256, found.size) != (entry.sha256, entry.size):
        raise BundleError(f"{path} is altered or truncated", advice=f"run fsae-export {bundle.folder} --trt again")
    return data
