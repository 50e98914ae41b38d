"""Decompression as a job: fields of latents, which are refused if they were edited."""

import contextlib
from collections.abc import Iterator
from typing import Any

from fsae.runtime.archive.zarr_codec import ARCHIVE
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.climate.calendar import infer_step
from fsae.runtime.climate.climatology import season
from fsae.runtime.errors import DataError
from fsae.runtime.input.dates import Dates
from fsae.runtime.input.sources import Given, Opened, Source, open_source
from fsae.runtime.jobs.job import Done, Job, seen, time_chunks
from fsae.runtime.output.layout import TIME_CHUNK, Layout, Unit
from fsae.runtime.output.provenance import cf_attributes, kept_attributes, provenance
from fsae.runtime.output.selection import EVERYTHING, Selection, steps_inside, view_of
from fsae.runtime.output.times import TimeAxis, encode_series

from .edited import Decoded, check_edited, in_one
from .encoder_input import check_no_times
from .latents import Latents, read_latents, went_on_with
from .plausibility import spread_out, went_on
from .restored import restored_job

NO_CHECKSUM = (
    "{} has no checksum, or was changed by another program since it had one: edits that leave its latents looking like "
    "those of real fields would not be seen."
)


def decompress_job(
    bundle: Bundle, graphs: Graphs, source: Given, *, select: Selection = EVERYTHING, force: bool = False
) -> Job:
    """Fields in physical units, at the times of the latents or the archive in `source`.

    Latents without a checksum are refused if they seem to be edited, unless `force` is given.
    """
    view = view_of(bundle, select)
    with contextlib.ExitStack() as closing:
        dataset, name = closing.enter_context(open_source(source))
        if dataset.attrs.get("fsae_kind") == ARCHIVE:
            return restored_job(bundle, graphs, Opened(dataset, name), select, closing.pop_all().close)
        latents = read_latents(bundle, Source.of(source), dataset, name)
        if latents.reference_times is not None:
            check_no_times(select.times)
        steps = steps_inside(latents.dates[0].stamps, select.times, name)
        checking = not latents.unchanged and not went_on_with(dataset)
        step = step_of(latents.dates[0], bundle.manifest)
        notes: tuple[str, ...] = () if latents.unchanged or not Source.of(source).paths else (NO_CHECKSUM.format(name),)
        if checking:
            try:
                check_edited(bundle, _first_look(bundle, graphs, latents, steps), step, name)
            except DataError as error:
                if not force:
                    raise
                notes += (went_on(error),)
        forced = {"force": True} if force else {}
        request: dict[str, Any] = {"verb": "decompress", "input": name, **select.record(), **forced}
        said = filter(None, [str(dataset.attrs.get("comment", "")), *notes])  # about the latents: true of the fields
        history = str(dataset.attrs.get("history", ""))
        layout = Layout(
            variables=cf_attributes(view.variables, kept_attributes(dataset)),
            attributes=provenance(bundle, graphs, request, tuple(said), history),
            time=_time(latents, steps),
            grid=view.grid,
            members=latents.members,
            reference_times=latents.reference_times,
            time_chunk=TIME_CHUNK,
        )

        def units(done: Done) -> Iterator[Unit]:
            for row in range(latents.rows):
                for times in time_chunks(steps.stop - steps.start):
                    if done.has(row, times.start):
                        continue
                    there = slice(steps.start + times.start, steps.start + times.stop)
                    part = _decoded(bundle, graphs, latents, row, there)
                    if checking and not force:
                        check_edited(bundle, part, step, name)
                    unit = Unit(members=slice(row, row + 1), times=times, values=part.values[None])
                    yield seen(view, unit, layout)

        return Job(layout=layout, units=units, notes=notes, close=closing.pop_all().close)


def step_of(dates: Dates, manifest: Manifest) -> str | None:
    """The step that fields are means over, the model's if their dates do not tell; None if they may be instants."""
    found = infer_step(dates.stamps, dates.bounds)
    return found if found is not None or dates.bounds is None else manifest.time.step


def _time(latents: Latents, steps: slice) -> TimeAxis:
    """The encoded times of some steps of all series."""
    stamps = [dates.stamps[steps] for dates in latents.dates]
    bounds = [dates.bounds and dates.bounds[steps] for dates in latents.dates]
    return encode_series(stamps, bounds, str(latents.dates[0].stamps[0].calendar), latents.reference_times)


def _decoded(bundle: Bundle, graphs: Graphs, latents: Latents, row: int, there: slice) -> Decoded:
    """Some steps of a row."""
    start = row % len(latents.series)
    latent, phase = latents.read(row, there), latents.phases[start, there]
    return Decoded(
        latent=latent,
        values=graphs.decode(latent, season(phase, bundle.manifest.time.harmonics)),
        phase=phase,
        labels=tuple(stamp.isoformat() for stamp in latents.dates[start].stamps[there]),
    )


def _first_look(bundle: Bundle, graphs: Graphs, latents: Latents, steps: slice) -> Decoded:
    """Some of the steps, which are looked at before the work begins."""
    parts, count = list[Decoded](), steps.stop - steps.start
    for place in spread_out(latents.rows * count):
        row, step = divmod(place, count)
        parts.append(_decoded(bundle, graphs, latents, row, slice(steps.start + step, steps.start + step + 1)))
    return in_one(parts)
