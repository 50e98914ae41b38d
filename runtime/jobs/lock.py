"""One writer at a time: a lock that the operating system gives back when its process ends, however it ends."""

import contextlib
import errno
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fsae.runtime.errors import OutputError

LOCK = "lock"

SHARDS = "shards"  # a folder of folders, each locked by the process that makes a shard, see shards.py

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.5  # between attempts to take a lock that another holds

ATTEMPTS = 100  # a folder can be removed between making it and locking in it, by a run that is just ending

# What file systems without locks say, as some parallel ones are mounted.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def _take(number: int) -> bool:
    """Whether the open file is locked for this process now; without waiting."""
    if sys.platform == "win32":
        import msvcrt

        try:
            os.lseek(number, 0, os.SEEK_SET)
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_file(folder: Path) -> int | None:
    """The open, locked file `lock` of a folder that is made where it is missing; None where another holds it."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            with contextlib.suppress(FileExistsError):  # `exist_ok` looks again, and fails where it is gone by then
                folder.mkdir()
            number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _take(number):
                    os.close(number)
                    return None
                if os.path.samestat(os.fstat(number), os.stat(folder / LOCK)):
                    return number
            except BaseException:
                os.close(number)
                raise
            os.close(number)  # the lock of a folder that is gone
    if not folder.is_dir():  # no other run removes it that often
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    return None


def holder(folder: Path) -> str:
    """Who holds the lock of a folder, as far as its file tells.

    >>> holder(Path("nowhere"))
    'another run'
    """
    try:
        return (folder / LOCK).read_text(encoding="utf-8").strip() or "another run"
    except (OSError, UnicodeDecodeError):  # Windows does not let a locked file be read
        return "another run"


def _locked_in_time(folder: Path, patience_s: float) -> int | None:
    """See `_locked_file`; None only where another has held it for so many seconds."""
    end, pause_s = time.monotonic() + patience_s, SHORTEST_PAUSE_S
    while (number := _locked_file(folder)) is None and time.monotonic() < end:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return number


@contextlib.contextmanager
def locked(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """A block that alone writes in the folder, which is made; OutputError where another run does, naming it.

    So many seconds are waited for the other one. The kernel gives the lock back when the process ends, so a killed run
    leaves none. At the end of the block the folder is removed where nothing but the lock is in it.
    """
    try:
        number = _locked_in_time(folder, patience_s)
    except OSError as error:
        why = f"{error.strerror}; is there space, and is it yours?"
        if error.errno in NO_LOCKS:
            why = "its file system has no locks; take a folder on another file system"
        raise OutputError(f"cannot lock {folder}: {why}") from None
    if number is None:
        raise OutputError(
            f"{folder} is being written by {holder(folder)}: wait for it or stop it, or take another folder"
        )
    try:
        os.ftruncate(number, 0)
        os.write(number, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty, or on Windows in use: it goes with the folder next time
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()
        os.close(number)


def check_idle(folder: Path) -> None:
    """Nothing, or OutputError where a process is making a shard of the run in a folder."""
    for lock in sorted(folder.glob(f"{SHARDS}/*/{LOCK}")):
        try:
            number = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            if not _take(number):
                raise OutputError(
                    f"{lock.parent} is being written by {holder(lock.parent)}: wait for it or stop it, or give another "
                    "output"
                )
        finally:
            os.close(number)


def clear(folder: Path) -> None:
    """Nothing is left in a folder but its lock. Files go first: they say what the folders are."""
    for path in sorted(folder.iterdir(), key=Path.is_dir):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
