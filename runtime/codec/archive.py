"""Compression to an archive: a job that codes each chunk of a variable on the input's own grid."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fsae.runtime.archive.lookup import ORIGIN, archive_key, open_codec, origin_of
from fsae.runtime.archive.quality import Figures, Quality
from fsae.runtime.archive.xarray_engine import figures
from fsae.runtime.archive.zarr_codec import ARCHIVE, FsaeCodec, grid_facts, register
from fsae.runtime.arguments import refused
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.sources import Given, Source
from fsae.runtime.jobs.job import Done, Job
from fsae.runtime.output.layout import Cells, Layout, Unit
from fsae.runtime.output.provenance import cf_attributes, provenance, read_attributes
from fsae.runtime.output.store import Attribute
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.grids import LatLonGrid

from .appended import no_earlier, open_earlier
from .encoder_input import Reading, open_input
from .source_climatology import TRAINING

STEPS = 60  # of a chunk
MOST_VALUES = 1 << 20  # of a chunk, which is memory


def archive_job(
    bundle: Bundle,
    graphs: Graphs,
    source: Given,
    reading: Reading,
    qualities: Mapping[str, Quality],
    append_to: Path | None = None,
) -> Job:
    """The fields in `source` as an archive of the quality that is asked of each variable.

    After those of the archive `append_to`, if that is given. DataError for input that the codec does not take, or that
    does not go on where the archive ends.
    """
    register()
    key, source = archive_key(bundle), Source.of(source)
    given = open_input(bundle, "compress", source, dataclasses.replace(reading, own_grid=True), graphs=graphs)
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
    made = {
        name: FsaeCodec(
            bundle=bundle.manifest.name, archive=key, variable=name, grid=grid_facts(grid), quality=asked[name]
        )
        for name in codecs
    }
    earlier = no_earlier(fields) if append_to is None else open_earlier(bundle, append_to, fields, made)
    steps = earlier.chunk or max(1, min(STEPS, MOST_VALUES // fields.grid.size, len(fields.times)))
    request = {**given.request, "quality": asked, **earlier.request}
    time = encode_times(*earlier.followed_by(fields), fields.calendar)
    layout = Layout(
        variables=cf_attributes(variables, read_attributes(given.origins)),
        attributes=provenance(bundle, graphs, request, given.notes, earlier.history or given.history)
        | {"fsae_kind": ARCHIVE, "fsae_archive_sha256": key, ORIGIN: origin_of(bundle)}
        | _sizes(bundle, source, earlier.input_bytes),
        time=time,
        grid=grid if isinstance(grid, LatLonGrid) else Cells(zoom=grid),
        members=fields.members,
        time_chunk=steps,
        codecs={name: codec.to_dict() for name, codec in made.items()},
        summary=_told,
    )

    def units(done: Done) -> Iterator[Unit]:
        for member in range(len(fields.members or (0,))):
            for first in range(0, layout.steps, steps):
                if done.has(member, first):
                    continue
                times = slice(first, min(first + steps, layout.steps))
                chunks = [earlier.chunk_of(name, member, first // steps) for name in codecs]
                new = slice(max(first - earlier.steps, 0), times.stop - earlier.steps)
                if new.stop > new.start:
                    values = fields.read(new, member if fields.members else None)[0]  # (time, variable, point)
                    for place, (name, codec) in enumerate(codecs.items()):
                        chunks[place] += codec.encode(values[:, place], fields.phase[new], qualities[name])[0]
                count = times.stop - times.start
                yield Unit(members=slice(member, member + 1), times=times, values=_nothing(count), chunks=tuple(chunks))

    return Job(layout=layout, units=units, notes=given.notes, close=given.close)


def archive_maker(
    path: Path,
    quality: Quality | Mapping[str, Quality] | None,
    bundle: Bundle,
    reading: Reading,
    append: bool,
) -> Callable[[Bundle, Graphs, Mapping[str, Any]], Job]:
    """The function that makes the job of an archive of its input, on any machine.

    Without a quality it is the one that the bundle has for archives.
    """
    asked = qualities_of(
        default_qualities(bundle) if quality is None else quality, [v.name for v in bundle.manifest.variables]
    )
    before = path if append and path.exists() else None

    def make(bundle: Bundle, graphs: Graphs, inputs: Mapping[str, Any]) -> Job:
        return archive_job(bundle, graphs, inputs["input"], reading, asked, before)

    return make


def default_qualities(bundle: Bundle) -> dict[str, Quality]:
    """The quality that archives have unless another is asked for, by variable; BundleError without a codec."""
    archive_key(bundle)
    return {name: Quality(rmse=rmse) for name, rmse in (bundle.manifest.archive_rmse or {}).items()}


def qualities_of(quality: Quality | Mapping[str, Quality], variables: Sequence[str]) -> dict[str, Quality]:
    """The quality of each variable; UsageError if one has none, or there is no such variable."""
    if isinstance(quality, Quality):
        return dict.fromkeys(variables, quality)
    if not isinstance(quality, Mapping) or not all(isinstance(one, Quality) for one in quality.values()):
        raise refused("quality", quality, "a Quality, or a dict with one of each variable", "Quality(rmse=0.2)")
    found = dict(quality)
    if set(found) != set(variables):
        raise UsageError(
            f"found a quality of {', '.join(sorted(map(str, found))) or 'no variable'}",
            f"one of each of {', '.join(variables)}",
            f"give it as in {variables[0]}=0.2",
        )
    return found


def archive_reading(reading: Reading) -> Reading:
    """How the input of an archive is read; UsageError for a climatology of its own, or another zoom."""
    if reading.climatology not in (None, TRAINING) or reading.zoom is not None:
        raise UsageError(
            f"found {'--zoom' if reading.zoom is not None else '--climatology'} for an archive",
            "none: archives hold the fields on their own grid, as anomalies from the training climatology",
            "leave it out, or give --lossless-latents",
        )
    return dataclasses.replace(reading, climatology=TRAINING)


def figure_facts(found: Figures) -> dict[str, float]:
    """The figures of a variable of an archive for JSON, in its unit."""
    return {
        "rmse": float(f"{found.rmse:.6g}"),
        "max_error": float(f"{found.largest:.6g}"),
        "ratio": float(f"{found.ratio:.6g}"),
        "bits_per_value": float(f"{found.bits_per_value:.6g}"),
        "values": found.values,
        "bytes": found.stored_bytes,
    }


def _told(store: Path) -> dict[str, Attribute]:
    """The attribute that tells the figures of a finished store."""
    return {"fsae_figures": json.dumps({name: figure_facts(one) for name, one in figures(store).items()})}


def _sizes(bundle: Bundle, source: Source, before: int) -> dict[str, Attribute]:
    """Bytes of the bundle, and of the input's files and those `before`, so that ratios can be told against them."""
    whole = sum((bundle.folder / name).stat().st_size for name in bundle.manifest.files)
    files = [file for path in source.paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return {"fsae_bundle_bytes": whole, **({"fsae_input_bytes": size + before} if size else {})}


def _nothing(steps: int) -> F32:
    return np.zeros((1, steps, 0, 0), dtype=np.float32)


def _facts(quality: Quality) -> dict[str, float | bool]:
    """A quality for JSON: what was asked for."""
    return {key: value for key, value in dataclasses.asdict(quality).items() if value}
