"""Compile one ONNX graph into a TensorRT or TensorRT-RTX engine, with progress, stoppable by Ctrl-C.

The same calls serve TensorRT 10, TensorRT 11 and TensorRT-RTX. Networks are strongly typed: an engine computes in the
precisions written in its graph, and no flag changes them.
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
WORKSPACE_BYTES = 2 * GIB  # scratch memory a kernel may use; far more than fields of these sizes need
WAKE_S = 0.5  # on some systems a wait without a timeout does not notice Ctrl-C
NO_DRIVER = "cudaError 35"  # TensorRT-RTX mentions the missing driver beside every error, but builds without one
TIMED = "trt"  # the flavour with timing caches: TensorRT-RTX measures nothing, and its calls for them do nothing
Progress = Callable[[str, int, int], None]  # phase, steps done, steps in total


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How engines are built: `profile` is the smallest, best and largest batch; `layers` asks for layer reports."""

    profile: tuple[int, int, int] = DEFAULT_PROFILE
    workspace_bytes: int = WORKSPACE_BYTES
    layers: bool = False

    def __post_init__(self) -> None:
        low, best, high = self.profile
        if not 1 <= low <= best <= high:
            raise UsageError(
                f"batch sizes are {self.profile}",
                "smallest, best and largest, rising, from 1",
                "give such as --batch 1,8,32",
            )
        if not 1 <= self.workspace_bytes < 2**63:
            raise UsageError(
                f"the workspace is {self.workspace_bytes} bytes",
                "more than 0, such as 2 GiB",
                "give such as --workspace 2",
            )


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """An ONNX file to compile: its name in messages, its content and, if its weights lie beside it, its path."""

    name: str
    model: bytes
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """A serialised engine, and the kernel timings after its build (empty if the library keeps none)."""

    engine: bytes
    timings: bytes


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A graph in the library's own form; `kept` are objects that must live as long as the network."""

    name: str
    builder: Any
    network: Any
    messages: list[str]  # from the logger
    kept: tuple[Any, ...]


def workspace_bytes(gib: float) -> int:
    """Convert a workspace from GiB to bytes; UsageError unless it is above 0.

    >>> workspace_bytes(0.5)
    536870912
    """
    if not (math.isfinite(gib) and gib * GIB >= 1):
        raise UsageError(f"found a workspace of {gib:g} GiB", "more than 0, such as 2", "give such as --workspace 2")
    return int(gib * GIB)


def parse_graph(trt: ModuleType, graph: OnnxGraph) -> Parsed:
    """Parse an ONNX graph; DeviceError names the node and operator that the library cannot read."""
    logger, messages = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # how the bindings report that the library returned nothing: the driver is missing or too old
        raise DeviceError(
            f"{trt.__name__} cannot start: {_last(messages)}",
            advice="check the driver with nvidia-smi, and `fsae-run doctor`",
        ) from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.model, None if graph.path is None else str(graph.path)):
        reasons = [_parser_reason(parser.get_error(i)) for i in range(parser.num_errors)]
        raise DeviceError(
            f"{trt.__name__} cannot read the graph {graph.name}: {'; '.join(reasons) or _last(messages)}",
            advice="update TensorRT, or export the run again",
        )
    return Parsed(name=graph.name, builder=builder, network=network, messages=messages, kept=(logger, parser))


