"""The progress bar."""

import io
import sys

import pytest

from fsae.runtime.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_counts_rate_and_note(monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: what was reported
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("diffusion", "steps", first=4) as show:
        show(4, 8, "loss 0.5000")
    text = terminal.getvalue()
    for words in ("diffusion", "4/8", "loss 0.5000", "0.0 steps/s"):
        assert words in text


@pytest.mark.parametrize("shown", [None, False])
def test_a_log_shows_nothing(capsys: pytest.CaptureFixture[str], shown: bool | None) -> None:  # oracle: empty streams
    with progress_bar("diffusion", shown=shown) as show:
        show(1, 8)
    assert capsys.readouterr() == ("", "")
