"""A mark tells our files, never a name: only marked ones are emptied, replaced or removed, and no link is followed.

A folder of ours appears under its name with its mark inside: it is made under a name that nobody else has, marked, and
renamed, unless something has taken the name. It goes the same way, the mark last. A process can be killed at any
moment: what it may leave under such a name is empty or marked, and the next one to work there removes it.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import stat
import sys
from pathlib import Path
from uuid import uuid4

from .errors import OutputError

MARK = "made-by-fsae.json"  # in a folder of ours, written before anything else
MAKER = "fsae"
NONCE = re.compile(r"[0-9a-f]{32}")
ASIDE = re.compile(r"\.fsae-" + NONCE.pattern)
MARK_BYTES = 1000  # no mark is longer
ATTEMPTS = 100  # another process may sweep a folder away that is just being made

NEW, SWAP = (1, 2) if sys.platform.startswith("linux") else (4, 2)  # flags of renameat2 and of macOS's renameatx_np
CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # said by file systems without these flags
HERE = -100 if sys.platform.startswith("linux") else -2  # AT_FDCWD


def kind(path: Path) -> str:
    """The kind of thing at a path: file, folder, link, or something else, such as a device; empty if there is nothing.

    >>> kind(Path("/")), kind(Path("/nowhere"))
    ('folder', '')
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "device or pipe")


def open_own(path: str | Path, flags: int, folder: int | None = None) -> int:
    """Open a file in a folder of ours, as `os.open` does; OSError if it is a link or no regular file."""
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # which Windows lacks
    number = os.open(path, flags | safe, 0o666, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    except BaseException:
        os.close(number)
        raise
    return number


def nonce_of(folder: Path) -> str | None:
    """The nonce in the mark of a folder; empty if something else stands there, links too, and None if nothing does.

    In a folder where all may write, such as /tmp, a folder is not ours if somebody else owns it.
    """
    while True:
        if os.name == "nt":  # folders cannot be opened there
            found = kind(folder)
            return _read_mark(folder / MARK) if found == "folder" else "" if found else None
        try:
            number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError:
            return ""
        try:
            nonce, opened = _read_mark(MARK, number), os.fstat(number)
            with contextlib.suppress(FileNotFoundError):  # it has just been removed, and perhaps made again
                if nonce or os.path.samestat(opened, folder.lstat()):
                    return "" if _is_planted(folder, opened) else nonce
        finally:
            os.close(number)


def _read_mark(path: str | Path, folder: int | None = None) -> str:
    """The nonce in a mark, by its path or by its name in an open folder; empty if there is none."""
    with contextlib.suppress(OSError, ValueError), open(open_own(path, os.O_RDONLY, folder), "rb") as file:
        record = json.loads(file.read(MARK_BYTES))
        if isinstance(record, dict) and record.get("made_by") == MAKER and NONCE.fullmatch(str(record.get("nonce"))):
            return str(record["nonce"])
    return ""


def _is_planted(folder: Path, opened: os.stat_result) -> bool:
    """True if a folder belongs to somebody else, in one where all may write but each removes only their own."""
    above = os.stat(folder.absolute().parent).st_mode
    return bool(above & stat.S_ISVTX and above & stat.S_IWOTH) and opened.st_uid != os.geteuid()


def is_ours(folder: Path) -> bool:
    """True if a folder carries our mark."""
    return bool(nonce_of(folder))


def check_ours(folder: Path) -> None:
    """Raise OutputError if something stands at a path that is no folder of ours."""
    if nonce_of(folder) == "":
        found = kind(folder) or "folder"
        what = "is a link, which is not followed" if found == "link" else f"is a {found} that fsae did not make"
        raise OutputError(f"{folder} {what}", advice="move it away, or give another output")


def make_folder(folder: Path) -> str:
    """Make a folder of ours, and return its nonce; FileExistsError if something stands there."""
    for _ in range(ATTEMPTS):
        nonce = uuid4().hex
        aside = _aside(folder, nonce)
        aside.mkdir()
        try:
            with contextlib.suppress(FileNotFoundError):  # swept away by another process
                write_mark(aside, nonce)
                rename_new(aside, folder)
                return nonce
        except BaseException:
            _remove_marked(aside)
            raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)


