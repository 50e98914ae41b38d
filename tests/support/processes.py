"""Programs in a fresh interpreter, and our commands where some libraries cannot be imported."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

TRAINING = ("torch", "onnx", "onnx_ir", "onnxscript", "healpy", "lightning", "scipy")  # needed to train or export only
BLOCKED = """
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
    """Run a fresh interpreter with these arguments, in the folder `cwd`."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)


def run_blocked(
    *arguments: object,
    module: str = "fsae.export.cli.main",
    blocked: Iterable[str] = TRAINING,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command of a module in the folder, where the `blocked` libraries cannot be imported."""
    return python("-c", BLOCKED, " ".join(blocked), module, *arguments, cwd=folder)
