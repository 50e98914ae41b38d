"""Generating an ensemble as a job: what is asked for, the time axis it covers, and the units it gives."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle import Bundle
from .calendar import (
    Bounds,
    Date,
    centres,
    parse_start,
    step_bounds,
    steps,
    time_index,
    time_method,
    year_phase,
)
from .climatology import season
from .ensemble import Steps, generate, latent_model, parts_of, windows_needed
from .errors import UsageError
from .forcing import Choice, forcing_at, forcing_coordinate, forcing_note, forcing_record, read_forcing
from .initial import KnownSteps, lead_coordinates, read_initial
from .jobs import Job, field_layout, on_grid, provenance
from .ledger import Finished
from .manifest import Manifest, Time
from .output import Unit, encode_times
from .session import Graphs
from .stores import Coordinate

if TYPE_CHECKING:
    import xarray as xr

BATCH = 16  # members worked on at once: memory, never results


@dataclass(frozen=True, kw_only=True)
class Request:
    """An ensemble: member numbers, the date its first step holds, number of steps, seed, forcing, known steps."""

    members: tuple[int, ...]
    start: Date
    steps: int
    seed: int
    forcing: Choice = None  # the calendar year
    known: KnownSteps | None = None  # those before the start
    sampler: str = "default"  # or "fast": the distilled denoiser

    def __post_init__(self) -> None:
        if not self.members or min(self.members) < 0 or len(set(self.members)) != len(self.members):
            raise UsageError(f"found the members {list(self.members)}, expected one or more, 0 or above, none twice")
        if self.steps < 1:
            raise UsageError(f"found {self.steps} steps, expected 1 or more")
        if self.seed < 0:
            raise UsageError(f"found the seed {self.seed}, expected 0 or above")
        if self.sampler not in ("default", "fast"):
            raise UsageError(f"found the sampler {self.sampler!r}, expected 'default' or 'fast'")


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The steps of a request and, beyond them, of its last window; stamps and bounds of the steps asked for."""

    steps: Steps
    stamps: list[Date]
    bounds: Bounds | None


def member_ids(text: str) -> tuple[int, ...]:
    """Member numbers of a list of numbers and ranges.

    >>> member_ids("3,10-12")
    (3, 10, 11, 12)
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"found the members {text!r}, expected numbers and rising ranges such as 3,10-12")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def default_start(manifest: Manifest) -> Date:
    """The first step of the last training year: the latest one whose forcing the model has seen all through."""
    return parse_start(manifest.provenance.period[1][:4], manifest.time.calendar)


def start_date(manifest: Manifest, start: str | None) -> Date:
    """The date of a text in the bundle's calendar; without one the default start."""
    return default_start(manifest) if start is None else parse_start(start, manifest.time.calendar)


def make_request(
    bundle: Bundle,
    graphs: Graphs,
    members: int | Sequence[int],
    *,
    start: str | None,
    steps: int,
    seed: int,
    forcing: "float | str | os.PathLike[str] | xr.Dataset | None" = None,
    initial: "str | os.PathLike[str] | xr.Dataset | None" = None,
    climatology: "str | os.PathLike[str] | xr.Dataset | None" = None,
    names: Mapping[str, str] | None = None,
    sampler: str = "default",
) -> Request:
    """The request in what a user gives; its start follows the last step of `initial`, where there is one."""
    manifest = bundle.manifest
    if initial is None and (climatology is not None or names):
        raise UsageError("found a climatology or names of variables without a file that they are of: give --initial")
    choice = read_forcing(forcing, parts_of(manifest)[0].forcing, manifest.time.calendar)
    known = None
    if initial is not None:
        date = None if start is None else parse_start(start, manifest.time.calendar)
        known = read_initial(bundle, graphs, initial, start=date, climatology=climatology, names=names)
    return Request(
        members=members_of(members),
        start=start_date(manifest, start) if known is None else known.start,
        steps=steps,
        seed=seed,
        forcing=choice,
        known=known,
        sampler=sampler,
    )


def timeline(known: Time, window: int, methods: str, start: Date, count: int, forcing: Choice = None) -> Timeline:
    """The time axis of `count` steps from the one that holds `start`, for windows of `window` steps.

    Averages are stamped in the middle of their period, which the bounds give; instantaneous values have no bounds. The
    forcing is that of `forcing.forcing_at`.
    """
    step, calendar = known.step, known.calendar
    stamps = steps(start, windows_needed(count, window) * window, step, calendar)
    whole = Steps(
        season=season(year_phase(stamps, step, methods), known.harmonics),
        index=np.array([time_index(stamp, step) for stamp in stamps]),
        forcing=forcing_at(forcing, stamps, step, methods, count),
    )
    stamps = stamps[:count]
    if time_method(methods) == "point":
        return Timeline(steps=whole, stamps=stamps, bounds=None)
    bounds = step_bounds(stamps, step)
    return Timeline(steps=whole, stamps=centres(stamps, step, methods, bounds), bounds=bounds)


def generate_job(bundle: Bundle, graphs: Graphs, request: Request, *, grid: str = "native", batch: int = BATCH) -> Job:
    """Fields (realization, time, cell) of an ensemble, streamed window by window."""
    manifest = bundle.manifest
    model = latent_model(bundle, fast=request.sampler == "fast")
    if batch < 1:
        raise UsageError(f"found a batch of {batch} members, expected 1 or more")
    methods = manifest.variables[0].cell_methods  # the variables of a bundle share their time axis
    line = timeline(manifest.time, model.window, methods, request.start, request.steps, request.forcing)
    forcing, known = line.steps.forcing[: request.steps], request.known
    notes = (known.notes if known is not None else ()) + forcing_note(manifest, forcing)
    record: dict[str, Any] = {
        "verb": "generate",
        "members": list(request.members),
        "start": line.stamps[0].isoformat() if line.bounds is None else line.bounds[0][0].isoformat(),
        "steps": request.steps,
        "seed": request.seed,
        "grid": grid,
        "forcing": forcing_record(request.forcing),
        "sampler": request.sampler,
    }
    extra: tuple[Coordinate, ...] = (forcing_coordinate(parts_of(manifest)[0].forcing, forcing),)
    if known is not None:
        record["initial"] = known.record
        extra += lead_coordinates(known.reference, line.stamps, manifest.time.calendar)
    attributes = provenance(bundle, graphs, record, notes) | {"fsae_seed": request.seed}
    time = encode_times(line.stamps, line.bounds, manifest.time.calendar)
    layout = field_layout(bundle, grid, time, request.members, attributes, time_chunk=model.window, extra=extra)

    def units(done: Finished) -> Iterator[Unit]:
        pieces = generate(
            model,
            graphs,
            request.members,
            line.steps,
            count=request.steps,
            seed=request.seed,
            batch=batch,
            initial=None if known is None else known.initial,
            done=done,
        )
        for unit in pieces:
            yield on_grid(bundle, layout, unit)

    return Job(layout=layout, units=units, notes=notes)


def members_of(members: int | Sequence[int]) -> tuple[int, ...]:
    """Member numbers: 0 to N - 1 for a number N, or those given."""
    return tuple(range(members)) if isinstance(members, int) else tuple(members)
