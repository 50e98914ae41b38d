"""How far the training fields are from a model's climatology, for the manifest: input is held against it."""

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.bundle.manifest import Plausible
from fsae.runtime.climate.climatology import BLOCK
from fsae.runtime.codec.plausibility import Expected, plausible
from fsae.runtime.input.joining import read_fields
from fsae.training.data.prepared import part_of

from .originals import Original


def learn_distances(original: Original) -> tuple[Plausible, ...]:
    """The manifest's entry of each variable, from all fields of the original's training years."""
    model = original.model
    expected = Expected(climatology=model.climatology, transforms=model.transforms)
    fields = read_fields(original.fields, model.variables, zoom=model.zoom, finest_zoom=model.zoom)
    found: list[F64] = []
    try:
        part = part_of(fields, original.data.training_years)
        for first in range(part.start, part.stop, BLOCK):
            steps = slice(first, min(first + BLOCK, part.stop))
            found.append(expected.distances(fields.read(steps)[0], fields.phase[steps]))
    finally:
        fields.close()
    return tuple(plausible(distances) for distances in np.concatenate(found).T)
