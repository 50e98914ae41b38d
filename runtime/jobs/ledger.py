"""The finished part of a run that may be stopped at any moment, in the folder of its unfinished output.

    run.json                    what the run is, and in how many shards it is made
    shards/3-of-8/units.log     a line for every finished unit of the shard, written after its values
    shards/3-of-8/states/       by member, what its next step needs of those before

Only the log counts: a line is appended in one call after everything it speaks of is on the disk, so a process can be
killed, or a machine lose its power, at any moment. A line holds the checksums of the unit's files and one of itself;
one that is torn or damaged does not count. A run that goes on reads the files of each unit first: what is not as it was
written is made again. (The chunks alone would not do: how far each of thousands of shards is would take a look at every
one of their files.)
"""

import errno
import hashlib
import io
import itertools
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.atomic import force, write_aside
from fsae.runtime.errors import OutputError
from fsae.runtime.log import log
from fsae.runtime.output.files import RUN, SHARDS, output_errors
from fsae.runtime.output.layout import Layout, Unit
from fsae.runtime.output.seal import checksum
from fsae.runtime.ownership import open_own

from .chunks import chunk_names, keep
from .shards import Pieces, Shard

FORMAT = 3
LOG, STATES = "units.log", "states"


@dataclass(frozen=True)
class Line:
    """A finished unit of one member: its steps, from the first to the end, and the hash of the state after them.

    `sums` are the checksums of its files, in the order of `chunk_names`.
    """

    member: int
    first: int
    end: int
    sums: tuple[str, ...]
    state: str = ""


Lines = dict[tuple[int, int], Line]  # by member and first step


