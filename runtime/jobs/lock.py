"""One writer at a time: a lock on a folder, which the kernel takes back when its process ends, however it ends."""

import contextlib
import errno
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from filelock import lock_descriptor

from fsae.runtime.errors import OutputError
from fsae.runtime.output.files import LOCK, SHARDS
from fsae.runtime.ownership import check_ours, kind, make_folder, open_own, remove_folder, stranger, sweep

HOLDER = 200  # bytes of its file that say who holds it; after them stands the token
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5  # between attempts to take a lock that another process holds
ATTEMPTS = 100  # a folder can be removed between making it and locking in it, by a run that is just ending

# What file systems without locks say, as some parallel ones are mounted.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def holder(folder: Path) -> str:
    """Who holds the lock of a folder, as far as its file tells.

    >>> holder(Path("nowhere"))
    'another run'
    """
    try:
        with open(open_own(folder / LOCK, os.O_RDONLY), encoding="utf-8") as file:
            return file.read(HOLDER).strip() or "another run"
    except (OSError, UnicodeDecodeError):  # Windows does not let a locked file be read
        return "another run"


def _busy(folder: Path) -> OutputError:
    return OutputError(
        f"{folder} is being written by {holder(folder)}", advice="wait for it or stop it, or give another output"
    )


def _take(folder: Path) -> int | None:
    """The open, locked file `lock` of a folder, which is made if it is missing; None if another process holds it.

    filelock's own class will not do: it makes parent folders too, and so brings back a run that has just been removed.
    """
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            _make(folder)
            number = open_own(folder / LOCK, os.O_RDWR | os.O_CREAT)
            try:
                if not lock_descriptor(number, blocking=False):
                    os.close(number)
                    return None
                if os.path.samestat(os.fstat(number), os.lstat(folder / LOCK)):
                    return number
            except BaseException:
                os.close(number)
                raise
            os.close(number)  # the lock of a folder that is gone
    if not folder.is_dir():  # no other run removes it that often
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    return None


def _is_shard(folder: Path) -> bool:
    """True for the folder of a shard, which lies in the marked folder of its run."""
    return folder.parent.name == SHARDS


def _make(folder: Path) -> None:
    """Make a folder to lock if it is missing; OutputError if something stands there that is not ours."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir() if _is_shard(folder) else make_folder(folder)
    if not _is_shard(folder):
        check_ours(folder)
    elif kind(folder) not in ("folder", ""):
        raise stranger(folder, kind(folder))


def _take_in_time(folder: Path, patience_s: float) -> int | None:
    """See `_take`; None only if another process has held the lock for that long."""
    end, pause_s = time.monotonic() + patience_s, SHORTEST_PAUSE_S
    while (number := _take(folder)) is None and time.monotonic() < end:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return number


class TakenOver(OutputError):
    """Another process has taken over what this one was at work on."""


@dataclass(frozen=True)
class Hold:
    """A lock that is held. Its file has a token of whoever took it last.

    Some file systems of many hosts take locks that only one host sees: then two processes hold one. The token tells
    them apart: the one that came first sees that it is no longer its own, and stops.
    """

    folder: Path
    text: bytes

    def is_current(self) -> bool:
        """True if no other process has taken the lock since."""
        try:
            with open(open_own(self.folder / LOCK, os.O_RDONLY), "rb") as file:
                return file.read() == self.text
        except PermissionError:
            return os.name == "nt"  # which does not let a locked file be read: so the lock is seen
        except OSError:
            return False

    def check(self) -> None:
        """Raise TakenOver if another process has taken the lock since."""
        if not self.is_current():
            raise TakenOver(
                f"another process has taken over {self.folder}, whose file system has no locks that all hosts see: "
                "this one stops",
                advice="let one process write an output, or give one on another file system",
            )


def _sign(folder: Path, number: int) -> Hold:
    """Write into the file of a lock who holds it, with a new token; in one write, so that the last one stands whole."""
    who = f"process {os.getpid()} on {platform.node()}".encode("ascii", "replace")[: HOLDER - 1]
    text = who.ljust(HOLDER - 1) + f"\n{uuid4().hex}\n".encode()
    if os.fstat(number).st_size > len(text):
        os.ftruncate(number, 0)  # of an earlier version
    os.lseek(number, 0, os.SEEK_SET)
    if os.write(number, text) != len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(number)  # other hosts see it now
    return Hold(folder, text)


@contextlib.contextmanager
def locked(folder: Path, patience_s: float = 0.0) -> Iterator[Hold]:
    """Let the block alone write in the folder, which is made; OutputError naming the run that does so already.

    The other run is waited for that long. A killed run leaves no lock: the kernel takes it back. At the end of the
    block the folder is removed if nothing but the lock is in it.
    """
    number = hold = None
    try:
        try:
            number = _take_in_time(folder, patience_s)
            hold = None if number is None else _sign(folder, number)
        except OSError as error:
            why, advice = error.strerror, "check that it has space and is yours"
            if error.errno in NO_LOCKS:
                why, advice = "its file system has no locks", "give an output on another file system"
            raise OutputError(f"cannot lock {folder}: {why}", advice=advice) from None
        if hold is None:
            raise _busy(folder)
        yield hold
    finally:
        if number is not None:
            _leave(folder, number, hold)


def _leave(folder: Path, number: int, hold: Hold | None) -> None:
    """Give a lock back; its folder goes if nothing else is in it, and no other process has taken it over."""
    try:
        with contextlib.suppress(OSError):  # not empty, or on Windows in use: it goes with the folder next time
            if hold is not None and not hold.is_current():
                pass
            elif not _is_shard(folder):
                remove_folder(folder, (LOCK,))
                sweep(folder.absolute().parent, (LOCK,))
            elif [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()
    finally:
        os.close(number)


def check_idle(folder: Path) -> None:
    """Raise OutputError if a process is making a shard of the run in a folder."""
    for file in sorted(folder.glob(f"{SHARDS}/*/{LOCK}")):
        with contextlib.suppress(FileNotFoundError), open(open_own(file, os.O_RDWR), "r+b") as lock:
            if not lock_descriptor(lock.fileno(), blocking=False):
                raise _busy(file.parent)
