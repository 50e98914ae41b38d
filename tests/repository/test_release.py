"""What a release says of itself on PyPI: links that work without the repository beside the page."""

import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from make_release import absolute, make, prepare

ROOT = Path(__file__).parents[2]
ADDRESS = "https://example.org/owner/fsae"


def targets(text: str) -> list[str]:
    """Where the links and pictures of a page in Markdown point to."""
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_links_of_a_release_are_those_of_the_readme_at_its_tag() -> None:
    # oracle: the files of the repository, to each of which one link of the README points
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, after = targets(text), targets(absolute(text, ADDRESS, "1.2.3"))
    assert len(before) == len(after) >= 10
    for own, given in zip(before, after, strict=True):
        if own.startswith(("https://", "#")):
            assert given == own
            continue
        kind = "raw" if own.endswith(".png") else "blob"
        assert given == f"{ADDRESS}/{kind}/v1.2.3/{own}"
        assert (ROOT / own.partition("#")[0]).exists(), own


@pytest.mark.parametrize("guide", ["runtime", "training", "export"])
def test_links_between_the_guides_lead_somewhere(guide: str) -> None:  # oracle: the files and the headings in them
    for page in (ROOT / guide).glob("*.md"):
        for target in targets(page.read_text(encoding="utf-8")):
            if target.startswith("https://"):
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
                assert anchor in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]


def test_the_wheel_of_a_release_has_them(tmp_path: Path) -> None:  # oracle: the metadata inside, as PyPI reads them
    make(ADDRESS, tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert len(list(tmp_path.glob("*.tar.gz"))) == 1
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        shown = archive.read(name).decode()
    assert f"Project-URL: Repository, {ADDRESS}\n" in shown
    assert {url.partition(":")[0] for url in targets(shown) if not url.startswith("#")} == {"https"}


def test_a_release_is_made_of_what_is_tracked(tmp_path: Path) -> None:  # oracle: git
    prepare(tmp_path, ADDRESS)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(tracked.split())
