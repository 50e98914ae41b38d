"""Tell by its metadata whether a variable is the quantity that the model knows: its level, statistic, and zero.

A standard name alone does not tell 2 m temperature from that at 850 hPa, nor a mean from a minimum: CF leaves this to
coordinates and `cell_methods`. A variable that says it is something else is refused unless it is named explicitly; a
difference of temperatures is always refused, as no conversion of units makes a temperature of it.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import DataError

from .reader import VariableSpec
from .variables import KNOWN, UNKNOWN, is_near_surface, standard

if TYPE_CHECKING:
    import xarray as xr


MOST_FILES, MOST_LETTERS = 20, 1000  # in an attribute
NEAR_SURFACE_M = 10.5  # height of the wind; CMIP puts temperature at 1.5 m to 10 m
NEAR_SURFACE_SIGMA = 0.99  # the lowest level of reanalyses is 0.995
NEAR_SURFACE = re.compile(r"near[- ]surface|\b(2|10) ?m(et(re|er)s?)?\b|\bsurface\b|sea[- ]level", re.IGNORECASE)
ON_PRESSURE = re.compile(r"(\d{2,4}) ?(hPa|mbar|mb|millibars?)\b", re.IGNORECASE)
PRESSURE_NAME = re.compile(r"(?:ta|t|tmp|temp|ua|va|zg|z|hgt|hur|hus|wap|q|r)_?([1-9]\d{1,3})(hpa|mb)?", re.IGNORECASE)
HEIGHT_NAME = re.compile(r"[a-z]+_?(\d{1,3})m", re.IGNORECASE)
LOWEST_NAMED_HPA = 50  # t2 is a temperature at 2 m, t50 one at 50 hPa

# The kinds of vertical coordinates, by standard name or by usual name in lower case.
PRESSURE = ("air_pressure", "plev", "isobaricinhpa", "isobaricinpa", "pressure", "pressure_level")
HEIGHT = ("height", "altitude", "heightaboveground", "height_above_ground")
DEPTH = ("depth", "depthbelowlandlayer", "depthbelowland", "depthbelowsea")
SIGMA = ("sigma", "atmosphere_sigma_coordinate")
MODEL_LEVEL = ("hybrid", "model_level_number", "model_level", "mlev", "generalverticallayer", "generalvertical")
SURFACE = ("surface", "meansea", "sfc")
BARE = ("lev", "level", "levels", "z")  # of the kind that their units say

STATISTICS = {
    "minimum": r"min(imum)?", "maximum": r"max(imum)?",
    "standard_deviation": r"standard[ _]deviation|std( ?dev)?|spread",
    "variance": r"variance", "range": r"range", "median": r"median", "mode": r"mode", "mid_range": r"mid_range",
    "root_mean_square": r"root_mean_square", "sum_of_squares": r"sum_of_squares",
    "maximum_absolute_value": r"maximum_absolute_value", "minimum_absolute_value": r"minimum_absolute_value",
    "mean_of_upper_decile": r"mean_of_upper_decile", "sum": r"sum",
}  # fmt: skip
DERIVED = {  # code table 4.7 of GRIB, of statistics over members that are no means
    "2": "standard_deviation", "3": "standard_deviation", "4": "standard_deviation", "7": "range", "8": "minimum",
    "9": "maximum",
}  # fmt: skip
IN_WORDS = ("minimum", "maximum", "standard_deviation", "variance", "range")
IN_NAMES = {
    "minimum": r".*min|min.*|mn2t.*",
    "maximum": r".*max|max.*|mx2t.*",
    "standard_deviation": r".*_?(std|spread)",
}
ANOMALY_KELVIN = 6.0  # a global field of temperature in degC with a smaller mean and deviation is an anomaly


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the values of a variable come from, for people who trace an output years later."""

    variable: str  # as its files call it
    files: tuple[str, ...]
    standard_name: str
    long_name: str
    level: str
    units: str
    cell_methods: str
    grid: str = ""  # and how it comes to HEALPix
    members: tuple[str, ...] = ()  # labels in the files
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, str]:
        """The facts as texts of one line; those that would be empty are left out."""
        texts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        many = (*self.files[:1], f"... {len(self.files)} files ...", *self.files[-1:])
        files = self.files if len(self.files) <= MOST_FILES else many
        texts |= {"files": ", ".join(files), "members": ", ".join(self.members), "notes": " ".join(self.notes)}
        return {name: _one_line(text) for name, text in texts.items() if text}


