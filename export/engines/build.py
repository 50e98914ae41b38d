"""Build the TensorRT or TensorRT-RTX engines of a bundle on the machine that will run them.

Needs neither torch nor onnx: the bundle's ONNX files and one of the two libraries are enough.
"""

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from msgspec.structs import replace
from rich.filesize import decimal

from fsae.runtime.atomic import write_aside
from fsae.runtime.backends.cuda import find_gpu
from fsae.runtime.backends.devices import FLAVOURS
from fsae.runtime.backends.engine_index import (
    BUILT,
    LOCK_FOLDER,
    PORTABLE,
    Engine,
    Index,
    Target,
    TimingCache,
    engine_folder,
    graph_hash,
    index_text,
    load_index,
    read_engine,
    this_platform,
)
from fsae.runtime.backends.tensorrt import import_tensorrt, this_target
from fsae.runtime.bundle.exported import remember
from fsae.runtime.bundle.external_data import read_graph
from fsae.runtime.bundle.files import INDEX, Bundle, file_entry, fingerprint
from fsae.runtime.bundle.manifest import graph_file
from fsae.runtime.errors import BundleError, DeviceError, OutputError, UsageError
from fsae.runtime.jobs.lock import locked
from fsae.runtime.ownership import kind

from .compile import BuildOptions, OnnxGraph, Progress, build_engine
from .layer_report import layer_report, report_name

log = logging.getLogger("fsae.export.engines")
FOR_CPUS = "int8"  # graphs of this precision round as CPUs do

# What TensorRT-RTX compiles for by default (its support matrix): one engine runs on all of these.
PORTABLE_CAPABILITIES = ("8.6", "8.9", "12.0")
TIMINGS = ".timings"  # suffix of timing caches
Write = Callable[[str, bytes], None]  # name of a file in the engines' folder, content


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """The bundle that engines are built from, the library that builds them, and their target."""

    bundle: Bundle
    trt: ModuleType
    target: Target
    options: BuildOptions
    progress: Progress


def pick_flavour() -> str:
    """Flavour "trt" if TensorRT is installed, else "trt-rtx"; DeviceError naming both extras if neither is."""
    reasons = []
    for flavour in FLAVOURS:
        try:
            import_tensorrt(flavour)
        except DeviceError as error:
            reasons.append(str(error))
        else:
            return flavour
    raise DeviceError(
        "building engines needs TensorRT or TensorRT-RTX",
        advice=f'pip install "fsae[trt]" or pip install "fsae[trt-rtx]" ({"; ".join(reasons)})',
    )


def build_target(flavour: str) -> tuple[ModuleType, Target]:
    """The library of a flavour, and the target of engines built here.

    TensorRT measures kernels on a GPU, so it needs one. TensorRT-RTX compiles without: its engines are portable, except
    on a GPU that it does not cover by default, for which they are built specially.
    """
    trt = import_tensorrt(flavour)
    try:
        target = this_target(flavour, trt, find_gpu(flavour))
    except DeviceError as error:
        if flavour == "trt":
            raise DeviceError(
                f"TensorRT builds engines on the GPU they run on: {error}",
                advice="run it on a machine with that GPU; `fsae-run doctor` says what is missing here",
            ) from None
        return trt, _portable(flavour, trt)
    if flavour == "trt-rtx" and target.compute_capability in PORTABLE_CAPABILITIES:
        return trt, _portable(flavour, trt)
    return trt, target


def build_engines(
    bundle: Bundle,
    flavour: str,
    options: BuildOptions | None = None,
    *,
    progress: Progress = lambda phase, done, total: None,
) -> list[Engine]:
    """Build the missing engines of a bundle into its `trt/`; return those of every graph and precision.

    Each engine is named after its own hash, and the index is written last, each of them aside and then renamed: readers
    find either the old engines or the new ones, and a build that fails or is interrupted leaves the folder as it was.
    Engines of older graphs are removed; engines for other libraries, GPUs and batch sizes stay. An engine with another
    workspace is built again and replaces the older one. `progress` is called for the phases of each build.

    Raises OutputError if the folder cannot be written, or if another build is using it.
    """
    precisions = _precisions(bundle)
    trt, target = build_target(flavour)
    shop = Workshop(bundle=bundle, trt=trt, target=target, options=options or BuildOptions(), progress=progress)
    with locked(bundle.folder / LOCK_FOLDER):  # two builds would lose each other's entries in the index
        return _build_missing(shop, precisions)


def _build_missing(shop: Workshop, precisions: Sequence[str]) -> list[Engine]:
    """See `build_engines`."""
    bundle, folder, index = shop.bundle, engine_folder(shop.bundle), _read_index(shop.bundle)
    known = _usable(bundle, index.engines)
    timings = _read_timings(shop, index)
    built = []
    with _all_or_nothing(folder) as write:
        for precision, graph in itertools.product(precisions, bundle.manifest.graphs):
            wanted = Engine(
                graph=graph,
                precision=precision,
                graph_sha256=graph_hash(bundle.manifest, graph, precision) or "",
                target=shop.target,
                profile=shop.options.profile,
                file="",
                sha256="",
                size=0,
                workspace_bytes=shop.options.workspace_bytes,
            )
            engine, timings = _find_or_build(shop, known, wanted, timings, write)
            built.append(engine)
        keys = {engine.key for engine in built}
        kept = [*built, *(engine for engine in known if engine.key not in keys)]
        caches = [cache for cache in index.timing_caches if cache.target != shop.target]
        if timings:
            caches.append(_write_timings(write, shop.target, timings))
        write(INDEX, index_text(kept, caches).encode())
    before = {engine.file for engine in index.engines} | {cache.file for cache in index.timing_caches}
    _sweep(folder, before, kept, caches)
    remember(fingerprint(bundle.folder))
    return built


