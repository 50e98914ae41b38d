"""Open input files by their content: NetCDF-4 and classic NetCDF, Zarr stores in folders and zip archives, GRIB."""

import importlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsae.runtime.errors import DataError

if TYPE_CHECKING:
    import xarray as xr


HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
GRIB_MAGIC = b"GRIB"
CLASSIC_MAGIC, CLASSIC_VERSIONS = b"CDF", (1, 2, 5)
ZIP_MAGIC = b"PK\x03\x04"
GRIB_SUFFIXES = (".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2")  # for files with a heading before the messages
ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata")  # every group has one of these
KNOWN, NEITHER = "NetCDF, Zarr or GRIB", "neither NetCDF nor Zarr nor GRIB"
MOST_SHOWN = 8  # groups in a message

# Registered filters of HDF5 (https://github.com/HDFGroup/hdf5_plugins) that hdf5plugin brings.
FILTERS = {307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "Bitshuffle", 32013: "ZFP", 32015: "Zstandard"}
FILTERS |= {32017: "SZ", 32024: "SZ3", 32026: "Blosc2", 32028: "SPERR"}

# An archive entry that unpacks to more is not a chunk; chunks are compressed already, so that a zip gains little.
MOST_ENTRY_BYTES = 1 << 31
BOMB_BYTES, BOMB_RATIO = 1 << 26, 200


def open_container(path: Path, group: str = "") -> "xr.Dataset":
    """The dataset of a file or Zarr store, or of a group in it, unread and with undecoded times.

    Coordinates and grid mappings of the groups above belong to it too. DataError for files of other kinds, a group that
    is not there, and variables that are only in groups if none is given.
    """
    kind = kind_of(path)
    if kind in ("GRIB", "classic NetCDF") and group:
        raise DataError(f"{path} is a {kind} file, which has no groups", advice="leave --group out")
    if kind == "GRIB":
        from .grib import open_grib  # which needs NumPy, as the next

        return open_grib(path)
    if kind == "classic NetCDF":
        from .classic import open_classic

        return open_classic(path)
    if kind != "zip" and not group and is_archive(path):
        import xarray as xr  # start-up time

        return xr.open_dataset(path, engine="fsae", decode_times=False, cache=False)
    if kind == "NetCDF-4":
        return of_group(path, group, _look_into(path), {"engine": "h5netcdf"})
    store, root = _zip_store(path) if kind == "zip" else (path, "")
    return of_group(path, group, zarr_groups(store, root), {"engine": "zarr", "store": store, "root": root})


def is_archive(path: Path) -> bool:
    """True if a Zarr store or NetCDF-4 file says that it is an archive of fsae, which its own engine opens."""
    try:
        if not path.is_file():
            return b'"fsae_kind": "archive"' in (path / "zarr.json").read_bytes()
        if kind_of(path) != "NetCDF-4":
            return False
        import h5py  # start-up time

        with h5py.File(path, "r") as file:
            kind = file.attrs.get("fsae_kind")
            return (kind.decode() if isinstance(kind, bytes) else kind) == "archive"
    except (OSError, DataError):
        return False


def of_group(path: Path | str, group: str, groups: list[str], how: dict[str, Any]) -> "xr.Dataset":
    """The dataset of a group, with the coordinates and grid mappings of those above it that fit its dimensions."""
    import xarray as xr  # start-up time

    store, root = how.get("store", path), how.get("root", "")
    options = {"consolidated": how.get("consolidated", False)} if how["engine"] == "zarr" else None

    def opened(name: str) -> "xr.Dataset":
        place = "/".join(filter(None, [root, name])) or None
        # cache=False: what was read is not kept, so memory does not grow with time
        return xr.open_dataset(
            store, engine=how["engine"], group=place, decode_times=False, cache=False, backend_kwargs=options
        )

    name = group.strip("/")
    if name and name not in groups:
        raise DataError(
            f"{path} has no group {group!r}", _listed(groups) or "no group", "leave --group out, or name one"
        )
    found = opened(name)
    if not name and not found.data_vars and groups:
        raise DataError(f"{path} holds its variables in the groups {_listed(groups)}", advice=f"--group {groups[0]}")
    parts = name.split("/")
    for above in ["/".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)] if name else []:
        higher = opened(above)
        fitting = {
            str(key): variable
            for key, variable in higher.variables.items()
            if key not in found.variables and all(found.sizes.get(dim) == size for dim, size in variable.sizes.items())
        }
        found = found.assign_coords(fitting)
    return found