def joined(origins: Sequence[Origin]) -> Origin:
    """The origin of values that come from several files."""

    def text(name: str) -> str:
        return "; ".join(dict.fromkeys(getattr(one, name) for one in origins))

    def several(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for one in origins for part in getattr(one, name)))

    return Origin(
        variable=text("variable"),
        files=several("files"),
        standard_name=text("standard_name"),
        long_name=text("long_name"),
        level=text("level"),
        units=text("units"),
        cell_methods=text("cell_methods"),
        grid=text("grid"),
        members=several("members"),
        notes=several("notes"),
    )


def origin_of(array: "xr.DataArray", dataset: "xr.Dataset", where: str) -> Origin:
    """The origin of a variable of one file, but for its grid and members."""
    levels, attrs = levels_of(array, dataset), array.attrs
    return Origin(
        variable=str(array.name),
        files=(where,),
        standard_name=str(attrs.get("standard_name", "")),
        long_name=str(attrs.get("long_name", "")),
        level=levels[0].text if levels else "",
        units=str(attrs.get("units", "")),
        cell_methods=str(attrs.get("cell_methods", "")),
    )


def _one_line(text: str) -> str:
    """A text without control characters, cut to a length that people read."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= MOST_LETTERS else f"{plain[:MOST_LETTERS]} ..."


class Level(NamedTuple):
    """A place on the vertical: pressure [Pa], height or depth [m], sigma [1], "model level" or "surface"."""

    kind: str
    value: float | None
    text: str  # as the file has it

    def fits(self, other: "Level") -> bool:
        """True if a variable at this level can be the one that is known at the other."""
        if other.kind == "pressure":
            near = self.value is None or other.value is None or abs(self.value - other.value) <= 0.01 * other.value
            return self.kind == "pressure" and near
        if self.kind in ("height", "depth"):
            return self.value is None or abs(self.value) <= NEAR_SURFACE_M
        if self.kind == "sigma":
            return self.value is not None and NEAR_SURFACE_SIGMA <= self.value <= 1.0
        return self.kind == "surface"


def objections(array: "xr.DataArray", dataset: "xr.Dataset", wanted: VariableSpec) -> list[str]:
    """Sentences on what a variable says it is, where that is not what the model knows."""
    found = []
    known, levels = known_level(wanted.name, wanted.long_name), levels_of(array, dataset)
    if known is not None and levels and not any(level.fits(known) for level in levels):
        found.append(f"is at {levels[0].text}, while {wanted.name} of the model is at {known.text}")
    methods = str(array.attrs.get("cell_methods", ""))
    own = statistics(methods) | _named_statistics(array)
    others = statistics(wanted.cell_methods) | _in_words(wanted.name, wanted.long_name)
    if own - others:
        name = f"a name or long_name that says {min(own - others)}"
        how = f"the cell_methods {methods!r}" if statistics(methods) else name
        found.append(f"has {how}, while {wanted.name} of the model is its {_what(others)}")
    elif others and not own and re.search(r"\btime:\s*mean", methods):
        found.append(f"has the cell_methods {methods!r}, while {wanted.name} of the model is its {_what(others)}")
    return found


def plausible(dataset: "xr.Dataset", wanted: VariableSpec) -> list[str]:
    """Names of fields that may be the model's variable under another name: nothing that they say is against it.

    They have its units, or none, and no standard name or GRIB number, unless it is that of the model's.
    """
    numbers = ["", str(KNOWN[wanted.name].parameter)] if wanted.name in KNOWN else []
    return [
        str(name)
        for name, array in dataset.data_vars.items()
        if array.ndim > 1
        and array.dtype.kind in "fiu"
        and not re.search(r"bnds|bound|anom", f"{name} {standard(array)} {array.attrs.get('long_name', '')}".lower())
        and standard(array) in (*UNKNOWN, wanted.standard_name)
        and (not numbers or str(array.attrs.get("GRIB_paramId", "")) in numbers)
        and (not array.attrs.get("units") or _in(0.0, str(array.attrs["units"]), wanted.units) is not None)
        and not objections(array, dataset, wanted)
    ]


def _what(kinds: set[str]) -> str:
    return " and ".join(sorted(kinds)) or "mean"


def said_anomaly(array: "xr.DataArray") -> str | None:
    """The attribute or name by which a variable says that it is an anomaly; None if it says none."""
    own = [standard(array), str(array.name), *(str(array.attrs.get(key, "")) for key in ("long_name", "statistic"))]
    return next((text for text in own if re.search(r"anom(al|_|$)", text, re.IGNORECASE)), None)


def is_temperature_difference(array: "xr.DataArray") -> bool:
    """True if the metadata of a variable's units, of CF 1.11, say that it is a difference of temperatures."""
    return "difference" in str(array.attrs.get("units_metadata", ""))


