"""`fsae-export` in a fresh interpreter where some libraries cannot be imported."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TRAINING = ("torch", "onnx", "onnx_ir", "onnxscript", "healpy", "lightning", "scipy")  # needed to train or export only

SCRIPT = """
import sys

BLOCKED = set(sys.argv.pop(1).split())

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked by the test", name=name)

sys.meta_path.insert(0, Blocker())
from fsae.export.cli.main import main
code = main(sys.argv[1:])
assert not {*BLOCKED, "fsae.training.fitting.run_folder"} & set(sys.modules)
sys.exit(code)
"""


def run_blocked(
    *arguments: str, blocked: Sequence[str] = TRAINING, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `fsae-export` in `folder`, where the `blocked` libraries cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, " ".join(blocked), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
