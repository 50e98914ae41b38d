"""The Python interface: a bundle on a device, and its operations on xarray objects or, streamed, on files."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.checks.verify import Check, check_files, check_graphs, record_checks
from fsae.runtime.codec.compress import compress_job, decompress_job, superres_job
from fsae.runtime.codec.encoder_input import open_fields
from fsae.runtime.codec.source_climatology import TRAINING, write_source
from fsae.runtime.ensemble.batch import choose_batch, memory_limit
from fsae.runtime.ensemble.generate import Batch, generate_job, resolve
from fsae.runtime.ensemble.members import LatentModel, latent_model
from fsae.runtime.ensemble.request import Request
from fsae.runtime.input.sources import Given, Source
from fsae.runtime.jobs.job import Job, Recipe
from fsae.runtime.jobs.results import in_memory, is_lazy, lazily, member_bytes, stream
from fsae.runtime.jobs.resume import Output, to_file
from fsae.runtime.jobs.shards import WHOLE, Shard, pieces_of
from fsae.runtime.output.selection import EVERYTHING, Selection

from .errors import ToleranceError
from .log import log

if TYPE_CHECKING:
    import xarray as xr

    from fsae.runtime.jobs.cluster import Cluster


PathLike = str | os.PathLike[str]

MakeJob = Callable[[Bundle, Graphs], Job]


def load(
    model: PathLike | None = None,
    device: str = "auto",
    *,
    precision: str | None = None,
    threads: int | None = None,
) -> "Emulator":
    """An emulator: a bundle (path or name; default the newest in ./engines, else the shipped one) on a device.

    `device` is cpu, cuda, trt, trt-rtx or auto; a named one is used or DeviceError is raised. `precision` is one that
    the bundle has of fp32, fp16, bf16 and int8, by default fp32 or else its first. Which bundle and device were
    chosen, and every warning, go to the logger "fsae".
    """
    bundle = open_bundle(model)
    log.info(f"bundle {bundle.manifest.name} ({bundle.folder})")
    precision = bundle.manifest.precisions[0] if precision is None else precision
    graphs = open_graphs(bundle, device, precision=precision, threads=threads)
    return Emulator(bundle, graphs, threads=threads)


class Emulator:
    """A bundle on a device. Datasets in and out are CF: variables by the model's names or standard names.

    Of a dataset of dask arrays `compress`, `decompress` and `superres` make one of dask arrays, in chunks of
    `jobs.TIME_CHUNK` steps of a member, which are read and computed when they are looked at: it may be larger than the
    memory.

    Several threads may call one emulator at once.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs, *, threads: int | None = None) -> None:
        self.bundle, self.graphs = bundle, graphs
        self._threads = threads

    def compress(
        self,
        data: "xr.Dataset",
        *,
        zoom: int | None = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
    ) -> "xr.Dataset":
        """Latents (time, cell) of the fields in `data`, float32; `decompress` takes them back.

        `zoom`: HEALPix zoom the data is brought to (default the finest it supports). `climatology`: the one of the
        data's source, made by `fsae-run climatology`, or "training" where that is the training data's own. `names`:
        what the data calls a variable, such as {"tas": "ts"}.
        """
        job = compress_job(self.bundle, self.graphs, data, zoom=zoom, climatology=climatology, names=names)
        return self._result(job, data)

    def decompress(self, latents: "xr.Dataset", *, select: Selection = EVERYTHING) -> "xr.Dataset":
        """Fields in physical units of latents; `select` is the part and the grid that are wanted of them."""
        return self._result(decompress_job(self.bundle, self.graphs, latents, select=select), latents)

    def superres(
        self,
        data: "xr.Dataset",
        *,
        zoom: int | None = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
        select: Selection = EVERYTHING,
    ) -> "xr.Dataset":
        """Fields at the model's zoom from coarser ones; arguments as in `compress` and `decompress`."""
        job = superres_job(
            self.bundle, self.graphs, data, zoom=zoom, climatology=climatology, names=names, select=select
        )
        return self._result(job, data)

    def generate(
        self,
        members: int | Sequence[int] = 100,
        *,
        start: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        forcing: "float | PathLike | xr.Dataset | None" = None,
        initial: "Given | None" = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
        sampler: str = "default",
        select: Selection = EVERYTHING,
        statistics: Sequence[str] = (),
        batch: int | Literal["auto"] = "auto",
        max_memory_gib: float | None = None,
    ) -> "xr.Dataset":
        """An ensemble (realization, time, cell), or statistics (time, cell) of it: see `request.Request`.

        `batch` members are drawn at once, which shows nowhere in the result; "auto" measures on this device what is
        fast and fits into `max_memory_gib`, by default half of what is available.
        """
        request = Request(
            members=members,
            start=start,
            steps=steps,
            seed=seed,
            forcing=forcing,
            initial=initial,
            climatology=climatology,
            names=names,
            sampler=sampler,
            select=select,
            statistics=statistics,
        )
        make = self._generation(request, batch, max_memory_gib, None)
        return in_memory(_warned(make(self.bundle, self.graphs)))

    def stream(
        self,
        request: Request,
        *,
        windows: bool = False,
        batch: int | Literal["auto"] = "auto",
        max_memory_gib: float | None = None,
    ) -> "Iterator[xr.Dataset]":
        """The datasets of `generate` one member at a time, or one window of a member's steps, as they are drawn.

        Memory does not grow with the number of members: `batch` of them are held with all their steps until they are
        complete, "auto" as many as then fit into half of what is left; with `windows` only a few windows are held.
        `xarray.concat` of the datasets is what `generate` returns, to the bit. What cannot be done is refused here, not
        when the first dataset is asked for.
        """

        def most(left: int) -> int:
            return max(1, left // 2 // member_bytes(job.layout))

        make = self._generation(request, batch, max_memory_gib, None, most=None if windows else most)
        job = _warned(make(self.bundle, self.graphs))
        return stream(job, windows)

    def compress_file(
        self,
        source: Given,
        path: PathLike,
        *,
        zoom: int | None = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        scale: "Shard | Cluster | None" = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """The finished job: `compress` of a file or dataset to a file; `progress` gets fields done and in all.

        `source` may be several files, or a pattern such as tas_*.nc, which are joined along time.
        An interrupted run keeps what is finished beside `path`, and the same call with `resume` goes on with it.
        `scale`: a `Shard`, the part of the work that this call does where others do the rest, or a `Cluster` that does
        it; the job's `missing` are the shards that the output still waits for.
        """

        def make(bundle: Bundle, graphs: Graphs, inputs: Mapping[str, Any]) -> Job:
            own = inputs.get("climatology", TRAINING)
            return compress_job(bundle, graphs, inputs["input"], zoom=zoom, climatology=own, names=names)

        recipe = Recipe(make=make, inputs=_files({"input": Source.of(source), "climatology": climatology}))
        return self._write(recipe, Output(path=Path(path), overwrite=overwrite, resume=resume), scale, progress)

    def decompress_file(
        self,
        source: Given,
        path: PathLike,
        *,
        select: Selection = EVERYTHING,
        overwrite: bool = False,
        resume: bool = False,
        scale: "Shard | Cluster | None" = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """The finished job: `decompress` from file to file, streamed."""

        def make(bundle: Bundle, graphs: Graphs, inputs: Mapping[str, Any]) -> Job:
            return decompress_job(bundle, graphs, inputs["input"], select=select)

        recipe = Recipe(make=make, inputs=_files({"input": Source.of(source)}))
        return self._write(recipe, Output(path=Path(path), overwrite=overwrite, resume=resume), scale, progress)

    def superres_file(
        self,
        source: Given,
        path: PathLike,
        *,
        zoom: int | None = None,
        climatology: "PathLike | xr.Dataset | None" = None,
        names: Mapping[str, str] | None = None,
        select: Selection = EVERYTHING,
        overwrite: bool = False,
        resume: bool = False,
        scale: "Shard | Cluster | None" = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """The finished job: `superres` from file to file, streamed."""

        def make(bundle: Bundle, graphs: Graphs, inputs: Mapping[str, Any]) -> Job:
            own = inputs.get("climatology", TRAINING)
            return superres_job(bundle, graphs, inputs["input"], zoom=zoom, climatology=own, names=names, select=select)

        recipe = Recipe(make=make, inputs=_files({"input": Source.of(source), "climatology": climatology}))
        return self._write(recipe, Output(path=Path(path), overwrite=overwrite, resume=resume), scale, progress)

    def generate_file(
        self,
        path: PathLike,
        request: Request,
        *,
        batch: int | Literal["auto"] = "auto",
        max_memory_gib: float | None = None,
        overwrite: bool = False,
        resume: bool = False,
        scale: "Shard | Cluster | None" = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """The finished job: what is asked for as in `generate`, to a file, streamed."""
        here = scale is None or isinstance(scale, Shard)
        make = self._generation(request, batch, max_memory_gib, Path(path).absolute().parent, here)
        inputs = {"forcing": request.forcing, "initial": request.initial, "climatology": request.climatology}
        # The request is read already: the files matter only to tell runs apart.
        recipe = Recipe(make=lambda bundle, graphs, files: make(bundle, graphs), inputs=_files(inputs))
        return self._write(recipe, Output(path=Path(path), overwrite=overwrite, resume=resume), scale, progress)

    def _generation(
        self,
        request: Request,
        batch: int | Literal["auto"],
        max_memory_gib: float | None,
        scratch: Path | None,
        here: bool = True,
        most: Callable[[int], int] | None = None,
    ) -> MakeJob:
        """What makes the job of a request; what does not fit into memory waits in a file in the folder `scratch`.

        The batch is measured when it is needed, or now where the units will not be made `here`; `most` tells how many
        members may be in it, given the memory that is left.
        """
        limit, ensemble = memory_limit(max_memory_gib), resolve(self.bundle, self.graphs, request)

        def measured(model: LatentModel, kept: int) -> int:
            chosen = choose_batch(
                self.bundle,
                self.graphs,
                model,
                members=len(ensemble.members),
                limit=limit,
                kept=kept,
                threads=self._threads,
            )
            return chosen if most is None else min(chosen, most(limit.left))

        chosen: Batch = measured if batch == "auto" else batch
        if batch == "auto" and not here:
            chosen = measured(latent_model(self.bundle, fast=ensemble.sampler == "fast"), 0)
        return partial(generate_job, ensemble=ensemble, batch=chosen, limit=limit, scratch=scratch)

    def verify(self) -> list[Check]:
        """Checks of all graphs on this device, after all hashes; ToleranceError where one is outside its tolerance.

        Those of a precision that the exporter could run on no device are recorded beside the bundle, see verified.py.
        """
        check_files(self.bundle)
        checks = check_graphs(self.bundle, self.graphs)
        for check in checks:
            log.info(str(check))
        missed = [check for check in checks if not check.good]
        if missed:
            found = "; ".join(f"the {check.graph} by {check.worst}" for check in missed)
            raise ToleranceError(
                f"device {self.graphs.device} misses the golden vectors of the trained model: {found}; take another "
                "--device or --precision, or update the driver and libraries"
            )
        recorded = record_checks(self.bundle, self.graphs, checks)
        if recorded is not None:
            log.info(f"recorded in {recorded}")
        return checks

    def _result(self, job: Job, data: "xr.Dataset") -> "xr.Dataset":
        """The result of a job that reads `data`: in memory, or computed when it is looked at, as the data is."""
        return lazily(_warned(job)) if is_lazy(data) else in_memory(_warned(job))

    def _write(
        self,
        recipe: Recipe,
        output: Output,
        scale: "Shard | Cluster | None",
        progress: Callable[[int, int], None] | None,
    ) -> Job:
        """The finished job of a recipe, written."""
        job, done = _warned(recipe.job(self.bundle, self.graphs)), 0
        pieces = pieces_of(job)
        total = pieces.fields(scale.part(pieces.count)) if isinstance(scale, Shard) else job.fields

        def count(fields: int) -> None:
            nonlocal done
            done += fields
            if progress is not None:
                progress(done, total)

        if scale is None or isinstance(scale, Shard):
            missing = to_file(job, output, scale or WHOLE, inputs=recipe.inputs, progress=count)
            return dataclasses.replace(job, missing=missing)
        from fsae.runtime.jobs.cluster import cluster_to_file

        cluster_to_file(job, output, scale, recipe, (self.bundle, self.graphs), progress=count)
        return job


def _files(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a job reads, by name, without the keyword `training`, even if a file of that name exists."""
    return {name: value for name, value in given.items() if not (isinstance(value, str) and value == TRAINING)}


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
    """Number of steps used: the harmonic climatology of a data source, for `climatology=` of the other operations."""
    bundle = open_bundle(model)
    log.info(f"bundle {bundle.manifest.name} ({bundle.folder})")
    fields = open_fields(bundle, source, zoom, names)
    _log_warnings(fields.notes)
    try:
        write_source(bundle, fields, Path(path), harmonics or bundle.manifest.time.harmonics, overwrite)
    finally:
        fields.close()
    return len(fields.times)


def _warned(job: Job) -> Job:
    """The job, its notes logged as warnings."""
    _log_warnings(job.notes)
    return job


def _log_warnings(notes: Iterable[str]) -> None:
    for note in notes:
        log.warning(note)
