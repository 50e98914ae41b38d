"""The README: its commands run as they stand, and the figures it quotes are those of the shipped engine."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from guides import blocks_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_two_commands_as_written() -> None:  # oracle: the script itself, asked what it would run
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = []
    for words in re.findall(r'readme_command "([^"]+)"', script):
        lines = [line for line in README.splitlines() if line.startswith("python3 -m venv ") and words in line]
        assert len(lines) == 1, f"README.md needs one line with {words!r}"
        found += lines
    assert len(found) == 2
    assert all(line.count("pip install") == 1 for line in found)  # each does its own set-up


def test_quoted_figures_stand_in_the_model_cards() -> None:  # oracle: the cards of the shipped engines
    card = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("engines/*/MODEL_CARD.md"))
    known = [float(number) for number in re.findall(r"(?<![\d.])\d+\.\d+(?:e-?\d+)?", card)]  # signs aside
    section = README.split("## What it reaches")[1].split("\n## ")[0]
    errors, climate = (part for part in section.split("\n\n") if "Autoencoder | 0." in part or "| generated |" in part)
    figures = re.findall(r"\d+\.\d+", errors + climate)
    assert len(figures) >= 8 + 25
    assert [number for number in figures if not any(abs(float(number) - card) <= 6e-4 for card in known)] == []


def test_only_agreed_names_stand_at_the_top() -> None:  # oracle: the agreed shape of the repository
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in tracked.splitlines() if not line.startswith(".")}
    expected = "training runtime export engines tests pyproject.toml constraints.txt"
    expected += " README.md LICENSE CHANGELOG.md CITATION.cff"
    assert top == set(expected.split())


def commands() -> list[str]:
    """The commands of `fsae-run` and `printf` in the README's shell blocks, in their order, without comments."""
    blocks = "".join(block.code for block in blocks_of(README, "sh")).replace("\\\n", "")
    lines = [line.split("  #")[0].strip() for line in blocks.splitlines()]
    return [line for line in lines if line.startswith(("fsae-run ", "printf "))]


ELSEWHERE = {  # what the command needs that is not in a checkout
    "--device trt-rtx": "a GPU",
    "--scheduler": "a running cluster",
    "more/default": "a bundle that fsae-export has made",
    "--shard auto": "a SLURM array",
    "https://": "a server",
}


ALL = """
import json, sys
from fsae.runtime.cli.main import main
if __name__ == "__main__":
    for words in json.loads(sys.argv[1]):
        code = main(words)
        if code:
            sys.exit(f"exit code {code}: fsae-run {' '.join(words)}")
"""


def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    # oracle: the commands themselves, in their order, in a folder with the sample data; only fewer members
    for name in ("training", "engines"):
        (tmp_path / name).symlink_to(ROOT / name)
    given: list[list[str]] = []
    for line in commands():
        if line.startswith("printf "):
            subprocess.run(line, shell=True, check=True, cwd=tmp_path)  # noqa: S602
        elif not any(words in line for words in ELSEWHERE):
            fewer = re.sub(r" --members \d+", "", re.sub(r"--workers \d+", "--workers 1", line))
            given.append(shlex.split(fewer)[1:] + (["--members", "2"] if " generate " in line else []))
    assert len(given) >= 14
    # in a process of its own: one of them is limited to the memory that a command needs
    script = [sys.executable, "-c", ALL, json.dumps(given)]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
