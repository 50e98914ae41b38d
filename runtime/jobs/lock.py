"""One writer at a time: a lock on a folder, which the kernel takes back when its process ends, however it ends."""

import contextlib
import errno
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import lock_descriptor

from fsae.runtime.errors import OutputError

LOCK = "lock"
SHARDS = "shards"  # a folder of folders, each locked by the process that makes a shard, see resume.py
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
        return (folder / LOCK).read_text(encoding="utf-8").strip() or "another run"
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
            with contextlib.suppress(FileExistsError):  # not exist_ok=True: it fails if the folder goes meanwhile
                folder.mkdir()
            number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not lock_descriptor(number, blocking=False):
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


def _take_in_time(folder: Path, patience_s: float) -> int | None:
    """See `_take`; None only if another process has held the lock for that long."""
    end, pause_s = time.monotonic() + patience_s, SHORTEST_PAUSE_S
    while (number := _take(folder)) is None and time.monotonic() < end:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return number


@contextlib.contextmanager
def locked(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Let the block alone write in the folder, which is made; OutputError naming the run that does so already.

    The other run is waited for that long. A killed run leaves no lock: the kernel takes it back. At the end of the
    block the folder is removed if nothing but the lock is in it.
    """
    try:
        number = _take_in_time(folder, patience_s)
    except OSError as error:
        why = f"{error.strerror}; is there space, and is it yours?"
        if error.errno in NO_LOCKS:
            why = "its file system has no locks; give an output on another file system"
        raise OutputError(f"cannot lock {folder}: {why}") from None
    if number is None:
        raise _busy(folder)
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
    """Raise OutputError if a process is making a shard of the run in a folder."""
    for file in sorted(folder.glob(f"{SHARDS}/*/{LOCK}")):
        with contextlib.suppress(FileNotFoundError), file.open("r+b") as lock:
            if not lock_descriptor(lock.fileno(), blocking=False):
                raise _busy(file.parent)


def clear(folder: Path) -> None:
    """Remove all that is in a folder but its lock. Files go first: they say what the folders are."""
    for path in sorted(folder.iterdir(), key=Path.is_dir):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
