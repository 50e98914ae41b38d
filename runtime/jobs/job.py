"""Work as a layout and the units that fill it: what goes to a file and what comes back in memory is one thing."""

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle import Bundle
from .errors import ToleranceError
from .ledger import Finished
from .manifest import Variable
from .output import Layout, Unit, normalised, to_dataset
from .selection import View
from .session import Graphs
from .stores import F32, Attribute, Coordinate
from .time_axis import LEAD, REFERENCE, Starts, TimeAxis

if TYPE_CHECKING:
    import xarray as xr

TIME_CHUNK = 12  # steps worked on at once, and in one chunk of the output, where the model sets no window


def nothing() -> None:
    """Nothing."""


def time_chunks(steps: int) -> Iterator[slice]:
    """Slices of `TIME_CHUNK` steps that cover `steps` of them.

    >>> [(part.start, part.stop) for part in time_chunks(14)]
    [(0, 12), (12, 14)]
    """
    for first in range(0, steps, TIME_CHUNK):
        yield slice(first, min(first + TIME_CHUNK, steps))


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to write: a layout and, in one pass, the units that fill it, but for those that are finished.

    `notes` are warnings for the user, `close` closes the input and is called when all is done or has failed. `missing`
    are the numbers of the shards that the output still waits for.
    """

    layout: Layout
    units: Callable[[Finished], Iterator[Unit]]
    notes: tuple[str, ...] = ()
    divisible: bool = True  # whether some of the members can be made without the others
    chained: bool = False  # whether a unit of a member needs those before it
    close: Callable[[], None] = nothing
    missing: tuple[int, ...] = ()

    @property
    def fields(self) -> int:
        """Number of fields: members times starts times steps."""
        return self.layout.rows * self.layout.steps


def versions(graphs: Graphs | None) -> dict[str, str]:
    """Versions of what the numbers depend on; without graphs NumPy has made them all."""
    found = {"fsae": importlib.metadata.version("fsae"), "numpy": np.__version__}
    if graphs is not None:
        name, version = graphs.backend.rsplit(" ", 1)
        found[name] = version
    return found


def origin(bundle: Bundle, graphs: Graphs | None, request: Mapping[str, Any]) -> dict[str, Attribute]:
    """Global attributes of every kind of output: bundle and its hash, request and versions; no clock, no batch size.

    There is no CF `history`: its lines begin with the time of day, and would only repeat the request and the versions.
    """
    return {
        "fsae_bundle": bundle.manifest.name,
        "fsae_manifest_sha256": bundle.manifest_sha256,
        "fsae_request": normalised(request),
        "fsae_versions": normalised(versions(graphs)),
    }


def provenance(
    bundle: Bundle, graphs: Graphs, request: Mapping[str, Any], notes: tuple[str, ...]
) -> dict[str, Attribute]:
    """Global attributes that say where the numbers come from: enough to make them again."""
    attributes: dict[str, Attribute] = {
        "title": f"{request['verb']} with {bundle.manifest.name}",
        "source": f"fsae bundle {bundle.manifest.name}",
        "license": bundle.manifest.licence,
        **origin(bundle, graphs, request),
        "fsae_device": graphs.device,
        "fsae_precision": graphs.precision,
    }
    return attributes | ({"comment": " ".join(notes)} if notes else {})


def cf_attributes(variable: Variable) -> dict[str, Attribute]:
    """CF attributes of a variable of the model."""
    attributes: dict[str, Attribute] = {
        "standard_name": variable.standard_name,
        "long_name": variable.long_name,
        "units": variable.units,
        "cell_methods": variable.cell_methods,
    }
    # CF 3.1.2: a temperature must say that it is one and no difference of two
    return attributes | ({"units_metadata": "temperature: on_scale"} if variable.units == "K" else {})


def field_layout(
    view: View,
    time: TimeAxis,
    members: tuple[int, ...] | None,
    attributes: Mapping[str, Attribute],
    *,
    starts: Starts | None = None,
    time_chunk: int = TIME_CHUNK,
    extra: tuple[Coordinate, ...] = (),
) -> Layout:
    """Layout of physical fields as a view gives them; `extra` are coordinates beside those of grid, time, members."""
    return Layout(
        variables={v.name: cf_attributes(v) for v in view.variables},
        attributes=attributes,
        time=time,
        zoom=view.zoom,
        cells=view.cells,
        lat_deg=view.lat_deg,
        lon_deg=view.lon_deg,
        members=members,
        starts=starts,
        time_chunk=time_chunk,
        extra=extra,
    )


def checked(unit: Unit) -> Unit:
    """The unit; ToleranceError where it holds values that are not finite."""
    if not np.isfinite(unit.values).all():
        raise ToleranceError("the model gave values that are not finite: check the input and run `fsae-run verify`")
    return unit


def seen(view: View, unit: Unit) -> Unit:
    """What a view takes of a unit of whole fields; ToleranceError as of `checked`."""
    return dataclasses.replace(unit, values=view.take(checked(unit).values))


def in_memory(job: Job) -> "xr.Dataset":
    """The whole result as a dataset."""
    layout = job.layout
    slots = max((part.stop for part in layout.slots.values()), default=0)
    whole: F32 = np.empty((layout.rows, layout.steps, slots, layout.points), dtype=np.float32)
    with contextlib.closing(job):
        for unit in job.units(Finished()):
            whole[unit.members, unit.times] = unit.values
    return to_dataset(layout, whole)


def phase_coordinate(phase: np.ndarray) -> Coordinate:
    """The phases of the year of a latent's steps (time), or (start, time): the decoder needs them, and stamps alone do
    not tell."""
    attributes: dict[str, Attribute] = {
        "long_name": "fraction of the year at the middle of the averaging period",
        "units": "1",
    }
    dims = ("time",) if phase.ndim == 1 else (REFERENCE, LEAD)
    return Coordinate(name="year_phase", dims=dims, values=phase.astype(np.float64), attributes=attributes)
