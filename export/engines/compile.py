"""One TensorRT or TensorRT-RTX engine out of one ONNX graph, with progress, and stopped by Ctrl-C.

The same calls serve TensorRT 10, TensorRT 11 and TensorRT-RTX. Graphs are strongly typed: an engine computes in the
precision that stands in its graph, and no flag chooses another.
"""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fsae.runtime.backends.engine_index import PORTABLE, Target
from fsae.runtime.backends.tensorrt import make_logger
from fsae.runtime.errors import DeviceError, UsageError

DEFAULT_PROFILE = (1, 8, 32)

GIB = 1 << 30

WORKSPACE_BYTES = 2 * GIB  # scratch memory a kernel may use; far above what fields of these sizes need

WAKE_S = 0.5  # on some systems a wait without end does not see Ctrl-C

NO_DRIVER = "cudaError 35"  # TensorRT-RTX complains of the missing driver beside every error, but builds without

TIMED = "trt"  # the flavour with timing caches: TensorRT-RTX measures nothing, its calls for them are empty

Progress = Callable[[str, int, int], None]  # phase, steps done, steps in all


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How engines are built; `profile` is the smallest, the best and the largest batch.

    `layers` asks for a report of every engine's layers beside it.
    """

    profile: tuple[int, int, int] = DEFAULT_PROFILE
    workspace_bytes: int = WORKSPACE_BYTES
    layers: bool = False

    def __post_init__(self) -> None:
        low, best, high = self.profile
        if not 1 <= low <= best <= high:
            raise UsageError(f"batch sizes are {self.profile}, expected smallest, best and largest, rising, from 1")
        if not 1 <= self.workspace_bytes < 2**63:
            raise UsageError(f"the workspace is {self.workspace_bytes} bytes, expected more than none, such as 2 GiB")


@dataclass(frozen=True, kw_only=True)
class Built:
    """A serialised engine, and the kernel timings its build ended with (empty where the library keeps none)."""

    engine: bytes
    timings: bytes


def workspace_bytes(gib: float) -> int:
    """Bytes of a workspace given in GiB; UsageError where that is not above 0.

    >>> workspace_bytes(0.5)
    536870912
    """
    if not (math.isfinite(gib) and gib * GIB >= 1):
        raise UsageError(f"found a workspace of {gib:g} GiB, expected more than 0, such as 2")
    return int(gib * GIB)


def parse_graph(trt: ModuleType, model: bytes, name: str, path: Path | None = None) -> "Parsed":
    """The library's own form of an ONNX file; DeviceError with the node and operator that it cannot read.

    `path` is where the file lies if its weights lie beside it.
    """
    logger, messages = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # the bindings' way to say that the library returned nothing: no driver, or too old a one
        raise DeviceError(f"{trt.__name__} cannot start: {_last(messages)}") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model, None if path is None else str(path)):
        reasons = [_parser_reason(parser.get_error(i)) for i in range(parser.num_errors)]
        raise DeviceError(f"{trt.__name__} cannot read the graph {name}: {'; '.join(reasons) or _last(messages)}")
    return Parsed(builder=builder, network=network, messages=messages, kept=(logger, parser))


def build_engine(
    trt: ModuleType,
    model: bytes,
    name: str,
    target: Target,
    options: BuildOptions,
    *,
    path: Path | None = None,
    timings: bytes = b"",
    progress: Progress = lambda phase, done, total: None,
) -> Built:
    """The engine of an ONNX file; DeviceError with the operator or layer the library stumbled over.

    `path` is that of `parse_graph`; `timings` is the cache that an earlier build ended with, in whose place an empty
    one is used if the library refuses it. `progress` is called in other threads. Ctrl-C ends the build after the step
    it is in, as KeyboardInterrupt.
    """
    parsed = parse_graph(trt, model, name, path)
    builder, network, messages = parsed.builder, parsed.network, parsed.messages
    config = builder.create_builder_config()
    # TensorFloat-32 is on by default and keeps 10 bits of each factor, which fp32 does not promise.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # what a report of layers is made of; costs no bytes
    _set_target(trt, config, target)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        fixed = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((batch, *fixed) for batch in options.profile))
    if config.add_optimization_profile(profile) < 0:
        raise DeviceError(f"{trt.__name__} refuses the batch sizes {options.profile} for {name}: {_last(messages)}")
    cache = _use_timings(config, timings) if target.flavour == TIMED else None
    stop, failures = threading.Event(), list[Exception]()
    monitor = _make_monitor(trt, progress, stop, failures)
    config.progress_monitor = monitor
    engine = _run_stoppable(lambda: builder.build_serialized_network(network, config), stop)
    if failures:
        raise failures[0]
    if engine is None:
        reason = _last(messages)
        hint = f" (it is {options.workspace_bytes / GIB:g} GiB: allow more)" if "workspace" in reason else ""
        raise DeviceError(f"{trt.__name__} cannot build {name}: {reason}{hint}")
    return Built(engine=bytes(engine), timings=_measured(cache))


def _use_timings(config: Any, timings: bytes) -> Any:
    """The timing cache put into a configuration: the one given or, where the library refuses that, an empty one."""
    for content in (timings, b""):
        cache = config.create_timing_cache(content)
        # A mismatch is a cache of another GPU or library: its timings would choose the wrong kernels.
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _measured(cache: Any) -> bytes:
    """Content of a timing cache, empty where there is none."""
    content = None if cache is None else cache.serialize()
    return b"" if content is None else bytes(content)


def _make_monitor(trt: ModuleType, progress: Progress, stop: threading.Event, failures: list[Exception]) -> Any:
    """What TensorRT tells of its phases, passed on to `progress`; it ends the build once `stop` is set.

    What `progress` raises ends the build too and is kept in `failures`: it must not fly through the library.
    """
    totals: dict[str, int] = {}

    def tell(phase: str, done: int) -> None:
        try:
            progress(phase, done, totals.get(phase, done))
        except Exception as error:
            failures.append(error)
            stop.set()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            totals[phase_name] = num_steps
            tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tell(phase_name, step + 1)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            pass  # also called for phases that were broken off

    return Monitor()


def _run_stoppable(work: Callable[[], Any], stop: threading.Event) -> Any:
    """What `work` gives, run in a thread of its own so that Ctrl-C is seen here while the library is busy there.

    Then `stop` is set, and the library's thread waited for, before KeyboardInterrupt goes on.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            future = pool.submit(work)
            while not future.done():
                wait((future,), timeout=WAKE_S)
            return future.result()
        except BaseException:
            stop.set()
            raise


