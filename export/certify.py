"""Every graph of a run in every precision asked for, measured against the trained model on real fields."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fsae.runtime.manifest import NOT_RUN, Certificate, Difference, Parity, graph_file
from fsae.runtime.session import OUTPUTS
from fsae.training.config import Tolerance
from fsae.training.run import Run, fast_levels

from .contents import variables_of
from .ensembles import MEMBERS, Drawn, check_ensembles, compare_ensembles, draw_ensemble
from .external import Files
from .graphs import DecoderGraph, EncoderGraph, check_graph, export_graph, node_count
from .parity import check_batches, check_parity, compare, larger
from .precision import convert
from .quantize import quantize
from .runners import FILE_RUNNERS, RunnerGraphs, backend_name, run_rows
from .samples import (
    Inputs,
    Stretches,
    Whitening,
    decoder_inputs,
    denoiser_inputs,
    encoder_inputs,
    read_stretches,
    run_module,
    take,
)
from .twin import torch_runner

F32 = NDArray[np.float32]
Say = Callable[[str], None]

# What each is measured with; the worst counts. ONNX Runtime's CPU is kinder to fp16 than any GPU (see runners.py) and
# has no bf16. "torch" is the trained module in 16 bits, "onnx" the very graph by ONNX's reference implementation.
RUNNERS = {
    "fp32": ("onnxruntime",),
    "fp16": ("onnxruntime", "torch", "onnx"),
    "bf16": ("torch", "onnx"),
    "int8": ("onnxruntime",),
}
STRETCHES = 4  # stretches of real fields that every graph is compared on
STRETCH_STEPS = 8  # steps of one where there is no denoiser to say
NOISE_LEVELS = 5  # from the sampler's smallest to its largest
TOOLS = ("fsae", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A graph to export, with inputs made from real fields and what the trained model gives for them."""

    module: nn.Module
    inputs: Inputs
    expected: F32
    fields: F32  # (row, variable, pixel), physical fields that go in or come out
    zooms: tuple[int, ...]  # of the output's pyramid


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Graphs that keep their tolerances, and what was measured."""

    files: Mapping[str, bytes]
    seconds: Mapping[str, float]  # of making and measuring each file
    golden: Mapping[str, F32]
    parity: Mapping[str, Mapping[str, Parity]]
    certificate: Certificate


def certify(run: Run, precisions: Sequence[str], opset: int, say: Say) -> Certified:
    """The run's graphs in these precisions; ToleranceError where one is too far from the trained model."""
    say("reading real fields")
    parts = make_parts(run, real_stretches(run, _years(run)))
    calibration = make_parts(run, real_stretches(run, run.config.data.training_years)) if "int8" in precisions else {}
    graphs: dict[str, dict[str, Files]] = {precision: {} for precision in precisions}
    parity: dict[str, dict[str, Parity]] = {precision: {} for precision in precisions}
    seconds: dict[str, float] = {}
    golden: dict[str, F32] = {}
    exact: dict[str, Files] = {}
    for number, (graph, part) in enumerate(parts.items(), start=1):
        began = time.monotonic()
        say(f"[{number}/{len(parts)}] {graph}: exporting")
        rows = golden_rows(part.inputs)
        exact[graph] = export_graph(graph, part.module, rows, opset)
        golden |= {f"{graph}.{key}": value for key, value in rows.items()}
        golden[f"{graph}.{OUTPUTS[graph]}"] = run_module(part.module, rows)
        for precision in precisions:
            files: Files
            if precision == "int8":
                files = quantize(exact[graph], calibration[graph].inputs)
            else:
                files = exact[graph] if precision == "fp32" else convert(exact[graph], precision)
            check_graph(graph, files, {key: value.shape[1:] for key, value in rows.items()})
            say(f"[{number}/{len(parts)}] {graph} {precision}: comparing with the trained model")
            parity[precision][graph] = measure(run, graph, precision, part, files)
            graphs[precision][graph] = files
            seconds[graph_file(graph, precision)] = time.monotonic() - began
            began = time.monotonic()
    every = {name: data for own in graphs.values() for files in own.values() for name, data in files.items()}
    certificate = _certificate(run, exact, graphs, say)
    return Certified(files=every, seconds=seconds, golden=golden, parity=parity, certificate=certificate)


def measure(run: Run, graph: str, precision: str, part: Part, files: Files) -> Parity:
    """A graph's differences from the trained model; ToleranceError where one is too large or depends on the batch."""
    differences: list[Difference] = []
    for name in RUNNERS[precision]:
        twin = name == "torch"
        runner = torch_runner(part.module, precision) if twin else FILE_RUNNERS[name](files, OUTPUTS[graph])
        found = compare(
            graph,
            part.expected,
            run_rows(runner, part.inputs),
            zooms=part.zooms,
            fields=part.fields,
            scale=run.statistics["scale"],
            variables=variables_of(run),
            tolerance=tolerance_of(run, precision),
            exact=run.config.export.fp32,
        )
        differences = larger(differences, found) if differences else found
        check_parity(graph, precision, differences)
        if name == "onnxruntime":
            check_batches(graph, runner, part.inputs)
    return Parity(
        device="cpu" if "onnxruntime" in RUNNERS[precision] else NOT_RUN,
        backend=", ".join(backend_name(name) for name in RUNNERS[precision]),
        nodes=node_count(files),
        differences=tuple(differences),
    )


