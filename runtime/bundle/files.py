"""Bundles on disk: how one is found, and files whose hash is checked before they are used."""

import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from fsae.runtime.atomic import write_aside
from fsae.runtime.errors import BundleError, OutputError
from fsae.runtime.log import log

from .exported import remembered
from .manifest import FileEntry, Manifest
from .schema import ADVICE, read_manifest, schema_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .tables import Tables

MANIFEST = "manifest.json"
BLOCK_BYTES = 1 << 20  # of a file at a time, when it is hashed without being held in memory
COMPILED = "trt"  # engines belong to one GPU and have an index of their own, so the manifest does not list them
INDEX = "index.json"  # in the folder of engines
VERIFIED = "verified.json"  # what `verify` found on a device where the exporter could not run a precision
LISTED = "SHA256SUMS"  # of the manifests of all engines in the repository, of which the package holds the default one
FETCHED = Path("fsae", "bundles")


def file_entry(data: bytes) -> FileEntry:
    """Hash and size of a file's content."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def hash_file(path: Path) -> FileEntry:
    """Hash and size of a file, read in blocks: weights can be larger than the memory."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return FileEntry(sha256=digest.hexdigest(), size=size)


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Entries of every file directly in `folder` but the manifest, sorted by name: the manifest's `files`."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST)
    return {path.name: hash_file(path) for path in paths}


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with `files` filled in from the folder, after writing it there as manifest.json."""
    complete = replace(manifest, files=hash_files(folder))
    try:
        with write_aside(folder / MANIFEST) as aside:
            aside.write_text(complete.to_json(), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {folder / MANIFEST}: {error.strerror}", advice="check that the folder is yours and has space"
        ) from None
    return complete


def shipped_folder() -> Path:
    """Folder of the bundles that come with the package."""
    return Path(str(resources.files("fsae.engines")))


def listed() -> dict[str, str]:
    """SHA-256 of the manifest of every engine in the repository of this version, by name; none if there is no list."""
    try:
        lines = (shipped_folder() / LISTED).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {path.rpartition("/")[0]: sha256 for sha256, path in (line.split(maxsplit=1) for line in lines)}


def fetched_folder() -> Path:
    """Folder of the bundles that `fsae-run fetch` has installed, by the XDG base directory specification.

    BundleError if the user has no home.
    """
    given = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".local" / "share") / FETCHED
    except RuntimeError:
        raise BundleError("found no home folder for fetched bundles", advice="set HOME or XDG_DATA_HOME") from None


def installed_folders() -> list[Path]:
    """Folders whose bundles have names everywhere: the package's, then the user's if there is a home."""
    try:
        return [shipped_folder(), fetched_folder()]
    except BundleError:
        return [shipped_folder()]


def bundles_in(folder: Path) -> list[Path]:
    """Folders in `folder` that hold a manifest, the newest first (by the manifest's time, then by name)."""
    if not folder.is_dir():
        return []
    found = [p for p in sorted(folder.iterdir()) if (p / MANIFEST).is_file()]
    return sorted(found, key=lambda p: (p / MANIFEST).stat().st_mtime_ns, reverse=True)


def named_bundles() -> list[Path]:
    """Folders of all bundles that have a name here: those in ./engines, the shipped and the fetched ones."""
    return [path for folder in (Path("engines"), *installed_folders()) for path in bundles_in(folder)]


def fingerprint(folder: Path) -> str:
    """SHA-256 of a bundle's manifest, which has the hashes of its files, and of the index of its compiled engines."""
    digest = hashlib.sha256((folder / MANIFEST).read_bytes())
    index = folder / COMPILED / INDEX
    if index.is_file():
        digest.update(index.read_bytes())
    return digest.hexdigest()


def find_bundle(model: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the bundle `model`: a path, or a name in ./engines, among the shipped or the fetched ones.

    Without one: the newest bundle in ./engines of the working folder, else the shipped `default`. ./engines counts only
    for bundles that this user exported (see exported.py), by their name also for the engines that the package lists, as
    a checkout of its repository has them; what else it holds is named by its path.
    """
    local, shipped = Path("engines"), shipped_folder()
    if model is None:
        known = remembered()
        for path in bundles_in(local):
            if fingerprint(path) in known:
                return path
            if not _is_known(path, shipped / path.name):
                _pass_over(path, path.absolute())
        if (shipped / "default" / MANIFEST).is_file():
            return shipped / "default"
        raise BundleError(
            "found no bundle in ./engines and none is shipped with this installation", advice="give --model PATH"
        )
    path = _path_of(model)
    if path.name == MANIFEST:
        path = path.parent
    if (path / MANIFEST).is_file():
        return path
    nearby = local / path
    here = (nearby / MANIFEST).is_file()
    if here and fingerprint(nearby) in remembered():
        return nearby
    for folder in installed_folders():
        if (folder / path / MANIFEST).is_file():
            return folder / path
    if here and fingerprint(nearby) == listed().get(str(path)):
        return nearby
    raise _not_found(path)


def _not_found(path: Path) -> BundleError:
    """The error that no bundle has this path or name."""
    nearby = Path("engines") / path
    if path.exists():
        return BundleError(
            f"{path} is not a bundle (no {MANIFEST})", advice="give the folder of a bundle, or a name such as default"
        )
    if (nearby / MANIFEST).is_file():
        return BundleError(f"you did not export {nearby} here", advice=f"name it by its path, --model {nearby}")
    sha256 = listed().get(str(path))
    if sha256 is not None:
        return BundleError(
            f"the engine {path} is not installed, but a part of the repository of this fsae",
            advice=f"get it with `fsae-run fetch URL|FOLDER --sha256 {sha256}`, from engines/{path} there",
        )
    names = sorted({found.name for found in named_bundles()})
    return BundleError(
        f"found no bundle {str(path)!r}; known names: {', '.join(names) or 'none'}",
        advice="give one of these names, or the path of a bundle as --model, or get one with `fsae-run fetch`",
    )


@cache
def _pass_over(path: Path, place: Path) -> None:
    """Say, once for each place, that a bundle is not used unasked."""
    log.warning(f"{path} is passed over, as you did not export it here: name it with --model {path}")


def _path_of(model: object) -> Path:
    """The path or name of a bundle; BundleError for what no path can be."""
    if not isinstance(model, str | os.PathLike) or not str(model):
        raise BundleError(f"found the model {model!r}", "a path or a name", "give --model PATH")
    try:
        (Path(model) / MANIFEST).is_file()
        os.stat(model)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a name that is too long, or a character that no name has
        why = getattr(error, "strerror", None) or str(error)
        raise BundleError(f"cannot read the bundle {str(model)!r}: {why}", advice="give another --model") from None
    return Path(model)


def _is_known(path: Path, shipped: Path) -> bool:
    """True if a bundle is the shipped one of its name or one that the package lists, as in a checkout."""
    manifest = (path / MANIFEST).read_bytes()
    copy = (shipped / MANIFEST).is_file() and (shipped / MANIFEST).read_bytes() == manifest
    return copy or hashlib.sha256(manifest).hexdigest() == listed().get(path.name)


def open_bundle(model: str | os.PathLike[str] | None = None) -> "Bundle":
    """The bundle that `find_bundle` finds, its manifest checked; other files are checked when they are used."""
    folder = find_bundle(model)
    try:
        raw = (folder / MANIFEST).read_bytes()
        text = raw.decode("utf-8")
    except OSError as error:
        raise BundleError(
            f"cannot read {folder / MANIFEST}: {error.strerror}",
            advice="check that you may read it, or get the bundle again",
        ) from None
    except UnicodeDecodeError:
        raise BundleError(f"{folder / MANIFEST} is damaged: not UTF-8 text", advice=ADVICE) from None
    values = read_manifest(text)
    return Bundle(
        folder=folder,
        manifest=Manifest.from_values(values),
        manifest_sha256=hashlib.sha256(raw).hexdigest(),
        written_schema=schema_of(values),
    )


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: its folder, its manifest, and files that are checked when they are read."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str
    written_schema: int  # that manifest.json has on disk; `manifest` is of the newest

    def read(self, name: str) -> bytes:
        """Content of a file of the manifest; BundleError if it is missing or its hash or size differs."""
        self._check_size(name)
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise self._unreadable(name, error) from None
        self._compare(name, file_entry(data))
        return data

    def check(self, name: str) -> Path:
        """Path of a file of the manifest, its hash checked without holding its content; BundleError as in `read`."""
        self._check_size(name)
        try:
            found = hash_file(self.folder / name)
        except OSError as error:
            raise self._unreadable(name, error) from None
        self._compare(name, found)
        return self.folder / name

    def _entry(self, name: str) -> FileEntry:
        """The manifest's entry of a file."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(
                f"bundle {self.manifest.name} has no file {name}; it has {sorted(self.manifest.files)}", advice=ADVICE
            )
        return entry

    def _check_size(self, name: str) -> None:
        """Raise BundleError unless a file has the size of its entry, before any of it is read."""
        entry = self._entry(name)
        try:
            found = os.stat(self.folder / name)
        except OSError as error:
            raise self._unreadable(name, error) from None
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{self.folder / name} is not a file", advice=ADVICE)
        if found.st_size != entry.size:
            self._compare(name, FileEntry(sha256=entry.sha256, size=found.st_size))

    def _compare(self, name: str, found: FileEntry) -> None:
        """Raise BundleError unless a file is the one of the manifest."""
        entry = self._entry(name)
        if found.size != entry.size:
            raise BundleError(
                f"{self.folder / name} is truncated or altered: found {found.size} bytes",
                f"{entry.size}",
                ADVICE,
            )
        if found != entry:
            raise BundleError(
                f"{self.folder / name} is altered: its SHA-256 differs from the manifest's",
                advice=ADVICE,
            )

    def _unreadable(self, name: str, error: OSError) -> BundleError:
        return BundleError(f"cannot read {self.folder / name}: {error.strerror}", advice=ADVICE)

    def arrays(self, name: str) -> "dict[str, NDArray[Any]]":
        """The arrays of an .npz file of the bundle."""
        from .tables import read_arrays

        return read_arrays(self.read(name), str(self.folder / name))

    @cached_property
    def tables(self) -> "Tables":
        """The constants in tables.npz, read once."""
        from .tables import make_tables

        return make_tables(self.arrays("tables.npz"), self.manifest, str(self.folder / "tables.npz"))

    @property
    def size(self) -> int:
        """Bytes of all files of the manifest."""
        return sum(entry.size for entry in self.manifest.files.values())
