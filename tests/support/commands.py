"""The result of a command, and the one sentence of its error."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]


def one_sentence(err: str) -> str:
    """The error line, which must be the only one and no traceback."""
    lines = [line for line in err.splitlines() if "error:" in line]
    assert "Traceback" not in err
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]
    return lines[0]
