"""What is finished of a run that may be stopped at any moment, in a folder beside its unfinished output.

    run.json     what the run is, written when the empty output stands
    units.log    one line for every finished unit, written after its values: [member, first step, end, state's hash]
    states/      by member, what its next step needs of those before

A run in shards (see shards.py) has a folder of this kind for each shard, in shards/, and no log of its own.

Only the log counts. A line is appended in one call after all it speaks of is written; a last line that is torn is cut
off. So a process can be killed at any moment. Nothing is forced to the disk: after a loss of power the log may know
more than the disk does, and the run is to be started again.
"""

import errno
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.errors import OutputError
from fsae.runtime.input.sources import ZARR_MARKS, Source
from fsae.runtime.output.files import RUN
from fsae.runtime.output.layout import Layout, Unit, coordinates, data_arrays
from fsae.runtime.output.store import Attribute

from .job import Finished
from .lock import SHARDS

FORMAT = 1

LOG, STATES = "units.log", "states"

REQUEST = "fsae_request"


@dataclass(frozen=True)
class Line:
    """A finished unit of one member: its steps, from the first to the end, and the hash of the state after them."""

    member: int
    first: int
    end: int
    state: str = ""


def _digest(state: F32) -> str:
    return hashlib.sha256(np.ascontiguousarray(state).tobytes()).hexdigest()


def _identity_of(attributes: Mapping[str, Attribute]) -> dict[str, str]:
    """Attributes as text, each part of the request by itself."""
    found = {key: str(value) for key, value in attributes.items() if key != REQUEST}
    request = json.loads(str(attributes.get(REQUEST, "{}")))
    return found | {f"request: {key}": json.dumps(value) for key, value in request.items()}


def identity(layout: Layout, inputs: Mapping[str, object]) -> dict[str, str]:
    """What two runs must have in common for one to go on with the other: attributes, each part of the request, inputs.

    `inputs` are the files read, by what they are; of what is no path nothing is known but what the request tells. The
    coordinates and shapes stand in it as one hash.
    """
    whole = hashlib.sha256(repr((layout.dims, layout.shape, layout.chunks, tuple(layout.variables))).encode())
    for item in coordinates(layout):
        whole.update(repr((item.name, item.dims, item.values.dtype.str, item.values.shape)).encode())
        whole.update(np.ascontiguousarray(item.values).tobytes())
    stamps = {f"file of the {name}": _stamp(given) for name, given in inputs.items()}
    return _identity_of(layout.attributes) | stamps | {"coordinates": whole.hexdigest()}


def _stamp(given: object) -> str:
    """Size and time of change of a file, or of what stands first in a Zarr store; of several files one hash of those.

    Empty for what is not a file.
    """
    if not isinstance(given, Source | str | os.PathLike | list | tuple):
        return ""
    stamps = [_stamp_of(path) for path in Source.of(given).paths]
    if not stamps:
        return ""
    whole = hashlib.sha256("; ".join(stamps).encode()).hexdigest()
    return stamps[0] if len(stamps) == 1 else f"{whole} of {len(stamps)} files"


def _stamp_of(path: Path) -> str:
    parts = [path, *(path / mark for mark in ZARR_MARKS)] if path.is_dir() else [path]
    found = [part.stat() for part in parts if part.exists()]
    return ", ".join(f"{stat.st_size} bytes of {stat.st_mtime_ns}" for stat in found)


