"""What graphs are held to: a trained model, real fields it was not trained on, and how far a graph may be from it.

The model is a run, in PyTorch, or a bundle, whose float32 graphs were compared with PyTorch when they were exported.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import nn

from fsae.export.graphs.external_data import Files
from fsae.export.graphs.inputs import (
    BATCH,
    Inputs,
    Stretches,
    Whitening,
    decoder_inputs,
    denoiser_inputs,
    encoder_inputs,
    read_stretches,
    take,
)
from fsae.export.graphs.scratch import scratch_folder
from fsae.export.graphs.trace import DecoderGraph, EncoderGraph
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import INPUTS, DenoiserInputs
from fsae.runtime.bundle.external_data import weights_file
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Source, graph_file
from fsae.runtime.diffusion.sampler import noise_levels
from fsae.runtime.errors import BundleError
from fsae.training.config import DEFAULT, DataConfig, ExportConfig, Tolerance, input_files, read_config
from fsae.training.evaluation.data import prepared_inputs
from fsae.training.evaluation.model import TrainedModel, of_bundle, of_run
from fsae.training.fitting.run_folder import Run, sha256

STRETCHES = 4  # stretches of real fields that every graph is compared on

STRETCH_STEPS = 8  # steps of one where there is no denoiser to say

NOISE_LEVELS = 5  # from the sampler's smallest to its largest


@dataclass(frozen=True, kw_only=True)
class Original:
    """A model to make graphs of: `modules` of a run by graph, or the float32 `graphs` of a bundle."""

    model: TrainedModel
    reference: str  # what graphs are compared with, for the certificate
    fields: Path  # prepared fields
    sources: tuple[Source, ...]  # the files these were made of
    data: DataConfig  # the years
    tolerances: ExportConfig
    configuration: str  # the file that years and tolerances come from
    modules: Mapping[str, nn.Module]
    graphs: Mapping[str, Files]

    @property
    def years(self) -> tuple[int, int]:
        """Years to compare on: for validation, else for evaluation; unseen, and nothing is tuned on them here."""
        return self.data.validation_years or self.data.evaluation_years

    @property
    def steps(self) -> int:
        """Steps of a stretch: a window and those before it."""
        latent = self.model.latent
        return STRETCH_STEPS if latent is None else latent.previous + latent.window

    def tolerance(self, precision: str) -> Tolerance:
        """What the configuration allows a precision."""
        own = self.tolerances
        return {"fp32": own.fp32, "fp16": own.fp16, "bf16": own.bf16, "int8": own.int8}[precision]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Inputs of one graph made from real fields, and what the original gives for them."""

    inputs: Inputs
    expected: F32
    fields: F32  # (row, variable, pixel), physical fields that go in or come out
    zooms: tuple[int, ...]  # of the output's pyramid


def original_run(run: Run) -> Original:
    """A run, with its prepared fields, years and tolerances."""
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
    """A bundle, with the inputs, years and tolerances of a configuration (default: the sample data's).

    The fields lie prepared in a temporary folder while the context lasts.
    """
    if "fp32" not in bundle.manifest.precisions:
        raise BundleError(
            f"bundle {bundle.manifest.name} has no float32 graphs to make others of: export the run again"
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


def make_parts(original: Original, years: tuple[int, int]) -> dict[str, Part]:
    """The graphs by name, encoder, decoder and, where there are some, denoisers, with real fields of the `years`."""
    model = original.model
    zooms = model.zooms
    latent_zooms = tuple(zoom for zoom in zooms if zoom <= model.latent_zoom)
    stretches = _stretches(original, years)
    fields = encoder_inputs(stretches, zooms)
    latent = expected_of(original, "encoder", fields)
    back = decoder_inputs(latent, fields["season"])
    decoded = expected_of(original, "decoder", back)
    parts = {
        "encoder": Part(inputs=fields, expected=latent, fields=fields["field"], zooms=latent_zooms),
        "decoder": Part(inputs=back, expected=decoded, fields=decoded, zooms=zooms),
    }
    latent_model = model.latent
    if latent_model is None:
        return parts
    whitening = Whitening(
        zooms=latent_model.zooms,
        cell_std=latent_model.cell_std,
        season_std=latent_model.season_std,
        level_std=latent_model.level_std,
    )
    sampler = latent_model.sampler
    sigmas = {"denoiser": np.geomspace(sampler.sigma_min, sampler.sigma_max, NOISE_LEVELS)}
    if model.fast is not None:
        fast = model.fast
        sigmas["fast"] = noise_levels(fast.steps, fast.sigma_min, fast.sigma_max, fast.rho)[:-1]
    for graph, levels in sigmas.items():
        windows = denoiser_inputs(latent, stretches, whitening, previous=latent_model.previous, sigmas=levels.tolist())
        expected = expected_of(original, graph, windows)
        parts[graph] = Part(inputs=windows, expected=expected, fields=decoded, zooms=latent_zooms)
    return parts


def expected_of(original: Original, graph: str, inputs: Inputs) -> F32:
    """What the original gives for rows of inputs, some rows at a time."""
    graphs = original.model.graphs
    calls: dict[str, Callable[..., F32]] = {"encoder": graphs.encode, "decoder": graphs.decode}

    def denoise(*arrays: F32) -> F32:
        return graphs.denoise(DenoiserInputs(*arrays), graph)

    call, count = calls.get(graph, denoise), len(next(iter(inputs.values())))
    parts = (take(inputs, slice(first, first + BATCH)) for first in range(0, count, BATCH))
    joined: F32 = np.concatenate([call(*(rows[name] for name in INPUTS[graph])) for rows in parts])
    return joined


def golden_rows(inputs: Inputs) -> Inputs:
    """Two rows that differ in every way rows can: the first and the last."""
    return take(inputs, [0, len(next(iter(inputs.values()))) - 1])


def _stretches(original: Original, years: tuple[int, int]) -> Stretches:
    """Stretches of the real fields, spread over the `years`."""
    model = original.model
    return read_stretches(
        str(original.fields),
        model.variables,
        model.zoom,
        model.time.harmonics,
        years,
        count=STRETCHES,
        length=original.steps,
    )
