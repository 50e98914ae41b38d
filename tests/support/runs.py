"""Small jobs that tests stop, kill, divide and go on with."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import Stopped
from fsae.runtime.jobs.cluster import Cluster
from fsae.runtime.jobs.job import Job, Writing
from fsae.runtime.jobs.ledger import read_run
from fsae.runtime.jobs.shards import Shard
from fsae.runtime.output.selection import Selection

LIMIT_S = 120.0  # for what a test waits for, however busy the machine


class Said(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@dataclass(frozen=True)
class Ensemble:
    """Members and steps of an ensemble, whose units are windows of 3 steps, as a call and as a command."""

    members: int
    steps: int
    batch: int

    @property
    def fields(self) -> int:
        """Number of fields."""
        return self.members * self.steps

    def generate(
        self,
        emulator: Emulator,
        path: Path,
        scale: Shard | Cluster | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        seed: int = 3,
        batch: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Job:
        """Write the ensemble, or a shard of it."""
        return emulator.generate_file(
            path,
            Request(members=self.members, start="1990-01", steps=self.steps, seed=seed),
            batch=batch or self.batch,
            writing=Writing(scale=scale, resume=resume, overwrite=overwrite, progress=progress),
        )

    def words(self, out: Path, *more: str | Path) -> list[str]:
        """The command that does the same."""
        asked = ["--members", self.members, "--steps", self.steps, "--seed", 3, "--start", "1990-01", "--out", out]
        return ["generate", *map(str, asked), *map(str, more)]


SMALL = Ensemble(members=12, steps=12, batch=5)  # 48 units
FIELDS = SMALL.fields


def convert(
    emulator: Emulator,
    verb: str,
    source: Path | str,
    path: Path,
    scale: Shard | Cluster | None = None,
    *,
    resume: bool = False,
) -> Job:
    """Write what `compress`, `decompress` or `superres` makes of a file."""
    if verb == "compress":
        return emulator.compress_file(source, path, climatology="training", writing=Writing(scale=scale, resume=resume))
    select = Selection(grid="source")
    if verb == "decompress":
        return emulator.decompress_file(source, path, select=select, writing=Writing(scale=scale, resume=resume))
    return emulator.superres_file(
        source, path, climatology="training", zoom=1, select=select, writing=Writing(scale=scale, resume=resume)
    )


def source_for(emulator: Emulator, verb: str, folder: Path, members: int | None = 2, steps: int = 30) -> Path:
    """Input for a verb: fields of some members, or without that dimension, or latents of these."""
    fields = emulator.generate(Request(members=members or 1, start="1990-01", steps=steps))
    if members is None:
        fields = fields.isel(realization=0, drop=True)
    made = emulator.compress(fields, climatology="training") if verb == "decompress" else fields
    made.to_netcdf(folder / "in.nc", engine="h5netcdf")
    return folder / "in.nc"


def fail_after(monkeypatch: pytest.MonkeyPatch, units: int, error: BaseException) -> None:
    """Let the decoding of the unit after that many end in the error; a look at single steps is no unit."""
    decode, calls = OnnxGraphs.decode, [0]

    def failing(self: OnnxGraphs, latent: np.ndarray, season: np.ndarray) -> np.ndarray:
        calls[0] += len(latent) > 1
        if calls[0] > units:
            raise error
        return decode(self, latent, season)

    monkeypatch.setattr(OnnxGraphs, "decode", failing)


def interrupted_run(emulator: Emulator, path: Path, units: int) -> None:
    """A run that was stopped after that many units."""
    with pytest.MonkeyPatch.context() as patch:
        fail_after(patch, units, KeyboardInterrupt())
        with pytest.raises(Stopped, match=rf"stopped; {3 * units} of {FIELDS} fields are kept in \S+ the same command"):
            SMALL.generate(emulator, path)


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every unit that is decoded."""
    calls: list[int] = []
    decode = OnnxGraphs.decode
    monkeypatch.setattr(OnnxGraphs, "decode", lambda *given: (calls.append(1), decode(*given))[1])
    return calls


def finished(out: Path) -> int:
    """Fields that are finished of the unfinished run of an output."""
    run = read_run(out.with_name(f"{out.name}.partial"))
    return 0 if run is None else run.fields(run.shards)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; AssertionError if it does not come true."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)


def names_in(folder: Path) -> list[str]:
    """Sorted names of what is in a folder."""
    return sorted(path.name for path in folder.iterdir())
