"""The page of a report as a reader sees it, in Chromium without a window."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from browser import opened_browser
from report_page import NAMES, page_of

LOOK = """(() => {
    const box = one => one.getBoundingClientRect();
    const seen = one => box(one).width > 0 && box(one).height > 0;
    return {
        width: [document.documentElement.scrollWidth, document.documentElement.clientWidth],
        sections: [...document.querySelectorAll('section')].map(part => ({
            key: part.id,
            title: part.querySelector('h2').innerText,
            tables: part.querySelectorAll('table').length,
            images: [...part.querySelectorAll('img')].map(image => ({
                alt: image.alt, natural: image.complete ? image.naturalWidth : 0, width: box(image).width,
                caption: image.parentElement.querySelector('figcaption').innerText,
            })),
            rows: [...part.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.innerText.trim())),
        })),
        links: [...document.querySelectorAll('nav a')].map(link => document.querySelector(link.hash)?.id),
        hidden: [...document.querySelectorAll('h2, p, table, figcaption')].filter(one => !seen(one)).length,
    };
})()"""


@pytest.fixture(scope="module")
def seen(studied: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Chromium shows of the page, with what it said and asked for."""
    folder = tmp_path_factory.mktemp("seen")
    copy = shutil.copytree(studied, folder / "run")
    page_of(copy)
    with opened_browser(folder / "home") as page:
        page.open((copy / "report.html").as_uri())
        page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
        found: dict[str, Any] = page.evaluate(LOOK)
        return found | {"errors": page.errors, "requests": page.requests, "address": (copy / "report.html").as_uri()}


def test_every_section_shows_its_pictures(seen: dict[str, Any]) -> None:
    # oracle: the sizes that the browser gives them, and the text that stands in their place
    images = [image for part in seen["sections"] for image in part["images"]]
    assert len(images) == len(NAMES)
    assert [image for image in images if image["natural"] < 300 or image["width"] < 700] == []
    assert min(len(image["alt"]) for image in images) > 40
    assert min(len(image["caption"]) for image in images) > 100
    *shown, last = seen["sections"]
    assert [part["title"] for part in shown if not part["images"]] == []
    assert last["title"] == "Figures with a tolerance"
    assert len(last["rows"]) > 10
    assert seen["links"] == [part["key"] for part in seen["sections"]]
    assert seen["hidden"] == 0
    assert seen["width"][0] <= seen["width"][1]  # no need to scroll sideways


def test_it_is_quiet_and_asks_nobody(seen: dict[str, Any]) -> None:  # oracle: what the browser says it loaded
    assert seen["errors"] == []
    assert {address.split(":")[0] for address in seen["requests"]} <= {"file", "data"}
    assert [address for address in seen["requests"] if address.startswith("file")] == [seen["address"]]
