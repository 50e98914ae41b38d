"""TensorRT and TensorRT-RTX engines of a bundle's graphs, built on the machine that will run them.

Needs neither torch nor onnx: the ONNX files of the bundle and one of the two libraries are enough.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from rich.filesize import decimal

from fsae.runtime.backends.cuda import find_gpu
from fsae.runtime.backends.devices import FLAVOURS
from fsae.runtime.backends.engine_index import (
    INDEX,
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
from fsae.runtime.bundle.external_data import read_graph
from fsae.runtime.bundle.files import COMPILED, Bundle, file_entry
from fsae.runtime.bundle.manifest import graph_file
from fsae.runtime.errors import BundleError, DeviceError, OutputError, UsageError
from fsae.runtime.jobs.lock import locked

from .compile import BuildOptions, Progress, build_engine
from .layer_report import SUFFIX, layer_report, report_name

FOR_CPUS = "int8"  # graphs of this precision round as CPUs do

# What TensorRT-RTX compiles for when no target is given (its support matrix): one engine for all of these.
PORTABLE_CAPABILITIES = ("8.6", "8.9", "12.0")

TIMINGS = ".timings"  # ends the names of timing caches

LOCK_FOLDER = f".{COMPILED}"  # beside the engines while they are built, so that nothing stays among them

Write = Callable[[str, bytes], None]  # name of a file in the engines' folder, content


def pick_flavour() -> str:
    """Flavour "trt" where TensorRT is installed, else "trt-rtx"; DeviceError naming the extras where neither is."""
    reasons = []
    for flavour in FLAVOURS:
        try:
            import_tensorrt(flavour)
        except DeviceError as error:
            reasons.append(str(error))
        else:
            return flavour
    raise DeviceError(
        'building engines needs TensorRT or TensorRT-RTX: pip install "fsae[trt]" or pip install "fsae[trt-rtx]" '
        f"({'; '.join(reasons)})"
    )


def build_target(flavour: str) -> tuple[ModuleType, Target]:
    """The library of a flavour and what its engines are built for here.

    TensorRT measures kernels on the GPU, so it needs one. TensorRT-RTX compiles without: then, and on GPUs it covers
    by default, the engine is portable; on another GPU it is built for that one.
    """
    trt = import_tensorrt(flavour)
    try:
        target = this_target(flavour, trt, find_gpu(flavour))
    except DeviceError as error:
        if flavour == "trt":
            raise DeviceError(f"TensorRT builds engines on the GPU they run on: {error}") from None
        return trt, _portable(flavour, trt)
    if flavour == "trt-rtx" and target.compute_capability in PORTABLE_CAPABILITIES:
        return trt, _portable(flavour, trt)
    return trt, target


def build_engines(
    bundle: Bundle,
    flavour: str,
    options: BuildOptions | None = None,
    *,
    say: Callable[[str], None] = lambda message: None,
    progress: Progress = lambda phase, done, total: None,
) -> list[Engine]:
    """The engines of every graph and precision of the bundle, in its `trt/`, after building those that are not there.

    Every engine is written under the name of its own hash and the index last, each aside and then renamed: whoever
    reads meanwhile finds the old engines or the new ones, and where a build fails or is interrupted the folder stays as
    it was. Engines of older graphs are removed, engines of other libraries, GPUs and batch sizes stay. `progress` is
    told of the phases of each build. An engine of another workspace is built again and takes the older one's place.

    OutputError where the folder cannot be written, or another build is at work in it.
    """
    options = options or BuildOptions()
    precisions = _precisions(bundle, say)
    trt, target = build_target(flavour)
    with locked(bundle.folder / LOCK_FOLDER):  # two builds would lose each other's entries of the index
        return _build_missing(bundle, precisions, trt, target, options, say, progress)


def _build_missing(
    bundle: Bundle,
    precisions: Sequence[str],
    trt: ModuleType,
    target: Target,
    options: BuildOptions,
    say: Callable[[str], None],
    progress: Progress,
) -> list[Engine]:
    """See `build_engines`."""
    folder = engine_folder(bundle)
    index = _read_index(bundle, say)
    known = _usable(bundle, index.engines, say)
    timings = _read_timings(bundle, index, target, say)
    built = []
    with _all_or_nothing(folder) as write:
        for precision, graph in itertools.product(precisions, bundle.manifest.graphs):
            label = f"{graph} {precision}"
            model, path = read_graph(bundle, graph_file(graph, precision))
            wanted = Engine(
                graph=graph,
                precision=precision,
                graph_sha256=graph_hash(bundle.manifest, graph, precision) or "",
                target=target,
                profile=options.profile,
                file="",
                sha256="",
                size=0,
                workspace_bytes=options.workspace_bytes,
            )
            engine = next((engine for engine in known if _is_wanted(engine, wanted)), None)
            if engine is not None:
                say(f"{label}: up to date")
                data = read_engine(bundle, engine)
            else:
                say(f"{label}: building with {trt.__name__} {trt.__version__}")
                began = time.monotonic()
                done = build_engine(
                    trt,
                    model,
                    f"{graph}.{precision}",
                    target,
                    options,
                    path=path,
                    timings=timings,
                    progress=_labelled(progress, label),
                )
                data, timings = done.engine, done.timings
                entry = file_entry(data)
                name = f"{graph}.{precision}.{target.flavour}.{entry.sha256[:16]}.engine"
                engine = replace(wanted, file=name, sha256=entry.sha256, size=entry.size)
                write(name, data)
                say(f"{label}: {decimal(engine.size)} in {time.monotonic() - began:.1f} s")
            if options.layers:
                report = layer_report(trt, engine, data, model, path)
                write(report_name(engine.file), report)
                say(f"{label}: layers in {report_name(engine.file)}")
            built.append(engine)
        keys = {engine.key for engine in built}
        kept = [*built, *(engine for engine in known if engine.key not in keys)]
        caches = [cache for cache in index.timing_caches if cache.target != target]
        if timings:
            caches.append(_write_timings(write, target, timings))
        write(INDEX, index_text(kept, caches).encode())
    _sweep(folder, kept, caches)
    return built


def _is_wanted(engine: Engine, wanted: Engine) -> bool:
    """Whether an engine need not be built again; one whose workspace nobody knows is."""
    return (engine.key, engine.workspace_bytes) == (wanted.key, wanted.workspace_bytes)


def _precisions(bundle: Bundle, say: Callable[[str], None]) -> list[str]:
    """The bundle's precisions that engines are built of; UsageError where there is none."""
    have = bundle.manifest.precisions
    found = [precision for precision in have if precision != FOR_CPUS]
    if not found:
        raise UsageError(f"bundle {bundle.manifest.name} has {FOR_CPUS} graphs only, which are for CPUs: no engine")
    if FOR_CPUS in have:
        say(f"{FOR_CPUS} graphs are for CPUs: no engine")
    return found


