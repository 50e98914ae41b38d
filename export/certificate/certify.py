"""Make the graphs of a model in all requested precisions, and measure each against the original on real fields."""

import hashlib
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

from fsae.export.graphs.external_data import Files
from fsae.export.graphs.inputs import Inputs, take
from fsae.export.graphs.trace import check_graph, export_graph, node_count
from fsae.export.precisions.half import convert
from fsae.export.precisions.int8 import quantize
from fsae.export.precisions.torch_twin import torch_runner
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import OUTPUTS
from fsae.runtime.bundle.manifest import NOT_RUN, Certificate, Difference, EnsembleParity, Parity, graph_file
from fsae.runtime.codec.latents import graphs_key
from fsae.runtime.errors import UsageError
from fsae.training.config import days_of

from .ensembles import MEMBERS, Drawn, check_ensembles, compare_ensembles, draw_ensemble
from .originals import STRETCHES, Original, Part, expected_of, golden_rows, make_parts
from .parity import check_batches, check_parity, compare, larger
from .runners import FILE_RUNNERS, RunnerGraphs, backend_name, run_rows

log = logging.getLogger("fsae.export.certificate")

# The libraries that measure each precision; the worst result counts. ONNX Runtime's CPU is kinder to fp16 than any GPU
# (see runners.py) and does not support bf16. "torch" is the trained module in 16 bits, "onnx" the graph itself run by
# ONNX's reference implementation.
RUNNERS = {
    "fp32": ("onnxruntime",),
    "fp16": ("onnxruntime", "torch", "onnx"),
    "bf16": ("torch", "onnx"),
    "int8": ("onnxruntime",),
}
TOOLS = ("fsae", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One graph in one precision, and the time it took [s] to make and measure it."""

    files: Files
    parity: Parity
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Graphs within their tolerances, and what was measured."""

    files: Mapping[str, bytes]
    seconds: Mapping[str, float]  # of making and measuring each file
    golden: Mapping[str, F32]
    key: str  # of the latents, by the float32 graphs
    parity: Mapping[str, Mapping[str, Parity]]  # by precision, then by graph
    certificates: Mapping[str, Certificate]  # by precision


def certify(original: Original, precisions: Sequence[str], opset: int) -> Certified:
    """Make the original's graphs in these precisions; ToleranceError if one is too far from the original.

    Graphs of a bundle are made from its float32 graphs and keep their `opset`.
    """
    date = date_of_export()
    log.info("reading real fields")
    parts = make_parts(original, original.years)
    calibration = make_parts(original, original.data.training_years) if "int8" in precisions else parts
    exact: dict[str, Files] = {}
    golden: dict[str, F32] = {}
    measured: dict[str, dict[str, Measured]] = {precision: {} for precision in precisions}
    for number, (graph, part) in enumerate(parts.items(), start=1):
        began, place = time.monotonic(), f"[{number}/{len(parts)}] {graph}"
        log.info(place)
        rows = golden_rows(part.inputs)
        exact[graph] = _exact(original, graph, rows, opset)
        kept = rows if len(original.model.variables) == 1 else take(rows, [0])  # several variables are enough numbers
        results = {**kept, OUTPUTS[graph]: expected_of(original, graph, kept)}
        golden |= {f"{graph}.{name}": array for name, array in results.items()}
        for precision in precisions:
            files = _in_precision(exact[graph], precision, calibration[graph].inputs)
            check_graph(graph, files, {name: array.shape[1:] for name, array in rows.items()})
            log.info("%s %s: comparing with %s", place, precision, original.reference)
            parity = measure(original, graph, precision, part, files)
            measured[precision][graph] = Measured(files=files, parity=parity, seconds=time.monotonic() - began)
            began = time.monotonic()
    graphs = {p: {graph: each.files for graph, each in own.items()} for p, own in measured.items()}
    ensembles, steps = _ensembles(original, exact, graphs)
    return Certified(
        files={name: data for own in graphs.values() for files in own.values() for name, data in files.items()},
        seconds={graph_file(graph, p): each.seconds for p, own in measured.items() for graph, each in own.items()},
        golden=golden,
        key=graphs_key(*(_sha256(exact[graph]) for graph in ("encoder", "decoder"))),
        parity={p: {graph: each.parity for graph, each in own.items()} for p, own in measured.items()},
        certificates={p: _certificate(original, date, ensembles.get(p, ()), steps) for p in precisions},
    )


def _sha256(files: Files) -> str:
    """SHA-256 of a graph, the first of its files."""
    return hashlib.sha256(next(iter(files.values()))).hexdigest()


def _exact(original: Original, graph: str, rows: Inputs, opset: int) -> Files:
    """The files of an original's float32 graph."""
    if graph in original.modules:
        return export_graph(graph, original.modules[graph], rows, opset)
    return original.graphs[graph]


def _in_precision(exact: Files, precision: str, calibration: Inputs) -> Files:
    """The files of a float32 graph in a precision."""
    if precision == "fp32":
        return exact
    return quantize(exact, calibration) if precision == "int8" else convert(exact, precision)


def _certificate(original: Original, date: str, ensembles: tuple[EnsembleParity, ...], steps: int) -> Certificate:
    """The certificate of one precision, with ensembles of this many steps or without ensembles."""
    first, last = (f"{year:04}-{month:02}-{day:02}" for year, month, day in days_of(original.years))
    return Certificate(
        date=date,
        reference=original.reference,
        data=original.sources,
        period=(first, last),
        steps=STRETCHES * original.steps,
        members=MEMBERS if ensembles else 0,
        ensemble_steps=steps if ensembles else 0,
        ensembles=ensembles,
        versions={**{tool: version(tool) for tool in TOOLS}, "python": platform.python_version()},
    )


def measure(original: Original, graph: str, precision: str, part: Part, files: Files) -> Parity:
    """Measure a graph against the original; ToleranceError if it is too far from it or depends on the batch."""
    model, differences = original.model, list[Difference]()
    libraries = [name for name in RUNNERS[precision] if name != "torch" or graph in original.modules]
    for name in libraries:
        if name == "torch":
            runner = torch_runner(original.modules[graph], precision)
        else:
            runner = FILE_RUNNERS[name](files, OUTPUTS[graph])
        found, own, exact = run_rows(runner, part.inputs), original.tolerance(precision), original.tolerance("fp32")
        entries = compare(graph, part, found, model.variables, model.scale, own, exact)
        differences = larger(differences, entries) if differences else entries
        check_parity(graph, precision, differences, original.configuration)
        if name == "onnxruntime":
            check_batches(graph, runner, part.inputs)
    return Parity(
        device="cpu" if "onnxruntime" in RUNNERS[precision] else NOT_RUN,
        backend=", ".join(backend_name(name) for name in libraries),
        nodes=node_count(files),
        differences=tuple(differences),
    )


def _ensembles(
    original: Original, exact: Mapping[str, Files], graphs: Mapping[str, Mapping[str, Files]]
) -> tuple[dict[str, tuple[EnsembleParity, ...]], int]:
    """Compare ensembles with the same members in fp32, by precision; also their steps. ToleranceError if too far."""
    reduced = [precision for precision in graphs if precision != "fp32"]
    if original.model.latent is None or not reduced:
        return {}, 0
    log.info("ensembles: %d members in fp32", MEMBERS)
    reference = _draw(original, exact, "fp32")
    ensembles = {}
    for precision in reduced:
        log.info("ensembles: the same members in %s", precision)
        drawn = _draw(original, graphs[precision], precision)
        tolerance = original.tolerance(precision)
        ensembles[precision] = compare_ensembles(original.model.variables, reference, drawn, tolerance)
    check_ensembles(ensembles)
    return ensembles, len(reference.truth)


def _draw(original: Original, graphs: Mapping[str, Files], precision: str) -> Drawn:
    """Draw the ensemble with graphs in one precision."""
    runner = RUNNERS[precision][-1]
    runners = {graph: FILE_RUNNERS[runner](files, OUTPUTS[graph]) for graph, files in graphs.items()}
    by_graphs = RunnerGraphs(runners=runners, backend=backend_name(runner), precision=precision)
    return draw_ensemble(replace(original.model, graphs=by_graphs), original.fields, original.years)


def date_of_export() -> str:
    """Today in UTC as YYYY-MM-DD, or the date of SOURCE_DATE_EPOCH [s since 1970], as in other reproducible builds."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):  # not a number, or outside the years of dates
        raise UsageError(
            f"the environment variable SOURCE_DATE_EPOCH is {seconds!r}",
            "whole seconds since 1970",
            "set it so, or unset it",
        ) from None
    return moment.date().isoformat()
