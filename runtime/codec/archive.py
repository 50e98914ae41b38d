"""Compression to an archive: a job that codes each chunk of a variable on the input's own grid."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fsae.runtime.archive.lookup import archive_key, open_codec
from fsae.runtime.archive.quality import Figures, Quality
from fsae.runtime.archive.zarr_codec import FsaeCodec, grid_facts, register
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.sources import Given
from fsae.runtime.jobs.job import Done, Job
from fsae.runtime.output.layout import Cells, Layout, Unit
from fsae.runtime.output.marks import is_netcdf
from fsae.runtime.output.provenance import cf_attributes, provenance, read_attributes
from fsae.runtime.sphere.grids import LatLonGrid

from .encoder_input import Reading, open_input
from .source_climatology import TRAINING

ARCHIVE = "archive"  # attribute fsae_kind
STEPS = 60  # of a chunk
MOST_VALUES = 1 << 20  # of a chunk, which is memory


def archive_job(
    bundle: Bundle, graphs: Graphs, source: Given, reading: Reading, qualities: Mapping[str, Quality]
) -> Job:
    """The fields in `source` as an archive of the quality that is asked of each variable.

    DataError for input that the codec does not take.
    """
    register()
    key = archive_key(bundle)
    given = open_input(bundle, "compress", source, dataclasses.replace(reading, own_grid=True))
    fields, variables = given.points, bundle.manifest.variables
    if fields is None or given.reference_times is not None:
        raise DataError(
            f"{given.fields.name} holds forecasts of several reference times",
            "one series of steps",
            "select one of them, or give --lossless-latents",
        )
    grid = fields.grid if isinstance(fields.grid, LatLonGrid) else fields.grid.zoom
    codecs = {v.name: open_codec(bundle, v.name, grid) for v in variables}
    asked = {name: _facts(quality) for name, quality in qualities.items()}
    configurations = {
        name: FsaeCodec(
            bundle=bundle.manifest.name, archive=key, variable=name, grid=grid_facts(grid), quality=asked[name]
        ).to_dict()
        for name in codecs
    }
    steps = max(1, min(STEPS, MOST_VALUES // fields.grid.size, len(fields.times)))
    attributes = provenance(bundle, graphs, {**given.request, "quality": asked}, given.notes, given.history)
    layout = Layout(
        variables=cf_attributes(variables, read_attributes(given.origins)),
        attributes=attributes | {"fsae_kind": ARCHIVE, "fsae_archive_sha256": key},
        time=given.time(),
        grid=grid if isinstance(grid, LatLonGrid) else Cells(zoom=grid),
        members=fields.members,
        time_chunk=steps,
        codecs=configurations,
    )
    figures = {name: Figures() for name in codecs}

    def units(done: Done) -> Iterator[Unit]:
        for member in range(len(fields.members or (0,))):
            for first in range(0, len(fields.times), steps):
                if done.has(member, first):
                    continue
                times = slice(first, min(first + steps, len(fields.times)))
                values = fields.read(times, member if fields.members else None)[0]  # (time, variable, point)
                chunks = []
                for place, (name, codec) in enumerate(codecs.items()):
                    data, found = codec.encode(values[:, place], fields.phase[times], qualities[name])
                    figures[name] += found
                    chunks.append(data)
                count = times.stop - times.start
                yield Unit(members=slice(member, member + 1), times=times, values=_nothing(count), chunks=tuple(chunks))

    return Job(layout=layout, units=units, notes=given.notes, close=given.close, figures=figures)


def archive_maker(
    path: Path,
    quality: Quality | Mapping[str, Quality],
    bundle: Bundle,
    names: Mapping[str, str] | None,
    force: bool,
) -> Callable[[Bundle, Graphs, Mapping[str, Any]], Job]:
    """The function that makes the job of an archive of its input, on any machine; UsageError for a path of NetCDF."""
    if is_netcdf(path):
        raise UsageError(f"found the output {path}", "a name that ends in .zarr", "archives are Zarr stores")
    asked = qualities_of(quality, [v.name for v in bundle.manifest.variables])

    def make(bundle: Bundle, graphs: Graphs, inputs: Mapping[str, Any]) -> Job:
        reading = Reading(climatology=TRAINING, names=names, force=force)
        return archive_job(bundle, graphs, inputs["input"], reading, asked)

    return make


def qualities_of(quality: Quality | Mapping[str, Quality], variables: Sequence[str]) -> dict[str, Quality]:
    """The quality of each variable; UsageError if one has none, or there is no such variable."""
    found = dict.fromkeys(variables, quality) if isinstance(quality, Quality) else dict(quality)
    if sorted(found) != sorted(variables):
        raise UsageError(
            f"found a quality of {', '.join(sorted(found)) or 'no variable'}",
            f"one of each of {', '.join(variables)}",
            f"give it as in {variables[0]}=0.2",
        )
    return found


def _nothing(steps: int) -> F32:
    return np.zeros((1, steps, 0, 0), dtype=np.float32)


def _facts(quality: Quality) -> dict[str, float | bool]:
    """A quality for JSON: what was asked for."""
    return {key: value for key, value in dataclasses.asdict(quality).items() if value}
