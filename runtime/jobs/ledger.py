"""The finished part of a run that may be stopped at any moment, in the folder of its unfinished output.

    run.json                    what the run is, and in how many shards it is made
    shards/3-of-8/units.log     a line for every finished unit of the shard, written after its values
    shards/3-of-8/states/       by member, what its next step needs of those before

Only the log counts: a line is appended in one call after everything it speaks of is written, and a last line that is
torn is cut off, so a process can be killed at any moment. Nothing is forced to the disk: after a loss of power the log
may know more than the disk does, so a run that goes on first looks for the chunks of each unit. (The chunks alone would
not do: how far each of thousands of shards is would take a look at every one of their files.)
"""

import errno
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.errors import OutputError
from fsae.runtime.output.files import RUN
from fsae.runtime.output.layout import Layout, Unit, coordinates, data_arrays

from .lock import SHARDS
from .shards import Pieces, Shard

FORMAT = 2
LOG, STATES = "units.log", "states"


@dataclass(frozen=True)
class Line:
    """A finished unit of one member: its steps, from the first to the end, and the hash of the state after them."""

    member: int
    first: int
    end: int
    state: str = ""


Lines = dict[tuple[int, int], Line]  # by member and first step


@dataclass(frozen=True)
class Ledger:
    """The finished units of a shard, in its folder; `has`, `steps` and `state` as of `Done`."""

    folder: Path
    lines: Lines

    @property
    def fields(self) -> int:
        """Number of finished fields."""
        return _fields(self.lines)

    def has(self, member: int, first: int) -> bool:
        """See `Done.has`."""
        return (member, first) in self.lines

    def steps(self, member: int) -> int:
        """See `Done.steps`; 0 if the state is damaged, so that the member is made anew."""
        line = self._last(member)
        return 0 if line is None or self._read_state(line) is None else line.end

    def state(self, member: int) -> F32:
        """See `Done.state`."""
        line = self._last(member)
        found = None if line is None else self._read_state(line)
        if found is None:
            raise KeyError(member)
        return found

    def record(self, unit: Unit) -> None:
        """Count a unit as finished; its values are all written. Only units of one member have a state."""
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
            self.lines[member, line.first] = line

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


def _digest(state: F32) -> str:
    return hashlib.sha256(np.ascontiguousarray(state).tobytes()).hexdigest()


def open_ledger(folder: Path, there: Callable[[Line], bool]) -> Ledger:
    """The ledger of the shard in a folder, without the units that are not `there`; its log ends with a whole line."""
    (folder / STATES).mkdir(exist_ok=True)
    lines = {place: line for place, line in read_lines(folder).items() if there(line)}
    aside = folder / f"{LOG}.new"
    aside.write_bytes(b"".join(map(_text, lines.values())))
    aside.replace(folder / LOG)
    return Ledger(folder, lines)


def read_lines(folder: Path) -> Lines:
    """The finished units of the shard in a folder, as far as its log is whole; one that was made anew counts once."""
    lines: Lines = {}
    try:
        data = (folder / LOG).read_bytes()
    except OSError:
        return lines
    for text in data.splitlines(keepends=True):
        try:
            line = Line(**json.loads(text))
        except (ValueError, TypeError):
            break
        if not text.endswith(b"\n"):
            break
        lines[line.member, line.first] = line
    return lines


def _text(line: Line) -> bytes:
    """A line of the log."""
    return json.dumps(asdict(line)).encode() + b"\n"


def _fields(lines: Lines) -> int:
    return sum(line.end - line.first for line in lines.values())


@dataclass(frozen=True)
class Run:
    """The record of a run: its folder, the number of its shards, what they divide, and what tells it from others."""

    folder: Path
    count: int
    pieces: Pieces
    identity: Mapping[str, str]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards."""
        return tuple(Shard(number, self.count) for number in range(1, self.count + 1))

    def place(self, shard: Shard) -> Path:
        """Folder of a shard."""
        return self.folder / SHARDS / f"{shard.number}-of-{shard.count}"

    def total(self, shards: Sequence[Shard]) -> int:
        """Fields of some shards."""
        return sum(self.pieces.fields(shard.part(self.pieces.count)) for shard in shards)

    def fields(self, shards: Sequence[Shard]) -> int:
        """Fields of some shards that are finished as of now."""
        return sum(_fields(read_lines(self.place(shard))) for shard in shards)

    def missing(self) -> tuple[Shard, ...]:
        """Shards that are not complete."""
        return tuple(shard for shard in self.shards if self.fields([shard]) < self.total([shard]))

    def kept(self, shards: Sequence[Shard]) -> str:
        """How much of some shards, or of the whole run, is finished, and where; empty if nothing is."""
        done, whole = self.fields(shards), len(shards) == self.count
        folder = self.folder if whole else self.place(shards[0])
        return f"{done} of {self.total(shards)} fields are kept in {folder}" if done else ""


def start_run(run: Run) -> None:
    """Write the record of a run; what its folder holds counts as that run from now on."""
    (run.folder / SHARDS).mkdir()
    record = {"format": FORMAT, "shards": run.count, "pieces": asdict(run.pieces), "identity": dict(run.identity)}
    aside = run.folder / f"{RUN}.new"
    aside.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    aside.replace(run.folder / RUN)


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if there is none that this version can read."""
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        if record.pop("format") != FORMAT:
            return None
        return Run(folder, record["shards"], Pieces(**record["pieces"]), record["identity"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


# What an interrupted run left is checked before it goes on: a machine that lost its power may have lost files.


def check_frame(fields: Path, layout: Layout) -> None:
    """Raise OutputError if the store in the folder `fields` lacks an array of its layout."""
    names = [item.name for item in coordinates(layout)] + [array.name for array in data_arrays(layout)]
    lost = [name for name in ("", *names) if not _holds(fields / name / "zarr.json")]
    if lost:
        found = f"{fields.parent} is damaged ({fields.name} lacks {lost[0] or 'all'})"
        raise OutputError(found, advice="start again with --overwrite")


def is_there(fields: Path, layout: Layout, line: Line) -> bool:
    """True if the store holds all chunks of a finished unit, of every variable."""
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
    """True if a file is there and not empty."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
