"""An ensemble as a job: the request resolved for a bundle, its time axis, and the units it yields."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsae.runtime.arguments import whole
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Manifest, Time
from fsae.runtime.climate.calendar import (
    Bounds,
    Date,
    centres,
    parse_period,
    parse_start,
    step_bounds,
    steps,
    steps_between,
    time_index,
    time_method,
    year_phase,
)
from fsae.runtime.climate.climatology import season
from fsae.runtime.codec.encoder_input import Reading
from fsae.runtime.errors import UsageError
from fsae.runtime.jobs.job import Done, Job, seen
from fsae.runtime.jobs.results import member_bytes
from fsae.runtime.jobs.writer import WAITING
from fsae.runtime.output.layout import Layout, Unit, without_members
from fsae.runtime.output.provenance import cf_attributes, provenance
from fsae.runtime.output.selection import EVERYTHING, Selection, View, view_of
from fsae.runtime.output.store import Attribute, Coordinate
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.healpix import npix

from .batch import UNLIMITED, Batch, MemoryLimit, choose_batch
from .forcing import Choice, forcing_at, forcing_coordinate, forcing_note, forcing_record, read_forcing
from .initial import KnownSteps, lead_coordinates, read_initial, state_coordinate
from .members import Plan, Steps, generate, latent_model, parts_of, warm_up, windows_needed
from .request import DEFAULT_STEPS, Request
from .statistics import Statistics, read_statistics, summarised, values_held, variables_of

UNITS_HELD = WAITING + 3  # windows of a member: those that wait to be written, and those being decoded and regridded


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A request as a bundle takes it: the date that the first step holds, forcing and known steps are read."""

    members: tuple[int, ...]
    start: Date
    steps: int
    seed: int
    forcing: Choice = None  # the calendar year
    known: KnownSteps | None = None  # those before the start
    sampler: str = "default"  # or "fast": the distilled denoiser
    select: Selection = EVERYTHING
    statistics: Statistics | None = None  # in place of the members
    alone: bool = False  # the one member has no dimension of its own


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The steps of a request and, beyond them, of its last window; stamps and bounds of the steps asked for."""

    steps: Steps
    stamps: list[Date]
    bounds: Bounds | None


def default_start(manifest: Manifest) -> Date:
    """The first step of the last training year: the latest one whose forcing the model has seen all through."""
    return parse_start(manifest.provenance.period[1][:4], manifest.time.calendar)


def resolve(bundle: Bundle, graphs: Graphs, request: Request) -> Ensemble:
    """Resolve a request for a bundle; the start follows the last step of `initial`, if there is one."""
    manifest = bundle.manifest
    calendar, select = manifest.time.calendar, request.select
    choice = read_forcing(request.forcing, parts_of(manifest)[0].forcing, calendar, bundle.tables.scenarios)
    start = None if request.start is None else parse_start(request.start, calendar)
    count = DEFAULT_STEPS if request.steps is None else request.steps
    if select.times is not None:
        start, end = parse_period(select.times, calendar)
        count = steps_between(start, end, manifest.time.step)
    known = None
    if request.initial is not None:
        reading = Reading(
            climatology=request.climatology, names=request.names, force=request.force, strict=request.strict
        )
        known = read_initial(bundle, graphs, request.initial, reading, start)
    return Ensemble(
        members=request.member_numbers,
        start=start or default_start(manifest) if known is None else known.start,
        steps=count,
        seed=request.seed,
        forcing=choice,
        known=known,
        sampler=request.sampler,
        select=dataclasses.replace(select, times=None),
        statistics=read_statistics(request.statistics),
        alone=request.alone,
    )


def timeline(known: Time, window: int, methods: str, start: Date, count: int, forcing: Choice) -> Timeline:
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


def generate_job(
    bundle: Bundle,
    graphs: Graphs,
    ensemble: Ensemble,
    *,
    batch: Batch = "auto",
    limit: MemoryLimit = UNLIMITED,
    scratch: Path | None = None,
    whole_members: bool = False,
) -> Job:
    """Fields (realization, time, cell) of an ensemble, streamed window by window, or statistics (time, cell) of it.

    `batch` members are drawn at once, or as many as are useful and fit into the `limit`; with `whole_members` each of
    them is held with all its steps. Values that quantiles need wait in memory if they fit into half of what the `limit`
    leaves, else in a file in the folder `scratch`, by default the system's for temporary files.
    """
    if not (isinstance(batch, str) and batch == "auto"):
        batch = whole("batch", batch, "a number of members, or 'auto'")
    if batch != "auto" and batch < 1:
        raise UsageError(f"found a batch of {batch} members", "1 or more", "leave it out for as many as fit")
    manifest, view, statistics = bundle.manifest, view_of(bundle, ensemble.select), ensemble.statistics
    model = latent_model(bundle, fast=ensemble.sampler == "fast")
    methods = manifest.variables[0].cell_methods  # the variables of a bundle share their time axis
    line = timeline(manifest.time, model.window, methods, ensemble.start, ensemble.steps, ensemble.forcing)
    notes = forcing_note(manifest, line.steps.forcing[: ensemble.steps])
    notes = notes if ensemble.known is None else ensemble.known.notes + notes
    attributes = provenance(bundle, graphs, _record(ensemble, line), notes) | {"fsae_seed": ensemble.seed}
    layout = _layout(manifest, view, ensemble, line, attributes)
    plan = Plan(
        members=ensemble.members,
        steps=line.steps,
        count=ensemble.steps,
        seed=ensemble.seed,
        initial=None if ensemble.known is None else ensemble.known.initial,
    )

    def units(done: Done) -> Iterator[Unit]:
        quantiles = statistics is not None and bool(statistics.quantiles)
        if quantiles or (batch == "auto" and limit.given):
            warm_up(model, graphs, plan)  # the memory of the graphs is not left
        memory = limit.left // 2
        kept = 4 * UNITS_HELD * model.window * len(manifest.variables) * npix(manifest.grid.zoom)
        if statistics is not None:
            places = model.window * len(view.variables) * layout.points
            kept += values_held(statistics, len(ensemble.members), places, memory)
        at_once = batch
        if at_once == "auto":
            held = 2 * member_bytes(layout) if whole_members else 0  # the user may join them as they come
            at_once = choose_batch(
                bundle, graphs, model, members=len(ensemble.members), limit=limit, kept=kept, held=held
            )
        pieces = generate(model, graphs, plan, batch=at_once, done=done, by_window=statistics is not None)
        each = dataclasses.replace(layout, members=ensemble.members)  # that of statistics has none
        fields = (seen(view, unit, each) for unit in pieces)
        return fields if statistics is None else summarised(fields, statistics, len(ensemble.members), memory, scratch)

    return Job(layout=layout, units=units, notes=notes, divisible=statistics is None, chained=True)


def _layout(
    manifest: Manifest, view: View, ensemble: Ensemble, line: Timeline, attributes: Mapping[str, Attribute]
) -> Layout:
    """The layout of the members' fields, or of statistics of them, with forcing, lead times and initial members."""
    calendar, known, denoiser = manifest.time.calendar, ensemble.known, parts_of(manifest)[0]
    extra: tuple[Coordinate, ...] = (forcing_coordinate(denoiser.forcing, line.steps.forcing[: ensemble.steps]),)
    if known is not None:
        extra += lead_coordinates(known.reference, line.stamps, calendar)
        extra += state_coordinate(known, ensemble.members) if ensemble.statistics is None else ()
    time = encode_times(line.stamps, line.bounds, calendar)
    layout = Layout(
        variables=cf_attributes(view.variables),
        attributes=attributes,
        time=time,
        grid=view.grid,
        members=ensemble.members,
        time_chunk=denoiser.window,
        extra=extra,
    )
    if ensemble.alone:
        return without_members(layout)
    if ensemble.statistics is None:
        return layout
    variables, by_quantile = variables_of(ensemble.statistics, layout.variables)
    return dataclasses.replace(
        layout,
        members=None,
        variables=variables,
        quantiles=ensemble.statistics.quantiles,
        by_quantile=by_quantile,
        of_members=len(ensemble.members),
    )


def _record(ensemble: Ensemble, line: Timeline) -> dict[str, Any]:
    """The request as the output records it."""
    record: dict[str, Any] = {
        "verb": "generate",
        "members": list(ensemble.members),
        "start": line.stamps[0].isoformat() if line.bounds is None else line.bounds[0][0].isoformat(),
        "steps": ensemble.steps,
        "seed": ensemble.seed,
        "forcing": forcing_record(ensemble.forcing),
        "sampler": ensemble.sampler,
        **ensemble.select.record(),
    }
    record |= {"statistics": ensemble.statistics.record()} if ensemble.statistics is not None else {}
    return record | ({"initial": ensemble.known.record} if ensemble.known is not None else {})
