"""How far the training fields are from a model's climatology, and how rough their latents, for the manifest.

Input and latents are held against it.
"""

import numpy as np

from fsae.runtime.arrays import F32, F64
from fsae.runtime.bundle.manifest import Plausible
from fsae.runtime.climate.climatology import BLOCK, season
from fsae.runtime.codec.edited import roughness
from fsae.runtime.codec.plausibility import Expected, plausible, spread_out
from fsae.runtime.input.joining import read_fields
from fsae.training.data.prepared import part_of
from fsae.training.evaluation.model import TrainedModel

from .originals import Original

MOST_LATENTS = 1000  # fields that are encoded: enough for a quantile of 99 %


def learn_distances(original: Original) -> tuple[Plausible, ...]:
    """The manifest's entry of each variable, from all fields of the original's training years."""
    model = original.model
    expected = Expected(climatology=model.climatology, transforms=model.transforms)
    fields = read_fields(original.fields, model.variables, zoom=model.zoom, finest_zoom=model.zoom)
    found, rough = list[F64](), list[F64]()
    try:
        part = part_of(fields, original.data.training_years)
        encoded = {part.start + place for place in spread_out(part.stop - part.start, MOST_LATENTS)}
        for first in range(part.start, part.stop, BLOCK):
            steps = slice(first, min(first + BLOCK, part.stop))
            values, phase = fields.read(steps)[0], fields.phase[steps]
            found.append(expected.distances(values, phase))
            rough += [_roughness(model, values[[p]], phase[[p]]) for p in range(len(values)) if first + p in encoded]
    finally:
        fields.close()
    return tuple(map(plausible, np.concatenate(found).T, np.stack(rough).T))


def _roughness(model: TrainedModel, values: F32, phase: F64) -> F64:
    """Roughness (variable,) of the latents of a field (1, variable, pixel)."""
    everything = np.ones((1, len(model.zooms)), dtype=np.float32)
    latent = model.graphs.encode(values, season(phase, model.time.harmonics), everything)[0]
    return np.array([roughness(own) for own in latent])
