"""An output of anemoi.inference that keeps a forecast as an archive, in few bytes and with a known error.

Its entry point is known to anemoi.inference as `fsae`, which is imported when the output is made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.archive.quality import Quality
from fsae.runtime.arguments import pairs
from fsae.runtime.errors import DataError
from fsae.runtime.output.files import check_output

if TYPE_CHECKING:
    import xarray as xr

    from fsae.runtime.emulator import Emulator

PLACES = {"latitudes": "latitude", "longitudes": "longitude"}  # of a state, and their standard names


def archive_output(
    context: Any,
    metadata: Any,
    *,
    path: str,
    model: str = "default",
    names: Mapping[str, str] | None = None,
    quality: Mapping[str, Any] | None = None,
    **others: Any,
) -> Any:
    """Make the output that anemoi.inference asks for by `output: {fsae: {path: forecast.zarr, ...}}`.

    `model` is a bundle with an archive codec. `names` maps its variables to those of the forecast, such as
    {"tas": "2t"}, by default each to its own name; only these are kept, and are in the bundle's units. `quality` is one
    of {"rmse": 0.2}, {"max_error": 0.5} and {"ratio": 64}, by default the bundle's. `others` are the options of every
    output, such as `output_frequency`. The fields wait in memory until the forecast ends. OutputError before it begins
    if the path is taken.
    """
    from anemoi.inference.output import Output
    from anemoi.inference.state import reduce_state

    from fsae.runtime.emulator import load

    out = Path(path)
    check_output(out, overwrite=False)
    emulator = load(model, device="cpu")
    kept = _kept(emulator, names)
    wanted = None if quality is None else Quality(**quality)

    class ArchiveOutput(Output):  # type: ignore[misc]
        """The states of a forecast, which become an archive when it is closed."""

        def __init__(self) -> None:
            super().__init__(context, metadata, **others)
            self.states: list[tuple[Any, dict[str, np.ndarray]]] = []
            self.places: dict[str, np.ndarray] = {}

        def __repr__(self) -> str:
            return f"fsae archive {out}"

        def write_initial_state(self, state: dict[str, Any]) -> None:
            """Take the last step of the state that the forecast starts from."""
            super().write_initial_state(reduce_state(state))

        def write_step(self, state: dict[str, Any]) -> None:
            """Take the fields of a step; DataError if one is missing."""
            missing = sorted(set(kept.values()) - set(state["fields"]))
            if missing:
                known = ", ".join(sorted(state["fields"]))
                raise DataError(f"found no {missing[0]} in the forecast", f"one of {known}", "name it in `names`")
            self.places = {name: np.asarray(state[name], dtype=np.float64) for name in PLACES}
            fields = {own: np.array(state["fields"][name], dtype=np.float32) for own, name in kept.items()}
            self.states.append((state["date"], fields))

        def close(self) -> None:
            """Write the archive; FsaeError if the fields or the output do not allow it."""
            if self.states:
                emulator.archive_file(_dataset(self.states, self.places, emulator), out, wanted)
                self.states = []

    return ArchiveOutput()


def _kept(emulator: "Emulator", names: Mapping[str, str] | None) -> dict[str, str]:
    """The names in the forecast of the variables of the bundle."""
    known = [variable.name for variable in emulator.bundle.manifest.variables]
    given = {} if names is None else pairs("names", names, '{"tas": "2t"}')
    for name in given:
        if name not in known:
            raise DataError(f"found the variable {name} in `names`", f"one of {', '.join(known)}", "correct it")
    return {name: given.get(name, name) for name in known}


def _dataset(
    states: list[tuple[Any, dict[str, np.ndarray]]], places: Mapping[str, np.ndarray], emulator: "Emulator"
) -> "xr.Dataset":
    """The states as a dataset (time, values) with the latitude and longitude of every point."""
    import xarray as xr

    fields = {}
    for variable in emulator.bundle.manifest.variables:
        attributes = {
            "standard_name": variable.standard_name,
            "long_name": variable.long_name,
            "units": variable.units,
        }
        values = np.stack([step[variable.name] for _, step in states])
        fields[variable.name] = (("time", "values"), values, attributes)
    times = np.array([date for date, _ in states], dtype="datetime64[ns]")
    coordinates: dict[str, Any] = {
        standard: ("values", places[name], {"standard_name": standard, "units": f"degrees_{way}"})
        for (name, standard), way in zip(PLACES.items(), ("north", "east"), strict=True)
    }
    return xr.Dataset(fields, {"time": times, **coordinates})