def write_mark(folder: Path, nonce: str) -> None:
    """Mark a folder that this process has just made.

    It is not forced to the disk: if a loss of power takes the mark, the folder is no longer ours, and stays.
    """
    with open(open_own(folder / MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(json.dumps({"made_by": MAKER, "nonce": nonce}).encode() + b"\n")


def remove_folder(folder: Path, names: tuple[str, ...] = ()) -> bool:
    """Remove a folder of ours that holds nothing but its mark and files of these names; False if it holds more.

    It is first renamed, and looked at then: whatever takes its name meanwhile stays.
    """
    if not is_ours(folder) or not {entry.name for entry in os.scandir(folder)} <= {MARK, *names}:
        return False
    aside = _aside(folder, uuid4().hex)
    rename_new(folder, aside)
    if not is_ours(aside):  # something else took its place since it was looked at
        rename_new(aside, folder)
        return False
    _remove_marked(aside, names)
    return True


def sweep(folder: Path, names: tuple[str, ...] = ()) -> None:
    """Remove what processes left in a folder that were killed while they made or removed one of ours there."""
    for entry in os.scandir(folder):
        if ASIDE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            taken = _aside(Path(entry.path), uuid4().hex)
            with contextlib.suppress(OSError):  # a process that is making it takes it away first, or begins again
                rename_new(Path(entry.path), taken)
                _remove_marked(taken, names)
                if kind(taken):  # it holds more, so it is not what such a process left
                    rename_new(taken, Path(entry.path))


def _aside(folder: Path, nonce: str) -> Path:
    """The name of a folder while it is not marked yet, or not any more."""
    return folder.absolute().with_name(f".fsae-{nonce}")


def _remove_marked(aside: Path, names: tuple[str, ...] = ()) -> None:
    """Remove a folder that holds nothing but our mark and files of these names, the mark last, or that is empty."""
    with contextlib.suppress(OSError):
        found = {entry.name for entry in os.scandir(aside)}
        if found and found <= {MARK, *names} and is_ours(aside):
            for name in (*found - {MARK}, MARK):
                (aside / name).unlink()
        aside.rmdir()


def remove_tree(path: Path) -> None:
    """Remove a file or folder that lies in a folder of ours; OutputError, and nothing is removed, if it has links."""
    found = kind(path)
    if found == "folder":
        check_plain(path)
        shutil.rmtree(path)  # on Linux and macOS by file descriptors: a link that comes now is not followed
    elif found == "file":
        path.unlink()
    elif found:
        raise stranger(path, found)


def stranger(path: Path, what: str) -> OutputError:
    """The error that something which fsae did not make lies among its files."""
    return OutputError(f"found {path}, a {what} that fsae did not make", advice="move it away")


def check_plain(folder: Path, levels: int = sys.maxsize) -> None:
    """Raise OutputError if a tree, down to some levels, holds anything but files and folders of one file system."""
    device, left = folder.lstat().st_dev, [(folder, 1)]
    while left:
        here, level = left.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(here) as entries:  # another process may remove its own
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    if entry.stat(follow_symlinks=False).st_dev != device:
                        raise stranger(path, "mount point")
                    left += [(path, level + 1)] if level < levels else []
                elif not entry.is_file(follow_symlinks=False):
                    raise stranger(path, kind(path))


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder; FileExistsError if anything stands at the target, a dangling link included."""
    if os.name == "nt":
        source.rename(target)
    elif not _rename(source, target, NEW):
        # At worst an empty folder is replaced that came this very moment, on a file system without the flag.
        if kind(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        source.rename(target)


def exchange(one: Path, other: Path, aside: Path) -> None:
    """Let two files or folders change their names: in one step, or by way of `aside` where the system cannot."""
    if os.name == "nt" or not _rename(one, other, SWAP):
        rename_new(other, aside)
        try:
            rename_new(one, other)
        except OSError:
            rename_new(aside, other)
            raise
        rename_new(aside, one)


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Rename by the kernel's own call with a flag; False if it or the file system does not know that."""
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "renameat2" if sys.platform.startswith("linux") else "renameatx_np", None)
    if call is None:
        return False
    if call(HERE, os.fsencode(source), HERE, os.fsencode(target), ctypes.c_uint(flag)) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
