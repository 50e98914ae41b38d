"""Bundles from elsewhere: a folder, an archive or a URL becomes a bundle in the user's data folder.

Every file is checked by its hash in the manifest before the bundle gets its name, and the manifest, or the archive, by
a hash that the user gives, without which no URL is asked. Archives are not unpacked: of what they hold only the files
in the manifest are read, under the names that the manifest gives.
"""

import contextlib
import hashlib
import re
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from fsae.runtime.errors import BundleError, OutputError, UsageError
from fsae.runtime.ownership import exchange, kind, rename_new
from fsae.runtime.progress import Progress

from .download import download, file_url, shown_url
from .files import BLOCK_BYTES, MANIFEST, fetched_folder, hash_file, shipped_folder
from .manifest import PLAIN, FileEntry, Manifest
from .schema import ADVICE, read_manifest

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ZIP_MAGIC = b"PK\x03\x04"
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, BadGzipFile, zlib.error, LZMAError, EOFError, RuntimeError)
MOST_MANIFEST_BYTES = 1 << 24
MOST_ARCHIVE_BYTES = 1 << 36  # whose size nothing tells before it is there; a URL of a folder has no such limit
STAGING = ".fetch-"
ABANDONED_S = 86_400  # a staging folder that a killed process left
MB = 1_000_000


class Meter:
    """A progress bar in MB, of what is known to come."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.done, self.total = progress, 0, 0

    def __call__(self, count: int) -> None:
        self.done += count
        self.progress(self.done // MB, max(self.done, self.total) // MB)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a bundle comes from: its manifest, and a call that writes one of its files, checked, to a path."""

    manifest: bytes
    put: Callable[[str, FileEntry, Path], None]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A bundle that has a name now, its folder, and whether it is new there."""

    folder: Path
    manifest: Manifest
    new: bool


def fetch_bundle(
    source: str, sha256: str | None, progress: Progress, *, name: str | None = None, overwrite: bool = False
) -> Fetched:
    """Install the bundle at `source` under its own name or `name`, unless it is there already.

    `source` is a folder, an archive (zip or tar) or the http(s) URL of either, `sha256` the hash of the archive or of
    the folder's manifest.json; a URL needs one. UsageError for a bad request, BundleError for a bundle that cannot be
    had or is not the one asked for, OutputError if another one has the name.
    """
    url = _checked_source(source, sha256)
    if name is not None and not re.fullmatch(PLAIN, name):
        raise UsageError(
            f"found --name {name}", "letters, digits, '.', '_', '+' and '-', not '.' first", "give another"
        )
    meter = Meter(progress)
    try:
        with _staging() as staging, _opened(source, url, sha256, staging, meter) as origin:
            manifest = _read(origin.manifest)
            target = fetched_folder() / (name or manifest.name)
            there = _already_there(target, origin.manifest, manifest, overwrite)
            if there is not None:
                return Fetched(folder=there, manifest=manifest, new=False)
            meter.total = meter.done + sum(entry.size for entry in manifest.files.values())
            folder = staging / "bundle"
            folder.mkdir()
            for file, entry in manifest.files.items():
                origin.put(file, entry, folder / file)
            (folder / MANIFEST).write_bytes(origin.manifest)
            if kind(target):
                exchange(folder, target, staging / "replaced")
            else:
                rename_new(folder, target)
            return Fetched(folder=target, manifest=manifest, new=True)
    except OSError as error:
        raise OutputError(
            f"cannot install {shown_url(source) if url else source} in {fetched_folder()}: {error.strerror or error}",
            advice="check that you may read the one and write the other, and that there is space",
        ) from None


def _checked_source(source: str, sha256: str | None) -> bool:
    """True if a source is a URL; UsageError for a scheme or a hash that cannot be, and for a URL without a hash."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", source)
    if scheme and scheme[1].lower() not in ("http", "https"):
        raise UsageError(f"found a URL of {scheme[1]}://", "https:// or http://", "give such a URL, or a folder")
    try:
        urlsplit(source)
    except ValueError as error:
        raise UsageError(f"found a URL that cannot be read ({error})", advice="correct it") from None
    if sha256 is not None and not re.fullmatch("[0-9A-Fa-f]{64}", sha256):
        raise UsageError(f"found --sha256 {sha256}", "64 hexadecimal digits", "take those of `sha256sum`")
    if scheme and sha256 is None:
        raise UsageError(
            "found a URL without a hash, so that whoever answers could send anything",
            "--sha256 of its manifest.json, or of the archive",
            "take the hash from whoever made the bundle; `fsae-run info` tells it",
        )
    return bool(scheme)


