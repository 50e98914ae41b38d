"""How far the training fields are from a model's climatology, how rough their latents, how they come back from it.

Input and latents are held against these figures, which are written to the manifest.
"""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from fsae.runtime.arrays import F32, F64
from fsae.runtime.bundle.plausible import Plausible, RoundTrip
from fsae.runtime.climate.climatology import BLOCK, season
from fsae.runtime.codec.edited import roughness
from fsae.runtime.codec.plausibility import Expected, plausible, spread_out
from fsae.runtime.codec.round_trip import encode_fields, learned, round_trip
from fsae.runtime.input.fields import Fields
from fsae.runtime.input.joining import read_fields
from fsae.runtime.sphere.healpix import coarsen
from fsae.training.data.prepared import part_of
from fsae.training.evaluation.model import TrainedModel

from .originals import Original

MOST_LATENTS = 1000  # fields that are encoded: enough for a quantile of 99 %
MOST_TRIPS = 120  # fields that are encoded and decoded at every zoom: limits are some times their quantile
AT_ONCE = 8  # of them


def learn_distances(original: Original) -> tuple[Plausible, ...]:
    """The manifest's entry of each variable, from the fields of the original's training years.

    Distances are of all of them, the other figures of some that are spread evenly: the same whenever it is asked.
    """
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
        known = list(map(plausible, np.concatenate(found).T, np.stack(rough).T))
        trips = _round_trips(model, fields, part, [one.q99 for one in known])
    finally:
        fields.close()
    return tuple(replace(one, round_trips=own) for one, own in zip(known, trips, strict=True))


def _round_trips(
    model: TrainedModel, fields: Fields, part: slice, distances: Sequence[float]
) -> list[tuple[RoundTrip, ...]]:
    """The entries of each variable at every zoom; `distances` are those that 99 % of its fields stay below."""
    steps = [part.start + place for place in spread_out(part.stop - part.start, MOST_TRIPS)]
    found: dict[int, list[tuple[F64, F64]]] = {zoom: [] for zoom in model.zooms}
    for first in range(0, len(steps), AT_ONCE):
        chosen = steps[first : first + AT_ONCE]
        values = np.concatenate([fields.read(slice(step, step + 1))[0] for step in chosen])
        seasons = season(fields.phase[chosen], model.time.harmonics)
        for zoom, trips in found.items():
            seen = coarsen(values.astype(np.float64), model.zoom - zoom).astype(np.float32)
            trips.append(round_trip(model.graphs, model.zooms, model.transforms, seen, seasons))
    figures = {zoom: np.concatenate(trips, axis=1) for zoom, trips in found.items()}  # (figure, time, variable)
    return [
        tuple(learned(zoom, errors[:, v], sizes[:, v], usual) for zoom, (errors, sizes) in figures.items())
        for v, usual in enumerate(distances)
    ]


def _roughness(model: TrainedModel, values: F32, phase: F64) -> F64:
    """Roughness (variable,) of the latents of a field (1, variable, pixel)."""
    latent = encode_fields(model.graphs, model.zooms, values, season(phase, model.time.harmonics))[0]
    return np.array([roughness(own) for own in latent])
