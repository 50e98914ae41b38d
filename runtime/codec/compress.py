"""Compression, decompression and super-resolution as jobs that read, compute and yield the same time chunks."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.climatology import season
from fsae.runtime.errors import DataError
from fsae.runtime.input.dates import decode_dates, find_dates
from fsae.runtime.input.sources import READ_ERRORS, Given, Source, open_source, reason
from fsae.runtime.input.variables import member_dim
from fsae.runtime.jobs.job import Done, Job, checked, seen, time_chunks
from fsae.runtime.output.layout import TIME_CHUNK, Cells, Layout, Unit
from fsae.runtime.output.provenance import (
    cf_attributes,
    kept_attributes,
    phase_coordinate,
    provenance,
    read_attributes,
)
from fsae.runtime.output.selection import EVERYTHING, Selection, steps_inside, view_of
from fsae.runtime.output.times import LEAD, REFERENCE, ReferenceTimes, encode_series, encode_times

from .encoder_input import Input, Reading, check_no_times, encode, open_input
from .latents import (
    LATENT,
    check_decoded,
    check_finite,
    check_latents,
    check_members,
    check_phases,
    check_unchanged,
    latent_key,
    went_on_with,
)

if TYPE_CHECKING:
    import xarray as xr


def _latents(
    bundle: Bundle, graphs: Graphs, given: Input, done: Done, steps: slice | None = None
) -> Iterator[tuple[Unit, F32]]:
    """Units of latents and their seasons, one row and time chunk at a time, but for those that are done.

    Of the input's `steps`, all by default, which the units count from 0.
    """
    first, end, _ = (steps or slice(None)).indices(len(given.fields.times))
    phases = given.phase.reshape(len(given.series), -1)  # (start, time)
    for row in range(len(given.fields.members or (0,)) * len(given.series)):
        member, start = divmod(row, len(given.series))
        fields = given.series[start]
        for times in time_chunks(end - first):
            if done.has(row, times.start):
                continue
            there = slice(first + times.start, first + times.stop)
            values = fields.read(there, member if fields.members else None)[0]  # (time, variable, pixel)
            given.check(bundle.manifest, values, fields, there)
            latent, seasons = encode(bundle, graphs, given, values, phases[start, there])
            yield Unit(members=slice(row, row + 1), times=times, values=latent[None]), seasons


def compress_job(
    bundle: Bundle,
    graphs: Graphs,
    source: Given,
    reading: Reading,
) -> Job:
    """Latents (time, cell) in float32 of the fields in `source`."""
    given = open_input(bundle, "compress", source, reading)
    manifest = bundle.manifest
    attributes = provenance(bundle, graphs, given.request, given.notes, given.history)
    read = read_attributes(given.origins)
    attributes |= {"fsae_kind": LATENT, "fsae_latent_key": latent_key(bundle)}
    layout = Layout(
        variables={
            v.name: {"long_name": f"compressed {v.long_name}", "units": "1", **read[v.name]} for v in manifest.variables
        },
        attributes=attributes,
        time=given.time(),
        grid=Cells(zoom=manifest.latent.zoom),
        members=given.fields.members,
        reference_times=given.reference_times,
        time_chunk=TIME_CHUNK,
        extra=(phase_coordinate(given.phase),),
    )

    def units(done: Done) -> Iterator[Unit]:
        for unit, _ in _latents(bundle, graphs, given, done):
            yield checked(unit, layout, manifest.variables)

    return Job(layout=layout, units=units, notes=given.notes, close=given.close)


def superres_job(
    bundle: Bundle,
    graphs: Graphs,
    source: Given,
    reading: Reading,
    *,
    select: Selection = EVERYTHING,
) -> Job:
    """Fields at the model's zoom from coarser ones: the ordinary path with every finer level masked."""
    view = view_of(bundle, select)
    given = open_input(bundle, "superres", source, reading)
    fields, notes, finest = given.fields, given.notes, bundle.manifest.grid.zoom
    if fields.zoom == finest:
        notes += (f"The input is at zoom {finest} already, so nothing is added to it: --zoom makes it coarser first.",)
    if given.reference_times is not None:
        check_no_times(select.times)
    steps = steps_inside(fields.times, select.times, fields.source)
    attributes = provenance(bundle, graphs, {**given.request, **select.record()}, notes, given.history)
    layout = Layout(
        variables=cf_attributes(view.variables, read_attributes(given.origins)),
        attributes=attributes,
        time=given.time(steps),
        grid=view.grid,
        members=fields.members,
        reference_times=given.reference_times,
        time_chunk=TIME_CHUNK,
    )

    def units(done: Done) -> Iterator[Unit]:
        for unit, seasons in _latents(bundle, graphs, given, done, steps):
            values = graphs.decode(unit.values[0], seasons)[None]
            yield seen(view, Unit(members=unit.members, times=unit.times, values=values), layout)

    return Job(layout=layout, units=units, notes=notes, close=given.close)


