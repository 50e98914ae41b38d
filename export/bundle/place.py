"""Folders that appear as a whole: filled aside, then put in place of an older one.

What an export that was killed has left is put right by the next one in the same folder.
"""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fsae.runtime.bundle.files import MANIFEST
from fsae.runtime.bundle.manifest import is_safe_path
from fsae.runtime.errors import OutputError, UsageError

# Folders in which exports of this machine work: several machines may write to the same place.
ASIDE = f".partial-{platform.node()}-"
OLD = "old"  # inside, holds the folder that is being replaced


def place_of(out: Path, name: str) -> Path:
    """Folder for the bundle `name`; UsageError or OutputError if it cannot be one, before any work is done."""
    if not is_safe_path(name) or "/" in name:
        raise UsageError(f"the bundle name {name!r} is not a plain name: use letters, digits, '-', '_' and '.'")
    folder = out / name
    with contextlib.suppress(OSError):  # the checks below report a place that cannot be written
        _recover(out)
    ground = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not ground.is_dir() or not os.access(ground, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {ground}: choose another --out, or make it a folder of yours")
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not a bundle: choose another --name or --out, or remove it")
    return folder


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which replaces `folder` when the block ends; if it fails, the old one stays.

    OutputError if anything cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # One level deeper than bundles lie, so that a search for bundles does not find a half-written one.
        aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{os.getpid()}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {folder.parent}: {error.strerror}; is it yours?") from None
    new, old = aside / folder.name, aside / OLD / folder.name
    try:
        new.mkdir()
        yield new
        if folder.exists():
            old.parent.mkdir()
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; is there space, and is it yours?") from None
    finally:
        if old.exists() and not folder.exists():  # an error, or Ctrl-C, between the two renamings
            old.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)


def _recover(out: Path) -> None:
    """Restore folders that a killed export had moved aside, and remove what else it left."""
    for aside in out.glob(f"{ASIDE}*"):
        process = aside.name.removeprefix(ASIDE).partition("-")[0]
        if not process.isdecimal() or _runs(int(process)):
            continue
        for old in (aside / OLD).glob("*"):
            if not (out / old.name).exists():
                old.rename(out / old.name)
        shutil.rmtree(aside, ignore_errors=True)


def _runs(process: int) -> bool:
    """True if a process of this machine is running."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
