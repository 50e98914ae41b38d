"""Compression and super-resolution as jobs that read, compute and yield the same time chunks."""

from collections.abc import Iterator

from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.input.sources import Given
from fsae.runtime.jobs.job import Done, Job, checked, seen, time_chunks
from fsae.runtime.output.layout import TIME_CHUNK, Cells, Layout, Unit
from fsae.runtime.output.provenance import cf_attributes, phase_coordinate, provenance, read_attributes
from fsae.runtime.output.selection import EVERYTHING, Selection, steps_inside, view_of

from .encoder_input import Input, Reading, check_no_times, encode, open_input
from .latents import LATENT, latent_key


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
    given = open_input(bundle, "compress", source, reading, graphs=graphs)
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
    given = open_input(bundle, "superres", source, reading, graphs=graphs)
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
