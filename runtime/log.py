"""The logger "fsae": silent until a program listens; each command line prints its records on stderr."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import shown

MOST_OF_A_RECORD = 2000  # characters

log = logging.getLogger("fsae")

log.addHandler(logging.NullHandler())  # else Python prints the warnings of a program that has no logging on stderr


def one_line(record: logging.LogRecord) -> bool:
    """Make a record's message fit for a terminal, see `errors.shown`: it may hold names and units from files."""
    record.msg, record.args = shown(record.getMessage(), MOST_OF_A_RECORD), None
    return True


log.addFilter(one_line)  # whichever handlers a host program has


class StderrHandler(logging.Handler):
    """A line on stderr for each record, as in `fsae-run: warning: ...`; `stderr` is looked up each time."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix
        self.addFilter(one_line)  # records of loggers below "fsae" pass no filter of it

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record; its level is named from warnings on."""
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        say(f"{self._prefix}{level}{record.getMessage()}")


def say(line: str) -> None:
    """Print a line on stderr, unless it is closed or nobody reads it any more."""
    if sys.stderr is not None:  # else `print` would take stdout
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def on_stderr(program: str = "") -> Iterator[None]:
    """Print the records of "fsae" on stderr while the block runs, behind the program's name if one is given."""
    handler = StderrHandler(f"{program}: " if program else "")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@contextlib.contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Append the records of "fsae" to the file `path`, with date and time, while the block runs."""
    from .ownership import open_own  # no link is followed, and no pipe waited for

    with open(open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8") as file:
        handler = logging.StreamHandler(file)
        handler.addFilter(one_line)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
