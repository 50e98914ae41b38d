"""Bundles that are fetched from folders, archives and URLs, all on this machine."""

import hashlib
import http.server
import io
import json
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsae.runtime.archive.lookup import archive_key, find_archive
from fsae.runtime.bundle import fetch, files
from fsae.runtime.bundle.fetch import fetch_bundle
from fsae.runtime.bundle.files import Bundle, fetched_folder, find_bundle, open_bundle
from fsae.runtime.cli.main import main
from fsae.runtime.errors import BundleError, DeviceError, FsaeError, OutputError, UsageError


def quiet(done: int, total: int, note: str = "") -> None:
    """A progress bar that nobody sees."""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder, empty, and a working folder without bundles."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "data"


@pytest.fixture
def served(tiny_bundle_path: Path, tmp_path: Path) -> Path:
    """A folder with the tiny bundle as `tiny`, and as a zip and a tar archive."""
    place = tmp_path / "served"
    shutil.copytree(tiny_bundle_path, place / "tiny")
    (place / "tiny" / "notes.txt").write_text("not in the manifest")
    shutil.make_archive(str(place / "inside"), "zip", place, "tiny")
    shutil.make_archive(str(place / "flat"), "gztar", place / "tiny")
    return place


class Server(http.server.ThreadingHTTPServer):
    """Files of a folder over HTTP on the loopback, and the addresses that were asked for."""

    asked: list[str]


