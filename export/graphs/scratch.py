"""Help for working with libraries: temporary folders that never stay behind, and silence for needless remarks."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from fsae.runtime.errors import OutputError
from fsae.runtime.signals import uninterrupted


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in TMPDIR, removed with the block; OutputError if it cannot be made."""
    with contextlib.ExitStack() as stack:
        with scratch_errors(), uninterrupted():
            folder = tempfile.TemporaryDirectory(prefix="fsae-", ignore_cleanup_errors=True)
            stack.callback(_remove, folder)
        yield Path(folder.name)


@contextlib.contextmanager
def scratch_errors() -> Iterator[None]:
    """Raise OutputError if writing fails in the block, which writes only in a scratch folder."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise OutputError(
            f"cannot write the temporary file or folder{where}: {error.strerror or error}",
            "space in a folder of yours",
            "name one with the environment variable TMPDIR",
        ) from None


@contextlib.contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Hide the warnings of a library, in Python's way and in its log, while the block runs."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _remove(folder: tempfile.TemporaryDirectory[str]) -> None:
    """Remove a folder; signals wait, as between its last file and itself it would stay behind, empty."""
    with uninterrupted():
        folder.cleanup()
