"""The page of export/examples/web in Chromium draws what the runtime draws, and says what it cannot do."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, opened_browser, served

import fsae.runtime
from fsae.export.bundle.web import RUNTIME, write_page
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.ensemble.request import Request
from fsae.runtime.sphere.healpix import pixel_of

README = Path(__file__).parents[3] / "export" / "examples" / "web" / "README.md"
SHA512 = (  # of the package of npm
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
ATOL_K = 1e-3  # what is promised; found: 6.2e-5, two units in the last place of 300 K
STATUS, PROBLEM = (f"document.getElementById('{name}')" for name in ("status", "problem"))
DRAWN = f"{STATUS}.textContent.includes('drawn in')"


@pytest.fixture(scope="session")
def ort_web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of ONNX Runtime Web: in the folder that is named, else out of the npm package that the guide names."""
    if "ONNXRUNTIME_WEB" in os.environ:
        return Path(os.environ["ONNXRUNTIME_WEB"])
    if shutil.which("npm") is None:
        pytest.skip("there is no npm to get onnxruntime-web with: apt-get install npm")
    folder = tmp_path_factory.mktemp("npm")
    found = re.search(r"npm install (onnxruntime-web@\S+)", README.read_text(encoding="utf-8"))
    assert found
    done = subprocess.run(
        ["npm", "pack", found[1], "--silent"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        pytest.skip(f"{found[1]} cannot be downloaded: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
    (package,) = folder.glob("*.tgz")
    assert hashlib.sha512(package.read_bytes()).hexdigest() == SHA512
    with tarfile.open(package) as packed:
        for name in RUNTIME:
            packed.extract(f"package/dist/{name}", folder, filter="data")
    return folder / "package" / "dist"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened_browser(tmp_path_factory.mktemp("browser") / "home") as page:
        yield page


@pytest.fixture(scope="module")
def tiny_page(tiny_bundle: Bundle, ort_web: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page of the tiny bundle."""
    folder = tmp_path_factory.mktemp("web") / "tiny"
    write_page(tiny_bundle, folder, ort_web)
    return folder


@pytest.fixture(scope="module")
def default_page(
    default_bundle: Bundle, browser: Page, ort_web: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the page of the default engine, open, when it has drawn its first member unasked."""
    folder = tmp_path_factory.mktemp("web") / "default"
    write_page(default_bundle, folder, ort_web)
    with served(folder) as address:
        browser.open(address)
        browser.wait_for(DRAWN)
        yield address


def choose(page: Page, **given: object) -> None:
    """Set controls of the page, as a user does."""
    for name, value in given.items():
        control = f"document.querySelector('[name={name}]')"
        page.evaluate(f"{control}.value = {json.dumps(str(value))}")
        page.evaluate(f"{control}.dispatchEvent(new Event('change', {{ bubbles: true }}))")


def draw(page: Page) -> np.ndarray:
    """Press the button and wait; the fields that were drawn (time, value)."""
    page.evaluate(f"{STATUS}.textContent = ''; document.getElementById('draw').click()")
    page.wait_for(f"{DRAWN} || !{PROBLEM}.hidden")
    assert page.evaluate(f"{PROBLEM}.textContent") == ""
    script = """
(async () => {
    const { drawn } = await import("./page.js");
    const read = (blob) => new Promise((done) => {
        const reader = new FileReader();
        reader.onload = () => done(reader.result.split(",")[1]);
        reader.readAsDataURL(blob);
    });
    return [drawn.months.length, await read(new Blob(drawn.months.map(({ field }) => field)))];
})()
"""
    months, data = page.evaluate(script)
    return np.frombuffer(base64.b64decode(data), dtype="<f4").reshape(months, -1)


def expected(bundle: Bundle, request: Request) -> np.ndarray:
    """The fields (time, value) of a member by the runtime."""
    ensemble = fsae.runtime.load(bundle.folder, device="cpu").generate(request).isel(realization=0, drop=True)
    fields = [ensemble[variable.name].values for variable in bundle.manifest.variables]
    return np.stack(fields, axis=1).reshape(len(fields[0]), -1)


def test_it_draws_the_members_of_the_runtime(default_bundle: Bundle, default_page: str, browser: Page) -> None:
    # oracle: the runtime; two windows of the default sampler that cross a year, and a scenario by the fast one
    choose(browser, member=3, seed=7, month=11, year=2003, months=8)
    found = draw(browser)
    request = Request(members=[3], seed=7, start="2003-11", steps=8)
    np.testing.assert_allclose(found, expected(default_bundle, request), rtol=0, atol=ATOL_K)
    choose(browser, forcing="ssp585", year=2060, months=6, sampler="fast")
    found = draw(browser)
    request = Request(members=[3], seed=7, start="2060-11", steps=6, forcing="ssp585", sampler="fast")
    np.testing.assert_allclose(found, expected(default_bundle, request), rtol=0, atol=ATOL_K)
    loaded = [url.removeprefix("blob:") for url in browser.requests]
    assert len(loaded) > 20
    assert [url for url in loaded if not url.startswith(default_page)] == []
    assert browser.errors == []


def test_it_refuses_in_a_sentence_and_stops(default_page: str, browser: Page) -> None:
    def refused(**given: object) -> str:
        choose(browser, **given)
        browser.evaluate("document.getElementById('draw').click()")
        browser.wait_for(f"!{PROBLEM}.hidden")
        return str(browser.evaluate(f"{PROBLEM}.textContent"))

    assert refused(month=1, year=1700, forcing="historical") == (
        'The forcing "historical" is known from 1750 to 2100, found 1700.04: '
        "choose months within these years, or a constant forcing."
    )
    assert "99.00, far outside the 0.04 to 1.84 W m-2" in refused(year=2000, forcing="constant", level=99)
    assert "expected 0 to 18446744073709551615" in refused(seed=2**64, level=1)
    choose(browser, seed=2**64 - 1, months=120)
    browser.evaluate("document.getElementById('draw').click()")
    browser.wait_for("!document.getElementById('stop').disabled")
    browser.evaluate("document.getElementById('stop').click()")
    browser.wait_for("document.getElementById('stop').disabled")
    assert re.fullmatch(r"Stopped after \d+ of 120 months\.", browser.evaluate(f"{STATUS}.textContent"))
    assert browser.evaluate(f"{PROBLEM}.hidden")


def test_it_draws_another_bundle(other_bundle: Bundle, ort_web: Path, browser: Page, tmp_path: Path) -> None:
    # oracle: the runtime, for all that a manifest can say differently, forced by a year
    write_page(other_bundle, tmp_path / "page", ort_web)
    with served(tmp_path / "page") as address:
        browser.open(address)
        browser.wait_for(DRAWN)
        choose(browser, member=3, seed=7, month=11, year=2003, months=8, forcing="constant", level=1995.5)
        found = draw(browser)
        assert browser.errors == []
    request = Request(members=[3], seed=7, start="2003-11", steps=8, forcing=1995.5)
    np.testing.assert_allclose(found, expected(other_bundle, request), rtol=0, atol=ATOL_K)


PAINTED = """
(async () => {
    const { FieldMap } = await import("./picture/map.js");
    const { scaleOf, shadeOf } = await import("./picture/colours.js");
    const canvas = document.getElementById("map");
    const [x, y] = [Math.floor(0.45 * canvas.clientWidth), Math.floor(0.6 * canvas.clientHeight)];
    const map = new FieldMap(canvas, 5, []);
    map.graticule = [];
    const field = Float32Array.from({ length: 12288 }, (_, pixel) => (pixel * 7919) % 997);
    const scale = scaleOf([field], false);
    map.show(field, scale);
    const { pixel, lat, lon } = map.under({ offsetX: x + 0.5, offsetY: y + 0.5 });
    const colour = canvas.getContext("2d").getImageData(x, y, 1, 1).data;
    return [lat, lon, pixel, new Uint32Array(colour.buffer)[0], shadeOf(field[pixel], scale)];
})()
"""


def test_the_picture_turns_and_shows_the_cells(tiny_page: Path, browser: Page) -> None:
    # oracles: what keys and a drag must change; the cell at a place, by the library healpix, and its colour
    def look(after: str = "true") -> str:
        """The pixels of the map when a script has run and the map is settled."""
        browser.evaluate(f"{after}; new Promise((done) => setTimeout(done, 400))")
        return str(browser.evaluate("document.getElementById('map').toDataURL()"))

    with served(tiny_page) as address:
        browser.open(address)
        browser.wait_for(DRAWN)
        first = look("document.getElementById('map').focus()")
        browser.press("ArrowRight")
        assert look() != first
        browser.press("Home")
        assert look() == first
        left, top = browser.evaluate("(({ x, y }) => [x, y])(document.getElementById('map').getBoundingClientRect())")
        for kind, away in (("mousePressed", 0), ("mouseMoved", 40), ("mouseReleased", 40)):
            at = {"x": left + 300 + away, "y": top + 200}
            browser.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)
        assert look() != first
        browser.evaluate("document.getElementById('time').focus()")
        browser.press("ArrowRight")
        assert browser.evaluate("document.getElementById('date').textContent").startswith("February ")
        choose(browser, values="difference", projection="map")
        assert "minus the mean annual cycle" in browser.evaluate("document.getElementById('bar').ariaLabel")
        lat, lon, pixel, shown, shade = browser.evaluate(PAINTED)
        assert pixel == pixel_of(5, np.array([lat]), np.array([lon]))[0]
        assert shown == shade
        assert browser.errors == []


def test_damaged_files_are_refused(tiny_page: Path, browser: Page) -> None:
    def says(name: str, data: bytes | None) -> str:
        """The sentence of a page whose file has other content, or is missing."""
        path = tiny_page / name
        whole = path.read_bytes()
        path.unlink() if data is None else path.write_bytes(data)
        try:
            with served(tiny_page) as address:
                browser.open(address)
                browser.wait_for(f"!{PROBLEM}.hidden")
                return str(browser.evaluate(f"{PROBLEM}.textContent"))
        finally:
            path.write_bytes(whole)

    advice = "write the page again with fsae-export --web, or copy all of it."
    for name in ("bundle/tables.bin", "page.js", "ort/ort.wasm.bundle.min.mjs"):
        assert says(name, b"other") == f"{name} is not the file that files.json lists: {advice}"
    for name in ("bundle/decoder.fp32.onnx", "files.json"):
        assert says(name, None) == f"{name} cannot be loaded (404): {advice}"


def test_a_browser_without_what_it_needs_gets_a_sentence(tiny_page: Path, browser: Page) -> None:
    browser.open((tiny_page / "index.html").as_uri())
    browser.wait_for(f"!{PROBLEM}.hidden")
    assert "python3 -m http.server" in browser.evaluate(f"{PROBLEM}.textContent")
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.WebAssembly")
    with served(tiny_page) as address:
        browser.open(address)
        browser.wait_for(f"!{PROBLEM}.hidden")
        assert "This browser has no WebAssembly" in browser.evaluate(f"{PROBLEM}.textContent")
    browser.call("Page.removeScriptToEvaluateOnNewDocument", **script)
