"""GRIB files as CF datasets, through the optional cfgrib; variables are then found by their standard names.

Fields stay as messages hold them, along one dimension, beside the latitude and longitude that ecCodes gives for each
value: the axes that cfgrib makes itself are wrong for longitudes that run from 0 to -5, and for other scanning orders.
"""

import importlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.errors import DataError

if TYPE_CHECKING:
    import xarray as xr


POINTS = "values"  # dimension of the values of a message
VALID = "valid_time"
SECONDS = {0: 60, 1: 3600, 2: 86_400, 10: 10_800, 11: 21_600, 12: 43_200, 13: 1}  # of units of time, code table 4.4
PLACES = ("latitude", "longitude")
MONTHLY_STREAMS = ("moda", "mnth", "edmo", "edmm", "msmm", "mmsf", "wamo", "wamd")  # of ECMWF's archive
KEPT = ("time", "step", "valid_time", "number")  # scalars that are not merely the level of a variable

# Scan the messages at each opening instead of leaving an index file beside the data; raise if they do not fit together,
# also in the order of their values, which cfgrib does not compare.
OPTIONS = {
    "indexpath": "",
    "errors": "raise",
    "encode_cf": ("parameter", "time", "vertical"),  # not "geography"
    "read_keys": ["alternativeRowScanning", "Nside", "orderingConvention", "stream", "derivedForecast"],
}


def open_grib(path: Path) -> "xr.Dataset":
    """The dataset of a GRIB file, unread and with undecoded times; DataError without cfgrib, or for unfit messages.

    Variables on different levels (2 m temperature, 10 m wind) become variables of one dataset; arrays with the same
    GRIB name are numbered.
    """
    import xarray as xr  # start-up time

    cfgrib, failures = _import_cfgrib(path)
    unfit: tuple[type[Exception], ...] = (*failures, ValueError, TypeError)  # DatasetBuildError is a ValueError
    try:
        whole = xr.open_dataset(path, engine="cfgrib", decode_times=False, cache=False, backend_kwargs=OPTIONS)
        return _with_periods(_instant(_turned(whole, path)), path)
    except cfgrib.DatasetBuildError:
        pass  # the messages make arrays that differ in more than their names
    except failures as error:
        raise DataError(
            f"cannot read {path}: {error}", advice="copy it again, as it may be damaged or incomplete"
        ) from None
    try:
        parts = cfgrib.open_datasets(str(path), decode_times=False, cache=False, backend_kwargs=OPTIONS)
        parts = _beside_each_other([_instant(_turned(part, path)) for part in parts])
        merged = xr.merge(parts, compat="override", join="exact", combine_attrs="drop_conflicts")
        return _with_periods(merged, path)
    except unfit as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _unfit(path, text) from None


def _unfit(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} holds messages that do not fit together ({why})",
        advice='split it by variable, for example with `grib_copy IN "[shortName].grib"`',
    )


