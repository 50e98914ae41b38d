"""GRIB files as CF datasets, through the optional cfgrib; variables are then found by their standard names."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError

if TYPE_CHECKING:
    import xarray as xr

KEPT = ("time", "step", "valid_time", "number")  # scalars that say more than on which level a variable is
# Read all messages at each opening and leave no index file beside the data; tell of what does not fit together.
OPTIONS = {"indexpath": "", "errors": "raise"}


def open_grib(path: Path) -> "xr.Dataset":
    """The dataset of a GRIB file, unread and with undecoded times; DataError where it makes none, or without cfgrib.

    Variables on different levels (2 m temperature, 10 m wind) stand beside each other; two arrays that GRIB calls by
    one name are numbered.
    """
    import xarray as xr  # start-up time

    cfgrib, failures = _import_cfgrib(path)
    unfit: tuple[type[Exception], ...] = (*failures, ValueError, TypeError)  # DatasetBuildError is a ValueError
    try:
        return xr.open_dataset(path, engine="cfgrib", decode_times=False, cache=False, backend_kwargs=OPTIONS)
    except cfgrib.DatasetBuildError:
        pass  # the messages make several arrays that differ in more than their names
    except failures as error:
        raise DataError(f"cannot read {path}: {error}; is the file damaged or incomplete?") from None
    try:
        parts = cfgrib.open_datasets(str(path), decode_times=False, cache=False, backend_kwargs=OPTIONS)
        return xr.merge(_beside_each_other(parts), compat="override", join="exact", combine_attrs="drop_conflicts")
    except unfit as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path} holds messages that do not fit together ({text}): split it by variable, for example with "
            '`grib_copy IN "[shortName].grib"`'
        ) from None


def _import_cfgrib(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """The module and what ecCodes raises; DataError naming the extra to install where either is missing."""
    try:
        cfgrib, errors = (importlib.import_module(name) for name in ("cfgrib", "gribapi.errors"))
    except (ImportError, OSError, RuntimeError) as error:  # cfgrib may be there without the library ecCodes
        raise DataError(
            f'{path} is a GRIB file, which needs cfgrib ({error}): pip install "fsae[grib]", or convert it to NetCDF'
        ) from None
    return cfgrib, (errors.GribInternalError, OSError, EOFError)


def _beside_each_other(parts: "list[xr.Dataset]") -> "list[xr.Dataset]":
    """Datasets without their levels, and with a name of its own for every variable."""
    names = [str(name) for part in parts for name in part.data_vars]
    count: dict[str, int] = {}
    found = []
    for part in parts:
        levels = [name for name, value in part.coords.items() if value.ndim == 0 and name not in KEPT]
        new = {}
        for name in map(str, part.data_vars):
            if names.count(name) > 1:
                count[name] = count.get(name, 0) + 1
                new[name] = f"{name}_{count[name]}"
        found.append(part.drop_vars(levels).rename(new))
    return found
