"""The reference of the Python API is made, and holds every public name with its docstring."""

import re
import warnings
from html import unescape

import pytest
from make_api_reference import make

import fsae.runtime


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("api")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not resolve")
        warnings.filterwarnings("ignore", message="Error parsing type annotation")  # of imports that only types need
        make(folder)
    return (folder / "fsae" / "runtime.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", fsae.runtime.__all__)
def test_every_public_name_has_its_place_and_its_words(page: str, name: str) -> None:  # oracle: `__all__`, docstrings
    section = page.partition(f'<section id="{name}">')[2].partition("</section>")[0]
    assert section
    first = (getattr(fsae.runtime, name).__doc__ or "").split("\n\n")[0] if name != "__version__" else ""
    said = unescape(re.sub("<[^>]*>", "", section))
    assert [word for word in re.findall(r"\w+", first) if word not in said] == []
