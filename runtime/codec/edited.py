"""Latents whose numbers were changed after they were made, where no checksum tells.

A latent is a coarse field, and real ones are as smooth as the fields they stand for: an export learns how smooth the
latents of training fields are. Cells in another order are not. Variables that were exchanged vary where the other one
does. What leaves latents as smooth, and where they vary, such as two steps exchanged, cannot be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.steps import same_step
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import coarsen, refine

from .plausibility import check_fields, expected_near

ANY_ORDER = 0.75**0.5  # roughness of cells in random order: a quarter of their variance is left in the means of four

# Smoothness tells of several steps together if 99 % of training fields stay below the first, of each by itself if they
# stay below the second. At 0.79 (zoom 3) one month in some thousands is as rough as random order, three together never
# are; at 0.51 (zoom 4) none is. At zooms 1 and 2, with 0.87 and more, neighbours hardly resemble each other.
TOGETHER, ALONE, SEVERAL = 0.82, 0.7, 3
ONE_VALUE = 1e-6  # of the largest value: rounding of a constant

# Log-likelihood of a cell that is gained if two variables are exchanged: real winds and temperatures, also of other
# models and years, lose 0.1 to 0.9 on 192 cells or more, and gain 0.07 at most on 48.
EXCHANGED = 0.15


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """Some steps of latents and the fields they decode to."""

    latent: F32  # (time, variable, latent pixel)
    values: F32  # (time, variable, pixel), in physical units
    phase: NDArray[np.float64]  # of the year, (time)
    labels: tuple[str, ...]  # of the steps


def in_one(parts: Sequence[Decoded]) -> Decoded:
    """The steps of all parts."""
    return Decoded(
        latent=np.concatenate([part.latent for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        phase=np.concatenate([part.phase for part in parts]),
        labels=tuple(label for part in parts for label in part.labels),
    )


def roughness(latent: F32) -> float:
    """Roughness of latents (..., pixel): their differences from the means of four siblings beside those from the mean.

    Both are root mean squares over everything given. 0 if siblings are alike, about 0.87 in random order.

    >>> roughness(np.repeat(np.arange(12.0), 4)), roughness(np.tile([1.0, -1.0], 24))
    (0.0, 1.0)
    """
    values = latent.astype(np.float64)
    fine = values - refine(coarsen(values), 1)
    return float(np.sqrt((fine**2).mean() / values.var(axis=-1).mean()))


def worst_roughness(latent: F32, learned: float) -> float:
    """The largest roughness of the steps of latents (time, pixel), together or each by itself, where that tells.

    `learned` is what 99 % of training fields stay below. 0 if nothing tells.
    """
    found = [0.0]
    if learned < TOGETHER and len(latent) >= SEVERAL:
        found.append(roughness(latent))
    if learned < ALONE:
        found += [roughness(step) for step in latent]
    return max(found)


def check_edited(bundle: Bundle, part: Decoded, step: str | None, name: str) -> None:
    """Raise DataError if latents, means over `step`, or instants if it is None, cannot be those of real fields.

    If they are means over another step than the model's, of which it has learned nothing, only one value everywhere is
    refused.
    """
    manifest = bundle.manifest
    _check_not_constant(bundle, part, name)
    if step is not None and not same_step(step, manifest.time.step):
        return
    _check_smooth(bundle, part.latent, name)
    _check_not_exchanged(bundle, part.latent, name)
    if step is not None:
        expected = expected_near(manifest, bundle.tables.climatology, step)
        try:
            check_fields(manifest, expected, part.values, part.phase, name, part.labels)
        except DataError as error:
            raise _edited(f"decoded, {error.reason}") from None


def _edited(found: str, expected: str = "") -> DataError:
    advice = "were they edited? Compress the data again; --force goes on with them"
    return DataError(found, expected, advice)


def _check_not_constant(bundle: Bundle, part: Decoded, name: str) -> None:
    """Raise DataError if all cells of a step have one value."""
    for v, variable in enumerate(bundle.manifest.variables):
        latent = part.latent[:, v]
        alike = np.flatnonzero(np.ptp(latent, axis=-1) <= ONE_VALUE * np.abs(latent).max(axis=-1))
        if alike.size:
            place = int(alike[0])
            raise _edited(
                f"the latents of {variable.name} in {name} are {latent[place, 0]:.4g} in every cell at "
                f"{part.labels[place]}"
            )


def _check_smooth(bundle: Bundle, latent: F32, name: str) -> None:
    """Raise DataError if latents are as rough as cells in random order, by what the bundle has learned."""
    for v, variable in enumerate(bundle.manifest.variables):
        known = bundle.manifest.distances.get(variable.name)
        if known is None or known.roughness is UNSET:
            continue
        found, most = worst_roughness(latent[:, v], known.roughness), (known.roughness + ANY_ORDER) / 2
        if found > most:
            raise _edited(
                f"the latents of {variable.name} in {name} differ from cell to cell like numbers in random order "
                f"(roughness {found:.2f})",
                f"{most:.2f} at most",
            )


def _check_not_exchanged(bundle: Bundle, latent: F32, name: str) -> None:
    """Raise DataError if two variables vary where the other does; bundles that generate know where each varies.

    By the likelihood of Gaussian cells whose standard deviations are those of training fields times a common factor.
    """
    names = [variable.name for variable in bundle.manifest.variables]
    if bundle.manifest.denoiser is None or set(names) - set(bundle.manifest.distances):
        return
    spread = bundle.tables.latent_cell_std.astype(np.float64)  # (variable, pixel)
    scaled = latent[:, :, None].astype(np.float64) / spread  # (time, variable, as that variable, pixel)
    unlikely = np.log(spread).mean(axis=-1) + np.log((scaled**2).mean(axis=(0, -1))) / 2  # (variable, as that variable)
    for one, other in combinations(range(len(names)), 2):
        gain = unlikely[one, one] + unlikely[other, other] - unlikely[one, other] - unlikely[other, one]
        if gain > EXCHANGED:
            raise _edited(
                f"the latents of {names[one]} in {name} vary where those of {names[other]} do, and the reverse: were "
                "they exchanged"
            )
