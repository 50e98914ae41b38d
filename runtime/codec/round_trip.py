"""How fields come back from a model's encoder and decoder: it has learned to give back fields like those of training.

Another variable, another level or a mean over another time varies where and how the model does not know. The error of
such fields is larger than that of training fields, or their latents are. An export learns how large both are, for each
zoom that input may have: coarse fields have fewer details to lose.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.manifest import Manifest, Variable
from fsae.runtime.bundle.plausible import Limits, RoundTrip
from fsae.runtime.climate.climatology import season
from fsae.runtime.climate.transforms import Transform, forward, transformed_units
from fsae.runtime.sphere.healpix import coarsen, refine, zoom_of
from fsae.runtime.sphere.pyramid import level_mask

from .plausibility import distance, rounded, unit_suffix

# Times what 99 % of the training fields stay below. Errors of months, days and hours of other models and of a finer
# analysis reach 4.7 times, those of a 4xCO2 scenario too, beside decoders of every ratio from 16 on. At ratio 4 they
# reach 12 times and are still small beside what fields differ by, as they are wherever the levels of the fields are
# latents themselves: errors below a share of the distance from the climatology tell nothing. Latents of those fields
# are 2.7 times as large at most (4xCO2: 3.9), and from 3.2 times on at 850 hPa, 7.6 at 500 hPa, 6.6 for a pressure.
ERROR, LATENT = 5.0, 3.0
NO_ERROR = 0.5  # of the distance that 99 % of the training fields stay below

ADVERBS = {"1 hour": "hourly", "1 day": "daily", "1 month": "monthly", "1 year": "yearly"}


def encode_fields(graphs: Graphs, zooms: Sequence[int], values: F32, seasons: F32) -> F32:
    """Latents (time, variable, latent pixel) of fields (time, variable, pixel) at one of the model's `zooms`.

    Fields coarser than the model enter with each cell repeated, their finer levels masked. `seasons` (time, 2K).
    """
    zoom = zoom_of(values.shape[-1])
    masks = np.repeat(level_mask(zooms, zoom)[None], len(values), axis=0)
    return graphs.encode(refine(values, zooms[-1] - zoom), seasons, masks)


def round_trip(
    graphs: Graphs, zooms: Sequence[int], transforms: Sequence[Transform], values: F32, seasons: F32
) -> tuple[F64, F64]:
    """Errors and sizes of latents (time, variable) of physical fields (time, variable, pixel) encoded and decoded.

    The error is the root mean square over the sphere of differences of the transformed variables, at the fields' own
    zoom. The size is the distance of the latents from 0, which stands for the climatology; it is dimensionless, and the
    mean counts half as in other distances. `seasons` (time, 2K).
    """
    latent = encode_fields(graphs, zooms, values, seasons)
    decoded = coarsen(graphs.decode(latent, seasons), zooms[-1] - zoom_of(values.shape[-1])).astype(np.float32)
    errors = np.square(forward(decoded, transforms) - forward(values, transforms), dtype=np.float64).mean(axis=-1)
    return np.asarray(np.sqrt(errors)), distance(latent)


def learned(zoom: int, errors: F64, latents: F64, usual: float) -> RoundTrip:
    """The manifest's entry of a variable at a zoom, of errors and sizes of latents of training fields (time).

    `usual` is the distance from the climatology that 99 % of the training fields stay below.
    """
    return RoundTrip(
        zoom=zoom, error=_limits(errors, ERROR, NO_ERROR * usual), latent=_limits(latents, LATENT, least=0.0)
    )


def _limits(figures: F64, factor: float, least: float) -> Limits:
    """The median and 99 % quantile of figures, and the limit: a factor times that quantile, but not below `least`."""
    median, most = np.quantile(figures, [0.5, 0.99])
    return Limits(median=rounded(median), q99=rounded(most), warn_above=rounded(max(factor * most, least)))


def check_round_trip(
    manifest: Manifest,
    graphs: Graphs,
    values: F32,
    phase: NDArray[np.float64],
    where: str,
    labels: Sequence[str],
) -> tuple[str, ...]:
    """Warnings about fields (time, variable, pixel) that come back worse than real ones, or have larger latents.

    `phase` of the year and `labels` (time) name the steps. Variables of which the bundle has learned nothing at the
    zoom of the fields are not looked at.
    """
    zoom, variables = zoom_of(values.shape[-1]), manifest.variables
    learned_of = {name: known.round_trip(zoom) for name, known in manifest.distances.items()}
    if not len(values) or not any(learned_of.values()):
        return ()
    transforms, seasons = [v.transform for v in variables], season(phase, manifest.time.harmonics)
    errors, latents = round_trip(graphs, manifest.zooms, transforms, values, seasons)
    notes = []
    for v, variable in enumerate(variables):
        known = learned_of.get(variable.name)
        if known is None:
            continue
        units = unit_suffix(transformed_units(variable.units, variable.transform))
        facts = [
            *_facts("an error of {} (RMS)", errors[:, v], known.error, units, labels),
            *_facts("latents of size {}", latents[:, v], known.latent, "", labels),
        ]
        if facts:
            found = f"{variable.name} in {where} comes back from the encoder and decoder with {', and '.join(facts)}"
            notes.append(f"{found}: is this {_wanted(variable, manifest.time.step)}?")
    return tuple(notes)


def _facts(text: str, figures: F64, limits: Limits, units: str, labels: Sequence[str]) -> list[str]:
    """The largest figure beside those of training fields, in words, if it is above its limit."""
    worst = int(np.argmax(figures))
    if not figures[worst] > limits.warn_above:
        return []
    found, usual, most = (f"{value:.2g}{units}" for value in (figures[worst], limits.median, limits.q99))
    said = text.format(found)
    return [f"{said} at {labels[worst]} where training fields have {usual}, 99 % of them less than {most}"]


def _wanted(variable: Variable, step: str) -> str:
    """The name, step and units of what a model takes, in words.

    >>> from fsae.runtime.bundle.manifest import Variable
    >>> tas = {"name": "tas", "standard_name": "air_temperature", "long_name": "", "cell_methods": "time: mean"}
    >>> _wanted(Variable(**tas, units="K", valid_range=(150, 350)), "1 month")
    'tas, monthly, in K'
    """
    units = f"in {variable.units}" if variable.units != "1" else "dimensionless"
    return f"{variable.name}, {ADVERBS.get(step, f'every {step}')}, {units}"
