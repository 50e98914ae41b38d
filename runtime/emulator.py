"""The Python interface: a bundle on a device, and its operations on xarray objects or, streamed, on files."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .batch import choose_batch
from .bundle import Bundle, open_bundle
from .compression import compress_job, decompress_job, open_fields, superres_job
from .ensemble import LatentModel
from .errors import ToleranceError
from .generation import generate_job, resolve
from .jobs import Job, in_memory
from .memory import memory_limit
from .request import Request
from .restart import to_file
from .selection import EVERYTHING, Selection
from .session import Graphs, open_graphs
from .source_climate import write_source
from .verified import record_checks
from .verify import Check, check_files, check_graphs

if TYPE_CHECKING:
    import xarray as xr

PathLike = str | os.PathLike[str]
Say = Callable[[str], None]


def silent(message: str) -> None:
    """Nothing is done with a message."""


def load(
    model: PathLike | None = None,
    device: str = "auto",
    *,
    precision: str | None = None,
    threads: int | None = None,
    say: Say = silent,
) -> "Emulator":
    """An emulator: a bundle (path or name; default the newest in ./engines, else the shipped one) on a device.

    `device` is cpu, cuda, trt, trt-rtx or auto; a named one is used or DeviceError is raised. `precision` is one that
    the bundle has of fp32, fp16, bf16 and int8, by default fp32 or else its first. `say` is told which bundle and which
    device were chosen, and of every warning.
    """
    bundle = open_bundle(model)
    say(f"bundle {bundle.manifest.name} ({bundle.folder})")
    precision = bundle.manifest.precisions[0] if precision is None else precision
    graphs = open_graphs(bundle, device, precision=precision, threads=threads, say=say)
    return Emulator(bundle, graphs, threads=threads, say=say)


class Emulator:
    """A bundle on a device. Datasets in and out are CF: variables by the model's names or standard names."""

    def __init__(self, bundle: Bundle, graphs: Graphs, *, threads: int | None = None, say: Say = silent) -> None:
        self.bundle, self.graphs = bundle, graphs
        self._threads, self._say = threads, say

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
        return in_memory(self._told(job))

    def decompress(self, latents: "xr.Dataset", *, select: Selection = EVERYTHING) -> "xr.Dataset":
        """Fields in physical units of latents; `select` is the part and the grid that are wanted of them."""
        return in_memory(self._told(decompress_job(self.bundle, self.graphs, latents, select=select)))

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
        return in_memory(self._told(job))

    def generate(
        self,
        members: int | Sequence[int] = 100,
        *,
        start: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        forcing: "float | PathLike | xr.Dataset | None" = None,
        initial: "PathLike | xr.Dataset | None" = None,
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
        return in_memory(self._told(self._generation(request, batch, max_memory_gib, None)))

    def compress_file(
        self,
        source: PathLike,
        path: PathLike,
        *,
        zoom: int | None = None,
        climatology: PathLike | None = None,
        names: Mapping[str, str] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """The finished job: `compress` from file to file, streamed; `progress` gets fields done and in all.

        An interrupted run keeps what is finished beside `path`, and the same call with `resume` goes on with it.
        """
        job = compress_job(self.bundle, self.graphs, source, zoom=zoom, climatology=climatology, names=names)
        inputs = {"input": source, "climatology": climatology}
        return self._write(job, path, overwrite, resume, inputs, progress)

    def decompress_file(
        self,
        source: PathLike,
        path: PathLike,
        *,
        select: Selection = EVERYTHING,
        overwrite: bool = False,
        resume: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """The finished job: `decompress` from file to file, streamed."""
        job = decompress_job(self.bundle, self.graphs, source, select=select)
        return self._write(job, path, overwrite, resume, {"input": source}, progress)

    def superres_file(
        self,
        source: PathLike,
        path: PathLike,
        *,
        zoom: int | None = None,
        climatology: PathLike | None = None,
        names: Mapping[str, str] | None = None,
        select: Selection = EVERYTHING,
        overwrite: bool = False,
        resume: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """The finished job: `superres` from file to file, streamed."""
        job = superres_job(
            self.bundle, self.graphs, source, zoom=zoom, climatology=climatology, names=names, select=select
        )
        inputs = {"input": source, "climatology": climatology}
        return self._write(job, path, overwrite, resume, inputs, progress)

    def generate_file(
        self,
        path: PathLike,
        request: Request,
        *,
        batch: int | Literal["auto"] = "auto",
        max_memory_gib: float | None = None,
        overwrite: bool = False,
        resume: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """The finished job: what is asked for as in `generate`, to a file, streamed."""
        job = self._generation(request, batch, max_memory_gib, Path(path).absolute().parent)
        inputs = {"forcing": request.forcing, "initial": request.initial, "climatology": request.climatology}
        return self._write(job, path, overwrite, resume, inputs, progress)

    def _generation(
        self, request: Request, batch: int | Literal["auto"], max_memory_gib: float | None, scratch: Path | None
    ) -> Job:
        """The job of a request; what does not fit into memory waits in a file in the folder `scratch`."""
        limit = memory_limit(max_memory_gib)

        def measured(model: LatentModel, kept: int) -> int:
            return choose_batch(
                self.bundle,
                self.graphs,
                model,
                members=len(request.member_numbers),
                limit=limit,
                kept=kept,
                threads=self._threads,
                say=self._say,
            )

        return generate_job(
            self.bundle,
            self.graphs,
            resolve(self.bundle, self.graphs, request),
            batch=measured if batch == "auto" else batch,
            limit=limit,
            scratch=scratch,
        )

    def verify(self) -> list[Check]:
        """Checks of all graphs on this device, after all hashes; ToleranceError where one is outside its tolerance.

        Those of a precision that the exporter could run on no device are recorded beside the bundle, see verified.py.
        """
        check_files(self.bundle)
        checks = check_graphs(self.bundle, self.graphs)
        for check in checks:
            self._say(str(check))
        missed = [check for check in checks if not check.good]
        if missed:
            found = "; ".join(f"the {check.graph} by {check.worst}" for check in missed)
            raise ToleranceError(
                f"device {self.graphs.device} misses the golden vectors of the trained model: {found}; take another "
                "--device or --precision, or update the driver and libraries"
            )
        recorded = record_checks(self.bundle, self.graphs, checks)
        if recorded is not None:
            self._say(f"recorded in {recorded}")
        return checks

    def _told(self, job: Job) -> Job:
        for note in job.notes:
            self._say(f"warning: {note}")
        return job

    def _write(
        self,
        job: Job,
        path: PathLike,
        overwrite: bool,
        resume: bool,
        inputs: Mapping[str, object],
        progress: Callable[[int, int], None] | None,
    ) -> Job:
        done = 0

        def count(fields: int) -> None:
            nonlocal done
            done += fields
            if progress is not None:
                progress(done, job.fields)

        to_file(
            self._told(job),
            Path(path),
            overwrite=overwrite,
            resume=resume,
            inputs=inputs,
            progress=count,
            say=self._say,
        )
        return job


def write_climatology(
    source: PathLike,
    path: PathLike,
    *,
    model: PathLike | None = None,
    zoom: int | None = None,
    names: Mapping[str, str] | None = None,
    harmonics: int | None = None,
    overwrite: bool = False,
    say: Say = silent,
) -> int:
    """Number of steps used: the harmonic climatology of a data source, for `climatology=` of the other operations."""
    bundle = open_bundle(model)
    say(f"bundle {bundle.manifest.name} ({bundle.folder})")
    fields = open_fields(bundle, source, zoom, names)
    try:
        write_source(bundle, fields, Path(path), harmonics or bundle.manifest.time.harmonics, overwrite)
    finally:
        fields.close()
    return len(fields.times)
