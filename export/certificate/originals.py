"""The reference for exported graphs: a trained model or a bundle, real fields it has not seen, and tolerances.

A trained model runs in PyTorch. A bundle runs by its float32 graphs, which were compared with PyTorch when exported.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import nn

from fsae.export.graphs.external_data import Files
from fsae.export.graphs.inputs import Inputs, denoiser_inputs, encoder_inputs, read_stretches, take
from fsae.export.graphs.scratch import scratch_folder
from fsae.export.graphs.trace import DecoderGraph, EncoderGraph
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import INPUTS, call_of
from fsae.runtime.bundle.external_data import weights_file
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Source, graph_file
from fsae.runtime.diffusion.sampler import noise_levels
from fsae.runtime.errors import BundleError
from fsae.training.config import DEFAULT, DataConfig, ExportConfig, Tolerance, Years, read_config
from fsae.training.evaluation.data import prepared_inputs
from fsae.training.evaluation.model import TrainedModel, of_bundle, of_run
from fsae.training.fitting.run_folder import Run, sha256
from fsae.training.input_files import input_files

from .runners import run_rows

STRETCHES = 4  # stretches of real fields on which every graph is compared
STRETCH_STEPS = 8  # steps of a stretch if there is no denoiser, whose window decides otherwise
GOLDEN_BITS = 11
LARGE = 1024  # numbers of an input that is rounded for golden vectors
NOISE_LEVELS = 5  # from the sampler's smallest to its largest


@dataclass(frozen=True, kw_only=True)
class Original:
    """A model to export: the `modules` of a run, or the float32 `graphs` of a bundle, by the name of the graph."""

    model: TrainedModel
    reference: str  # what graphs are compared with, for the certificate
    fields: Path  # prepared fields
    sources: tuple[Source, ...]  # the files they were prepared from
    data: DataConfig  # the years
    tolerances: ExportConfig
    configuration: str  # the file with the years and tolerances
    modules: Mapping[str, nn.Module]
    graphs: Mapping[str, Files]

    @property
    def years(self) -> Years:
        """Years to compare on, which training has not seen: those for validation, else those for evaluation."""
        return self.data.validation_years or self.data.evaluation_years

    @property
    def steps(self) -> int:
        """Steps of a stretch: a window and the steps before it."""
        latent = self.model.latent
        return STRETCH_STEPS if latent is None else latent.previous + latent.window

    def tolerance(self, precision: str) -> Tolerance:
        """The tolerance of a precision."""
        own = self.tolerances
        return {"fp32": own.fp32, "fp16": own.fp16, "bf16": own.bf16, "int8": own.int8}[precision]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Inputs of one graph, made from real fields, and the original's results for them."""

    inputs: Inputs
    expected: F32
    fields: F32  # (row, variable, pixel), the physical fields that are encoded or decoded
    zooms: tuple[int, ...]  # of the results' pyramid


def original_run(run: Run) -> Original:
    """The original of a run, with its own prepared fields, years and tolerances."""
    modules: dict[str, nn.Module] = {"encoder": EncoderGraph(run.autoencoder), "decoder": DecoderGraph(run.autoencoder)}
    modules |= {} if run.denoiser is None else {"denoiser": run.denoiser}
    modules |= {} if run.fast is None else {"fast": run.fast}
    return Original(
        model=of_run(run),
        reference=f"the trained model, torch {version('torch')}",
        fields=run.fields,
        sources=run.facts.inputs,
        data=run.config.data,
        tolerances=run.config.export,
        configuration=str(run.path / "config.json"),
        modules={graph: module.eval() for graph, module in modules.items()},
        graphs={},
    )


@contextmanager
def original_bundle(bundle: Bundle, data: Path | None) -> Iterator[Original]:
    """The original of a bundle, with the inputs, years and tolerances of a configuration (default: the sample data).

    The prepared fields are in a temporary folder, which lasts as long as the context.
    """
    if "fp32" not in bundle.manifest.precisions:
        raise BundleError(
            f"bundle {bundle.manifest.name} has no float32 graphs to convert", advice="export the run again"
        )
    model, config = of_bundle(str(bundle.folder)), read_config(data or DEFAULT)
    inputs = input_files(config.data.inputs, data or DEFAULT)
    graphs = {}
    for graph in bundle.manifest.graphs:
        name = graph_file(graph, "fp32")
        own = [file for file in (name, weights_file(name)) if file in bundle.manifest.files]
        graphs[graph] = {file: bundle.read(file) for file in own}
    with scratch_folder() as scratch:
        yield Original(
            model=model,
            reference=f"its float32 graphs, {model.graphs.backend}",
            fields=prepared_inputs(model, config, data or DEFAULT, scratch),
            sources=tuple(Source(name=path.name, sha256=sha256(path)) for path in inputs),
            data=config.data,
            tolerances=config.export,
            configuration=str(data or DEFAULT),
            modules={},
            graphs=graphs,
        )


def make_parts(original: Original, years: Years) -> dict[str, Part]:
    """Inputs and results of every graph, by name, for real fields of the `years`."""
    model, latent_model = original.model, original.model.latent
    latent_zooms = tuple(zoom for zoom in model.zooms if zoom <= model.latent_zoom)
    stretches = read_stretches(original.fields, model, years, count=STRETCHES, length=original.steps)
    fields = encoder_inputs(stretches, model.zooms)
    latent = expected_of(original, "encoder", fields)
    back = {"latent": latent, "season": fields["season"]}
    decoded = expected_of(original, "decoder", back)
    parts = {
        "encoder": Part(inputs=fields, expected=latent, fields=fields["field"], zooms=latent_zooms),
        "decoder": Part(inputs=back, expected=decoded, fields=decoded, zooms=model.zooms),
    }
    if latent_model is None:
        return parts
    sampler, fast = latent_model.sampler, model.fast
    sigmas = {"denoiser": np.geomspace(sampler.sigma_min, sampler.sigma_max, NOISE_LEVELS)}
    if fast is not None:
        sigmas["fast"] = noise_levels(fast.steps, fast.sigma_min, fast.sigma_max, fast.rho)[:-1]
    for graph, levels in sigmas.items():
        windows = denoiser_inputs(latent, stretches, latent_model, levels.tolist(), original.model.scenarios)
        expected = expected_of(original, graph, windows)
        parts[graph] = Part(inputs=windows, expected=expected, fields=decoded, zooms=latent_zooms)
    return parts


def expected_of(original: Original, graph: str, inputs: Inputs) -> F32:
    """The original's results for rows of inputs."""
    call = call_of(original.model.graphs, graph)
    return run_rows(lambda rows: call(*(rows[name] for name in INPUTS[graph])), inputs)


def golden_rows(inputs: Inputs) -> Inputs:
    """The first and the last row, which differ as much as rows can; of large inputs 11 bits, to save space."""
    rows = take(inputs, [0, len(next(iter(inputs.values()))) - 1])
    return {name: _with_bits(array) if array.size > LARGE else array for name, array in rows.items()}


def _with_bits(numbers: F32) -> F32:
    """Numbers rounded to `GOLDEN_BITS` significant bits.

    >>> _with_bits(np.array([1 / 3, 288.13], dtype=np.float32)).tolist()
    [0.333251953125, 288.25]
    """
    mantissa, exponent = np.frexp(numbers)
    rounded: F32 = np.ldexp(np.round(mantissa * 2**GOLDEN_BITS) / 2**GOLDEN_BITS, exponent).astype(np.float32)
    return rounded
