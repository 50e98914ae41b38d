"""The commands from their first line on: Ctrl-C while modules are imported is a code and a sentence, no traceback."""

import signal
import subprocess
import tomllib
from pathlib import Path

import pytest
from processes import python

from fsae.runtime.cli import start

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
SCRIPTS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["scripts"]
CODES = {"fsae-run": 130, "fsae-export": 130, "fsae-train": 75}  # training goes on where it stopped
# What pip writes, in an interpreter where the first import of anything that takes time sends Ctrl-C.
SCRIPT = """
import signal
import sys

SLOW = {"click", "numpy", "torch", "email", "logging"}

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if INTERRUPT and name.split(".")[0] in SLOW:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
from MODULE import FUNCTION
sys.exit(FUNCTION())
"""


def run_script(program: str, interrupt: bool, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as it is installed, in a fresh interpreter."""
    module, function = SCRIPTS[program].split(":")
    code = SCRIPT.replace("MODULE", module).replace("FUNCTION", function).replace("INTERRUPT", str(interrupt))
    return python("-c", code, *arguments)


def test_all_commands_are_here() -> None:  # oracle: pyproject.toml
    assert set(CODES) == set(SCRIPTS)


@pytest.mark.parametrize("program", CODES)
def test_an_interrupt_of_the_imports_is_one_sentence(program: str) -> None:  # oracle: the table in README.md
    done = run_script(program, True, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (CODES[program], "", f"{program}: interrupted\n")


@pytest.mark.parametrize("program", CODES)
def test_commands_begin_with_their_arguments_and_end_with_their_code(program: str) -> None:
    done = run_script(program, False, "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{program}, version ")
    assert run_script(program, False, "--nonsense").returncode == 2


def test_an_interrupt_after_the_command_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # such as while its last line is written
    from fsae.runtime.cli import main as cli

    monkeypatch.setattr(cli, "main", lambda: signal.raise_signal(signal.SIGINT))
    assert start.start("fsae-run", "fsae.runtime.cli.main") == start.INTERRUPTED
    assert capsys.readouterr().err == "fsae-run: interrupted\n"
