"""Write a page that draws members in a browser: a bundle's graphs and tables with the modules of export/examples/web.

The page is static files. `files.json` lists them all with sizes and hashes, which the page compares before it uses a
file; by the same list a page of ours is known before it is replaced.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fsae.runtime.bundle.files import MANIFEST, Bundle, hash_file
from fsae.runtime.bundle.manifest import FileEntry, graph_file
from fsae.runtime.climate.steps import same_step
from fsae.runtime.ensemble.members import parts_of
from fsae.runtime.errors import BundleError, OutputError, UsageError
from fsae.runtime.ownership import check_plain, kind
from fsae.runtime.pictures.coastlines import UNIT_DEG, coastlines

from .place import replacing

log = logging.getLogger("fsae.export.bundle")
LIST, MADE_BY = "files.json", "fsae-export --web"
PARTS = ("*.html", "*.css", "*.js", "*/*.js")  # of export/examples/web that the page needs
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of the npm package onnxruntime-web, folder dist
STEP = "1 month"  # the page chooses and counts months
TABLES = (
    "climatology",
    "latent_cell_std",
    "latent_season_std",
    "latent_level_std",
    "forcing_years",
    "forcing_scenarios",
)


def check_page(folder: Path, runtime: Path | None, overwrite: bool) -> Path:
    """The folder of ONNX Runtime Web's files; UsageError if they are not there, OutputError if a page cannot be."""
    advice = "run npm install onnxruntime-web, then give --ort-web node_modules/onnxruntime-web/dist"
    if runtime is None:
        raise UsageError("--web needs the files of ONNX Runtime Web", advice=advice)
    missing = [name for name in RUNTIME if not (runtime / name).is_file()]
    if missing:
        raise UsageError(f"{runtime} lacks {', '.join(missing)} of ONNX Runtime Web", advice=advice)
    why = foreign_to_page(folder)
    if why:
        raise OutputError(f"{folder} {why}", advice="choose another folder for --web, or move it away")
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} holds a page already", advice="give --overwrite, or choose another folder")
    return runtime


def foreign_to_page(folder: Path) -> str:
    """Why what stands at a path is not taken for a page of ours, in words; empty for a page or an empty folder."""
    found = kind(folder)
    if found != "folder":
        return found and f"is a {found}, not a page that fsae-export wrote"
    check_plain(folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {LIST}
    listed = _read_list(folder / LIST)
    if listed is None:
        return "is not a page that fsae-export wrote" if any(folder.iterdir()) else ""
    strangers = names - set(listed)
    if strangers:
        return f"holds {min(strangers)}, which fsae-export did not write"
    changed = [name for name in sorted(names) if hash_file(folder / name) != listed[name]]
    return f"holds {changed[0]}, which was changed since fsae-export wrote it" if changed else ""


def write_page(bundle: Bundle, folder: Path, runtime: Path | None, *, overwrite: bool = False) -> int:
    """Write the page aside and put it in place as a whole; return the bytes of its files.

    Errors as in `check_page`; BundleError for a bundle that does not generate, or whose steps are not months.
    """
    manifest, runtime = bundle.manifest, check_page(folder, runtime, overwrite)
    parts_of(manifest)
    if not same_step(manifest.time.step, STEP):
        raise BundleError(
            f"bundle {manifest.name} has steps of {manifest.time.step}", STEP, "take a bundle of months for --web"
        )
    with replacing(folder.absolute(), foreign_to_page) as new:
        source = Path(str(resources.files("fsae.export"))) / "examples" / "web"
        for path in sorted(path for part in PARTS for path in source.glob(part)):
            _copy(path, new / path.relative_to(source))
        for name in RUNTIME:
            _copy(runtime / name, new / "ort" / name)
        _write_bundle(bundle, new / "bundle")
        (new / "coastlines.json").write_text(coastlines_text(), encoding="utf-8")
        paths = sorted(path for path in new.rglob("*") if path.is_file())
        files = {path.relative_to(new).as_posix(): hash_file(path) for path in paths}
        listed = {"made_by": MADE_BY, "manifest_sha256": bundle.manifest_sha256, "files": msgspec.to_builtins(files)}
        (new / LIST).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    return sum(entry.size for entry in files.values())


def flat(arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], bytes]:
    """Arrays as little-endian numbers one after the other, and their index: type, shape and offset [bytes] by name.

    >>> flat({"a": np.zeros(3, np.float32), "b": np.ones((1, 1))})[0]["b"]
    {'dtype': 'float64', 'shape': [1, 1], 'offset': 16}
    """
    index, parts, offset = {}, [], 0
    for name, array in arrays.items():
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        data += bytes(-len(data) % 8)  # JavaScript reads arrays only at multiples of their items' size
        index[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
        parts.append(data)
        offset += len(data)
    return index, b"".join(parts)


def coastlines_text() -> str:
    """JSON of the coastlines: lines [lat, lon, lat, lon, ...] in hundredths of a degree."""
    lines = [np.rint(np.stack(line, axis=1) / UNIT_DEG).astype(int).ravel().tolist() for line in coastlines()]
    return json.dumps(lines, separators=(",", ":"))


def _read_list(path: Path) -> dict[str, FileEntry] | None:
    """The files of a page by their paths; None for what is no list of ours."""
    try:
        record = json.loads(path.read_bytes())
        if record["made_by"] == MADE_BY:
            return msgspec.convert(record["files"], dict[str, FileEntry])
    except (OSError, ValueError, KeyError, TypeError, msgspec.ValidationError):
        pass
    return None


def _write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write manifest, tables and graphs of a bundle as the page reads them."""
    folder.mkdir()
    (folder / MANIFEST).write_text(bundle.manifest.to_json(), encoding="utf-8")
    arrays = bundle.arrays("tables.npz")
    index, data = flat({name: arrays[name] for name in TABLES if name in arrays})
    (folder / "tables.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "tables.bin").write_bytes(data)
    for graph in ("denoiser", "fast", "decoder"):
        if graph in bundle.manifest.graphs:
            name = graph_file(graph, "fp32")
            log.info("%s: writing %s", graph, name)
            if any(other.startswith(f"{name}.") for other in bundle.manifest.files):
                raise BundleError(
                    f"the graph {graph} of bundle {bundle.manifest.name} is too large for browsers",
                    advice="take a smaller bundle for --web",
                )
            (folder / name).write_bytes(bundle.read(name))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
