"""The net under the commands: what nobody foresaw is one sentence that names a log file, and exit code 1."""

import errno
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest

from fsae.runtime import crash
from fsae.runtime.cli.failures import Program, exit_code_of
from fsae.runtime.errors import DataError, FsaeError, shown
from fsae.runtime.log import log, on_stderr

PROGRAM = Program(name="fsae-run", extra="cpu", memory="free some")


def endless(depth: int = 0) -> int:
    return endless(depth + 1) + 1


def fail(error: BaseException) -> None:
    raise error


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the log files."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "fsae"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 100_000),
        OverflowError("int too large"),
        KeyError("\x1b[31mred\n"),
        OSError(errno.EIO, "I/O error", "some\nfile"),
        AssertionError(),
        RuntimeError("first line\nsecond line"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_unforeseen_has_a_sentence_and_a_log(
    state: Path, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the traceback that Python itself would print
    assert exit_code_of(PROGRAM, lambda: fail(error)) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert len(err) < 700
    (file,) = state.iterdir()
    assert f"report it with the file {file}, " in err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert "in fail\n    raise error" in text
    assert "fsae " in text


def test_endless_recursion_has_a_log_of_bounded_size(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: the bound
    assert exit_code_of(PROGRAM, endless) == 1
    assert "RecursionError" in capsys.readouterr().err
    (file,) = state.iterdir()
    assert file.read_text().count("\n") <= crash.MOST_LINES + 10


def test_without_a_home_the_log_is_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the one place that can be written
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert exit_code_of(PROGRAM, lambda: fail(ValueError())) == 1
    (file,) = tmp_path.glob("*.log")
    assert str(file) in capsys.readouterr().err


def test_a_log_that_cannot_be_written_is_said(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: a disk that is full whatever is written
    monkeypatch.setattr(crash, "_write", lambda *_: fail(OSError(errno.ENOSPC, "No space left on device")))
    assert exit_code_of(PROGRAM, lambda: fail(ValueError("bad"))) == 1
    sentence = "ValueError (bad); no log could be written (No space left on device): make room in $TMPDIR"
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            7,
            "cannot write a file: No space left on device: make room",
        ),
        (MemoryError("1 TiB"), 1, "not enough memory: free some"),
        (ModuleNotFoundError("no x", name="xarray"), 3, 'xarray is not installed: pip install "fsae[cpu]"'),
        (KeyboardInterrupt(), 130, "interrupted; nothing was finished"),
        (click.UsageError("found \x1b[31m"), 2, r"found \x1b[31m"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_is_foreseen_has_no_log(
    state: Path, error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the table in README.md
    assert exit_code_of(PROGRAM, lambda: fail(error)) == code
    assert words in capsys.readouterr().err
    assert not state.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "2>&-", ">&- 2>&-", "<&-", "2>/dev/full", "| true"])
def test_streams_that_fail(redirection: str, tmp_path: Path) -> None:  # oracle: no traceback on the other stream
    command = f"{Path(sys.executable).with_name('fsae-run')} info {redirection}"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception ignored" not in done.stderr
    assert not list(tmp_path.iterdir())
    if redirection == ">/dev/full":
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "cannot write to stdout: No space left on device" in done.stderr


def test_a_closed_stderr_does_not_become_the_first_file(tmp_path: Path) -> None:
    # oracle: what a C library prints on file number 2 is not in the file that the program opened first
    code = "from fsae.runtime.cli.start import open_streams; import os; open_streams(); f = open('out', 'w')"
    code += "; os.write(2, b'noise'); f.write('data'); f.close()"
    subprocess.run(["/bin/sh", "-c", f'exec {sys.executable} -c "{code}" 2>&-'], cwd=tmp_path, check=True)
    assert (tmp_path / "out").read_text() == "data"


def test_messages_are_fit_for_a_terminal() -> None:  # oracle: Unicode's classes, as str.isprintable knows them
    found = f"units '\x1b]0;owned\x07{'m ' * 100_000}' in a\nb\u202e\udcff.nc {'9' * 5000}"
    message = str(DataError(found, "\x9b31m", f"--name {'x' * 1000}"))
    assert message.isprintable()
    assert not re.search(r"9{201}|x{201}", message)
    assert len(message) < 1000
    assert message.startswith(r"units '\x1b]0;owned\x07m m ")
    assert DataError(found).found == found  # for programs
    for text in ("tas.nc is on 2 grids", "größer als 3 µm/°C", "'a' and 'b'", "it's " * 50):
        assert shown(text) == text


def test_log_lines_are_fit_for_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:  # oracle: as above
    with on_stderr("fsae-run"):
        log.warning("%s has %s", "\x1b[2J", "m" * 10_000)
    err = capsys.readouterr().err
    assert err.startswith(r"fsae-run: warning: \x1b[2J has mmm")
    assert len(err) < 300


def test_the_net_lets_ours_through(capsys: pytest.CaptureFixture[str]) -> None:  # oracle: exit codes of the classes
    assert exit_code_of(PROGRAM, lambda: fail(FsaeError("a", advice="b"))) == 1
    assert capsys.readouterr().err == "fsae-run: error: a: b\n"