def _listed(groups: list[str]) -> str:
    more = len(groups) - MOST_SHOWN
    return ", ".join(groups[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def zarr_groups(store: Any, root: str) -> list[str]:
    """The groups of a Zarr store below `root` that hold arrays, by their paths."""
    import zarr  # start-up time

    whole = zarr.open_group(store, path=root, mode="r")
    names = [name for name, member in whole.members(max_depth=None) if isinstance(member, zarr.Array)]
    return sorted({name.rpartition("/")[0] for name in names} - {""})


def _zip_store(path: Path) -> tuple[Any, str]:
    """The Zarr store in an archive, read in place, and the folder in it that holds it; DataError without one."""
    import zarr  # start-up time

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{path} is a damaged zip archive ({error})", advice="copy or make it again") from None
    for entry in entries:
        bomb = entry.file_size > BOMB_BYTES and entry.file_size > BOMB_RATIO * max(entry.compress_size, 1)
        if bomb or entry.file_size > MOST_ENTRY_BYTES:
            raise DataError(
                f"{path} holds {entry.filename}, of {entry.file_size} bytes",
                "chunks of a Zarr store",
                "unpack it, and give the folder",
            )
    roots = [entry.filename.rpartition("/")[0] for entry in entries if entry.filename.rpartition("/")[2] in ZARR_MARKS]
    if not roots:
        raise DataError(f"{path} is a zip archive without a Zarr store", KNOWN, "unpack it first")
    return zarr.storage.ZipStore(path, mode="r"), min(roots, key=len)


def _look_into(path: Path) -> list[str]:
    """The groups of an HDF5 file that hold variables; DataError for one whose compression needs what is not there."""
    import h5py  # start-up time

    groups: set[str] = set()
    missing: set[int] = set()

    def visit(name: str, member: Any) -> None:
        if isinstance(member, h5py.Dataset):
            groups.add(name.rpartition("/")[0])
            created = member.id.get_create_plist()
            numbers = [created.get_filter(number)[0] for number in range(created.get_nfilters())]
            missing.update(number for number in numbers if not h5py.h5z.filter_avail(number))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    if missing and _load_filters():
        missing = {number for number in missing if not h5py.h5z.filter_avail(number)}
    if missing:
        names = ", ".join(FILTERS.get(number, f"number {number}") for number in sorted(missing))
        raise DataError(f"{path} is compressed with the HDF5 filter {names}", advice='pip install "fsae[filters]"')
    return sorted(groups - {""})


def _load_filters() -> bool:
    """True if further filters of HDF5 could be loaded: importing hdf5plugin registers them."""
    try:
        importlib.import_module("hdf5plugin")
    except ImportError:
        return False
    return True


def kind_of(path: Path) -> str:
    """GRIB, NetCDF-4, classic NetCDF, Zarr or zip, by the content rather than the name; DataError for others."""
    if not path.exists():
        raise DataError(
            f"found no file {path}", advice="give the path of a NetCDF or GRIB file or a Zarr store on this machine"
        )
    if path.is_dir():
        if any((path / mark).exists() for mark in ZARR_MARKS):
            return "Zarr"
        raise DataError(f"{path} is a folder but not a Zarr store", advice="give a NetCDF file or a Zarr store")
    with path.open("rb") as file:
        head = file.read(8)
        for offset in (512, 1024, 2048):  # HDF5 allows a user block before its signature
            if head == HDF5_MAGIC:
                break
            file.seek(offset)
            head = HDF5_MAGIC if file.read(8) == HDF5_MAGIC else head
    if head == HDF5_MAGIC:
        return "NetCDF-4"
    if head[:3] == CLASSIC_MAGIC and head[3:4] in [bytes([version]) for version in CLASSIC_VERSIONS]:
        return "classic NetCDF"
    if head[:4] == ZIP_MAGIC:
        return "zip"
    if head[:4] == GRIB_MAGIC or (path.suffix.lower() in GRIB_SUFFIXES and head):
        return "GRIB"
    raise DataError(f"{path} is {NEITHER if head else 'empty'}", KNOWN, "convert it first")