@dataclass(frozen=True)
class Ledger:
    """The finished units of a shard, in its folder; `has`, `steps` and `state` as of `Done`.

    `store` is that of the run, `layout` its layout, and `known` the folders in it that are on the disk.
    """

    folder: Path
    lines: Lines
    store: Path
    layout: Layout
    known: set[Path] = field(default_factory=set)

    @property
    def fields(self) -> int:
        """Number of finished fields."""
        return _fields(self.lines)

    def has(self, member: int, first: int) -> bool:
        """See `Done.has`."""
        return (member, first - first % self.layout.unit_steps) in self.lines

    def steps(self, member: int) -> int:
        """See `Done.steps`; 0 if the state is damaged, so that the member is made anew."""
        line = last_line(self.lines, member)
        return 0 if line is None or self._read_state(line) is None else line.end

    def state(self, member: int) -> F32:
        """See `Done.state`."""
        line = last_line(self.lines, member)
        found = None if line is None else self._read_state(line)
        if found is None:
            raise KeyError(member)
        return found

    def keep(self, unit: Unit) -> dict[int, tuple[str, ...]]:
        """Make the files of a unit last, and return their checksums by member."""
        members = range(unit.members.start, unit.members.stop)
        return {
            member: keep(self.store, chunk_names(self.layout, member, unit.times), self.known) for member in members
        }

    def record(self, unit: Unit, sums: Mapping[int, tuple[str, ...]]) -> None:
        """Count a unit as finished, whose files last and have these checksums. Only one of one member has a state."""
        for member, own in sums.items():
            state = "" if unit.state is None else _digest(unit.state)
            line = Line(member, unit.times.start, unit.times.stop, own, state)
            if unit.state is not None:
                with _opened(self._state_path(member, line.end), os.O_TRUNC) as file:
                    np.save(file, unit.state, allow_pickle=False)
                    os.fsync(file.fileno())
            data = _text(line)
            with _opened(self.folder / LOG, os.O_APPEND) as file:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            if unit.state is not None:
                self._state_path(member, line.first).unlink(missing_ok=True)
            self.lines[member, line.first] = line

    def _state_path(self, member: int, end: int) -> Path:
        return self.folder / STATES / f"{member}-{end}.npy"

    def _read_state(self, line: Line) -> F32 | None:
        try:
            found: F32 = np.load(io.BytesIO(self._state_path(line.member, line.end).read_bytes()), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if _digest(found) == line.state else None


def last_line(lines: Lines, member: int) -> Line | None:
    """The last of the units of a member that follow each other from its first step on."""
    line = None
    while (member, line.end if line else 0) in lines:
        line = lines[member, line.end if line else 0]
    return line


def _opened(path: Path, mode: int) -> io.FileIO:
    """A file of the ledger to write to, unbuffered; OSError if a link or something else has its name."""
    return io.FileIO(open_own(path, os.O_WRONLY | os.O_CREAT | mode), "w")


def _digest(state: F32) -> str:
    return hashlib.sha256(np.ascontiguousarray(state).tobytes()).hexdigest()


def open_ledger(folder: Path, fields: Path, layout: Layout) -> Ledger:
    """The ledger of the shard in a folder, without units whose files in the store `fields` are not as they were.

    Its log holds whole lines only.
    """
    (folder / STATES).mkdir(exist_ok=True)
    known = read_lines(folder)
    lines = {place: line for place, line in known.items() if not damaged_files(fields, layout, line)}
    if lost := _fields(known) - _fields(lines):
        log.warning(f"{lost} fields of {folder} are damaged or missing: they are made again")
    write_lines(folder, lines)
    return Ledger(folder, lines, fields, layout)


def damaged_files(fields: Path, layout: Layout, line: Line) -> list[str]:
    """Files of a finished unit that are missing, or not as they were written."""
    names = chunk_names(layout, line.member, slice(line.first, line.end))
    if len(names) != len(line.sums):
        return names
    return [name for name, known in zip(names, line.sums, strict=True) if checksum(fields / name) != known]


def write_lines(folder: Path, lines: Lines) -> None:
    """Replace the log of the shard in a folder."""
    with write_aside(folder / LOG) as aside:
        aside.write_bytes(b"".join(map(_text, lines.values())))
        force(aside)
    force(folder)


def read_lines(folder: Path) -> Lines:
    """The finished units of the shard in a folder, by the whole lines of its log; one made anew counts once."""
    lines: Lines = {}
    try:
        data = (folder / LOG).read_bytes()
    except OSError:
        return lines
    for text in data.split(b"\n")[:-1]:  # after the last end of a line there is nothing, or a torn line
        line = _line(text)
        if line is not None:
            lines[line.member, line.first] = line
    return lines


def _text(line: Line) -> bytes:
    """A line of the log: a record and, after a space, its CRC-32."""
    record = json.dumps(asdict(line)).encode()
    return record + f" {zlib.crc32(record):08x}\n".encode()


def _line(text: bytes) -> Line | None:
    """The record of a line of the log; None if it is damaged."""
    record, _, check = text.rpartition(b" ")
    if check != f"{zlib.crc32(record):08x}".encode():
        return None
    try:
        found = json.loads(record)
        return Line(**(found | {"sums": tuple(found["sums"])}))
    except (ValueError, TypeError, LookupError):
        return None


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
    aside.write_text(json.dumps(record | {"sha256": _digest_of(record)}, indent=1, sort_keys=True), encoding="utf-8")
    force(aside)
    aside.replace(run.folder / RUN)
    force(run.folder)


def _digest_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if there is none that this version can read."""
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        if record.pop("sha256") != _digest_of(record) or record.pop("format") != FORMAT:
            return None
        return Run(folder, record["shards"], Pieces(**record["pieces"]), record["identity"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def check_units(run: Run, fields: Path, layout: Layout) -> dict[str, str]:
    """Checksums of all files of a run that is complete, by name, each of which is read.

    OutputError if some are not as they were written; their units do not count as finished any more. No other process
    may be making a shard.
    """
    sums: dict[str, str] = {}
    wrong: list[str] = []
    for place in map(run.place, run.shards):
        lines = read_lines(place)
        damaged = {key: files for key, line in lines.items() if (files := damaged_files(fields, layout, line))}
        if damaged:
            with output_errors(fields.parent, ""):
                write_lines(place, {key: line for key, line in lines.items() if key not in damaged})
            wrong += itertools.chain.from_iterable(damaged.values())
        for line in lines.values():
            sums.update(zip(chunk_names(layout, line.member, slice(line.first, line.end)), line.sums, strict=False))
    if wrong:
        found = wrong[0] if len(wrong) == 1 else f"{wrong[0]} and {len(wrong) - 1} more files"
        raise OutputError(
            f"{fields.parent} was damaged after it was written ({found})", advice="check the disk that it is on"
        )
    return sums