def build_engine(
    trt: ModuleType,
    graph: OnnxGraph,
    target: Target,
    options: BuildOptions,
    *,
    timings: bytes = b"",
    progress: Progress = lambda phase, done, total: None,
) -> Built:
    """Build the engine of an ONNX graph; DeviceError names the operator or layer the library failed on.

    `timings` is the timing cache of an earlier build; if the library refuses it, an empty one is used. `progress` is
    called from other threads. Ctrl-C ends the build after the current step and raises KeyboardInterrupt.
    """
    parsed = parse_graph(trt, graph)
    config = _configuration(trt, parsed, target, options)
    cache = _use_timings(config, timings) if target.flavour == TIMED else None
    stop, failures = threading.Event(), list[Exception]()
    monitor = _make_monitor(trt, progress, stop, failures)
    config.progress_monitor = monitor
    engine = _run_stoppable(lambda: parsed.builder.build_serialized_network(parsed.network, config), stop)
    if failures:
        raise failures[0]
    if engine is None:
        reason = _last(parsed.messages)
        hint = f" (it is {options.workspace_bytes / GIB:g} GiB: allow more)" if "workspace" in reason else ""
        raise DeviceError(
            f"{trt.__name__} cannot build {graph.name}: {reason}{hint}",
            advice="free memory of the GPU, or give a smaller --workspace or --batch",
        )
    measured = None if cache is None else cache.serialize()
    return Built(engine=bytes(engine), timings=b"" if measured is None else bytes(measured))


def _configuration(trt: ModuleType, parsed: Parsed, target: Target, options: BuildOptions) -> Any:
    """The library's configuration for a build: exact float32, workspace, target and batch sizes."""
    config = parsed.builder.create_builder_config()
    # TensorFloat-32 is on by default and keeps 10 bits of each factor; float32 graphs promise more.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for layer reports; costs no bytes
    if target.flavour == "trt-rtx" and target.compute_capability != PORTABLE:  # a GPU outside the default set
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(trt.ComputeCapability.CURRENT, 0):
            library = f"{trt.__name__} {trt.__version__}"
            raise DeviceError(
                f"{library} does not compile for GPUs of {target.compute_capability}",
                advice="take a newer version of that library, or --device cuda",
            )
    profile = parsed.builder.create_optimization_profile()
    for index in range(parsed.network.num_inputs):
        tensor = parsed.network.get_input(index)
        fixed = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((batch, *fixed) for batch in options.profile))
    if config.add_optimization_profile(profile) < 0:
        reason = _last(parsed.messages)
        raise DeviceError(
            f"{trt.__name__} refuses the batch sizes {options.profile} for {parsed.name}: {reason}",
            advice="give other sizes, such as --batch 1,8,32",
        )
    return config


def _use_timings(config: Any, timings: bytes) -> Any:
    """Set the timing cache of a configuration; use an empty one if the library refuses `timings`."""
    for content in (timings, b""):
        cache = config.create_timing_cache(content)
        # A mismatch means a cache of another GPU or library, whose timings would choose the wrong kernels.
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _make_monitor(trt: ModuleType, progress: Progress, stop: threading.Event, failures: list[Exception]) -> Any:
    """A monitor that passes TensorRT's phases on to `progress` and ends the build once `stop` is set.

    An exception in `progress` ends the build too; it is kept in `failures`, as it must not pass through the library.
    """
    totals: dict[str, int] = {}

    def show(phase: str, done: int) -> None:
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
            show(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            show(phase_name, step + 1)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            pass  # called for interrupted phases too

    return Monitor()


def _run_stoppable(work: Callable[[], Any], stop: threading.Event) -> Any:
    """Run `work` in another thread, so that Ctrl-C is noticed while the library is busy.

    Ctrl-C sets `stop` and waits for the library's thread before KeyboardInterrupt goes on.
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


def _parser_reason(error: Any) -> str:
    """A parser's error in one line: operator and name of the node, kind of error, reason."""
    kind = error.code().name.lower().replace("_", " ")
    node = f"{error.node_operator()} node {error.node_name()!r}: " if error.node_name() else ""
    return f"{node}{kind}: {_one_line(error.desc())}"


def _one_line(text: str) -> str:
    """A message of the library in one line, without remarks on the driver, which building does not need."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return " | ".join([line for line in lines if NO_DRIVER not in line] or lines)


def _last(messages: list[str]) -> str:
    """The last three errors in one line: the first of a chain names the layer, the last one what failed."""
    errors = [message for message in messages if "error" in message.split(":")[0]] or messages
    errors = [message for message in errors if NO_DRIVER not in message] or errors
    return " | ".join(_one_line(message) for message in errors[-3:]) or "it gave no reason"
