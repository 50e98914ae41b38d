"""The page of a bundle: its files and their list, tables as the page reads them, and what is never replaced."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from repository_engines import ENGINES
from trees import tree

from fsae.export.bundle.web import LIST, RUNTIME, write_page
from fsae.export.cli.main import main
from fsae.runtime.bundle.files import Bundle, open_bundle, write_manifest
from fsae.runtime.errors import BundleError, OutputError, UsageError
from fsae.runtime.pictures.coastlines import coastlines

ENDINGS = {".html", ".css", ".js"}


@pytest.fixture
def ort(tmp_path: Path) -> Path:
    """A folder that stands in for that of ONNX Runtime Web."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (*RUNTIME, "ort.all.min.js"):
        (folder / name).write_text(name)
    return folder


def test_the_page_has_all_it_needs(default_bundle: Bundle, ort: Path, tmp_path: Path) -> None:
    # oracle: the sources, the bundle's arrays and coastlines, and hashes taken here
    size = write_page(default_bundle, tmp_path / "page", ort)
    page = tree(tmp_path / "page")
    listed = json.loads(page.pop(LIST))
    assert listed["manifest_sha256"] == default_bundle.manifest_sha256
    found = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in page.items()}
    assert listed["files"] == found
    assert size == sum(len(data) for data in page.values())
    source = Path(__file__).parents[3] / "export" / "examples" / "web"
    modules = {str(path.relative_to(source)) for path in source.rglob("*") if path.suffix in ENDINGS}
    graphs = {f"bundle/{graph}.fp32.onnx" for graph in ("denoiser", "fast", "decoder")}
    bundle = {f"bundle/{name}" for name in ("manifest.json", "tables.json", "tables.bin")}
    assert set(page) == modules | graphs | bundle | {f"ort/{name}" for name in RUNTIME} | {"coastlines.json"}

    index, arrays = json.loads(page["bundle/tables.json"]), default_bundle.arrays("tables.npz")
    assert "climatology" in index
    for name, entry in index.items():
        assert entry["offset"] % 8 == 0
        array = np.frombuffer(
            page["bundle/tables.bin"],
            f"<{np.dtype(entry['dtype']).str[1:]}",
            offset=entry["offset"],
            count=np.prod(entry["shape"]),
        )
        np.testing.assert_array_equal(array.reshape(entry["shape"]), arrays[name])
    for flat, (lat, lon) in zip(json.loads(page["coastlines.json"]), coastlines(), strict=True):
        np.testing.assert_allclose(np.reshape(flat, (-1, 2)) / 100, np.stack([lat, lon], axis=1), atol=1e-9)


def test_what_is_there_is_replaced_only_on_request(tiny_bundle: Bundle, ort: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()  # an empty folder is as good as none
    write_page(tiny_bundle, page, ort)
    before = tree(page)
    with pytest.raises(OutputError, match="page holds a page already: give --overwrite"):
        write_page(tiny_bundle, page, ort)
    write_page(tiny_bundle, page, ort, overwrite=True)
    assert tree(page) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda page: (page / "notes.txt").write_text("mine"), "holds notes.txt, which fsae-export did not write"),
        (lambda page: (page / "style.css").write_text("mine"), "holds style.css, which was changed since"),
        (lambda page: (page / "link").symlink_to("/etc"), "found .*link, a link that fsae did not make"),
        (lambda page: (page / LIST).write_text("{}"), "is not a page that fsae-export wrote"),
        (lambda page: (page / LIST).unlink(), "is not a page that fsae-export wrote"),
    ],
)
def test_what_others_wrote_is_never_replaced(
    change: Callable[[Path], object], words: str, tiny_bundle: Bundle, ort: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page"
    write_page(tiny_bundle, page, ort)
    change(page)
    before = sorted(page.rglob("*")), (page / "style.css").read_text(encoding="utf-8")
    with pytest.raises(OutputError, match=words):
        write_page(tiny_bundle, page, ort, overwrite=True)
    assert (sorted(page.rglob("*")), (page / "style.css").read_text(encoding="utf-8")) == before
    (tmp_path / "elsewhere").symlink_to(page)
    with pytest.raises(OutputError, match="elsewhere is a link"):
        write_page(tiny_bundle, tmp_path / "elsewhere", ort, overwrite=True)


def test_a_failure_leaves_the_older_page(tiny_copy: Bundle, ort: Path, tmp_path: Path) -> None:
    write_page(tiny_copy, tmp_path / "page", ort)
    before, there = tree(tmp_path / "page"), sorted(tmp_path.iterdir())
    (tiny_copy.folder / "decoder.fp32.onnx").write_bytes(b"damaged")  # the last that is read
    with pytest.raises(BundleError, match="truncated or altered"):
        write_page(tiny_copy, tmp_path / "page", ort, overwrite=True)
    assert tree(tmp_path / "page") == before
    assert sorted(tmp_path.iterdir()) == there  # nothing half-written


def test_bundles_that_cannot_be_drawn_are_refused(tiny_copy: Bundle, ort: Path, tmp_path: Path) -> None:
    daily = replace(tiny_copy.manifest, time=replace(tiny_copy.manifest.time, step="1 day"))
    write_manifest(tiny_copy.folder, daily)
    with pytest.raises(BundleError, match="has steps of 1 day, expected 1 month"):
        write_page(open_bundle(tiny_copy.folder), tmp_path / "page", ort)
    with pytest.raises(BundleError, match="cannot generate"):
        write_page(open_bundle(ENGINES / "ratio-4"), tmp_path / "page", ort)
    with pytest.raises(UsageError, match=r"lacks ort\.wasm\.bundle\.min\.mjs, .*: run npm install"):
        write_page(tiny_copy, tmp_path / "page", tmp_path)
    assert not (tmp_path / "page").exists()


def test_the_command_writes_it(
    tiny_bundle_path: Path,
    ort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(tiny_bundle_path)
    assert main([model, "--web", "page"]) == 2
    assert "--web needs the files of ONNX Runtime Web" in capsys.readouterr().err
    assert main([model, "--ort-web", "dist"]) == 2
    assert "--ort-web is for a page" in capsys.readouterr().err
    assert main([model, "--web", "page", "--ort-web", "dist"]) == 0
    assert capsys.readouterr().out.startswith("page page: ")
    assert main([model, "--web", "page", "--ort-web", "dist"]) == 7
    assert main([model, "--web", "page", "--ort-web", "dist", "--overwrite"]) == 0
    assert (tmp_path / "page" / "index.html").is_file()
