"""How far fields are from the climatology of their time of year: real ones are near it, wrong ones are not.

Flipped latitudes, shifted longitudes or months, cells in another order, a constant: each leaves plausible values in
implausible places. An export learns from the training fields how far real ones are; input is warned of or refused by
that. Distances are those of transformed variables (transforms.py).
"""

import calendar
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from fsae.runtime.arrays import F32, F64
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.bundle.plausible import Plausible
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.climate.steps import MONTHS, parse_step
from fsae.runtime.climate.transforms import Transform, forward, inverse, transformed_units
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import pixel_centres, pixel_of, ring_to_nested, zoom_of

# Times the distance that 99 % of the training fields stay below. Months of other models, scenarios (4xCO2), decades and
# skin temperatures reach 2.5 times, single hours and days too; a quarter turn of the longitudes begins at 4, flipped
# latitudes at 6.
WARN, REFUSE = 1.75, 3.0
OFFSET = 0.5  # the weight of the global mean: a warmer world is a real one
CLEARLY = 0.6  # of the distance at most is left by a change that explains it; hours and days keep more than months
QUESTION = (
    "are latitudes flipped, longitudes or months shifted, cells in another order, or is it another variable, level or "
    "mean?"
)
NEAR_MONTHS = {-1: "one month earlier", 1: "one month later"}
MONTH_NAMES = calendar.month_name[1:]
SAMPLE = 8  # fields that are looked at before the work begins


def distance(anomaly: F32) -> F64:
    """Distance (...) of fields from their climatology, given the difference (..., pixel) in its units.

    The root mean square over the sphere, as all pixels have the same area, with the global mean at half its weight.

    >>> distance(np.array([3.0, -3.0, 3.0, -3.0])).item(), distance(np.array([3.0, 3.0, 3.0, 3.0])).item()
    (3.0, 1.5)
    """
    offset = anomaly.mean(axis=-1, dtype=np.float64)
    return np.asarray(np.hypot(anomaly.std(axis=-1, dtype=np.float64), OFFSET * offset))


def plausible(distances: F64, roughness: F64 | None = None) -> Plausible:
    """The manifest's entry for the distances of a variable's training fields, and the roughness of their latents."""
    median, most = np.quantile(distances, [0.5, 0.99])
    return Plausible(
        median=rounded(median),
        q99=rounded(most),
        warn_above=rounded(WARN * most),
        refuse_above=rounded(REFUSE * most),
        roughness=UNSET if roughness is None else rounded(np.quantile(roughness, 0.99)),
    )


