"""Compressing, decompressing and super-resolving data as jobs: read, run and given out in the same time chunks."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .calendar import infer_step, same_step
from .climatology import season
from .errors import DataError, UsageError
from .fields import Fields
from .grids import LatLonGrid
from .healpix import refine
from .inputs import READ_ERRORS, Paths, find_dates, member_dim, open_source, reason
from .jobs import (
    TIME_CHUNK,
    Job,
    checked,
    field_layout,
    nothing,
    phase_coordinate,
    provenance,
    seen,
    time_chunks,
)
from .joining import read_files
from .ledger import Finished
from .manifest import Variable, graph_file
from .output import Layout, Unit, encode_times
from .pyramid import level_mask
from .regrid import Weights, make_weights
from .selection import EVERYTHING, Selection, steps_inside, view_of
from .session import Graphs
from .source_climate import TRAINING, UNKNOWN, exchange, read_source
from .stores import F32

if TYPE_CHECKING:
    import xarray as xr

LATENT = "latent"


def latent_key(bundle: Bundle) -> str:
    """What a latent and the bundle that can decompress it have in common: a hash of encoder and decoder."""
    precision = bundle.manifest.precisions[0]
    graphs = [bundle.manifest.files[graph_file(graph, precision)].sha256 for graph in ("encoder", "decoder")]
    return hashlib.sha256(" ".join(graphs).encode()).hexdigest()


def open_fields(
    bundle: Bundle,
    source: "Paths | xr.Dataset",
    zoom: int | None = None,
    names: Mapping[str, str] | None = None,
) -> Fields:
    """The model's variables in a file, files or a dataset, which may call them otherwise: `names` maps names to those.

    Data on the training data's own grid is regridded by the bundle's own weights. Where stamps and bounds do not tell
    the step, as for one stamp alone, it is taken for the model's: a monthly mean stays one whatever its stamp.
    """
    unknown = sorted(set(names or {}) - {v.name for v in bundle.manifest.variables})
    if unknown:
        known = ", ".join(v.name for v in bundle.manifest.variables)
        raise UsageError(f"found names for {', '.join(unknown)}, expected for variables of the model: {known}")
    tables, finest = bundle.tables, bundle.manifest.grid.zoom

    def weights(grid: LatLonGrid, wanted_zoom: int, method: str) -> Weights:
        same = grid.shape == tables.source_shape and wanted_zoom == finest
        same = same and np.allclose(grid.lat_deg, tables.source_lat_deg, rtol=0, atol=1e-4)
        if same and np.allclose(grid.lon_deg, tables.source_lon_deg, rtol=0, atol=1e-4):
            return tables.to_healpix
        return make_weights(grid, wanted_zoom, method)

    fields = read_files(
        source, bundle.manifest.variables, zoom=zoom, finest_zoom=finest, names=names, make_weights=weights
    )
    return dataclasses.replace(fields, step=fields.step or bundle.manifest.time.step)


def found_step(fields: Fields) -> str | None:
    """The time that the data is averaged over, or its step; bounds tell better than stamps."""
    if fields.bounds is not None:  # one month of every year has stamps a year apart
        return infer_step(fields.times[:1], fields.bounds[:1]) or fields.step
    return fields.step


def step_note(bundle: Bundle, fields: Fields) -> tuple[str, ...]:
    """A warning where the data is averaged over other steps than the model's."""
    known, found = bundle.manifest.time.step, found_step(fields)
    if found is None or same_step(found, known):
        return ()
    return (
        f"The input's time step is {found}, the model was trained on {known}: its fields vary otherwise than those the "
        "model has learned.",
    )


@dataclass(frozen=True, kw_only=True)
class Input:
    """Fields on their way into the encoder: adapted to the training source's climate, with notes and the record."""

    fields: Fields
    phase: NDArray[np.float64]  # (time)
    own: F32 | None  # the source's own climatology at the fields' zoom
    notes: tuple[str, ...]
    request: dict[str, str | int | None]
    close: Callable[[], None]


def open_input(
    bundle: Bundle,
    verb: str,
    source: "Paths | xr.Dataset",
    zoom: int | None,
    climatology: "str | os.PathLike[str] | xr.Dataset | None",
    names: Mapping[str, str] | None,
) -> Input:
    """The fields of a source, and what is known of its climate: a climatology of its own, "training", or nothing."""
    fields = open_fields(bundle, source, zoom, names)
    own, name = None, None
    if isinstance(climatology, str) and climatology == TRAINING:
        name = TRAINING
    elif climatology is not None:
        own = read_source(climatology, bundle, fields.zoom)
        name = os.path.basename(climatology) if isinstance(climatology, str | os.PathLike) else "dataset"
    return Input(
        fields=fields,
        phase=fields.phase,
        own=own,
        notes=((UNKNOWN,) if climatology is None else ()) + fields.notes + step_note(bundle, fields),
        request={"verb": verb, "input": fields.source, "zoom": fields.zoom, "climatology": name},
        close=fields.close,
    )


