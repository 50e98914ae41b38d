"""Find a variable of the model in a dataset, by its name, CF standard name, or the names that others give it."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from fsae.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    import xarray as xr


MEMBER_NAMES = (
    "realization", "realisation", "member", "members", "number", "ensemble", "ensembles", "ens", "sample",
    "ensemble_member", "ens_member", "member_id", "ensemble_id", "realization_index", "variant_label", "perturbation",
    "perturbationnumber",
)  # fmt: skip
UNKNOWN = ("", "unknown")  # standard names that say nothing


def choose_variable(
    dataset: "xr.Dataset", name: str, standard_name: str, where: str, others: Collection[str] = ()
) -> "xr.DataArray":
    """The variable of that name, else the only one of that standard name; otherwise a DataError that lists all names.

    `others` are names of other variables that are asked for, which are not taken for this one.
    """
    same = candidates(dataset, name, standard_name, others)
    if len(same) == 1:
        return dataset[same[0]]
    raise no_choice(dataset, same, name, standard_name, where, f"call it {name!r}")


def no_choice(
    dataset: "xr.Dataset", same: Collection[str], name: str, standard_name: str, where: str, advice: str
) -> DataError:
    """The error for a variable of which a dataset has none, or several that it could be; `advice` if it has none."""
    if same:
        return DataError(
            f"{where} has {len(same)} variables of standard name {standard_name!r}: {', '.join(same)}",
            f"one, or one called {name!r}",
            f"name it, as in --name {name}={min(same)}",
        )
    there = [f"{n} ({standard(v)})" if standard(v) else str(n) for n, v in dataset.data_vars.items()]
    also = f" nor one of standard name {standard_name!r}" if standard_name else ""
    return DataError(
        f"{where} has no variable {name!r}{also}; it has {', '.join(there) or 'no variables'}", advice=advice
    )


def candidates(dataset: "xr.Dataset", name: str, standard_name: str, others: Collection[str] = ()) -> list[str]:
    """Names of the variables that could be the one wanted.

    It is the one of that name, else those of the standard name, else those known by their GRIB number or short name;
    without a standard name that of the name alone.
    """
    if name in dataset.variables:
        return [name]
    if not standard_name:
        return []
    free = {str(n): v.variable for n, v in dataset.data_vars.items() if str(n) not in others}
    same = [n for n, v in free.items() if standard(v) == standard_name]
    open_ones = {n: v for n, v in free.items() if standard(v) in (*UNKNOWN, standard_name)}
    known = [n for n, v in open_ones.items() if is_known_as(v, n, name, standard_name)]
    return known if len(known) == 1 else same or known


def has_variable(dataset: "xr.Dataset", name: str, standard_name: str, others: Collection[str] = ()) -> bool:
    """True if `choose_variable` would find something to choose."""
    return bool(candidates(dataset, name, standard_name, others))


def standard(variable: "xr.DataArray | xr.Variable") -> str:
    """The CF standard name of a variable, or an empty text."""
    return str(variable.attrs.get("standard_name", ""))


def member_dim(array: "xr.DataArray") -> str | None:
    """The dimension of ensemble members, or None: by CF attributes, else by its usual names."""
    for name, beside in array.coords.items():
        axis = str(beside.attrs.get("axis", "")).upper()
        if beside.ndim == 1 and (standard(beside) == "realization" or (axis == "E" and name in array.dims)):
            return str(beside.dims[0])
    return next((str(dim) for dim in array.dims if str(dim).lower() in MEMBER_NAMES), None)


def member_coordinate(array: "xr.DataArray", dim: str) -> "xr.DataArray | None":
    """The labels of the members along a dimension; None if there are none."""
    beside = [value for value in array.coords.values() if value.dims == (dim,)]
    beside.sort(key=lambda value: (value.name != dim, standard(value) != "realization"))
    return beside[0] if beside and (beside[0].name == dim or standard(beside[0]) == "realization") else None


def member_label(dataset: "xr.Dataset") -> str:
    """The one member that a dataset says it holds, such as r1i1p1f1; empty if it says none."""
    for name in ("variant_label", "realization_index", "realization", "ensemble_member"):
        if str(dataset.attrs.get(name, "")):
            return str(dataset.attrs[name])
    single = [v for v in dataset.coords.values() if v.ndim == 0 and standard(v) == "realization"]
    return str(single[0].values) if single else ""


def pairs_of(option: str, texts: tuple[str, ...], example: str) -> dict[str, str]:
    """What an option says of variables, by the model's names.

    >>> pairs_of("--name", ("tas=ts",), "tas=ts"), pairs_of("--units", ("tas=K",), "tas=K")
    ({'tas': 'ts'}, {'tas': 'K'})
    """
    pairs = dict(text.partition("=")[::2] for text in texts)
    if not all(pairs) or not all(pairs.values()) or len(pairs) != len(texts):
        raise UsageError(
            f"found {option} {' '.join(texts)}",
            f"such as {example}, once for a variable",
            f"give such as {option} {example}",
        )
    return pairs


# Names that weather centres and forecast models give to the variables that CMIP names, for files without CF names.
# ECMWF writes the standard name "unknown" on some of its most used variables; its parameter numbers are at
# https://codes.ecmwf.int/grib/param-db. Only variables without a doubt are listed: those of one height, in one form.


class Known(NamedTuple):
    """Standard name of a variable, its parameter number at ECMWF, and the names that others give it, in lower case."""

    standard_name: str
    parameter: int
    names: tuple[str, ...]


KNOWN = {
    "tas": Known("air_temperature", 167, (
        "t2m", "2t", "tmp2m", "t_2m", "t2", "trefht", "temp2", "2m_temperature", "temperature_2m", "tmp_2maboveground",
        "air_temperature_2m",
    )),
    "tdps": Known("dew_point_temperature", 168, ("d2m", "2d", "td_2m", "dpt2m", "2m_dewpoint_temperature")),
    "uas": Known("eastward_wind", 165, ("u10", "10u", "u10m", "u_10m", "ugrd10m", "10m_u_component_of_wind")),
    "vas": Known("northward_wind", 166, ("v10", "10v", "v10m", "v_10m", "vgrd10m", "10m_v_component_of_wind")),
    "sfcWind": Known("wind_speed", 207, ("si10", "10si", "ws10", "ws10m", "10m_wind_speed")),
    "psl": Known("air_pressure_at_mean_sea_level", 151, ("msl", "prmsl", "mslp", "slp", "mean_sea_level_pressure")),
    "ps": Known("surface_air_pressure", 134, ("sp", "pressfc", "surface_pressure")),
    "ts": Known("surface_temperature", 235, ("skt", "skin_temperature")),
    "prw": Known("atmosphere_mass_content_of_water_vapor", 137, ("tcwv", "total_column_water_vapour")),
    "clt": Known("cloud_area_fraction", 164, ("tcc", "total_cloud_cover")),
}  # fmt: skip

# Variables on a pressure level [hPa], such as ta850: their letter in the names of forecast models.
ON_LEVELS = {"ta": "t", "ua": "u", "va": "v", "hur": "r", "hus": "q", "wap": "w"}
LEVEL_NAME = re.compile(r"([a-z]+)(\d{2,4})")


def other_names(name: str, standard_name: str) -> tuple[str, ...]:
    """The names in lower case that others give to a variable of CMIP, unless its standard name says it is another.

    >>> other_names("psl", "")[:2], other_names("ta850", "air_temperature"), other_names("tas", "sea_ice_thickness")
    (('msl', 'prmsl'), ('t850',), ())
    """
    known = KNOWN.get(name)
    if known is not None:
        return known.names if standard_name in ("", known.standard_name) else ()
    found = LEVEL_NAME.fullmatch(name)
    return (f"{ON_LEVELS[found[1]]}{found[2]}",) if found and found[1] in ON_LEVELS else ()


def is_near_surface(name: str) -> bool:
    """True if a name is known as that of a variable near the surface, or of one without a level."""
    near = ("tasmin", "tasmax", "sfcwindmax", "hurs", "huss", "pr")
    return name.lower() in near or any(name.lower() in (cmip.lower(), *known.names) for cmip, known in KNOWN.items())


def is_known_as(variable: "xr.Variable", found: str, name: str, standard_name: str) -> bool:
    """True if a variable, called `found` in its file, is the one that CMIP calls `name`, by its GRIB number or name."""
    known = KNOWN.get(name)
    number = str(variable.attrs.get("GRIB_paramId", ""))
    if known is not None and number.isdecimal() and standard_name in ("", known.standard_name):
        return int(number) == known.parameter
    short = str(variable.attrs.get("GRIB_shortName", found)).lower()
    others = other_names(name, standard_name)
    return found.lower() in others or short in others
