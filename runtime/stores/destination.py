"""Where a result goes: to a path, by one process, a shard of it or a cluster, or into a store."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fsae.runtime.arguments import of_kind
from fsae.runtime.arguments import path as path_like
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.codec.source_climatology import TRAINING
from fsae.runtime.errors import UsageError
from fsae.runtime.formats.addresses import is_address, is_store, open_address
from fsae.runtime.jobs.job import Job, Recipe, Writing
from fsae.runtime.jobs.resume import Output, to_file
from fsae.runtime.jobs.shards import WHOLE, Shard, pieces_of
from fsae.runtime.log import log
from fsae.runtime.output.marks import form_of
from fsae.runtime.output.selection import EVERYTHING, Selection, grid_files

if TYPE_CHECKING:
    from zarr.abc.store import Store

Destination: TypeAlias = "str | os.PathLike[str] | Store"  # a path, an address such as s3://bucket/tas.zarr, or a store
MakeResult: TypeAlias = Callable[[Bundle, Graphs, Mapping[str, Any]], Job]


def folder_of(destination: Destination) -> Path | None:
    """The folder that an output lies in; None for what lies in no folder."""
    if is_store(destination) or is_address(destination):
        return None
    return path_like("path", destination).absolute().parent


def as_writing(given: Writing) -> Writing:
    """The same; UsageError unless it is a Writing."""
    found: Writing = of_kind("writing", given, Writing, "a Writing", "Writing(overwrite=True)")
    return found


def write_result(
    make: MakeResult,
    inputs: Mapping[str, Any],
    destination: Destination,
    writing: Writing,
    session: tuple[Bundle, Graphs, int | None],
    select: Selection = EVERYTHING,
) -> Job:
    """Write what `make` makes of the inputs, which are without the keyword `training`, and return the job.

    The session is a bundle, its graphs, and the number of threads that it was asked for.
    """
    bundle, graphs, threads = session
    # the keyword, even if a file of that name exists
    files = {name: given for name, given in inputs.items() if not (isinstance(given, str) and given == TRAINING)}
    writing = as_writing(writing)
    recipe = Recipe(make=make, inputs=files, zarr_shards=writing.zarr_shards)
    place: Output | tuple[Store, str]
    if is_store(destination) or is_address(destination):
        place = _store_of(destination)
    else:
        read = {**files, "bundle": bundle.folder}
        if of_grid := grid_files(select):
            read["grid's file"] = of_grid
        path = path_like("path", destination)
        if writing.zarr_shards is not None and form_of(path) != "Zarr":
            raise UsageError(
                f"found shards of {path}", "a Zarr store", "leave out --shards, or name it such as out.zarr"
            )
        place = Output(path=path, overwrite=writing.overwrite, resume=writing.resume, inputs=read)
    job, done, scale = recipe.job(bundle, graphs), 0, writing.scale
    log_warnings(job.notes)
    pieces = pieces_of(job)
    total = pieces.fields(scale.part(pieces.count)) if isinstance(scale, Shard) else job.fields

    def count(fields: int) -> None:
        nonlocal done
        done += fields
        if writing.progress is not None:
            writing.progress(done, total)

    if isinstance(place, tuple):
        from .to_store import to_store

        to_store(job, *place, writing, inputs=recipe.inputs, progress=count)
        return job
    if scale is None or isinstance(scale, Shard):
        missing = to_file(job, place, scale or WHOLE, inputs=recipe.inputs, progress=count)
        return dataclasses.replace(job, missing=missing)
    from fsae.runtime.jobs.cluster import cluster_to_file

    cluster = dataclasses.replace(scale, threads=scale.threads or threads)
    cluster_to_file(job, place, cluster, recipe, (bundle, graphs), progress=count)
    return job


def check_address(address: str) -> None:
    """Raise UsageError for an address that is not that of a Zarr store, or cannot be written."""
    if not address.rstrip("/").endswith(".zarr"):
        raise UsageError(f"found the output {address}", "a name that ends in .zarr", "name it such as s3://b/out.zarr")
    open_address(address, write=True)


def _store_of(destination: Destination) -> "tuple[Store, str]":
    """A store, and its name in messages."""
    if not is_store(destination):
        address = str(destination)
        check_address(address)
        return open_address(address, write=True), address
    name = type(destination).__name__
    if destination.read_only or not destination.supports_listing or not destination.supports_deletes:
        raise UsageError(f"found {name} that is read only, or does not list or delete", advice="open it for writing")
    return destination, name


def log_warnings(notes: Iterable[str]) -> None:
    """Log notes as warnings."""
    for note in notes:
        log.warning(note)
