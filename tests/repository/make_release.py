"""Build the wheel and the source archive for PyPI: `python tests/repository/make_release.py ADDRESS FOLDER`.

The page of a project on PyPI has no files beside it, so that links to files of this repository are made absolute: to
the tag of the version (`v0.1.0`) at the address where the repository can be seen (such as https://HOST/OWNER/fsae),
which the metadata name too.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")
BUILD = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"


def absolute(text: str, address: str, version: str) -> str:
    """A page of the top folder with absolute links: pages of files, and the bytes of pictures."""

    def link(found: re.Match[str]) -> str:
        picture, words, path = found.groups()
        return f"{picture}[{words}]({address}/{'raw' if picture else 'blob'}/v{version}/{path})"

    return LINK.sub(link, text)


def prepare(folder: Path, address: str) -> None:
    """Copy what is tracked into a new folder, with the README and the metadata that a release has."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.strip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    readme, project = folder / "README.md", folder / "pyproject.toml"
    facts = project.read_text(encoding="utf-8")
    version = tomllib.loads(facts)["project"]["version"]
    readme.write_text(absolute(readme.read_text(encoding="utf-8"), address, version), encoding="utf-8")
    changes = f"{address}/blob/v{version}/CHANGELOG.md"
    urls = f'urls = {{ Repository = "{address}", Changelog = "{changes}", Issues = "{address}/issues", '
    assert facts.count("\nurls = { ") == 1
    project.write_text(facts.replace("\nurls = { ", f"\n{urls}"), encoding="utf-8")


def make(address: str, folder: Path) -> None:
    """Write the wheel and the source archive into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        prepare(Path(work), address)
        subprocess.run([sys.executable, "-c", BUILD, str(folder.resolve())], cwd=work, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    make(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