def _labelled(progress: Progress, label: str) -> Progress:
    """`progress` with a label before every phase."""
    return lambda phase, done, total: progress(f"{label}: {phase}", done, total)


def _portable(flavour: str, trt: ModuleType) -> Target:
    """The target of a TensorRT-RTX engine for every GPU that library compiles for by default."""
    return Target(flavour=flavour, version=trt.__version__, compute_capability=PORTABLE, platform=this_platform())


def _read_index(bundle: Bundle, say: Callable[[str], None]) -> Index:
    """The bundle's index, an empty one in place of one that cannot be used, which it says."""
    try:
        return load_index(engine_folder(bundle))
    except BundleError as error:
        say(f"starting a new index: {error}")
        return Index(engines=())


def _usable(bundle: Bundle, engines: Sequence[Engine], say: Callable[[str], None]) -> list[Engine]:
    """Engines whose file is whole and whose graph is still the bundle's; says what it leaves."""
    found = []
    for engine in engines:
        if graph_hash(bundle.manifest, engine.graph, engine.precision) != engine.graph_sha256:
            say(f"dropping {engine.file}: it was built from an older graph")
            continue
        try:
            read_engine(bundle, engine)
        except BundleError:
            say(f"dropping {engine.file}: missing or altered")
            continue
        found.append(engine)
    return found


def _read_timings(bundle: Bundle, index: Index, target: Target, say: Callable[[str], None]) -> bytes:
    """Kernel timings of earlier builds on the target; empty where there are none or their file is not the index's."""
    for cache in index.timing_caches:
        if cache.target == target:
            try:
                return read_engine(bundle, cache)
            except BundleError:
                say(f"dropping {cache.file}: missing or altered")
    return b""


def _write_timings(write: Write, target: Target, timings: bytes) -> TimingCache:
    """The index's entry of kernel timings, after they were written."""
    entry = file_entry(timings)
    name = f"{target.flavour}-{target.version}-{target.compute_capability}.{entry.sha256[:16]}{TIMINGS}"
    write(name, timings)
    return TimingCache(target=target, file=name, sha256=entry.sha256, size=entry.size)


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Write]:
    """A function that writes files into `folder`; if the work fails, files that it added go again, and a new folder."""
    made, added = not folder.exists(), list[Path]()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None

    def write(name: str, data: bytes) -> None:
        path = folder / name
        if not path.exists():
            added.append(path)
        _write(path, data)

    try:
        yield write
    except BaseException:
        with contextlib.suppress(OSError):
            for path in added:
                path.unlink(missing_ok=True)
            if made:
                folder.rmdir()
        raise


def _write(path: Path, data: bytes) -> None:
    """Nothing; writes a file aside and renames it."""
    aside = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror}; is there space, and is the folder yours?")


def _sweep(folder: Path, engines: Sequence[Engine], caches: Sequence[TimingCache]) -> None:
    """Nothing; removes what the index does not name: engines, their reports, timings, and what broken builds left."""
    keep = {engine.file for engine in engines} | {cache.file for cache in caches}
    keep |= {report_name(engine.file) for engine in engines}
    for path in folder.iterdir():
        ours = path.name.endswith((".engine", SUFFIX, TIMINGS)) or ".partial-" in path.name
        if ours and path.name not in keep:
            path.unlink(missing_ok=True)
