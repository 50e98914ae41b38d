"""GRIB messages that we wrote, which say so in section 2: which of how many it is, and checksums.

    fsae{"about": {...}, "headers": "9f86...", "message": 1, "of": 24, "values": "60ae..."}

`headers` is the checksum of all but the values and of what the first message tells `about` the whole file, `values`
that of the values: who changes, adds or leaves out a message, or puts that of another file in, leaves no file of ours.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .sections import DATA, LOCAL, Sections, messages_of, with_local

MAKER = b"fsae"
ABOUT, HEADERS, VALUES = "about", "headers", "values"

Record = dict[str, Any]


def digest(about: Mapping[str, Any]) -> str:
    """The checksum of what the first message tells about the file."""
    return hashlib.sha256(_text(about)).hexdigest()


def sign(message: bytes, sections: Sections, record: Record, about: str) -> bytes:
    """A message, of these sections, with section 2: the record and its checksums; `about` is a `digest`."""
    record = {**record, VALUES: hashlib.sha256(sections[DATA]).hexdigest()}
    record[HEADERS] = _headers(sections, record, about)
    return with_local(message, MAKER + _text(record))


def read_about(path: Path) -> Record:
    """The account that a file of ours gives of itself; ValueError, LookupError or OSError if it is none."""
    with path.open("rb") as file:
        found: Record = _record(next(messages_of(file, data=False), {}))[ABOUT]
        return found


def first_changed(path: Path, values: bool = True) -> str:
    """The first message of a file of ours that is not as it was written; empty if there is none.

    Without `values` only headers are read. ValueError, LookupError or OSError if it is no file of ours.
    """
    with path.open("rb") as file:
        about, number, of = "", 0, 0
        for number, sections in enumerate(messages_of(file, data=values), 1):
            record = _record(sections)
            if number == 1:
                about, of = digest(record[ABOUT]), int(record["of"])
            same = (record["message"], record["of"]) == (number, of)
            if not same or record.pop(HEADERS) != _headers(sections, record, about):
                return f"message {number}"
            if values and record[VALUES] != hashlib.sha256(sections[DATA]).hexdigest():
                return f"message {number}"
    return "" if number and number == of else f"message {number + 1}"


def _record(sections: Sections) -> Record:
    content = sections.get(LOCAL, b"")
    if not content.startswith(MAKER):
        raise ValueError("no message of fsae")
    found: Record = json.loads(content[len(MAKER) :])
    return found


def _headers(sections: Sections, record: Record, about: str) -> str:
    """The checksum of all sections but the values, of the record, and of what the file tells about itself."""
    whole = hashlib.sha256(_text([{key: value for key, value in record.items() if key != ABOUT}, about]))
    for number, content in sections.items():
        if number not in (LOCAL, DATA):
            whole.update(content if number else content[:8])  # section 0 without the length, which section 2 changes
    return whole.hexdigest()


def _text(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()
