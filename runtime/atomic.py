"""Files that are whole or not there, however the process that writes them ends."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4


def force(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk, so that a loss of power does not undo what was written."""
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:
        if os.name == "nt" and path.is_dir():  # Windows does not open folders, and keeps their names by itself
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # as some file systems say of folders
            raise
    finally:
        os.close(number)


def force_tree(path: Path) -> None:
    """Force a file, or a folder with all that is in it, to the disk."""
    for one in [*path.rglob("*"), path]:
        force(one)


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Write to the path this gives, beside `path`: the file takes the name `path` when the block ends.

    If the block fails, the file is removed and an older one of that name stays. Several processes may write the same
    file at once, also on different machines: the last one to finish wins. FileExistsError if a link or a folder has the
    name: nothing but a file is replaced.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise FileExistsError(errno.EEXIST, "a link or a folder has that name", str(path))
    aside = path.with_name(f"{path.name}.partial-{os.getpid()}-{uuid4().hex[:8]}")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
