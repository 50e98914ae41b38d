"""Every graph of a model in every precision asked for, measured against the original on real fields."""

import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

from fsae.export.graphs.external_data import Files
from fsae.export.graphs.trace import check_graph, export_graph, node_count
from fsae.export.precisions.half import convert
from fsae.export.precisions.int8 import quantize
from fsae.export.precisions.torch_twin import torch_runner
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import OUTPUTS
from fsae.runtime.bundle.manifest import NOT_RUN, Certificate, Difference, EnsembleParity, Parity, graph_file
from fsae.runtime.errors import UsageError

from .ensembles import MEMBERS, Drawn, check_ensembles, compare_ensembles, draw_ensemble
from .originals import STRETCHES, Original, Part, expected_of, golden_rows, make_parts
from .parity import check_batches, check_parity, compare, larger
from .runners import FILE_RUNNERS, RunnerGraphs, backend_name, run_rows

log = logging.getLogger("fsae.export.certificate")

# What each is measured with; the worst counts. ONNX Runtime's CPU is kinder to fp16 than any GPU (see runners.py) and
# has no bf16. "torch" is the trained module in 16 bits, "onnx" the very graph by ONNX's reference implementation.
RUNNERS = {
    "fp32": ("onnxruntime",),
    "fp16": ("onnxruntime", "torch", "onnx"),
    "bf16": ("torch", "onnx"),
    "int8": ("onnxruntime",),
}

TOOLS = ("fsae", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Graphs that keep their tolerances, and what was measured."""

    files: Mapping[str, bytes]
    seconds: Mapping[str, float]  # of making and measuring each file
    golden: Mapping[str, F32]
    parity: Mapping[str, Mapping[str, Parity]]
    certificates: Mapping[str, Certificate]  # by precision


def certify(original: Original, precisions: Sequence[str], opset: int) -> Certified:
    """The original's graphs in these precisions; ToleranceError where one is too far from the trained model.

    Those of a bundle are made of its float32 graphs, whose `opset` they keep.
    """
    date = date_of_export()
    log.info("reading real fields")
    parts = make_parts(original, original.years)
    calibration = make_parts(original, original.data.training_years) if "int8" in precisions else {}
    graphs: dict[str, dict[str, Files]] = {precision: {} for precision in precisions}
    parity: dict[str, dict[str, Parity]] = {precision: {} for precision in precisions}
    seconds: dict[str, float] = {}
    golden: dict[str, F32] = {}
    exact: dict[str, Files] = {}
    for number, (graph, part) in enumerate(parts.items(), start=1):
        began = time.monotonic()
        log.info("[%d/%d] %s", number, len(parts), graph)
        rows = golden_rows(part.inputs)
        if graph in original.modules:
            exact[graph] = export_graph(graph, original.modules[graph], rows, opset)
        else:
            exact[graph] = original.graphs[graph]
        golden |= {f"{graph}.{key}": value for key, value in rows.items()}
        golden[f"{graph}.{OUTPUTS[graph]}"] = expected_of(original, graph, rows)
        for precision in precisions:
            files: Files
            if precision == "int8":
                files = quantize(exact[graph], calibration[graph].inputs)
            else:
                files = exact[graph] if precision == "fp32" else convert(exact[graph], precision)
            check_graph(graph, files, {key: value.shape[1:] for key, value in rows.items()})
            place = f"[{number}/{len(parts)}] {graph} {precision}"
            log.info("%s: comparing with %s", place, original.reference)
            parity[precision][graph] = measure(original, graph, precision, part, files)
            graphs[precision][graph] = files
            seconds[graph_file(graph, precision)] = time.monotonic() - began
            began = time.monotonic()
    every = {name: data for own in graphs.values() for files in own.values() for name, data in files.items()}
    ensembles, steps = _ensembles(original, exact, graphs)
    years = original.years
    certificates = {
        precision: Certificate(
            date=date,
            reference=original.reference,
            data=original.sources,
            period=(f"{years[0]:04}-01-01", f"{years[1]:04}-12-31"),
            steps=STRETCHES * original.steps,
            members=MEMBERS if precision in ensembles else 0,
            ensemble_steps=steps if precision in ensembles else 0,
            ensembles=ensembles.get(precision, ()),
            versions={**{tool: version(tool) for tool in TOOLS}, "python": platform.python_version()},
        )
        for precision in precisions
    }
    return Certified(files=every, seconds=seconds, golden=golden, parity=parity, certificates=certificates)


def measure(original: Original, graph: str, precision: str, part: Part, files: Files) -> Parity:
    """A graph's differences from the original; ToleranceError where one is too large or depends on the batch."""
    differences: list[Difference] = []
    libraries = [name for name in RUNNERS[precision] if name != "torch" or graph in original.modules]
    for name in libraries:
        if name == "torch":
            runner = torch_runner(original.modules[graph], precision)
        else:
            runner = FILE_RUNNERS[name](files, OUTPUTS[graph])
        found = compare(
            graph,
            part.expected,
            run_rows(runner, part.inputs),
            zooms=part.zooms,
            fields=part.fields,
            scale=original.model.scale,
            variables=original.model.variables,
            transforms=original.model.transforms,
            tolerance=original.tolerance(precision),
            exact=original.tolerance("fp32"),
        )
        differences = larger(differences, found) if differences else found
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
    """Ensembles by precision beside the same members in fp32, and their steps; ToleranceError where one is too far."""
    reduced = [precision for precision in graphs if precision != "fp32"]
    if original.model.latent is None or not reduced:
        return {}, 0
    log.info("ensembles: %d members in fp32", MEMBERS)
    reference = _draw(original, exact, "fp32")
    ensembles = {}
    for precision in reduced:
        log.info("ensembles: the same members in %s", precision)
        drawn = _draw(original, graphs[precision], precision)
        ensembles[precision] = compare_ensembles(
            original.model.variables, reference, drawn, original.tolerance(precision)
        )
    check_ensembles(ensembles)
    return ensembles, len(reference.truth)


def _draw(original: Original, graphs: Mapping[str, Files], precision: str) -> Drawn:
    """The ensemble by graphs in one precision."""
    runner = RUNNERS[precision][-1]
    runners = {graph: FILE_RUNNERS[runner](files, OUTPUTS[graph]) for graph, files in graphs.items()}
    by_graphs = RunnerGraphs(runners=runners, backend=backend_name(runner), precision=precision)
    return draw_ensemble(replace(original.model, graphs=by_graphs), original.fields, original.years)


def date_of_export() -> str:
    """The date in UTC as YYYY-MM-DD, or that of SOURCE_DATE_EPOCH [s since 1970], as for other reproducible builds."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):  # no number, or of a year that a date cannot have
        raise UsageError(
            f"the environment variable SOURCE_DATE_EPOCH is {seconds!r}, expected whole seconds since 1970: set it so, "
            "or unset it"
        ) from None
    return moment.date().isoformat()