def _series(dataset: "xr.Dataset") -> "list[xr.Dataset]":
    """Latents along `time`, those of each start by themselves."""
    if REFERENCE not in dataset.dims:
        return [dataset]
    count = dataset.sizes[REFERENCE]
    return [dataset.isel({REFERENCE: place}).swap_dims({LEAD: "time"}) for place in range(count)]


def _reference_times(dataset: "xr.Dataset", name: str) -> ReferenceTimes | None:
    """The reference times of latents of several forecasts; None if there are none."""
    if REFERENCE not in dataset.dims:
        return None
    axis, lead = dataset.variables[REFERENCE], dataset.variables[LEAD]
    references = decode_dates(axis, axis, f"the reference times of {name}")
    leads = np.asarray(lead.values, dtype=np.float64)
    units = str(lead.attrs.get("units", "1"))
    times = encode_times(references, None, str(references[0].calendar))
    return ReferenceTimes(times=times, leads=leads, lead_units=units)


def decompress_job(bundle: Bundle, graphs: Graphs, source: Given, *, select: Selection = EVERYTHING) -> Job:
    """Fields in physical units, at the times of the latents in `source`."""
    view, closing = view_of(bundle, select), contextlib.ExitStack()
    dataset, name = closing.enter_context(open_source(source))
    check_latents(bundle, dataset, name)
    manifest = bundle.manifest
    series, reference_times = _series(dataset), _reference_times(dataset, name)
    arrays = [[own[v.name] for v in manifest.variables] for own in series]  # (start, variable)
    member = member_dim(arrays[0][0])
    dates = [find_dates(one[0], own, name) for one, own in zip(arrays, series, strict=True)]
    try:
        members = tuple(int(m) for m in dataset[member].values) if member is not None else None
        phase = np.asarray(dataset["year_phase"].values, dtype=np.float64)
    except READ_ERRORS as error:
        raise DataError(f"cannot read {name}: {reason(error)}; is it damaged or incomplete?") from None
    stamps = dates[0].stamps
    if phase.size != len(series) * len(stamps) or not np.isfinite(phase).all():
        raise DataError(f"{name} has no phase of the year for every step: it is incomplete, compress again")
    phases = phase.reshape(len(series), -1)  # (start, time)
    check_phases(phases, dates, manifest, name)
    check_members(members, name)
    check_unchanged(Source.of(source), dataset, manifest)
    notes = tuple(
        filter(None, [str(dataset.attrs.get("comment", ""))])
    )  # warnings about the latents hold for the fields too
    request, history = {"verb": "decompress", "input": name, **select.record()}, str(dataset.attrs.get("history", ""))
    attributes = provenance(bundle, graphs, request, notes, history)
    if reference_times is not None:
        check_no_times(select.times)
    steps, calendar = steps_inside(stamps, select.times, name), str(stamps[0].calendar)
    count = steps.stop - steps.start
    bounds = [own.bounds and own.bounds[steps] for own in dates]
    time = encode_series([own.stamps[steps] for own in dates], bounds, calendar, reference_times)
    layout = Layout(
        variables=cf_attributes(view.variables, kept_attributes(dataset)),
        attributes=attributes,
        time=time,
        grid=view.grid,
        members=members,
        reference_times=reference_times,
        time_chunk=TIME_CHUNK,
    )

    forced = went_on_with(dataset)

    def decoded(row: int, there: slice) -> F32:
        """Fields (time, variable, pixel) of some steps of a series."""
        place, start = divmod(row, len(series))
        here = {member: place} if member is not None else {}
        try:
            parts = [array.isel({**here, "time": there}).values for array in arrays[start]]
        except READ_ERRORS as error:
            raise DataError(f"cannot read {name}: {reason(error)}; is it damaged or incomplete?") from None
        latent = np.stack(parts, axis=1).astype(np.float32)  # (time, variable, latent pixel)
        check_finite(latent, manifest.variables, name)
        return graphs.decode(latent, season(phases[start, there], manifest.time.harmonics))

    def units(done: Done) -> Iterator[Unit]:
        for row in range(len(members or (0,)) * len(series)):
            for times in time_chunks(count):
                if done.has(row, times.start):
                    continue
                first = steps.start + times.start
                values = decoded(row, slice(first, steps.start + times.stop))
                if not forced:
                    check_decoded(bundle, values[:1], dates[row % len(series)], first, name)
                yield seen(view, Unit(members=slice(row, row + 1), times=times, values=values[None]), layout)

    return Job(layout=layout, units=units, close=closing.close)