def refuse_differences(array: "xr.DataArray", wanted: VariableSpec, where: str) -> None:
    """Raise DataError for an anomaly, or a difference of temperatures, unless the model's variable is one."""
    said, model = said_anomaly(array), (wanted.name, wanted.standard_name, wanted.long_name)
    if said is not None and not any("anom" in text.lower() for text in model):
        raise _difference(array, where, f"it says {said!r}")
    if is_temperature_difference(array):
        raise _difference(array, where, f"its units_metadata say {str(array.attrs['units_metadata'])!r}")


def refuse_small_temperatures(values: np.ndarray, array: "xr.DataArray", wanted: VariableSpec, where: str) -> None:
    """Raise DataError if a global field, in kelvin by a zero that was added, is at 0 degC everywhere: an anomaly."""
    celsius = values - conversion("degC", "K")[1]
    if wanted.units != "K" or not np.isfinite(celsius).any():
        return
    mean, deviation = float(np.nanmean(celsius)), float(np.nanstd(celsius))
    if abs(mean) < ANOMALY_KELVIN and deviation < ANOMALY_KELVIN:
        raise _difference(array, where, f"its mean is {mean:.1f} degC and its deviation {deviation:.1f} K")


def _difference(array: "xr.DataArray", where: str, why: str) -> DataError:
    return DataError(
        f"{array.name} in {where} is an anomaly or a difference, not a full field ({why})",
        "full values, with their climatology",
        "add the climatology that it was taken from",
    )


def statistics(cell_methods: str) -> set[str]:
    """The methods in `cell_methods` that make another quantity than a mean or an instant.

    >>> sorted(statistics("area: mean time: minimum within days time: mean over days"))
    ['minimum']
    >>> statistics("time: mean (interval: 1 hour comment: sampled maximum)"), statistics("time: point")
    (set(), set())
    """
    plain = re.sub(r"\([^)]*\)?", " ", cell_methods)
    return {method for method in re.findall(r":\s*(\w+)(?!\w*:)", plain) if method in STATISTICS}


def _named_statistics(array: "xr.DataArray") -> set[str]:
    """The statistics that a variable's name, long name, attribute `statistic` and GRIB keys say."""
    said = [str(array.attrs.get(key, "")) for key in ("long_name", "statistic", "GRIB_stepType")]
    spread = {"standard_deviation"} if array.attrs.get("GRIB_dataType") == "es" else set()  # of the ensemble
    derived = {DERIVED[code] for code in [str(array.attrs.get("GRIB_derivedForecast", ""))] if code in DERIVED}
    return _in_words(str(array.name), " ".join(said)) | spread | derived


def _in_words(name: str, words: str) -> set[str]:
    named = {kind for kind, form in IN_NAMES.items() if re.fullmatch(form, name, re.IGNORECASE)}
    return named | {kind for kind in IN_WORDS if re.search(rf"\b({STATISTICS[kind]})\b", words, re.IGNORECASE)}