@pytest.fixture
def server(served: Path) -> Iterator[Server]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, request: object, address: object, made: Server) -> None:
            super().__init__(request, address, made, directory=str(served))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            made.asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def address(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{path}"


def refused(error: type[FsaeError], said: str, source: str | Path, digest: str | None = None) -> None:
    """Check that a source is refused, and that no trace of it is left."""
    before = content(fetched_folder().parent)
    with pytest.raises(error, match=said):
        fetch_bundle(str(source), digest, quiet)
    assert content(fetched_folder().parent) == before
    assert not list(fetched_folder().glob(".*"))


@pytest.mark.parametrize("form", ["tiny", "tiny/manifest.json", "inside.zip", "flat.tar.gz"])
def test_a_bundle_of_this_machine_gets_a_name(served: Path, form: str) -> None:
    # oracle: the files that the manifest lists, byte by byte, and no others
    found = fetch_bundle(str(served / form), None, quiet)
    assert found.new
    assert find_bundle("tiny") == found.folder == fetched_folder() / "tiny"
    listed = {name: data for name, data in content(served / "tiny").items() if name != "notes.txt"}
    assert content(fetched_folder()) == {f"tiny/{name}": data for name, data in listed.items()}
    assert not fetch_bundle(str(served / form), None, quiet).new


@pytest.mark.parametrize(
    ("form", "hashed"),
    [
        ("tiny", "tiny/manifest.json"),
        ("tiny/manifest.json?key=1", "tiny/manifest.json"),
        ("inside.zip?key=1", "inside.zip"),
        ("flat.tar.gz", "flat.tar.gz"),
    ],
)
def test_a_url_needs_the_right_hash(server: Server, served: Path, form: str, hashed: str) -> None:
    # oracle: the addresses that the server was asked for, and the files that it serves
    url, digest = address(server, form), sha256(served / hashed)
    refused(UsageError, "a URL without a hash", url)
    assert server.asked == []
    refused(BundleError, "is not the file that was asked for", url, "0" * 64)
    assert len(server.asked) == 1
    found = fetch_bundle(url, digest.upper(), quiet, name="mine")
    assert open_bundle("mine").folder == found.folder
    for name in open_bundle("mine").manifest.files:
        assert (found.folder / name).read_bytes() == (served / "tiny" / name).read_bytes()
    assert all(("?key=1" in form) == ("?key=1" in path) for path in server.asked)


def test_what_is_not_the_file_of_the_manifest_is_refused(server: Server, served: Path) -> None:
    # oracle: one byte, the length, or the whole of one file
    url, digest = address(server, "tiny"), sha256(served / "tiny" / "manifest.json")
    path = served / "tiny" / "tables.npz"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(BundleError, "tables.npz is not the file that was asked for", url, digest)
    refused(BundleError, "tables.npz is truncated or altered", served / "tiny")
    path.write_bytes(data + b"x")
    refused(BundleError, "tables.npz holds more bytes than it should", url, digest)
    refused(BundleError, "tables.npz is truncated or altered", served / "tiny")
    path.unlink()
    refused(BundleError, "cannot get .*tables.npz: the server answers 404", url, digest)
    refused(BundleError, "the bundle lacks .*tables.npz", served / "tiny")
    refused(BundleError, "is not the file that was asked for", served / "tiny", "0" * 64)
    refused(BundleError, "is not the file that was asked for", served / "inside.zip", "0" * 64)
    server.shutdown()
    server.server_close()
    refused(BundleError, "Connection refused: check the address", url.replace("127", "me:secret@127"), digest)


def test_a_failed_download_tells_no_password(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: the words on stderr
    url = address(server, "nowhere?key=hidden").replace("127", "me:secret@127")
    assert main(["fetch", url, "--sha256", "0" * 64]) == 4
    err = capsys.readouterr().err
    assert "nowhere/manifest.json: the server answers 404" in err
    assert "secret" not in err
    assert "hidden" not in err


def hostile(kind: str, manifest: bytes, folder: Path) -> Path:
    """An archive of one kind that would do harm if it were unpacked."""
    if kind == "zip":
        path = folder / "hostile.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../manifest.json", manifest)
            for name in ("../tables.npz", "../../escaped", "/tmp/fsae-escaped"):  # noqa: S108
                archive.writestr(name, b"x")
        return path
    path = folder / "hostile.tar"
    with tarfile.open(path, "w") as archive:
        one = tarfile.TarInfo("manifest.json")
        one.size = len(manifest)
        archive.addfile(one, io.BytesIO(manifest))
        for name in (*json.loads(manifest)["files"], "../../escaped"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_and_links_in_archives_lead_nowhere(served: Path, tmp_path: Path, kind: str) -> None:
    # oracle: the whole of the test's folder before and after
    path = hostile(kind, (served / "tiny" / "manifest.json").read_bytes(), tmp_path)
    before = content(tmp_path)
    refused(BundleError, "truncated or altered|lacks", path)
    assert content(tmp_path) == before
    assert not Path("/tmp/fsae-escaped").exists()  # noqa: S108


def test_archives_that_are_none_or_hold_no_single_bundle_are_refused(served: Path, tmp_path: Path) -> None:
    # oracle: the sentence
    damaged = (served / "flat.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(damaged[: len(damaged) // 2])
    (tmp_path / "text.zip").write_text("no archive")
    shutil.copytree(served / "tiny", tmp_path / "two" / "one")
    shutil.copytree(served / "tiny", tmp_path / "two" / "other")
    shutil.make_archive(str(tmp_path / "two"), "tar", tmp_path / "two")
    refused(BundleError, "not a sound archive|damaged", tmp_path / "cut.tar.gz")
    refused(BundleError, "not a sound archive", tmp_path / "text.zip")
    refused(BundleError, "holds 2 files manifest.json, expected one", tmp_path / "two.tar")
    refused(BundleError, "is not a bundle", tmp_path)
    refused(UsageError, "found a URL of ftp://", "ftp://127.0.0.1/tiny", "0" * 64)
    refused(UsageError, "a URL that cannot be read", "http://[1", "0" * 64)
    refused(UsageError, "found --sha256 abc", served / "tiny", "abc")


@pytest.mark.parametrize("name", ["trt/encoder.engine", "manifest.json", "../escaped"])
def test_a_manifest_that_lists_engines_or_leaves_the_folder_is_refused(served: Path, name: str) -> None:
    # oracle: the sentence; compiled engines are code
    manifest = json.loads((served / "tiny" / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    (served / "tiny" / "manifest.json").write_text(json.dumps(manifest))
    refused(BundleError, "expected no compiled engines|bad manifest", served / "tiny")


def test_a_name_that_is_taken_stays_as_it_is(served: Path, tmp_path: Path) -> None:
    # oracle: the files of the one bundle and the other
    folder = fetch_bundle(str(served / "tiny"), None, quiet).folder
    first = content(folder)
    other = Path(shutil.copytree(served / "tiny", tmp_path / "other"))
    (other / "manifest.json").write_text((other / "manifest.json").read_text() + "\n")
    refused(OutputError, "tiny holds another bundle: give --overwrite", other)
    (folder / "trt").mkdir()  # engines of the old one
    assert fetch_bundle(str(other), None, quiet, overwrite=True).new
    assert content(folder) == {**first, "manifest.json": (other / "manifest.json").read_bytes()}
    assert not (folder / "trt").exists()
    (folder / "tables.npz").write_bytes(b"damaged")
    assert fetch_bundle(str(other), None, quiet).new  # the same bundle mends it
    assert (folder / "tables.npz").read_bytes() == first["tables.npz"]
    with pytest.raises(OutputError, match="default is the name of a bundle that comes with fsae"):
        fetch_bundle(str(other), None, quiet, name="default")
    with pytest.raises(UsageError, match=r"found --name \.\./x"):
        fetch_bundle(str(other), None, quiet, name="../x")
    (fetched_folder() / "link").symlink_to(other)
    with pytest.raises(OutputError, match="is a link but not a bundle"):
        fetch_bundle(str(other), None, quiet, name="link", overwrite=True)
    assert [path.name for path in fetched_folder().iterdir() if path.name.startswith(".")] == []


def test_an_interruption_leaves_no_bundle(served: Path) -> None:  # oracle: the folder afterwards
    def stop(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_bundle(str(served / "tiny"), None, stop)
    assert list(fetched_folder().iterdir()) == []


def test_a_folder_needs_no_library_and_a_url_names_the_extra(
    served: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # oracle: an interpreter without the libraries
    for name in ("pooch", "requests"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["fetch", str(served / "tiny"), "--name", "mine"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("fetched mine, ")
    assert said.endswith(f"{fetched_folder() / 'mine'}\n")
    with pytest.raises(DeviceError, match=r'pip install "fsae\[fetch\]"'):
        fetch_bundle("https://127.0.0.1:1/tiny", "0" * 64, quiet)
    assert main(["--device", "cpu", "fetch", str(served / "tiny")]) == 2


def test_archives_are_decoded_with_a_fetched_bundle(
    default_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # oracle: the hash of its tables; the package ships no bundle here
    for module in (files, fetch):
        monkeypatch.setattr(module, "shipped_folder", lambda: tmp_path / "nowhere")
    key = archive_key(default_bundle)
    with pytest.raises(BundleError, match="get it with `fsae-run fetch`"):
        find_archive(key, "default")
    fetch_bundle(str(default_bundle.folder), None, quiet, name="other")
    assert find_archive(key, "default").folder == fetched_folder() / "other"
