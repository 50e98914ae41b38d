"""Folders for what libraries want on disk for a moment: gone after it, also by Ctrl-C, and one sentence where full."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fsae.runtime.errors import OutputError
from fsae.runtime.signals import uninterrupted


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in TMPDIR, removed with the block; OutputError where none can be made."""
    with contextlib.ExitStack() as stack:
        with scratch_errors(), uninterrupted():
            folder = tempfile.TemporaryDirectory(prefix="fsae-", ignore_cleanup_errors=True)
            stack.callback(_remove, folder)
        yield Path(folder.name)


@contextlib.contextmanager
def scratch_errors() -> Iterator[None]:
    """A block that writes in such a folder and nowhere else: OutputError where that fails."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise OutputError(
            f"cannot write the temporary file or folder{where}: {error.strerror or error}; expected space in a folder "
            "of yours: name one with the environment variable TMPDIR"
        ) from None


def _remove(folder: tempfile.TemporaryDirectory[str]) -> None:
    """Nothing; a signal waits until the folder is gone: between its last file and itself it would stay, empty."""
    with uninterrupted():
        folder.cleanup()
