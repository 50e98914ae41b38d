"""The Python interface: a bundle on a device, and its operations on xarray objects or, streamed, on files."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsae.runtime.arguments import of_kind, refused, switch, text, whole
from fsae.runtime.arguments import path as path_like
from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.devices import DEVICES, MOST_THREADS
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.checks.verify import Check, check_files, check_graphs, missed, record_checks
from fsae.runtime.codec.compress import compress_job, superres_job
from fsae.runtime.codec.decompress import decompress_job
from fsae.runtime.codec.encoder_input import AS_IT_IS, Reading, open_fields, reading_for
from fsae.runtime.codec.source_climatology import TRAINING, write_source
from fsae.runtime.ensemble.batch import Batch, memory_limit
from fsae.runtime.ensemble.generate import generate_job, resolve
from fsae.runtime.ensemble.request import DEFAULT_MEMBERS, Request
from fsae.runtime.errors import UsageError
from fsae.runtime.input.sources import Given, Source
from fsae.runtime.jobs.job import NEW, Job, Writing
from fsae.runtime.jobs.results import in_memory, is_lazy, lazily, stream
from fsae.runtime.output.files import check_output
from fsae.runtime.output.selection import EVERYTHING, Selection
from fsae.runtime.stores.destination import Destination, MakeResult, as_writing, folder_of, log_warnings, write_result

from .log import log

if TYPE_CHECKING:
    import xarray as xr

    from .archive.quality import Quality


PathLike = str | os.PathLike[str]
MakeJob = Callable[[Bundle, Graphs], Job]


def load(
    model: PathLike | None = None,
    device: str = "auto",
    *,
    precision: str | None = None,
    threads: int | None = None,
) -> "Emulator":
    """An emulator: a bundle (path or name; default the newest exported to ./engines, else the shipped one) on a device.

    `device` is cpu, cuda, trt, trt-rtx or auto; a named one is used or DeviceError is raised. `precision` is one that
    the bundle has of fp32, fp16, bf16 and int8, by default fp32 or else its first. Which bundle and device were
    chosen, and every warning, go to the logger "fsae".
    """
    text("device", device, f"one of {', '.join(DEVICES)}", "'cpu'")
    if threads is not None and not 1 <= (threads := whole("threads", threads)) <= MOST_THREADS:
        raise UsageError(f"found {threads} threads", f"1 to {MOST_THREADS}", "leave threads out for all cores")
    bundle = open_bundle(model if model is None else path_like("model", model))
    log.info(f"bundle {bundle.manifest.name} ({bundle.folder})")
    known = bundle.manifest.precisions
    precision = known[0] if precision is None else text("precision", precision, f"one of {', '.join(known)}", "'fp32'")
    graphs = open_graphs(bundle, device, precision=precision, threads=threads)
    return Emulator(bundle, graphs, threads=threads)


class Emulator:
    """A bundle on a device. Datasets in and out are CF: variables by the model's names or standard names.

    `compress`, `decompress` and `superres` turn a dataset of dask arrays into one of dask arrays, in chunks of
    `TIME_CHUNK` steps of a member. They are read and computed on access, so it may be larger than the memory. The
    methods ending in `_file` stream the same result to a Zarr store or NetCDF file, and return the finished job; its
    `missing` are the shards that the output still waits for.

    Several threads may call one emulator at once.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs, *, threads: int | None = None) -> None:
        of_kind("bundle", bundle, Bundle, "a bundle that is open", "load(PATH).bundle")
        if not hasattr(graphs, "decode"):
            raise refused("graphs", graphs, "the graphs of a bundle", "load(PATH).graphs")
        self.bundle, self.graphs = bundle, graphs
        self._threads = threads

    def compress(
        self,
        data: "xr.Dataset",
        *,
        zoom: int | None = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> "xr.Dataset":
        """Latents (time, cell) of the fields in `data`, float32; `decompress` takes them back.

        `zoom`: HEALPix zoom the data is brought to (default the finest it supports). `climatology`: the one of the
        data's source, made by `fsae-run climatology`, or "training" if that is the training data's own. `names`:
        what the data calls a variable, such as {"tas": "ts"}. `force`: go on with fields, or a climatology, that are
        further from the training data's climatology than real ones are, which is an error otherwise.
        """
        reading = Reading(zoom=zoom, climatology=climatology, names=names, force=force)
        return self._result(compress_job(self.bundle, self.graphs, data, reading), data)

    def decompress(self, latents: "xr.Dataset", *, select: Selection = EVERYTHING, force: bool = False) -> "xr.Dataset":
        """Fields in physical units of latents; `select` chooses a part of them and their grid.

        `force`: go on with latents that seem to be edited, which is an error otherwise.
        """
        force = switch("force", force)
        return self._result(decompress_job(self.bundle, self.graphs, latents, select=select, force=force), latents)

    def superres(
        self,
        data: "xr.Dataset",
        *,
        zoom: int | None = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
        select: Selection = EVERYTHING,
        force: bool = False,
    ) -> "xr.Dataset":
        """Fields at the model's zoom from coarser ones; arguments as in `compress` and `decompress`."""
        reading = Reading(zoom=zoom, climatology=climatology, names=names, force=force)
        return self._result(superres_job(self.bundle, self.graphs, data, reading, select=select), data)

    def generate(
        self,
        request: Request | int | Sequence[int] = DEFAULT_MEMBERS,
        *,
        batch: Batch = "auto",
        max_memory_gib: float | None = None,
    ) -> "xr.Dataset":
        """An ensemble (realization, time, cell), or statistics (time, cell) of it.

        A number of members, or their numbers, stands for a `Request` of them with every other field at its default.
        `batch` members are drawn at once, which does not show in the result; "auto" takes what is fast and fits into
        `max_memory_gib`, by default half of what is available.
        """
        make = self._generation(request, batch, max_memory_gib)
        return in_memory(_warned(make(self.bundle, self.graphs)))

    def stream(
        self,
        request: Request | int | Sequence[int],
        *,
        windows: bool = False,
        batch: Batch = "auto",
        max_memory_gib: float | None = None,
    ) -> "Iterator[xr.Dataset]":
        """Yield the datasets of `generate` one member at a time, or one window of a member's steps, as they are drawn.

        Memory does not grow with the number of members: `batch` of them are held with all their steps until they are
        complete, "auto" as many as then fit into half of what is left; with `windows` only a few windows are held.
        `xarray.concat` of the datasets is what `generate` returns, to the bit. Errors in the request are raised here,
        not when the first dataset is asked for.
        """
        make = self._generation(request, batch, max_memory_gib, whole_members=not switch("windows", windows))
        return stream(_warned(make(self.bundle, self.graphs)), windows)

    def compress_file(
        self,
        source: Given,
        path: Destination,
        *,
        zoom: int | None = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
        writing: Writing = NEW,
    ) -> Job:
        """`compress` of a file, dataset or Zarr store to a file or Zarr store.

        `source` may be several files, or a pattern such as tas_*.nc, which are joined along time.
        """
        plain = reading_for(as_writing(writing), zoom, names)  # other processes get this function, and no progress bar

        def make(bundle: Bundle, graphs: Graphs, inputs: Mapping[str, Any]) -> Job:
            reading = dataclasses.replace(plain, climatology=inputs.get("climatology", TRAINING))
            return compress_job(bundle, graphs, inputs["input"], reading)

        return self._write(make, {"input": Source.of(source), "climatology": climatology}, path, writing)

    def archive_file(
        self,
        source: Given,
        path: PathLike,
        quality: "Quality | Mapping[str, Quality] | None" = None,
        *,
        names: Mapping[str, str] | None = None,
        append: bool = False,
        writing: Writing = NEW,
    ) -> Job:
        """Fields on their own grid as an archive, by default of the bundle's own quality; `append` to one at `path`."""
        from .codec.archive import archive_maker

        reading = dataclasses.replace(reading_for(as_writing(writing), None, names), climatology=TRAINING)
        append = switch("append", append)
        make = archive_maker(path_like("path", path), quality, self.bundle, reading, append)
        writing = dataclasses.replace(writing, overwrite=writing.overwrite or append)
        return self._write(make, {"input": Source.of(source)}, path, writing)

    def decompress_file(
        self,
        source: Given,
        path: Destination,
        *,
        select: Selection = EVERYTHING,
        writing: Writing = NEW,
    ) -> Job:
        """`decompress` of a file or dataset to a file."""
        force = writing.force  # other processes get this function, and no progress bar

        def make(bundle: Bundle, graphs: Graphs, inputs: Mapping[str, Any]) -> Job:
            return decompress_job(bundle, graphs, inputs["input"], select=select, force=force)

        return self._write(make, {"input": Source.of(source)}, path, writing, select)

    def superres_file(
        self,
        source: Given,
        path: Destination,
        *,
        zoom: int | None = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
        select: Selection = EVERYTHING,
        writing: Writing = NEW,
    ) -> Job:
        """`superres` of a file or dataset to a file; `source` as in `compress_file`."""
        plain = reading_for(as_writing(writing), zoom, names)  # other processes get this function, and no progress bar

        def make(bundle: Bundle, graphs: Graphs, inputs: Mapping[str, Any]) -> Job:
            reading = dataclasses.replace(plain, climatology=inputs.get("climatology", TRAINING))
            return superres_job(bundle, graphs, inputs["input"], reading, select=select)

        return self._write(make, {"input": Source.of(source), "climatology": climatology}, path, writing, select)

    def generate_file(
        self,
        path: Destination,
        request: Request | int | Sequence[int] = DEFAULT_MEMBERS,
        *,
        batch: Batch = "auto",
        max_memory_gib: float | None = None,
        writing: Writing = NEW,
    ) -> Job:
        """`generate` to a file."""
        request, how = _as_request(request), as_writing(writing)
        request = dataclasses.replace(request, force=request.force or how.force, strict=request.strict or how.strict)
        make = self._generation(request, batch, max_memory_gib, scratch=folder_of(path))
        inputs = {"forcing": request.forcing, "initial": request.initial, "climatology": request.climatology}
        # The request is read already: the files matter only to tell runs apart.
        return self._write(lambda bundle, graphs, files: make(bundle, graphs), inputs, path, writing, request.select)

    def _generation(
        self,
        request: Request | int | Sequence[int],
        batch: Batch,
        max_memory_gib: float | None,
        *,
        scratch: Path | None = None,
        whole_members: bool = False,
    ) -> MakeJob:
        """The function that makes the job of a request; other arguments as of `generate_job`."""
        return partial(
            generate_job,
            ensemble=resolve(self.bundle, self.graphs, _as_request(request)),
            batch=batch,
            limit=memory_limit(max_memory_gib),
            scratch=scratch,
            whole_members=whole_members,
        )

    def check(self) -> list[Check]:
        """Check all hashes, then all graphs on this device; BundleError for a file that differs.

        Those of a precision that the exporter could run on no device are recorded beside the bundle if all are good.
        """
        check_files(self.bundle)
        checks = check_graphs(self.bundle, self.graphs)
        for check in checks:
            log.info(str(check))
        recorded = record_checks(self.bundle, self.graphs, checks)
        if recorded is not None:
            log.info(f"recorded in {recorded}")
        return checks

    def verify(self) -> list[Check]:
        """Check as `check` does; ToleranceError if a graph is outside its tolerance."""
        checks = self.check()
        failure = missed(checks, self.graphs.device)
        if failure is not None:
            raise failure
        return checks

    def _result(self, job: Job, data: "xr.Dataset") -> "xr.Dataset":
        """The result of a job that reads `data`: in memory, or lazy if the data is."""
        given = Source.of(data).dataset
        return lazily(_warned(job)) if given is not None and is_lazy(given) else in_memory(_warned(job))

    def _write(
        self,
        make: MakeResult,
        inputs: Mapping[str, Any],
        path: Destination,
        writing: Writing,
        select: Selection = EVERYTHING,
    ) -> Job:
        return write_result(make, inputs, path, writing, (self.bundle, self.graphs, self._threads), select)


def _as_request(given: Request | int | Sequence[int]) -> Request:
    return given if isinstance(given, Request) else Request(members=given)


def write_climatology(
    source: Given,
    path: PathLike,
    *,
    model: PathLike | None = None,
    zoom: int | None = None,
    names: Mapping[str, str] | None = None,
    harmonics: int | None = None,
    overwrite: bool = False,
) -> int:
    """Number of steps used: the harmonic climatology of a data source, for `climatology=` of the other operations.

    DataError if it is further from that of the training data than real ones are; `climatology_file` can be forced.
    """
    reading, writing = Reading(zoom=zoom, names=names), Writing(overwrite=switch("overwrite", overwrite))
    return climatology_file(source, path, model=model, reading=reading, harmonics=harmonics, writing=writing)


def climatology_file(
    source: Given,
    path: PathLike,
    *,
    model: PathLike | None = None,
    reading: Reading = AS_IT_IS,
    harmonics: int | None = None,
    writing: Writing = NEW,
) -> int:
    """`write_climatology` by records: `reading` gives `zoom` and `names`, `writing` gives `overwrite` and `force`."""
    path, writing = path_like("path", path), as_writing(writing)
    of_kind("reading", reading, Reading, "a Reading", "Reading(zoom=3)")
    if harmonics is not None and (harmonics := whole("harmonics", harmonics)) < 1:
        raise UsageError(f"found {harmonics} harmonics", "1 or more", "leave harmonics out for those of the bundle")
    bundle = open_bundle(model if model is None else path_like("model", model))
    log.info(f"bundle {bundle.manifest.name} ({bundle.folder})")
    fields = open_fields(bundle, source, reading.zoom, reading.names)
    log_warnings(fields.notes)
    try:
        check_output(path, writing.overwrite, {"input": source, "bundle": bundle.folder})
        waves = harmonics or bundle.manifest.time.harmonics
        notes = write_source(bundle, fields, path, waves, force=writing.force, overwrite=writing.overwrite)
        log_warnings(notes)
    finally:
        fields.close()
    return len(fields.times)


def _warned(job: Job) -> Job:
    """The job, its notes logged as warnings."""
    log_warnings(job.notes)
    return job
