"""Variables that GRIB has a parameter for: WMO code tables 4.2 (parameters) and 4.5 (surfaces), which CF names.

The surfaces are those of ECMWF's parameter database, https://codes.ecmwf.int/grib/param-db: 167 is temperature at 2 m.
"""

from collections.abc import Mapping
from typing import NamedTuple

from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import UsageError
from fsae.runtime.input.meaning import known_level
from fsae.runtime.output.store import Attribute

OTHER_OUTPUT = "name the output .nc or .zarr"
GROUND, ISOBARIC, MEAN_SEA, HEIGHT = 1, 100, 101, 103  # code table 4.5; levels in Pa and in m above the ground


class Parameter(NamedTuple):
    """Category and number in discipline 0, meteorology; units; surface, and its level in the units of the surface."""

    category: int
    number: int
    units: str
    surface: int = ISOBARIC
    level: int | None = None


NEAR_SURFACE = {
    "air_temperature": Parameter(0, 0, "K", HEIGHT, 2),
    "dew_point_temperature": Parameter(0, 6, "K", HEIGHT, 2),
    "eastward_wind": Parameter(2, 2, "m s-1", HEIGHT, 10),
    "northward_wind": Parameter(2, 3, "m s-1", HEIGHT, 10),
    "wind_speed": Parameter(2, 1, "m s-1", HEIGHT, 10),
}
OWN_LEVEL = {
    "air_pressure_at_mean_sea_level": Parameter(3, 0, "Pa", MEAN_SEA),
    "surface_air_pressure": Parameter(3, 0, "Pa", GROUND),
    "surface_temperature": Parameter(0, 17, "K", GROUND),
    "precipitation_flux": Parameter(1, 52, "kg m-2 s-1", GROUND),
}
ON_PRESSURE = {
    "air_temperature": Parameter(0, 0, "K"),
    "eastward_wind": Parameter(2, 2, "m s-1"),
    "northward_wind": Parameter(2, 3, "m s-1"),
    "geopotential_height": Parameter(3, 5, "m"),
    "relative_humidity": Parameter(1, 1, "%"),
    "specific_humidity": Parameter(1, 0, "1"),
    "lagrangian_tendency_of_air_pressure": Parameter(2, 8, "Pa s-1"),
}
KNOWN = (
    f"{', '.join(NEAR_SURFACE)} near the surface, {', '.join(OWN_LEVEL)}, or {', '.join(ON_PRESSURE)} on a pressure "
    "level"
)


def parameter_of(name: str, attributes: Mapping[str, Attribute]) -> Parameter:
    """The parameter of a variable by its standard name and level, of which its name or long name tells.

    UsageError if it is not among those that are known here, or has other units.
    """
    standard, long_name, units = (str(attributes.get(key, "")) for key in ("standard_name", "long_name", "units"))
    level = known_level(name, long_name)
    found = OWN_LEVEL.get(standard)
    if level is not None and level.kind == "pressure" and level.value is not None and standard in ON_PRESSURE:
        found = ON_PRESSURE[standard]._replace(level=round(level.value))
    elif level is not None and level.kind == "surface" and standard in NEAR_SURFACE:
        found = NEAR_SURFACE[standard]
    if found is None:
        where = f" at {level.text}" if level is not None else ""
        raise UsageError(
            f"found the variable {name} ({standard or 'without a standard name'}){where} for GRIB",
            f"one of {KNOWN}",
            f"leave it out by --variables, or {OTHER_OUTPUT}",
        )
    if conversion(units, found.units) != (1.0, 0.0):
        raise UsageError(f"found {name} in {units!r} for GRIB", found.units, OTHER_OUTPUT)
    return found