def _import_cfgrib(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """The module cfgrib and the errors of ecCodes; DataError that names the extra to install if either is missing."""
    try:
        cfgrib, errors = (importlib.import_module(name) for name in ("cfgrib", "gribapi.errors"))
    except (ImportError, OSError, RuntimeError) as error:  # cfgrib can be installed without the library ecCodes
        raise DataError(
            f"{path} is a GRIB file, which needs cfgrib ({error})",
            advice='pip install "fsae[grib]", or convert it to NetCDF',
        ) from None
    return cfgrib, (errors.GribInternalError, OSError, EOFError)


def _instant(dataset: "xr.Dataset") -> "xr.Dataset":
    """The dataset with CF's word for instantaneous values; monthly means of some archives are marked as such too."""
    for array in dataset.data_vars.values():
        if array.attrs.get("GRIB_stepType") == "instant" and array.attrs.get("GRIB_stream") not in MONTHLY_STREAMS:
            array.attrs.setdefault("cell_methods", "time: point")
    return dataset


def _with_periods(dataset: "xr.Dataset", path: Path) -> "xr.Dataset":
    """The dataset with bounds of its valid times if its messages are means: GRIB dates a mean by the end of its period.

    Without bounds the mean of a January would be taken for one of February.
    """
    if VALID not in dataset.variables or {v.attrs.get("GRIB_stepType") for v in dataset.data_vars.values()} != {"avg"}:
        return dataset
    ends = dataset[VALID].variable
    lengths_s = _lengths_s(path)
    found = [lengths_s.get(int(end), 0) for end in ends.values.reshape(-1)]
    if not all(found):
        return dataset
    begins = ends.values - np.reshape(found, ends.shape)
    bounds = ((*ends.dims, "bnds"), np.stack([begins, ends.values], axis=-1))
    attributes = {**ends.attrs, "bounds": f"{VALID}_bnds"}
    return dataset.assign({f"{VALID}_bnds": bounds}).assign_coords({VALID: (ends.dims, ends.values, attributes)})


def _lengths_s(path: Path) -> dict[int, int]:
    """Length of the period [s] of the messages that are valid at a time [s since 1970]; 0 if they disagree."""
    eccodes = importlib.import_module("eccodes")
    found: dict[int, int] = {}
    with path.open("rb") as file:
        while (message := eccodes.codes_grib_new_from_file(file, headers_only=True)) is not None:
            date, clock, first, last, unit = (
                eccodes.codes_get(message, key, int)
                for key in ("validityDate", "validityTime", "startStep", "endStep", "stepUnits")
            )
            eccodes.codes_release(message)
            day = datetime(date // 10_000, date // 100 % 100, date % 100, clock // 100, clock % 100, tzinfo=UTC)
            end, length_s = int(day.timestamp()), (last - first) * SECONDS.get(unit, 0)
            found[end] = length_s if found.get(end, length_s) == length_s else 0
    return found


def _turned(dataset: "xr.Dataset", path: Path) -> "xr.Dataset":
    """The dataset with places of values in rows of alternating direction, which ecCodes gives as if all ran alike."""
    turned = {int(value.attrs.get("GRIB_alternativeRowScanning", 0)) for value in dataset.data_vars.values()}
    if turned <= {0} or not set(PLACES) <= set(dataset.variables):
        return dataset
    if len(turned) > 1:
        raise _unfit(path, "in some of them the rows alternate in direction")
    attrs = next(iter(dataset.data_vars.values())).attrs
    length = int(attrs["GRIB_Ny" if attrs.get("GRIB_jPointsAreConsecutive") else "GRIB_Nx"])

    def back(values: NDArray[Any]) -> NDArray[Any]:
        rows = values.reshape(-1, length).copy()
        rows[1::2] = rows[1::2, ::-1]
        return rows.ravel()

    return dataset.assign_coords({name: dataset[name].copy(data=back(dataset[name].values)) for name in PLACES})


def _beside_each_other(parts: "list[xr.Dataset]") -> "list[xr.Dataset]":
    """The datasets without their levels, every variable and every order of points with a name of its own."""
    names = [str(name) for part in parts for name in part.data_vars]
    count: dict[str, int] = {}
    orders: list[tuple[Any, ...]] = []  # the places of the points of each
    found = []
    for part in parts:
        levels = [name for name, value in part.coords.items() if value.ndim == 0 and name not in KEPT]
        for array in part.data_vars.values():
            if array.attrs.get("GRIB_typeOfLevel") in levels:
                array.attrs["GRIB_level"] = float(part[array.attrs["GRIB_typeOfLevel"]])
        new = {}
        for name in map(str, part.data_vars):
            if names.count(name) > 1:
                count[name] = count.get(name, 0) + 1
                new[name] = f"{name}_{count[name]}"
        places = tuple(part[name].values for name in PLACES if name in part.variables)
        known = [n for n, other in enumerate(orders) if all(map(np.array_equal, places, other))]
        if not known:
            known = [len(orders)]
            orders.append(places)
        if known[0] and POINTS in part.dims:
            new |= {name: f"{name}_{known[0] + 1}" for name in (POINTS, *PLACES) if name in (*part.variables, POINTS)}
        found.append(part.drop_vars(levels).rename(new))
    return found
