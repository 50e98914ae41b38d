"""How a command ends: its exit code and, if it failed, one sentence on stderr; never a traceback."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import click

from fsae.runtime.errors import DeviceError, FsaeError, OutputError, Stopped, shown
from fsae.runtime.log import say

from .start import INTERRUPTED

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # only writing fails like that
ROOM = "make room on the disks of the output and of temporary files, then give the same command again"


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command of the package, and its own words for failures that all commands have in common."""

    name: str
    mark: str = "error: "
    extra: str  # that brings its libraries
    memory: str  # what to do if it is too little
    interrupted: str = "interrupted; nothing was finished"  # where no stage says what is kept

    def fail(self, sentence: str, code: int = FsaeError.exit_code) -> int:
        """Print the sentence of an error; return the exit code."""
        say(f"{self.name}: {self.mark}{sentence}")
        return code


def exit_code_of(program: Program, run: Callable[[], object]) -> int:
    """Run a command and return its exit code, the sentence of an error printed.

    An error that nobody foresaw gets a log file with its traceback, and the sentence names that file.
    """
    try:
        code = run()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a failure can still become a sentence
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        click.UsageError(shown(error.format_message()), getattr(error, "ctx", None)).show()
        return error.exit_code
    except FsaeError as error:
        if not isinstance(error, Stopped):
            return program.fail(str(error), error.exit_code)
        say(f"{program.name}: {error}")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        say(f"{program.name}: {program.interrupted}")
        return INTERRUPTED
    except Exception as error:
        return _failure(program, error)


def _failure(program: Program, error: Exception) -> int:
    """The exit code of an error of Python or of a library, its sentence printed."""
    if isinstance(error, MemoryError):
        notes = "; ".join([program.memory, *getattr(error, "__notes__", ())])
        return program.fail(f"not enough memory: {shown(notes)}")
    if isinstance(error, OSError):
        return _system_error(program, error)
    if isinstance(error, ImportError):
        found = f"{error.name} is not installed" if error.name else f"a library is damaged ({error})"
        return program.fail(f'{shown(found)}: pip install "fsae[{program.extra}]"', DeviceError.exit_code)
    return unforeseen(program, error)


def _system_error(program: Program, error: OSError) -> int:
    """See `_failure`: stdout that cannot be written, a full disk, or what nobody foresaw."""
    why = shown(error.strerror or str(error))
    if _stdout_failed(error):
        if isinstance(error, BrokenPipeError):  # its reader has gone, as in `fsae-run info | head -1`
            return FsaeError.exit_code
        return program.fail(f"cannot write to stdout: {why}: send it to another place")
    if error.errno in FULL:
        place = shown(str(error.filename)) if error.filename else "a file"
        return program.fail(f"cannot write {place}: {why}: {ROOM}", OutputError.exit_code)
    return unforeseen(program, error)


def _stdout_failed(error: OSError) -> bool:
    """True if stdout could not be written; then it is replaced, so that Python does not complain when it ends.

    Only two places write to it: `click.echo`, and `exit_code_of` what was left in its buffer.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_globals["__name__"] not in (__name__, click.echo.__module__):
        return False
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def unforeseen(program: Program, error: BaseException) -> int:
    """Write the log file of an error that nobody foresaw, and print the sentence that names it."""
    from fsae.runtime.crash import write_log

    kind, what = type(error).__name__, shown(str(error).strip().partition("\n")[0], 200)
    found = f"fsae failed where it should not: {kind}{f' ({what})' if what else ''}"
    try:
        place = write_log(program.name, error)
    except Exception as reason:
        why = shown(getattr(reason, "strerror", None) or type(reason).__name__)
        return program.fail(f"{found}; no log could be written ({why}): make room in $TMPDIR and try again")
    advice = f"report it with the file {place}, which holds the details; `fsae-run doctor` looks at the installation"
    return program.fail(f"{found}: {advice}")


def quiet_libraries() -> None:
    """Keep what libraries say off the terminal for the rest of the process: warnings, and errors of their threads.

    Python's own options still show them: `-W default`, or PYTHONWARNINGS.
    """
    import threading
    import warnings

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.getLogger().addHandler(logging.NullHandler())  # else Python prints the records of libraries
        threading.excepthook = lambda arguments: None  # the thread that waits for another raises its error
        sys.unraisablehook = lambda arguments: None
