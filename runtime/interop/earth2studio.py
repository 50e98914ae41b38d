"""A member of an ensemble with the call of a data source of earth2studio.

The interface is that of earth2studio.data.DataSource. It is a protocol, so that earth2studio itself is not imported.
"""

import datetime
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arguments import pairs, whole
from fsae.runtime.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

# Names of earth2studio, by which it knows variables, for those of the model with the same units.
NAMES: Mapping[str, str] = MappingProxyType({"t2m": "tas", "msl": "psl"})

Times: TypeAlias = "datetime.datetime | Sequence[datetime.datetime] | NDArray[np.datetime64]"


class MemberSource:
    """A member of an ensemble on a lat-lon grid, as `generate` gives it or as it is opened from a file.

    A call with times and variables gives an array (time, variable, lat, lon), north first, longitudes from 0 to 360.
    Each time gets the step whose averaging period it lies in, or without bounds the step of just that time.
    """

    def __init__(self, ensemble: "xr.Dataset", member: int = 0, names: Mapping[str, str] = NAMES) -> None:
        """Take the member of that number; `names` maps names of earth2studio to those of the ensemble.

        DataError for other grids, calendars that NumPy does not know, and a member that is not there.
        """
        if not {"lat", "lon"} <= set(ensemble.dims):
            found = f"found an ensemble on ({', '.join(map(str, ensemble.sizes))})"
            raise DataError(found, "latitudes and longitudes", 'draw it with select=Selection(grid="training")')
        if ensemble["time"].dtype.kind != "M":
            found = f"found the calendar {ensemble['time'].encoding.get('calendar', 'of another year')}"
            raise DataError(found, "that of everyday life", "earth2studio knows no other one")
        if "realization" in ensemble.dims:
            known = ensemble["realization"].values.tolist()
            if whole("member", member) not in known:
                raise DataError(f"found no member {member}", f"one of {known[0]} to {known[-1]}", "choose another")
            ensemble = ensemble.sel(realization=member)
        ensemble = ensemble.assign_coords(lon=ensemble["lon"] % 360).sortby("lon").sortby("lat", ascending=False)
        self._ensemble, self._names = ensemble, pairs("names", names, '{"t2m": "tas"}')

    def __call__(self, time: Times, variable: "str | Sequence[str] | NDArray[np.str_]") -> "xr.DataArray":
        """The fields (time, variable, lat, lon) of variables by earth2studio's names; DataError for others."""
        import xarray as xr

        wanted = np.atleast_1d(np.array(time, dtype="datetime64[ns]"))
        names = [str(name) for name in np.atleast_1d(np.array(variable))]
        for name in names:
            if self._names.get(name) not in self._ensemble:
                known = [one for one, own in self._names.items() if own in self._ensemble]
                raise DataError(f"found the variable {name}", f"one of {', '.join(known)}", "give it in `names`")
        steps = [self._step_of(one) for one in wanted]
        fields = [self._ensemble[self._names[name]].isel(time=steps).transpose("time", "lat", "lon") for name in names]
        return xr.DataArray(
            np.stack([field.values for field in fields], axis=1),
            dims=("time", "variable", "lat", "lon"),
            coords={
                "time": wanted,
                "variable": names,
                "lat": self._ensemble["lat"].values,
                "lon": self._ensemble["lon"].values,
            },
        )

    async def fetch(self, time: Times, variable: "str | Sequence[str] | NDArray[np.str_]") -> "xr.DataArray":
        """The same as a call, for programs that wait for several sources at once."""
        return self(time, variable)

    def _step_of(self, time: np.datetime64) -> int:
        """The step that a time lies in."""
        stamps = self._ensemble["time"].values
        if "time_bnds" in self._ensemble:
            bounds = self._ensemble["time_bnds"].values.astype("datetime64[ns]")
            found = np.flatnonzero((bounds[:, 0] <= time) & (time < bounds[:, 1]))
        else:
            found = np.flatnonzero(stamps == time)
        if not found.size:
            raise DataError(f"found the time {time}", f"{stamps[0]} to {stamps[-1]}", "draw an ensemble that covers it")
        return int(found[0])