def rounded(value: float) -> float:
    """A figure for the manifest, in four digits.

    >>> rounded(1.28149)
    1.281
    """
    return float(f"{value:.4g}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """The climatology (variable, 1 + 2K, pixel) that fields are to be near; `yearly` fields are near its mean.

    Fields that are no means over the model's step vary otherwise than those the distances were learned from: unless
    `same_step`, they are refused only if a fault that is known explains the distance, else warned of.
    """

    climatology: F32  # of transformed variables, at the zoom of the fields
    transforms: tuple[Transform, ...]
    yearly: bool = False
    same_step: bool = True

    def distances(self, values: F32, phase: NDArray[np.float64]) -> F64:
        """Distances (time, variable) of physical fields (time, variable, pixel) at phases of the year (time)."""
        waves = season(phase, (self.climatology.shape[1] - 1) // 2) * (not self.yearly)
        found = [
            distance(forward(field[None], self.transforms)[0] - evaluate(self.climatology, wave))
            for field, wave in zip(values, waves, strict=True)
        ]
        return np.stack(found)


def expected_near(manifest: Manifest, climatology: F32, step: str | None, *, same_step: bool = True) -> Expected:
    """The climatology that fields averaged over `step` are to be near; `same_step` as in `Expected`."""
    count, unit = parse_step(step or manifest.time.step)
    return Expected(
        climatology=climatology,
        transforms=tuple(v.transform for v in manifest.variables),
        yearly=count * MONTHS.get(unit, 0) >= MONTHS["year"],
        same_step=same_step,
    )


def check_fields(
    manifest: Manifest, expected: Expected, values: F32, phase: NDArray[np.float64], where: str, labels: Sequence[str]
) -> tuple[str, ...]:
    """Warnings about fields (time, variable, pixel) far from the climatology; DataError if one is too far from it.

    `labels` name the steps. Variables of which the bundle knows no distances are not looked at.
    """
    if not len(values) or not manifest.distances:
        return ()
    distances, notes = expected.distances(values, phase), []
    for v, variable in enumerate(manifest.variables):
        limits = manifest.distances.get(variable.name)
        if limits is None:
            continue
        worst = int(np.argmax(distances[:, v]))
        found, units = float(distances[worst, v]), unit_suffix(transformed_units(variable.units, variable.transform))
        fact = (
            f"{variable.name} in {where} is {found:.3g}{units} (RMS) from its climatology at {labels[worst]}, where "
            f"training fields have {limits.median:.3g}{units}, 99 % of them less than {limits.q99:.3g}{units}"
        )
        if found > limits.refuse_above:
            reason = next(_explanations(expected, values, phase, v, limits, units), "")
            if reason or expected.same_step:
                reason = reason or QUESTION
                raise DataError(fact, f"{limits.refuse_above:.3g}{units} at most", f"{reason} --force goes on with it")
        if found > limits.warn_above:
            if reason := _shifted(expected, values, phase, v, limits, units):
                raise DataError(fact, f"{limits.warn_above:.3g}{units} at most", f"{reason} --force goes on with it")
            notes.append(f"{fact}: is it the right variable and time of year?")
    return tuple(notes)


def check_climatology(manifest: Manifest, own: F32, known: F32, where: str) -> tuple[str, ...]:
    """`check_fields` of the twelve months of a climatology (variable, 1 + 2K, pixel) against the `known` one.

    DataError if they leave the valid range as well. Of the known one, only waves that the other has are counted.
    `where` names the climatology.
    """
    transforms = tuple(v.transform for v in manifest.variables)
    phase = (np.arange(12) + 0.5) / 12
    months = inverse(evaluate(own, season(phase, (own.shape[1] - 1) // 2)), transforms)  # (month, variable, pixel)
    for v, variable in enumerate(manifest.variables):
        (low, high), least, most = variable.valid_range, float(months[:, v].min()), float(months[:, v].max())
        if not (low <= least and most <= high):
            units = unit_suffix(variable.units)
            raise DataError(
                f"{variable.name} in {where} runs from {least:.4g} to {most:.4g}{units}",
                f"values within {low:g} to {high:g}{units}",
                "make it with `fsae-run climatology` of data in the right units",
            )
    near = Expected(climatology=known[:, : own.shape[1]], transforms=transforms)
    return check_fields(manifest, near, months, phase, where, MONTH_NAMES)


def unit_suffix(units: str) -> str:
    """Units as they follow a number in a sentence.

    >>> unit_suffix("K"), unit_suffix("1")
    (' K', '')
    """
    return "" if units == "1" else f" {units}"


def _explanations(
    expected: Expected, values: F32, phase: NDArray[np.float64], v: int, limits: Plausible, units: str
) -> Iterator[str]:
    """Sentences on changes of the fields that would bring a variable near its climatology."""
    spread = float(values[:, v].std(axis=-1).max())
    if spread <= 1e-6 * float(np.abs(values[:, v]).max()):
        yield "it has one value everywhere."
        return
    before = float(np.median(expected.distances(values, phase)[:, v]))
    near = limits.warn_above if expected.same_step else limits.refuse_above
    for change, name in CHANGES:
        changed, when = change(values, phase)
        after = float(np.median(expected.distances(changed, when)[:, v]))
        if after <= min(near, CLEARLY * before):
            yield f"{name} it would be {after:.3g}{units}, so this seems to be wrong in the data."
    if found := _shifted(expected, values, phase, v, limits, units):
        yield found


def _shifted(expected: Expected, values: F32, phase: NDArray[np.float64], v: int, limits: Plausible, units: str) -> str:
    """A sentence on fields that are those of the month before or after, as if stamped at its end; empty if not.

    Real fields of other models and climates are farther from the climatology of these months than from their own.
    """
    if not expected.same_step:
        return ""
    shifts = {months: float(np.median(expected.distances(values, phase + months / 12)[:, v])) for months in NEAR_MONTHS}
    nearest = min(shifts, key=shifts.__getitem__)
    if shifts[nearest] > limits.q99:
        return ""
    return f"{NEAR_MONTHS[nearest]} it would be {shifts[nearest]:.3g}{units}, so this seems to be wrong in the data."


Change = Callable[[F32, NDArray[np.float64]], tuple[F32, NDArray[np.float64]]]


def _turned(latitudes: int, longitudes: int, shift_deg: float) -> Change:
    """Fields with their latitudes and longitudes multiplied by a sign, the latter then shifted."""

    def change(values: F32, phase: NDArray[np.float64]) -> tuple[F32, NDArray[np.float64]]:
        zoom = zoom_of(values.shape[-1])
        lat, lon = pixel_centres(zoom)
        return values[..., pixel_of(zoom, latitudes * lat, (longitudes * lon + shift_deg) % 360.0)], phase

    return change


CHANGES: tuple[tuple[Change, str], ...] = (
    (_turned(-1, 1, 0.0), "with its latitudes flipped"),
    (_turned(1, 1, 180.0), "with its longitudes shifted by 180 degrees"),
    (_turned(1, -1, 0.0), "with its longitudes mirrored"),
    (_turned(1, 1, 90.0), "with its longitudes shifted by 90 degrees"),
    (_turned(1, 1, 270.0), "with its longitudes shifted by -90 degrees"),
    (lambda values, phase: (values, phase + 0.5), "six months later"),
    (
        lambda values, phase: (values[..., ring_to_nested(zoom_of(values.shape[-1]))], phase),
        "with its cells in ring order",
    ),
    (
        lambda values, phase: (values[..., np.argsort(ring_to_nested(zoom_of(values.shape[-1])))], phase),
        "with its cells in nested order",
    ),
)


def spread_out(count: int, most: int = SAMPLE) -> list[int]:
    """At most `most` places among `count`, the first and the last among them, spread evenly.

    >>> spread_out(3), spread_out(100, 3)
    ([0, 1, 2], [0, 50, 99])
    """
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def refuse(notes: Sequence[str]) -> None:
    """Raise DataError for the first of some warnings about fields, if there is one (--strict)."""
    for note in notes:
        raise DataError(f"{note} It is refused", advice="correct the input, or leave out --strict to be warned only")


def went_on(error: DataError) -> str:
    """The note on an error in spite of which the user went on."""
    return f"{error.reason}; the user went on with it (--force)."
