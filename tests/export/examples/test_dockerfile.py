"""The Dockerfile of the examples: by a linter, and its first stage carried out in folders instead of an image."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
DOCKERFILE = REPOSITORY / "export" / "examples" / "Dockerfile"
# of the environment: what is asked of an image, beside its Python; numcodecs takes 30 MB more up to 3.11
MOST_MB = 200 if sys.version_info >= (3, 13) else 250


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions and their words, lines that go on joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def test_the_linter_finds_no_fault() -> None:  # oracle: hadolint
    hadolint = shutil.which("hadolint", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip('hadolint is not installed: pip install "fsae[dev]"')
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_steps_make_a_runtime_that_verifies_its_bundle(tmp_path: Path) -> None:
    # oracle: `fsae-run verify`, which compares the golden numbers; the size is counted
    source, environment = tmp_path / "src", tmp_path / "opt" / "fsae"
    source.mkdir()
    environment.parent.mkdir()

    def placed(words: str) -> str:
        there = re.sub(r"\bpython -m venv\b", f"{shlex.quote(sys.executable)} -m venv", words)
        there = re.sub(r"(^|\s)pip --python", rf"\1{shlex.quote(sys.executable)} -m pip --python", there)
        return there.replace("/opt/fsae", str(environment))

    def run(words: str, folder: Path) -> None:
        done = subprocess.run(["sh", "-ec", placed(words)], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stderr[-2000:]}"

    stage = 0
    for name, words in instructions(DOCKERFILE.read_text()):
        if name == "FROM":
            stage += 1
        elif name == "COPY" and stage == 1:
            *paths, target = words.split()
            for path in paths:
                origin, end = REPOSITORY / path, source / target
                if origin.is_dir():
                    shutil.copytree(origin, end, ignore=shutil.ignore_patterns("__pycache__", "*.nc"))
                else:
                    shutil.copy(origin, end)
        elif name == "RUN" and stage == 1:
            run(words, source)
        elif name == "RUN":
            run(f"PATH=/opt/fsae/bin:$PATH {words}", tmp_path)
    size_mb = sum(path.lstat().st_size for path in environment.rglob("*")) / 1e6
    assert size_mb < MOST_MB