def tolerance_of(run: Run, precision: str) -> Tolerance:
    """What the run's configuration allows a precision."""
    settings = run.config.export
    return {"fp32": settings.fp32, "fp16": settings.fp16, "bf16": settings.bf16, "int8": settings.int8}[precision]


def make_parts(run: Run, stretches: Stretches) -> dict[str, Part]:
    """The graphs to export by name: encoder, decoder and, where the run has them, denoiser and distilled denoiser."""
    zooms, latent_zooms = run.config.autoencoder.zooms, run.config.autoencoder.latent_zooms
    encoder, decoder = EncoderGraph(run.autoencoder).eval(), DecoderGraph(run.autoencoder).eval()
    fields = encoder_inputs(stretches, zooms)
    latent = run_module(encoder, fields)
    back = decoder_inputs(latent, fields["season"])
    decoded = run_module(decoder, back)
    parts = {
        "encoder": Part(module=encoder, inputs=fields, expected=latent, fields=fields["field"], zooms=latent_zooms),
        "decoder": Part(module=decoder, inputs=back, expected=decoded, fields=decoded, zooms=zooms),
    }
    if run.denoiser is not None and run.config.diffusion is not None:
        sampler = run.config.sampler
        whitening = Whitening(
            zooms=latent_zooms,
            cell_std=run.statistics["latent_cell_std"],
            season_std=run.statistics["latent_season_std"],
            level_std=run.statistics["latent_level_std"],
        )
        models = {"denoiser": (run.denoiser, np.geomspace(sampler.sigma_min, sampler.sigma_max, NOISE_LEVELS))}
        if run.fast is not None:
            models["fast"] = (run.fast, fast_levels(run.config)[:-1])
        for name, (model, sigmas) in models.items():
            windows = denoiser_inputs(
                latent, stretches, whitening, previous=run.config.diffusion.previous, sigmas=sigmas.tolist()
            )
            module = model.eval()
            expected = run_module(module, windows)
            parts[name] = Part(module=module, inputs=windows, expected=expected, fields=decoded, zooms=latent_zooms)
    return parts


def golden_rows(inputs: Inputs) -> Inputs:
    """Two rows that differ in every way rows can: the first and the last."""
    return take(inputs, [0, len(next(iter(inputs.values()))) - 1])


def _years(run: Run) -> tuple[int, int]:
    """The validation years, else the evaluation years: unseen, and nothing is tuned on them here."""
    return run.config.data.validation_years or run.config.data.evaluation_years


def real_stretches(run: Run, years: tuple[int, int]) -> Stretches:
    """Stretches of the run's real fields, spread over the `years`."""
    data, diffusion = run.config.data, run.config.diffusion
    return read_stretches(
        str(run.fields),
        variables_of(run),
        run.config.autoencoder.zoom,
        data.harmonics,
        years,
        count=STRETCHES,
        length=STRETCH_STEPS if diffusion is None else diffusion.previous + diffusion.window,
    )


def _certificate(
    run: Run, exact: Mapping[str, Files], graphs: Mapping[str, Mapping[str, Files]], say: Say
) -> Certificate:
    """What everything was measured on and with; ToleranceError where a precision changes the ensembles too much."""
    years, reduced = _years(run), [precision for precision in graphs if precision != "fp32"]
    ensembles, steps = {}, 0
    if run.denoiser is not None and reduced:
        say(f"ensembles: {MEMBERS} members in fp32")
        reference = _draw(run, exact, "fp32")
        steps = len(reference.truth)
        for precision in reduced:
            say(f"ensembles: the same members in {precision}")
            drawn = _draw(run, graphs[precision], precision)
            ensembles[precision] = compare_ensembles(run, reference, drawn, tolerance_of(run, precision))
        check_ensembles(ensembles)
    diffusion = run.config.diffusion
    length = STRETCH_STEPS if diffusion is None else diffusion.previous + diffusion.window
    return Certificate(
        date=date_of_export(),
        period=(f"{years[0]:04}-01-01", f"{years[1]:04}-12-31"),
        steps=STRETCHES * length,
        members=MEMBERS if ensembles else 0,
        ensemble_steps=steps,
        ensembles=ensembles,
        versions={**{tool: version(tool) for tool in TOOLS}, "python": platform.python_version()},
    )


def _draw(run: Run, graphs: Mapping[str, Files], precision: str) -> Drawn:
    """The run's ensemble by its graphs in one precision."""
    runner = RUNNERS[precision][-1]
    runners = {graph: FILE_RUNNERS[runner](files, OUTPUTS[graph]) for graph, files in graphs.items()}
    return draw_ensemble(
        run, RunnerGraphs(runners=runners, backend=backend_name(runner), precision=precision), _years(run)
    )


def date_of_export() -> str:
    """The date in UTC as YYYY-MM-DD, or that of SOURCE_DATE_EPOCH, as for other reproducible builds."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(int(seconds), UTC)
    return moment.date().isoformat()
