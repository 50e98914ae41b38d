"""Fields of an archive, restored on their own grid."""

import dataclasses
from collections.abc import Callable, Iterator

from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import UsageError
from fsae.runtime.input.sources import Opened
from fsae.runtime.jobs.job import Done, Job, time_chunks
from fsae.runtime.output.layout import TIME_CHUNK, Cells, Layout, Unit
from fsae.runtime.output.provenance import cf_attributes, kept_attributes, provenance
from fsae.runtime.output.selection import EVERYTHING, Selection, check_axes_stay, steps_inside
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.grids import LatLonGrid

from .encoder_input import own_points


def restored_job(bundle: Bundle, graphs: Graphs, archive: Opened, select: Selection, close: Callable[[], None]) -> Job:
    """The fields of an opened archive, at the `times` selected; UsageError for other selections.

    What the archive promises of its errors holds on its own grid, so it is not left here.
    """
    if dataclasses.replace(select, times=None, centres=True) != EVERYTHING:
        raise UsageError(
            f"found a part or a grid for {archive.name}, an archive",
            "none but --times, since its errors are those on its own grid",
            "leave it out, and select and regrid the output",
        )
    fields = own_points(bundle, archive.name, [archive])
    steps = steps_inside(fields.times, select.times, archive.name)
    request = {"verb": "decompress", "input": archive.name, **({"times": select.times} if select.times else {})}
    history = str(archive.dataset.attrs.get("history", ""))
    if isinstance(fields.grid, LatLonGrid):
        check_axes_stay(select, f"the {fields.grid} of {archive.name}", "leave --no-centres out")
        grid: Cells | LatLonGrid = fields.grid
    else:
        grid = Cells(zoom=fields.grid.zoom, centres=select.centres)
    layout = Layout(
        variables=cf_attributes(bundle.manifest.variables, kept_attributes(archive.dataset)),
        attributes=provenance(bundle, graphs, request, (), history),
        time=encode_times(fields.times[steps], fields.periods and fields.periods[steps], fields.calendar),
        grid=grid,
        members=fields.members,
        time_chunk=TIME_CHUNK,
    )

    def units(done: Done) -> Iterator[Unit]:
        for member in range(len(fields.members or (0,))):
            for times in time_chunks(steps.stop - steps.start):
                if done.has(member, times.start):
                    continue
                there = slice(steps.start + times.start, steps.start + times.stop)
                values = fields.read(there, member if fields.members else None)
                yield Unit(members=slice(member, member + 1), times=times, values=values)

    return Job(layout=layout, units=units, close=close)