def known_level(name: str, long_name: str) -> Level | None:
    """The level of a variable of the model by its name and long name; None if they tell none."""
    found = ON_PRESSURE.search(long_name) or PRESSURE_NAME.fullmatch(name)
    if found is not None and int(found[1]) >= LOWEST_NAMED_HPA:
        return Level("pressure", 100.0 * int(found[1]), f"{found[1]} hPa")
    if is_near_surface(name) or NEAR_SURFACE.search(long_name):
        return Level("surface", 0.0, "the surface")
    return None


def levels_of(array: "xr.DataArray", dataset: "xr.Dataset") -> list[Level]:
    """The levels that a variable may be at: by its vertical coordinates, GRIB attributes, name and long name."""
    beside = {str(n): v for n, v in dataset.variables.items() if v.size == 1 and set(v.dims) <= set(array.dims)}
    own = _named_coordinates(array, dataset)
    beside = {name: v for name, v in beside.items() if v.ndim or own is None or name in own}
    found = [level for level in (_level(variable, name) for name, variable in beside.items()) if level is not None]
    kind = str(array.attrs.get("GRIB_typeOfLevel", ""))
    if kind and not found:
        number = _number(array.attrs.get("GRIB_level"))
        level = _named_level(kind.lower(), number, "", kind if number is None else f"{kind} {number:g}")
        found = [level] if level is not None else []
    name = str(array.name)
    if not found and is_near_surface(name):
        found = [Level("surface", 0.0, "the surface by its name")]
    if not found and (height := HEIGHT_NAME.fullmatch(name)):
        found = [Level("height", float(height[1]), f"{height[1]} m by its name")]
    if not found:
        named = ON_PRESSURE.search(str(array.attrs.get("long_name", ""))) or PRESSURE_NAME.fullmatch(name)
        if named is not None and int(named[1]) >= LOWEST_NAMED_HPA:
            found = [Level("pressure", 100.0 * int(named[1]), f"{named[1]} hPa by its name")]
    return found


def _named_coordinates(array: "xr.DataArray", dataset: "xr.Dataset") -> set[str] | None:
    """The single coordinates that a variable of a file names; None if no variable of the dataset names any."""
    told = {n: v.encoding.get("coordinates", v.attrs.get("coordinates", "")) for n, v in dataset.data_vars.items()}
    names = {name: set(("" if text is None else str(text)).split()) for name, text in told.items()}
    return names.get(array.name, set()) if any(names.values()) else None


def _level(variable: "xr.Variable", name: str) -> Level | None:
    """The level that a single coordinate is; None if it is no vertical coordinate."""
    value, units = _number(variable.values.reshape(-1)[0]), str(variable.attrs.get("units", ""))
    text = f"{name} = {value:g} {units}".strip() if value is not None else name
    for kind in (standard(variable).lower(), name.lower()):
        level = _named_level(kind, value, units, text)
        if level is not None:
            return level
    if name.lower() in BARE or str(variable.attrs.get("axis", "")).upper() == "Z":
        if "sigma" in f"{units} {variable.attrs.get('long_name', '')}".lower():
            return Level("sigma", value, text)
        for kind, unit in (("pressure", "Pa"), ("height", "m")):
            if _in(value, units, unit) is not None:
                return Level(kind, _in(value, units, unit), text)
    return None


def _named_level(kind: str, value: float | None, units: str, text: str) -> Level | None:
    """The level of a vertical coordinate by its standard name or usual name."""
    if kind in PRESSURE:
        unit = units or ("Pa" if kind in ("plev", "isobaricinpa") else "hPa")
        return Level("pressure", _in(value, unit, "Pa"), text)
    if kind in HEIGHT or kind.startswith("height_"):
        return Level("height", _in(value, units or "m", "m"), text)
    if kind in DEPTH:
        return Level("depth", _in(value, units or "m", "m"), text)
    if kind in SIGMA or kind.startswith("atmosphere_hybrid_sigma"):
        return Level("sigma", value, text)
    if kind in MODEL_LEVEL or kind.startswith("atmosphere_"):
        return Level("model level", value, text)
    return Level("surface", 0.0, text) if kind in SURFACE else None


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _in(value: float | None, units: str, wanted: str) -> float | None:
    """A value in other units; None if it cannot be converted."""
    try:
        factor, offset = conversion(units, wanted)
    except DataError:
        return None
    return None if value is None else factor * value + offset
