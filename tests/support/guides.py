"""The code of a guide in Markdown, and its tutorial, run as it stands."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Block(NamedTuple):
    """Fenced code, and the language its fence names."""

    language: str
    code: str


def blocks_of(text: str, *languages: str) -> list[Block]:
    """The fenced blocks of these languages, in their order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Block(language, code) for language, code in found if language in languages]


def run_tutorial(guide: Path, folder: Path) -> str:
    """Do in a folder what the tutorial of a guide says; return what its commands print.

    A block of TOML becomes the file that its first line names, as `# NAME.toml`; a block of sh is run by bash, which
    stops at the first command that fails. The commands are those of the environment of this process.
    """
    section = guide.read_text(encoding="utf-8").partition("\n## Tutorial")[2].partition("\n## ")[0]
    given = blocks_of(section, "toml", "sh")
    assert given, f"{guide} has no tutorial"
    return "".join(_done(given, folder))


def _done(blocks: list[Block], folder: Path) -> Iterator[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for block in blocks:
        if block.language == "toml":
            name = block.code.splitlines()[0].removeprefix("# ")
            (folder / name).write_text(block.code, encoding="utf-8")
            continue
        bash = ["bash", "-euo", "pipefail", "-c", block.code]
        environment = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(bash, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block.code}{done.stdout}{done.stderr}"
        yield done.stdout