def encode(bundle: Bundle, graphs: Graphs, given: Input, values: F32, times: slice) -> tuple[F32, F32]:
    """Latents (time, variable, latent pixel) and seasons (time, 2K) of the input's `values` at `times`.

    Fields coarser than the model enter with each cell repeated, their finer levels masked.
    """
    manifest, zoom = bundle.manifest, given.fields.zoom
    if given.own is not None:
        values = exchange(values, given.phase[times], given.own, bundle)
    whole = refine(values, manifest.grid.zoom - zoom)
    seasons = season(given.phase[times], manifest.time.harmonics)
    masks = np.repeat(level_mask(manifest.zooms, zoom)[None], len(whole), axis=0)
    return graphs.encode(whole, seasons, masks), seasons


def _latents(
    bundle: Bundle, graphs: Graphs, given: Input, done: Finished, steps: slice | None = None
) -> Iterator[tuple[Unit, F32]]:
    """Units of latents and their seasons, one member and time chunk at a time, but for those that are done.

    Of the input's `steps`, all by default, which the units count from 0.
    """
    fields = given.fields
    first, end, _ = (steps or slice(None)).indices(len(fields.times))
    for member in range(len(fields.members or (0,))):
        for times in time_chunks(end - first):
            if done.has(member, times.start):
                continue
            there = slice(first + times.start, first + times.stop)
            values = fields.read(there, member if fields.members else None)[0]  # (time, variable, pixel)
            latent, seasons = encode(bundle, graphs, given, values, there)
            yield Unit(members=slice(member, member + 1), times=times, values=latent[None]), seasons


def compress_job(
    bundle: Bundle,
    graphs: Graphs,
    source: "Paths | xr.Dataset",
    *,
    zoom: int | None = None,
    climatology: "str | os.PathLike[str] | xr.Dataset | None" = None,
    names: Mapping[str, str] | None = None,
) -> Job:
    """Latents (time, cell) in float32 of the fields in `source`."""
    given = open_input(bundle, "compress", source, zoom, climatology, names)
    fields, manifest = given.fields, bundle.manifest
    attributes = provenance(bundle, graphs, given.request, given.notes)
    attributes |= {"fsae_kind": LATENT, "fsae_latent_key": latent_key(bundle)}
    layout = Layout(
        variables={v.name: {"long_name": f"compressed {v.long_name}", "units": "1"} for v in manifest.variables},
        attributes=attributes,
        time=encode_times(fields.times, fields.bounds, fields.calendar),
        zoom=manifest.latent.zoom,
        members=fields.members,
        time_chunk=TIME_CHUNK,
        extra=(phase_coordinate(given.phase),),
    )

    def units(done: Finished) -> Iterator[Unit]:
        for unit, _ in _latents(bundle, graphs, given, done):
            yield checked(unit)

    return Job(layout=layout, units=units, notes=given.notes, close=given.close)


def superres_job(
    bundle: Bundle,
    graphs: Graphs,
    source: "Paths | xr.Dataset",
    *,
    zoom: int | None = None,
    climatology: "str | os.PathLike[str] | xr.Dataset | None" = None,
    names: Mapping[str, str] | None = None,
    select: Selection = EVERYTHING,
) -> Job:
    """Fields at the model's zoom from coarser ones: the ordinary path with every finer level masked."""
    view = view_of(bundle, select)
    given = open_input(bundle, "superres", source, zoom, climatology, names)
    fields, notes, finest = given.fields, given.notes, bundle.manifest.grid.zoom
    if fields.zoom == finest:
        notes += (f"The input is at zoom {finest} already, so nothing is added to it: --zoom makes it coarser first.",)
    steps = steps_inside(fields.times, select.times, fields.source)
    attributes = provenance(bundle, graphs, {**given.request, **select.record()}, notes)
    time = encode_times(fields.times[steps], fields.bounds and fields.bounds[steps], fields.calendar)
    layout = field_layout(view, time, fields.members, attributes)

    def units(done: Finished) -> Iterator[Unit]:
        for unit, seasons in _latents(bundle, graphs, given, done, steps):
            values = graphs.decode(unit.values[0], seasons)[None]
            yield seen(view, Unit(members=unit.members, times=unit.times, values=values))

    return Job(layout=layout, units=units, notes=notes, close=given.close)


