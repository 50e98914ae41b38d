"""TensorRT and TensorRT-RTX engines of a bundle's graphs, built on the machine that will run them.

Needs neither torch nor onnx: the ONNX files of the bundle and one of the two libraries are enough.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from fsae.runtime.bundle import Bundle, file_entry
from fsae.runtime.engines import (
    INDEX,
    PORTABLE,
    Engine,
    Target,
    engine_folder,
    index_text,
    read_engine,
    read_index,
    this_platform,
)
from fsae.runtime.errors import BundleError, DeviceError, OutputError, UsageError
from fsae.runtime.manifest import graph_file
from fsae.runtime.tensorrt import MODULES, find_gpu, import_tensorrt, make_logger, this_target

DEFAULT_PROFILE = (1, 8, 32)
WORKSPACE_BYTES = 2 << 30  # scratch memory a kernel may use; far above what fields of these sizes need
# What TensorRT-RTX compiles for when no target is given (its support matrix): one engine for all of these.
PORTABLE_CAPABILITIES = ("8.6", "8.9", "12.0")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How engines are built; `profile` is the smallest, the best and the largest batch."""

    profile: tuple[int, int, int] = DEFAULT_PROFILE
    workspace_bytes: int = WORKSPACE_BYTES

    def __post_init__(self) -> None:
        low, best, high = self.profile
        if not 1 <= low <= best <= high:
            raise UsageError(f"batch sizes are {self.profile}, expected smallest, best and largest, rising, from 1")


def pick_flavour() -> str:
    """Flavour "trt" where TensorRT is installed, else "trt-rtx"; DeviceError naming the extras where neither is."""
    reasons = []
    for flavour in MODULES:
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
) -> list[Engine]:
    """The engines of every graph and precision of the bundle, in its `trt/`, after building those that are not there.

    Every engine is written under the name of its own hash and the index last, each aside and then renamed: whoever
    reads meanwhile finds the old engines or the new ones. Engines of older graphs are removed, engines of other
    libraries, GPUs and batch sizes stay.
    """
    options = options or BuildOptions()
    trt, target = build_target(flavour)
    folder = engine_folder(bundle)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    known = _usable(bundle, say)
    built = []
    for precision in bundle.manifest.precisions:
        for graph in bundle.manifest.graphs:
            model = bundle.read(graph_file(graph, precision))
            wanted = Engine(
                graph=graph,
                precision=precision,
                graph_sha256=file_entry(model).sha256,
                target=target,
                profile=options.profile,
                file="",
                sha256="",
                size=0,
            )
            same = [engine for engine in known if engine.key == wanted.key]
            if same:
                say(f"{graph} {precision}: up to date")
                built.append(same[0])
                continue
            say(f"{graph} {precision}: building with {trt.__name__} {trt.__version__}")
            data = build_engine(trt, model, f"{graph}.{precision}", target, options)
            entry = file_entry(data)
            name = f"{graph}.{precision}.{flavour}.{entry.sha256[:16]}.engine"
            _write(folder / name, data)
            built.append(replace(wanted, file=name, sha256=entry.sha256, size=entry.size))
    keys = {engine.key for engine in built}
    kept = [*built, *(engine for engine in known if engine.key not in keys)]
    _write(folder / INDEX, index_text(kept).encode())
    _sweep(folder, {engine.file for engine in kept})
    return built


def build_engine(trt: ModuleType, model: bytes, name: str, target: Target, options: BuildOptions) -> bytes:
    """The serialised engine of an ONNX file; DeviceError with the operator or layer the library stumbled over."""
    logger, messages = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # the bindings' way to say that the library returned nothing: no driver, or too old a one
        raise DeviceError(f"{trt.__name__} cannot start: {_last(messages)}") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = [f"{e.node_operator()} node {e.node_name()!r}: {e.desc()}" for e in errors]
        raise DeviceError(f"{trt.__name__} cannot read the graph {name}: {'; '.join(reasons) or _last(messages)}")
    config = builder.create_builder_config()
    # TensorFloat-32 is on by default and keeps 10 bits of each factor, which fp32 does not promise.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    _set_target(trt, config, target)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        fixed = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((batch, *fixed) for batch in options.profile))
    if config.add_optimization_profile(profile) < 0:
        raise DeviceError(f"{trt.__name__} refuses the batch sizes {options.profile} for {name}: {_last(messages)}")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise DeviceError(f"{trt.__name__} cannot build {name}: {_last(messages)}")
    return bytes(engine)


def _portable(flavour: str, trt: ModuleType) -> Target:
    """The target of a TensorRT-RTX engine for every GPU that library compiles for by default."""
    return Target(flavour=flavour, version=trt.__version__, compute_capability=PORTABLE, platform=this_platform())


def _set_target(trt: ModuleType, config: Any, target: Target) -> None:
    """Nothing; makes TensorRT-RTX compile for the GPU that is there where its default set leaves that one out."""
    if target.flavour != "trt-rtx" or target.compute_capability == PORTABLE:
        return
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(trt.ComputeCapability.CURRENT, 0):
        raise DeviceError(f"{trt.__name__} {trt.__version__} does not compile for GPUs of {target.compute_capability}")


def _last(messages: list[str]) -> str:
    """The newest complaints of TensorRT in one line; the first of a chain names the layer, the last one what failed."""
    errors = [message for message in messages if "error" in message.split(":")[0]] or messages
    return " | ".join(errors[-3:]) or "it gave no reason"


def _usable(bundle: Bundle, say: Callable[[str], None]) -> list[Engine]:
    """Engines in the bundle's index whose file is whole and whose graph is still the bundle's; says what it leaves."""
    try:
        engines = read_index(engine_folder(bundle))
    except BundleError as error:
        say(f"starting a new index: {error}")
        return []
    found = []
    for engine in engines:
        file = bundle.manifest.files.get(graph_file(engine.graph, engine.precision))
        if file is None or file.sha256 != engine.graph_sha256:
            say(f"dropping {engine.file}: it was built from an older graph")
            continue
        try:
            read_engine(bundle, engine)
        except BundleError:
            say(f"dropping {engine.file}: missing or altered")
            continue
        found.append(engine)
    return found


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


def _sweep(folder: Path, keep: set[str]) -> None:
    """Nothing; removes engines that the index does not name, and what interrupted builds left."""
    for path in folder.iterdir():
        if path.name not in keep and (path.suffix == ".engine" or ".partial-" in path.name):
            path.unlink(missing_ok=True)