def _find_or_build(
    shop: Workshop, known: Sequence[Engine], wanted: Engine, timings: bytes, write: Write
) -> tuple[Engine, bytes]:
    """The wanted engine, built and written unless it is among the known ones; and the kernel timings after that."""
    trt, label = shop.trt, f"{wanted.graph} {wanted.precision}"
    model, path = read_graph(shop.bundle, graph_file(wanted.graph, wanted.precision))
    graph = OnnxGraph(name=f"{wanted.graph}.{wanted.precision}", model=model, path=path)
    asked = (wanted.key, wanted.workspace_bytes)  # an older index does not say the workspace: such engines never match
    engine = next((engine for engine in known if (engine.key, engine.workspace_bytes) == asked), None)
    if engine is not None:
        log.info("%s: up to date", label)
        data = read_engine(shop.bundle, engine)
    else:
        log.info("%s: building with %s %s", label, trt.__name__, trt.__version__)
        began = time.monotonic()

        def progress(phase: str, done: int, total: int) -> None:
            shop.progress(f"{label}: {phase}", done, total)

        made = build_engine(trt, graph, shop.target, shop.options, timings=timings, progress=progress)
        data, timings = made.engine, made.timings
        entry = file_entry(data)
        name = f"{graph.name}.{shop.target.flavour}.{entry.sha256[:16]}.engine"
        engine = replace(wanted, file=name, sha256=entry.sha256, size=entry.size)
        write(name, data)
        log.info("%s: %s in %.1f s", label, decimal(engine.size), time.monotonic() - began)
    if shop.options.layers:
        write(report_name(engine.file), layer_report(trt, engine, data, graph))
        log.info("%s: layers in %s", label, report_name(engine.file))
    return engine, timings


def _precisions(bundle: Bundle) -> list[str]:
    """The bundle's precisions that engines are built for; UsageError if there are none."""
    have = bundle.manifest.precisions
    found = [precision for precision in have if precision != FOR_CPUS]
    if not found:
        raise UsageError(
            f"bundle {bundle.manifest.name} has only {FOR_CPUS} graphs, which are for CPUs: no engine",
            advice="export fp32 or fp16 graphs first, with fsae-export RUN",
        )
    if FOR_CPUS in have:
        log.info("%s graphs are for CPUs: no engine", FOR_CPUS)
    return found


def _portable(flavour: str, trt: ModuleType) -> Target:
    """The target of TensorRT-RTX engines for every GPU that the library covers by default."""
    return Target(flavour=flavour, version=trt.__version__, compute_capability=PORTABLE, platform=this_platform())


def _read_index(bundle: Bundle) -> Index:
    """The bundle's index of engines, or an empty one if it cannot be used."""
    try:
        return load_index(engine_folder(bundle))
    except BundleError as error:
        log.info("starting a new index: %s", error)
        return Index(engines=())


def _usable(bundle: Bundle, engines: Sequence[Engine]) -> list[Engine]:
    """Engines whose file is intact and whose graph is still the bundle's; report the others."""
    found = []
    for engine in engines:
        if graph_hash(bundle.manifest, engine.graph, engine.precision) != engine.graph_sha256:
            log.info("dropping %s: it was built from an older graph", engine.file)
        elif _intact(bundle, engine) is not None:
            found.append(engine)
    return found


def _intact(bundle: Bundle, entry: Engine | TimingCache) -> bytes | None:
    """Content of a file of the index; report it and return None if it is missing or altered."""
    try:
        return read_engine(bundle, entry)
    except BundleError:
        log.info("dropping %s: missing or altered", entry.file)
        return None


def _read_timings(shop: Workshop, index: Index) -> bytes:
    """Kernel timings of earlier builds for the target; empty if there are none or their file is not intact."""
    cache = next((cache for cache in index.timing_caches if cache.target == shop.target), None)
    return (_intact(shop.bundle, cache) or b"") if cache is not None else b""


def _write_timings(write: Write, target: Target, timings: bytes) -> TimingCache:
    """Write kernel timings; return their entry in the index."""
    entry = file_entry(timings)
    name = f"{target.flavour}-{target.version}-{target.compute_capability}.{entry.sha256[:16]}{TIMINGS}"
    write(name, timings)
    return TimingCache(target=target, file=name, sha256=entry.sha256, size=entry.size)


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Write]:
    """A function that writes files into `folder`; if the block fails, its new files are removed, and a new folder."""
    made, added = not folder.exists(), list[Path]()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None

    def write(name: str, data: bytes) -> None:
        path = folder / name
        if not path.exists():
            added.append(path)
        try:
            with write_aside(path) as aside:
                aside.write_bytes(data)
        except OSError as error:
            raise _cannot_write(path, error) from None

    try:
        yield write
    except BaseException:
        with contextlib.suppress(OSError):
            for path in added:
                path.unlink(missing_ok=True)
            if made:
                folder.rmdir()
        raise


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror}", advice="check that the folder is yours and has space")


def _sweep(folder: Path, before: set[str], engines: Sequence[Engine], caches: Sequence[TimingCache]) -> None:
    """Remove what the index does not list any more, its reports, and what killed builds left under names of theirs."""
    keep = {INDEX, *(engine.file for engine in engines), *(cache.file for cache in caches)}
    keep |= {report_name(engine.file) for engine in engines}
    listed = before | {report_name(file) for file in before}
    for path in folder.iterdir():
        if path.name not in keep and (path.name in listed or BUILT.fullmatch(path.name)) and kind(path) == "file":
            path.unlink(missing_ok=True)
