"""The record of an unfinished run in the store that it writes, as groups of Zarr, which every store takes.

    fsae_run/zarr.json      what the run is, and a token of whoever went on with it last
    fsae_run/3_0/zarr.json  a finished unit: member 3 from its first step on, checksums, and what the next one needs

A unit is recorded after its chunks; each object is there whole or not at all. A store has no locks, so a process that
goes on with a run takes it over: the one that was at work on it sees the other token and stops.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.jobs.job import Job
from fsae.runtime.jobs.ledger import Line, Lines, last_line
from fsae.runtime.jobs.lock import TakenOver
from fsae.runtime.output.layout import Layout

from . import objects
from .objects import METADATA, read, remove, write

if TYPE_CHECKING:
    from zarr.abc.store import Store

RUN = "fsae_run"
RECORD = f"{RUN}/{METADATA}"
FORMAT = 1


@dataclass(frozen=True)
class StoreRun:
    """A run of `total` fields in a store, which is called `name`; `has`, `steps` and `state` as of `Done`."""

    store: "Store"
    name: str
    identity: Mapping[str, str]
    token: str
    total: int
    unit_steps: int
    lines: Lines = field(default_factory=dict)

    def has(self, member: int, first: int) -> bool:
        """See `Done.has`."""
        return (member, first - first % self.unit_steps) in self.lines

    def steps(self, member: int) -> int:
        """See `Done.steps`."""
        line = last_line(self.lines, member)
        return 0 if line is None else line.end

    def state(self, member: int) -> F32:
        """See `Done.state`."""
        line = last_line(self.lines, member)
        (data,) = read(self.store, [_unit(line)], self.name) if line is not None else [None]
        text = "" if data is None else attributes_of(data).get("state", "")
        if not text:
            raise KeyError(member)
        found: F32 = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
        return found

    @property
    def fields(self) -> int:
        """Number of finished fields."""
        return sum(line.end - line.first for line in self.lines.values())

    def check(self) -> None:
        """Raise TakenOver unless this process was the last to go on with the run."""
        (data,) = read(self.store, [RECORD], self.name)
        if data is None or attributes_of(data).get("token") != self.token:
            raise TakenOver(
                f"another process has taken over the run in {self.name}: this one stops",
                advice="let one process write an output",
            )

    def record(self, line: Line, state: F32 | None) -> None:
        """Count a unit as finished, whose chunks are in the store."""
        text = ""
        if state is not None:
            np.save(file := io.BytesIO(), state, allow_pickle=False)
            text = base64.b64encode(file.getvalue()).decode()
        write(self.store, {_unit(line): _group({"unit": asdict(line), "state": text})}, self.name)
        self.lines[line.member, line.first] = line


def _unit(line: Line) -> str:
    return f"{RUN}/{line.member}_{line.first}/{METADATA}"


def _group(attributes: Mapping[str, Any]) -> bytes:
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()


def attributes_of(data: bytes) -> dict[str, Any]:
    """The attributes of a group; empty if it is damaged."""
    try:
        return dict(json.loads(data)["attributes"])
    except (ValueError, LookupError, TypeError):
        return {}


def known_identity(store: "Store", name: str) -> Mapping[str, str] | None:
    """The identity of the unfinished run in a store; None if there is none that this version can read."""
    (data,) = read(store, [RECORD], name)
    found = {} if data is None else attributes_of(data)
    return found["identity"] if found.get("format") == FORMAT else None


def take(store: "Store", name: str, identity: Mapping[str, str], job: Job, there: set[str]) -> StoreRun:
    """The run of this process from now on, with the units that are finished; `there` are the names in the store."""
    run = StoreRun(store, name, identity, uuid4().hex, job.fields, job.layout.unit_steps)
    attributes = {"format": FORMAT, "identity": dict(identity), "token": run.token}
    write(store, {RECORD: _group(attributes)}, name)
    units = sorted(one for one in there if one.startswith(f"{RUN}/") and one != RECORD)
    for data in read(store, units, name):
        found = {} if data is None else attributes_of(data).get("unit", {})
        if found:
            line = Line(**(found | {"sums": tuple(found["sums"])}))
            run.lines[line.member, line.first] = line
    return run


def without_missing(run: StoreRun, layout: Layout, there: set[str]) -> StoreRun:
    """The run without units of which chunks are missing."""
    from fsae.runtime.jobs.chunks import chunk_names

    for place, line in list(run.lines.items()):
        if not there.issuperset(chunk_names(layout, line.member, slice(line.first, line.end))):
            del run.lines[place]
    return run


def forget(store: "Store", name: str) -> None:
    """Remove the record of a run, what says what it is last."""
    names = [one for one in objects.listed(store, name) if one.startswith(f"{RUN}/")]
    remove(store, [one for one in names if one != RECORD], name)
    remove(store, [one for one in names if one == RECORD], name)
