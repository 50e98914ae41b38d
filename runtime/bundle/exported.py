"""The record of the bundles that this user exported: only those in ./engines are used without being named by a path.

A working folder can hold anything that was copied or unpacked into it, and a bundle decides what a command writes. The
record is a text file in the user's state folder, one line with a bundle's fingerprint per export.
"""

import os
from pathlib import Path

from fsae.runtime.log import log
from fsae.runtime.ownership import open_own

RECORD = Path("fsae", "exported-bundles.txt")


def remember(fingerprint: str) -> None:
    """Add a bundle's fingerprint to the record; warn if that cannot be done."""
    try:
        path = _record()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="ascii") as file:
            file.write(f"{fingerprint}\n")
    except (OSError, RuntimeError) as error:
        log.warning(f"cannot record the export ({error}): name the bundle by its path, --model PATH")


def remembered() -> frozenset[str]:
    """The fingerprints in the record; none if it cannot be read."""
    try:
        return frozenset(_record().read_text(encoding="ascii").split())
    except (OSError, RuntimeError, UnicodeDecodeError):
        return frozenset()


def _record() -> Path:
    """Path of the record, by the XDG base directory specification; RuntimeError if the user has no home."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / RECORD
