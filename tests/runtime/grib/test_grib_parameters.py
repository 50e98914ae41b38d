"""The parameters that GRIB output has, against the parameter database that ecCodes brings."""

import pytest

from fsae.runtime.climate.units import conversion
from fsae.runtime.errors import UsageError
from fsae.runtime.grib.parameters import NEAR_SURFACE, ON_PRESSURE, OWN_LEVEL, parameter_of
from fsae.runtime.input.variables import KNOWN

eccodes = pytest.importorskip("eccodes", exc_type=(ImportError, RuntimeError))

NAMES = {known.standard_name: name for name, known in KNOWN.items()}
CASES = [(NAMES.get(standard, "pr"), standard) for standard in (*NEAR_SURFACE, *OWN_LEVEL)]
ON_500_HPA = {"ta": 130, "ua": 131, "va": 132, "zg": 156, "hur": 157, "hus": 133, "wap": 135}
CASES += [(f"{name}500", standard) for name, standard in zip(ON_500_HPA, ON_PRESSURE, strict=True)]
PRECIPITATION_RATE = 260048


@pytest.mark.parametrize(("name", "standard"), CASES)
def test_ecmwf_knows_the_parameter(name: str, standard: str) -> None:
    # oracle: parameter numbers and units of ecCodes' database, by the keys that we set
    units = {**NEAR_SURFACE, **OWN_LEVEL, **ON_PRESSURE}[standard].units
    found = parameter_of(name, {"standard_name": standard, "units": units})
    handle = eccodes.codes_grib_new_from_samples("GRIB2")
    keys = {"discipline": 0, "parameterCategory": found.category, "parameterNumber": found.number}
    keys |= {"typeOfFirstFixedSurface": found.surface}
    if found.level is not None:
        keys |= {"scaleFactorOfFirstFixedSurface": 0, "scaledValueOfFirstFixedSurface": found.level}
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    number, theirs = eccodes.codes_get(handle, "paramId"), eccodes.codes_get(handle, "units")
    level = eccodes.codes_get(handle, "level")
    eccodes.codes_release(handle)
    numbers = {key: known.parameter for key, known in KNOWN.items()} | {"pr": PRECIPITATION_RATE} | ON_500_HPA
    assert number == numbers[name.removesuffix("500")]
    assert level == (500 if name.endswith("500") else found.level or 0)
    assert conversion(units, theirs.replace("**", "").replace("gpm", "m")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "attributes", "words"),
    [
        ("salt", {"standard_name": "sea_water_salinity", "units": "1"}, "variable salt .sea_water_salinity. for GRIB"),
        (
            "ta7",
            {"standard_name": "air_temperature", "units": "K"},
            "variable ta7 .air_temperature. for GRIB, expected one of air_temperature",
        ),
        ("pr", {"standard_name": "precipitation_flux", "units": "mm/day"}, "pr in 'mm/day' for GRIB, expected kg"),
        ("hus850", {"units": "1"}, "variable hus850 .without a standard name. at 850 hPa"),
    ],
)
def test_others_are_refused(name: str, attributes: dict[str, str], words: str) -> None:  # oracle: the sentence
    with pytest.raises(UsageError, match=words):
        parameter_of(name, attributes)