def same_request(layout: Layout, attributes: Mapping[str, Attribute]) -> str:
    """What differs, in words, between a layout's attributes and those of finished output; empty where nothing does."""
    wanted = _identity_of(layout.attributes)
    found = _identity_of(attributes)
    return difference({key: found[key] for key in wanted if key in found}, wanted)


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs between two identities, in words; empty where nothing does.

    >>> difference({"request: seed": "1", "fsae_device": "cpu"}, {"request: seed": "2", "fsae_device": "cpu"})
    'request: seed (1 there, 2 here)'
    """
    keys = [key for key in (*before, *now) if before.get(key) != now.get(key)]

    def short(text: str | None) -> str:
        return "nothing" if text is None else text if len(text) <= 60 else f"{text[:57]}..."

    parts = [f"{key} ({short(before.get(key))} there, {short(now.get(key))} here)" for key in dict.fromkeys(keys)]
    return "; ".join(parts)


@dataclass
class Ledger(Finished):
    """The record of one run in its folder, as it was opened; `fields` counts on with what is recorded."""

    folder: Path
    run: Mapping[str, Any]
    lines: Mapping[tuple[int, int], Line] = field(default_factory=dict)  # by member and first step
    fields: int = 0

    @property
    def total(self) -> int:
        """Fields of the whole run."""
        return int(self.run["fields"])

    @property
    def identity(self) -> dict[str, str]:
        """See `identity`."""
        return dict(self.run["identity"])

    def has(self, member: int, first: int) -> bool:
        """See `Finished.has`."""
        return (member, first) in self.lines

    def steps(self, member: int) -> int:
        """See `Finished.steps`; 0 where the state is damaged, so that the member is made anew."""
        line = self._last(member)
        return 0 if line is None or self._read_state(line) is None else line.end

    def state(self, member: int) -> F32:
        """See `Finished.state`."""
        line = self._last(member)
        found = None if line is None else self._read_state(line)
        if found is None:
            raise KeyError(member)
        return found

    def record(self, unit: Unit) -> None:
        """Nothing; the unit, whose values are all written, counts as done. Only units of one member have a state."""
        for member in range(unit.members.start, unit.members.stop):
            line = Line(member, unit.times.start, unit.times.stop, "" if unit.state is None else _digest(unit.state))
            if unit.state is not None:
                np.save(self._state_path(member, line.end), unit.state, allow_pickle=False)
            data = _text(line)
            with (self.folder / LOG).open("ab", buffering=0) as log:
                if log.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if unit.state is not None:
                self._state_path(member, line.first).unlink(missing_ok=True)
            if not self.has(member, line.first):
                self.fields += line.end - line.first

    def _last(self, member: int) -> Line | None:
        """The last of the units of a member that follow each other from its first step on."""
        line = None
        while (member, line.end if line else 0) in self.lines:
            line = self.lines[member, line.end if line else 0]
        return line

    def _state_path(self, member: int, end: int) -> Path:
        return self.folder / STATES / f"{member}-{end}.npy"

    def _read_state(self, line: Line) -> F32 | None:
        try:
            found: F32 = np.load(io.BytesIO(self._state_path(line.member, line.end).read_bytes()), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if _digest(found) == line.state else None


def start_ledger(folder: Path, fields: int, wanted: Mapping[str, str]) -> Ledger:
    """The empty ledger of a run of so many fields; what the folder holds counts as a run from now on."""
    (folder / STATES).mkdir()
    (folder / LOG).touch()
    run = {"format": FORMAT, "fields": fields, "identity": dict(wanted)}
    _write_run(folder, run)
    return Ledger(folder, run)


def _write_run(folder: Path, run: Mapping[str, Any]) -> None:
    aside = folder / f"{RUN}.new"
    aside.write_text(json.dumps(run, indent=1, sort_keys=True), encoding="utf-8")
    aside.replace(folder / RUN)


def _read_run(folder: Path) -> dict[str, Any] | None:
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        return None
    return run if isinstance(run.get("identity"), dict) and isinstance(run.get("fields"), int) else None


def shard_folder(folder: Path, number: int, count: int) -> Path:
    """Folder of a shard, within that of its run."""
    return folder / SHARDS / f"{number}-of-{count}"


@dataclass(frozen=True)
class Split:
    """The record of a run in shards, counted from 1, each with a ledger of its own."""

    folder: Path
    run: Mapping[str, Any]

    @property
    def count(self) -> int:
        """Number of shards."""
        return int(self.run["shards"])

    @property
    def total(self) -> int:
        """Fields of the whole run."""
        return int(self.run["fields"])

    @property
    def identity(self) -> dict[str, str]:
        """See `identity`."""
        return dict(self.run["identity"])

    @property
    def fields(self) -> int:
        """Fields that are finished, in all shards, as of now."""
        ledgers = (self.ledger(number) for number in range(1, self.count + 1))
        return sum(ledger.fields for ledger in ledgers if ledger is not None)

    def place(self, number: int) -> Path:
        """Folder of a shard."""
        return shard_folder(self.folder, number, self.count)

    def ledger(self, number: int) -> Ledger | None:
        """The ledger of a shard; None where it has finished nothing."""
        return read_ledger(self.place(number))


def start_split(folder: Path, fields: int, wanted: Mapping[str, str], count: int) -> Split:
    """The record of a run in so many shards; what the folder holds counts as such a run from now on."""
    (folder / SHARDS).mkdir()
    run = {"format": FORMAT, "fields": fields, "identity": dict(wanted), "shards": count}
    _write_run(folder, run)
    return Split(folder, run)


def read_split(folder: Path) -> Split | None:
    """The record of a run in shards in a folder; None where there is none."""
    run = _read_run(folder)
    return Split(folder, run) if run is not None and isinstance(run.get("shards"), int) else None


def read_record(folder: Path) -> Ledger | Split | None:
    """What tells of the run in a folder, in shards or not; None where nothing is finished."""
    split = read_split(folder)
    if split is not None:
        return split if split.fields else None
    return read_ledger(folder)


def read_ledger(folder: Path) -> Ledger | None:
    """The ledger in a folder, as far as its log is whole; None where there is no run with something finished."""
    run = _read_run(folder)
    try:
        lines = _whole_lines((folder / LOG).read_bytes())[0]
    except OSError:
        return None
    if run is None or not lines:
        return None
    by_place = {(line.member, line.first): line for line in lines}  # made anew, a unit has a second line
    return Ledger(folder, run, by_place, sum(line.end - line.first for line in by_place.values()))


def mend_log(folder: Path, there: Callable[[Line], bool]) -> Ledger | None:
    """The ledger of the units that are `there`; None where there are none. The log ends with a whole line.

    Units of which something is missing, as after a loss of power, no longer count as done.
    """
    lines, size = _whole_lines((folder / LOG).read_bytes())
    kept = [line for line in lines if there(line)]
    if len(kept) == len(lines):
        os.truncate(folder / LOG, size)
    else:
        aside = folder / f"{LOG}.new"
        aside.write_bytes(b"".join(map(_text, kept)))
        aside.replace(folder / LOG)
    (folder / STATES).mkdir(exist_ok=True)
    return read_ledger(folder)


def _text(line: Line) -> bytes:
    """A line of the log."""
    return json.dumps([line.member, line.first, line.end, line.state]).encode() + b"\n"


def _whole_lines(data: bytes) -> tuple[list[Line], int]:
    """The lines before the first one that is torn, and their bytes."""
    lines, size = [], 0
    for text in data.splitlines(keepends=True):
        try:
            line = Line(*json.loads(text))
        except (ValueError, TypeError):
            break
        if not text.endswith(b"\n"):
            break
        lines.append(line)
        size += len(text)
    return lines, size


# What an interrupted run has left, looked at before it goes on: a machine that lost its power may have lost files.


def check_frame(fields: Path, layout: Layout) -> None:
    """Nothing; OutputError where the store in the folder `fields` lacks an array of its layout."""
    names = [item.name for item in coordinates(layout)] + [array.name for array in data_arrays(layout)]
    lost = [name for name in ("", *names) if not _holds(fields / name / "zarr.json")]
    if lost:
        raise OutputError(
            f"{fields.parent} is damaged: {fields.name} lacks {lost[0] or 'all'}; start again with --overwrite"
        )


def is_there(fields: Path, layout: Layout, line: Line) -> bool:
    """Whether the store holds all chunks of a finished unit."""
    place = layout.place(slice(line.member, line.member + 1), slice(line.first, line.end))
    for array in data_arrays(layout):
        lead = len(array.shape) - len(layout.shape)  # quantiles stand before all others, in one chunk
        starts = [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(place, array.chunks[lead:], strict=False)
        ]
        others = [range(1)] * (len(array.shape) - lead - len(place))
        for index in itertools.product(*[range(1)] * lead, *starts, *others):
            if not _holds(fields.joinpath(array.name, "c", *map(str, index))):
                return False
    return True


def _holds(path: Path) -> bool:
    """Whether a file is there and not empty."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
