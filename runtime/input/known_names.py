"""Names that weather centres and forecast models give to the variables that CMIP names, for files without CF names.

ECMWF writes the standard name "unknown" on some of its most used variables; its parameter numbers are at
https://codes.ecmwf.int/grib/param-db. Only variables without a doubt are listed: those of one height, in one form.
"""

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import xarray as xr


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


def is_known_as(variable: "xr.Variable", found: str, name: str, standard_name: str) -> bool:
    """True if a variable, called `found` in its file, is the one that CMIP calls `name`, by its GRIB number or name."""
    known = KNOWN.get(name)
    number = str(variable.attrs.get("GRIB_paramId", ""))
    if known is not None and number.isdecimal() and standard_name in ("", known.standard_name):
        return int(number) == known.parameter
    short = str(variable.attrs.get("GRIB_shortName", found)).lower()
    others = other_names(name, standard_name)
    return found.lower() in others or short in others
