"""Python in a process of its own, also where some libraries cannot be imported."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

WITHOUT = """
import importlib, sys

blocked, module = set(sys.argv.pop(1).split()), sys.argv.pop(1)

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked by the test", name=name)

sys.meta_path.insert(0, Blocker())
code = importlib.import_module(module).main(sys.argv[1:])
assert not blocked & set(sys.modules)
sys.exit(code)
"""


def python(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A finished interpreter that was given these arguments."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)


def main_without(
    libraries: Iterable[str], module: str, *arguments: object, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A finished interpreter that called `main` of one of our commands and could not import the libraries."""
    return python("-c", WITHOUT, " ".join(libraries), module, *arguments, cwd=cwd)
