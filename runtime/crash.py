"""The log file of an error that nobody foresaw: the traceback and the versions, for whoever looks into it."""

import datetime
import os
import platform
import sys
import tempfile
import traceback
from importlib import metadata
from pathlib import Path

LIBRARIES = ("fsae", "numpy", "xarray", "zarr", "h5netcdf", "h5py", "onnxruntime", "torch", "click")
MOST_LINES = 200  # of a traceback: one of endless recursion has thousands
MOST_OF_A_LINE = 2000  # characters


def write_log(program: str, error: BaseException) -> Path:
    """Write the traceback of an error into a new file that only the user can read, and return its path.

    The folder is fsae in the user's folder for the state of programs, else that of temporary files. OSError if neither
    can be written.
    """
    text = _text(program, error)
    try:
        folder = state_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return _write(folder, program, text)
    except (OSError, RuntimeError):  # no home, as in many containers, or a full one
        return _write(Path(tempfile.gettempdir()), program, text)


def state_folder() -> Path:
    """Folder of the log files in the user's home, by the XDG base directory specification."""
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state") / "fsae"


def _write(folder: Path, program: str, text: str) -> Path:
    """Write a file of a name that is not taken; mkstemp opens it with O_EXCL, for its owner alone."""
    number, name = tempfile.mkstemp(prefix=f"{program}-{datetime.date.today():%Y%m%d}-", suffix=".log", dir=folder)
    try:
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _text(program: str, error: BaseException) -> str:
    """What the file holds: nothing of the environment, only the command and the versions."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} -")
    lines = "".join(traceback.format_exception(error)).splitlines()
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        lines = [*lines[:half], f"... {len(lines) - MOST_LINES} lines ...", *lines[-half:]]
    head = (
        f"{program}, {datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
        f"command: {sys.argv!r}",
        f"folder: {_folder()}",
        f"platform: {platform.platform()}, Python {platform.python_version()}",
        f"versions: {', '.join(versions)}",
        "",
    )
    return "".join(f"{line[:MOST_OF_A_LINE]}\n" for line in (*head, *lines))


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # removed meanwhile
        return "gone"