def _check_latents(bundle: Bundle, dataset: "xr.Dataset", name: str) -> None:
    """DataError where a dataset is not what this bundle's `compress` writes."""
    manifest = bundle.manifest
    if dataset.attrs.get("fsae_kind") != LATENT:
        raise DataError(f"{name} holds no latents: give what `fsae-run compress` wrote")
    if dataset.attrs.get("fsae_latent_key") != latent_key(bundle):
        made_by = dataset.attrs.get("fsae_bundle", "another one")
        raise DataError(
            f"{name} was compressed with bundle {made_by!r} in another version than {manifest.name!r} at "
            f"{bundle.folder}: give the bundle it was made with as --model"
        )
    missing = sorted(
        {"time", "year_phase", *(v.name for v in manifest.variables)} - {str(n) for n in dataset.variables}
    )
    if missing:
        raise DataError(f"{name} lacks the variables {missing}: compress the data again")
    for variable in manifest.variables:
        array = dataset[variable.name]
        if array.dims[-2:] != ("time", "cell") or array.sizes["cell"] != manifest.latent.shape[1]:
            raise DataError(
                f"{variable.name} in {name} has the shape {dict(array.sizes)}, expected (time, cell) with "
                f"{manifest.latent.shape[1]} cells: compress the data again"
            )


def _check_finite(latent: F32, variables: Sequence[Variable], name: str) -> None:
    """DataError naming the variables whose latents (time, variable, pixel) are missing or infinite in some step."""
    bad = [variable.name for v, variable in enumerate(variables) if not np.isfinite(latent[:, v]).all()]
    if bad:
        raise DataError(
            f"{name} holds latents of {', '.join(bad)} that are not finite, expected a number in every cell, as each "
            "variable is decoded with the help of all: the store is incomplete, compress the data again"
        )


def decompress_job(
    bundle: Bundle, graphs: Graphs, source: "Paths | xr.Dataset", *, select: Selection = EVERYTHING
) -> Job:
    """Fields in physical units, at the times of the latents in `source`."""
    view = view_of(bundle, select)
    dataset, name = open_source(source)
    _check_latents(bundle, dataset, name)
    manifest = bundle.manifest
    arrays = [dataset[v.name] for v in manifest.variables]
    member = member_dim(arrays[0])
    dates = find_dates(arrays[0], dataset, name)
    try:
        members = tuple(int(m) for m in dataset[member].values) if member is not None else None
        phase = np.asarray(dataset["year_phase"].values, dtype=np.float64)
    except READ_ERRORS as error:
        raise DataError(f"cannot read {name}: {reason(error)}; is it damaged or incomplete?") from None
    if phase.shape != (len(dates.stamps),) or not np.isfinite(phase).all():
        raise DataError(f"{name} has no phase of the year for every step: it is incomplete, compress again")
    notes = tuple(filter(None, [str(dataset.attrs.get("comment", ""))]))  # what was said of the latents holds on
    attributes = provenance(bundle, graphs, {"verb": "decompress", "input": name, **select.record()}, notes)
    steps = steps_inside(dates.stamps, select.times, name)
    stamps, bounds = dates.stamps[steps], dates.bounds and dates.bounds[steps]
    layout = field_layout(view, encode_times(stamps, bounds, str(stamps[0].calendar)), members, attributes)

    def units(done: Finished) -> Iterator[Unit]:
        for place in range(len(members or (0,))):
            here = {member: place} if member is not None else {}
            for times in time_chunks(len(stamps)):
                if done.has(place, times.start):
                    continue
                there = slice(steps.start + times.start, steps.start + times.stop)
                try:
                    parts = [array.isel({**here, "time": there}).values for array in arrays]
                except READ_ERRORS as error:
                    raise DataError(f"cannot read {name}: {reason(error)}; is it damaged or incomplete?") from None
                latent = np.stack(parts, axis=1).astype(np.float32)  # (time, variable, latent pixel)
                _check_finite(latent, manifest.variables, name)
                values = graphs.decode(latent, season(phase[there], manifest.time.harmonics))[None]
                yield seen(view, Unit(members=slice(place, place + 1), times=times, values=values))

    close = dataset.close if isinstance(source, str | os.PathLike) else nothing
    return Job(layout=layout, units=units, close=close)