def _set_target(trt: ModuleType, config: Any, target: Target) -> None:
    """Nothing; makes TensorRT-RTX compile for the GPU that is there where its default set leaves that one out."""
    if target.flavour != "trt-rtx" or target.compute_capability == PORTABLE:
        return
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(trt.ComputeCapability.CURRENT, 0):
        raise DeviceError(f"{trt.__name__} {trt.__version__} does not compile for GPUs of {target.compute_capability}")


def _parser_reason(error: Any) -> str:
    """What a parser's error says, in one line: kind, operator and name of the node, reason."""
    kind = error.code().name.lower().replace("_", " ")
    node = f"{error.node_operator()} node {error.node_name()!r}: " if error.node_name() else ""
    return f"{node}{kind}: {_one_line(error.desc())}"


def _one_line(text: str) -> str:
    """A message of the library in one line, without its complaints of a driver that building does not need."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return " | ".join([line for line in lines if NO_DRIVER not in line] or lines)


def _last(messages: list[str]) -> str:
    """The newest complaints of TensorRT in one line; the first of a chain names the layer, the last one what failed."""
    errors = [message for message in messages if "error" in message.split(":")[0]] or messages
    errors = [message for message in errors if NO_DRIVER not in message] or errors
    return " | ".join(_one_line(message) for message in errors[-3:]) or "it gave no reason"


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A graph as the library has it; `kept` are objects that must live as long as the network."""

    builder: Any
    network: Any
    messages: list[str]  # of the logger
    kept: tuple[Any, ...]
