"""Folders that appear as a whole: filled aside, then put in place of an older one, which must be ours.

What an export that was killed has left is put right by the next one in the same folder.
"""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from fsae.export.engines.layer_report import report_name
from fsae.runtime.backends.engine_index import BUILT, LOCK_FOLDER, engine_folder, load_index
from fsae.runtime.bundle.files import COMPILED, MANIFEST, VERIFIED, open_bundle
from fsae.runtime.bundle.manifest import is_safe_path
from fsae.runtime.errors import BundleError, OutputError, UsageError
from fsae.runtime.ownership import is_ours, kind, write_mark

# Folders in which exports of this machine work: several machines may write to the same place.
ASIDE = f".partial-{platform.node()}-"
OLD = "old"  # inside, holds the folder that is being replaced


def place_of(out: Path, name: str) -> Path:
    """Folder for the bundle `name`; UsageError or OutputError if it cannot be one, before any work is done."""
    if not is_safe_path(name) or "/" in name:
        raise UsageError(
            f"the bundle name {name!r} is not a plain name", advice="use letters, digits, '-', '_' and '.'"
        )
    folder = out / name
    with contextlib.suppress(OSError):  # the checks below report a place that cannot be written
        _recover(out)
    ground = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not ground.is_dir() or not os.access(ground, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {ground}", advice="choose another --out, or make it a folder of yours")
    check_replaceable(folder, foreign_to_bundle)
    return folder


def check_replaceable(folder: Path, foreign: Callable[[Path], str]) -> None:
    """Raise OutputError if a folder is there that may not be replaced, for the reason that `foreign` gives."""
    why = foreign(folder)
    if why:
        raise OutputError(
            f"{folder} exists and {why}: it is not replaced", advice="choose another --name or --out, or move it away"
        )


def foreign_to_bundle(folder: Path) -> str:
    """Why what stands at a path is not taken for a bundle of ours, in words; empty for a bundle or an empty folder."""
    found = kind(folder)
    if found != "folder":
        return found and f"is a {found}"
    names = {path.name for path in folder.iterdir()}
    if not names:
        return ""
    try:
        bundle = open_bundle(folder / MANIFEST)
        index = load_index(engine_folder(bundle))
    except BundleError:
        return "is not a bundle that can be read"
    known = {MANIFEST, VERIFIED, LOCK_FOLDER, *bundle.manifest.files}
    listed = {engine.file for engine in index.engines} | {cache.file for cache in index.timing_caches}
    listed |= {report_name(engine.file) for engine in index.engines}
    strangers, engines = names - known - {COMPILED}, folder / COMPILED
    if kind(engines) == "folder":
        built = {path.name for path in engines.iterdir()} - listed
        strangers |= {f"{COMPILED}/{name}" for name in built if not BUILT.fullmatch(name)}
    links = [path for path in (*folder.iterdir(), *engines.glob("*")) if path.is_symlink()]
    strangers |= {str(path.relative_to(folder)) for path in links}
    return f"holds {min(strangers)}, which is no part of the bundle" if strangers else ""


@contextlib.contextmanager
def replacing(folder: Path, foreign: Callable[[Path], str] = foreign_to_bundle) -> Iterator[Path]:
    """Give an empty folder to fill, which replaces `folder` when the block ends; if it fails, the old one stays.

    OutputError if anything cannot be written, or if something is there that `foreign` has words for.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # One level deeper than bundles lie, so that a search for bundles does not find a half-written one.
        aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{os.getpid()}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder.parent}: {error.strerror}", advice="check that it is yours"
        ) from None
    new, old = aside / folder.name, aside / OLD / folder.name
    try:
        write_mark(aside, uuid4().hex)
        new.mkdir()
        yield new
        if kind(folder):
            old.parent.mkdir()
            folder.rename(old)
            why = foreign(old)  # it may have come since it was looked at
            if why:
                raise OutputError(f"{folder} exists and {why}: it is not replaced", advice="move it away")
        new.rename(folder)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror}", advice="check that it is yours and has space"
        ) from None
    finally:
        if kind(old) and not kind(folder):  # an error, or Ctrl-C, between the two renamings
            old.rename(folder)
        if not kind(old) or not foreign(old):
            shutil.rmtree(aside, ignore_errors=True)


def _recover(out: Path) -> None:
    """Restore folders that a killed export had moved aside, and remove what else it left."""
    for aside in out.glob(f"{ASIDE}*"):
        process = aside.name.removeprefix(ASIDE).partition("-")[0]
        if not process.isdecimal() or _runs(int(process)) or not is_ours(aside):
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