@contextlib.contextmanager
def _staging() -> Iterator[Path]:
    """A folder beside the fetched bundles, on their file system, that is gone afterwards."""
    place = fetched_folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in place.glob(f"{STAGING}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=place, ignore_cleanup_errors=True) as staging:
        yield Path(staging)


@contextlib.contextmanager
def _opened(source: str, url: bool, sha256: str | None, staging: Path, meter: Meter) -> Iterator[Origin]:
    """The bundle at a source, of the hash that is asked for."""
    path = Path(urlsplit(source).path if url else source)
    expected = sha256.lower() if sha256 is not None else None
    if url and path.name.lower().endswith(ARCHIVES):
        download(source, staging / "archive", str(expected), MOST_ARCHIVE_BYTES, meter)
        with _archive(staging / "archive", shown_url(source), meter) as origin:
            yield origin
    elif url:
        asked = staging / "manifest"  # by another name: this folder is no bundle
        download(file_url(source, MANIFEST), asked, str(expected), MOST_MANIFEST_BYTES, meter)
        yield Origin(
            manifest=asked.read_bytes(),
            put=lambda name, entry, to: download(file_url(source, name), to, entry.sha256, entry.size, meter),
        )
    elif path.is_file() and path.name != MANIFEST:
        if expected is not None and hash_file(path).sha256 != expected:
            raise _another(str(path), expected)
        with _archive(path, str(path), meter) as origin:
            yield origin
    else:
        yield _folder(path.parent if path.name == MANIFEST else path, expected, meter)


def _folder(folder: Path, expected: str | None, meter: Meter) -> Origin:
    """The bundle in a folder of this machine."""
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder} is not a bundle (no {MANIFEST})", advice="give its folder, an archive of it or a URL"
        )

    def put(name: str, entry: FileEntry, target: Path) -> None:
        if not (folder / name).is_file():
            raise BundleError(f"the bundle lacks {folder / name}", advice=ADVICE)
        with (folder / name).open("rb") as stream:
            _copy(stream, entry, target, str(folder / name), meter)

    with (folder / MANIFEST).open("rb") as stream:
        data = stream.read(MOST_MANIFEST_BYTES)
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise _another(str(folder / MANIFEST), expected)
    return Origin(manifest=data, put=put)


@contextlib.contextmanager
def _archive(path: Path, shown: str, meter: Meter) -> Iterator[Origin]:
    """The bundle in an archive: the files beside its only manifest."""
    with contextlib.ExitStack() as stack:
        try:
            streams = _streams(path, stack)
            manifests = [name for name in streams if name.rpartition("/")[2] == MANIFEST]
            if len(manifests) != 1:
                raise BundleError(
                    f"{shown} holds {len(manifests)} files {MANIFEST}", "one", "make an archive of a bundle"
                )
            with streams[manifests[0]]() as stream:
                data = stream.read(MOST_MANIFEST_BYTES)
        except DAMAGED as error:
            raise BundleError(f"{shown} is not a sound archive ({error})", "zip or tar", "get it again") from None
        prefix = manifests[0].removesuffix(MANIFEST)

        def put(name: str, entry: FileEntry, target: Path) -> None:
            if prefix + name not in streams:
                raise BundleError(f"{shown} lacks {prefix}{name}", advice=ADVICE)
            try:
                with streams[prefix + name]() as stream:
                    _copy(stream, entry, target, f"{prefix}{name} in {shown}", meter)
            except DAMAGED as error:
                raise BundleError(f"{shown} is damaged ({error})", advice="get it again") from None

        yield Origin(manifest=data, put=put)


def _streams(path: Path, stack: contextlib.ExitStack) -> dict[str, Callable[[], BinaryIO]]:
    """A call for each file in an archive that opens it; links and devices are left out."""
    with path.open("rb") as file:
        head = file.read(len(ZIP_MAGIC))
    if head == ZIP_MAGIC:  # not zipfile.is_zipfile: a tar archive that ends in an .npz would pass
        zipped = stack.enter_context(zipfile.ZipFile(path))
        return {one.filename: partial(zipped.open, one) for one in zipped.infolist()}  # type: ignore[misc]
    packed = stack.enter_context(tarfile.open(path))  # noqa: SIM115
    return {one.name: partial(packed.extractfile, one) for one in packed if one.isreg()}  # type: ignore[misc]


def _copy(stream: BinaryIO, entry: FileEntry, target: Path, shown: str, meter: Meter) -> None:
    """Write a stream to a file, at most as much as there should be; BundleError if it is not that of the manifest."""
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as file:
        while block := stream.read(min(BLOCK_BYTES, entry.size + 1 - size)):
            digest.update(block)
            size += file.write(block)
            meter(len(block))
    if FileEntry(sha256=digest.hexdigest(), size=size) != entry:
        raise BundleError(f"{shown} is truncated or altered", "the file of the manifest", ADVICE)


def _another(shown: str, expected: str) -> BundleError:
    """The error that a file does not have the hash that was asked for."""
    return BundleError(f"{shown} is not the file that was asked for", f"SHA-256 {expected}", "check path and hash")


def _read(data: bytes) -> Manifest:
    """The manifest in these bytes; BundleError for a bad one, and for one that lists compiled engines."""
    try:
        manifest = Manifest.from_values(read_manifest(data.decode("utf-8")))
    except UnicodeDecodeError:
        raise BundleError(f"{MANIFEST} is not UTF-8 text", advice=ADVICE) from None
    wrong = next((name for name in manifest.files if "/" in name or name == MANIFEST), None)
    if wrong is not None:  # engines are code, and for one machine
        raise BundleError(f"the manifest lists {wrong}", "no compiled engines", "get a bundle without them")
    return manifest


def _already_there(target: Path, data: bytes, manifest: Manifest, overwrite: bool) -> Path | None:
    """The folder that holds this bundle already, whole; OutputError if another one has its name."""
    shipped = shipped_folder() / target.name
    if (shipped / MANIFEST).is_file():
        if (shipped / MANIFEST).read_bytes() == data:
            return shipped
        raise OutputError(f"{target.name} is the name of a bundle that comes with fsae", advice="give another --name")
    if not kind(target):
        return None
    if not (target / MANIFEST).is_file() or kind(target) != "folder":
        raise OutputError(f"{target} is a {kind(target)} but not a bundle", advice="move it away")
    if (target / MANIFEST).read_bytes() == data:
        whole = all(_is_whole(target / name, entry) for name, entry in manifest.files.items())
        return target if whole else None
    if not overwrite:
        raise OutputError(f"{target} holds another bundle", advice="give --overwrite to replace it, or another --name")
    return None


def _is_whole(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and hash_file(path) == entry
