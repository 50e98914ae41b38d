"""A run as a bundle: graphs, tables, golden vectors, card and manifest, made aside and moved into place as a whole."""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.export.certificate.certify import certify
from fsae.export.certificate.originals import original_bundle, original_run
from fsae.export.engines.layer_report import report_name
from fsae.export.graphs.trace import OPSET, OPSETS
from fsae.runtime.backends.engine_index import (
    INDEX,
    Engine,
    TimingCache,
    engine_folder,
    graph_hash,
    index_text,
    load_index,
    read_engine,
)
from fsae.runtime.bundle.files import COMPILED, MANIFEST, Bundle, hash_files, open_bundle, write_manifest
from fsae.runtime.bundle.manifest import Manifest, graph_file, is_safe_path
from fsae.runtime.checks.verify import VERIFIED
from fsae.runtime.errors import BundleError, DataError, OutputError, UsageError
from fsae.training.fitting.run_folder import Run

from .card import model_card, read_metrics, with_fidelity
from .contents import make_manifest, make_tables

Say = Callable[[str], None]

ASIDE, OLD = ".partial-", "old"  # folder of an export's process beside its bundle, and what it takes the place of


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle that was written, and the seconds that each graph file took."""

    folder: Path
    manifest: Manifest
    seconds: Mapping[str, float]


def export_run(
    run: Run,
    out: Path,
    name: str | None = None,
    *,
    precisions: Sequence[str] = ("fp32",),
    opset: int = OPSET,
    say: Say = lambda message: None,
) -> Exported:
    """The bundle `out`/`name` of a finished run, in place of an older one; without a name, that of the run's folder.

    Every graph is compared with the trained model on real fields first; above tolerance nothing is written and an older
    bundle stays as it is. Engines of the older bundle whose graph has not changed are kept.
    """
    folder = _place_of(out, run.path.resolve().name if name is None else name)
    if opset not in OPSETS:
        raise UsageError(f"found opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}")
    metrics = read_metrics(run.path / "metrics.json")  # fails now, not after minutes of exporting
    certified = certify(original_run(run), precisions, opset, say)
    say("writing tables and manifest")

    def fill(new: Path) -> Manifest:
        _write_files(new, certified.files)
        _write_arrays(new / "tables.npz", make_tables(run))
        _write_arrays(new / "golden.npz", certified.golden)
        draft = make_manifest(run, folder.name, certified.parity, certified.certificates, hash_files(new))
        card = model_card(draft, run.config, metrics=metrics)
        (new / "MODEL_CARD.md").write_text(card, encoding="utf-8", newline="\n")
        return write_manifest(new, draft)

    return Exported(folder=folder, manifest=_put(folder, fill, say), seconds=certified.seconds)


def export_bundle(
    bundle: Bundle,
    out: Path,
    name: str | None = None,
    *,
    precisions: Sequence[str],
    data: Path | None = None,
    say: Say = lambda message: None,
) -> Exported:
    """The bundle `out`/`name` with a bundle's graphs and those of other `precisions`, made of its float32 ones.

    They are compared with the float32 graphs on the inputs of the configuration `data` (default: the sample data), in
    years it does not train on. Without a name it is the bundle's: where `out` is its folder's, it is replaced.
    """
    folder = _place_of(out, bundle.manifest.name if name is None else name)
    wanted = [each for each in precisions if each != "fp32"]
    if not wanted:
        raise UsageError(f"bundle {bundle.manifest.name} has its float32 graphs: give --precision fp16, bf16 or int8")
    with original_bundle(bundle, data) as original:
        certified = certify(original, wanted, OPSET, say)
    say("writing the manifest")
    replaced = tuple(graph_file(graph, each) for graph in bundle.manifest.graphs for each in wanted)
    kept = [file for file in bundle.manifest.files if not file.startswith(replaced)]

    def fill(new: Path) -> Manifest:
        for file in kept:
            shutil.copyfile(bundle.check(file), new / file)
        _write_files(new, certified.files)
        draft = replace(
            bundle.manifest,
            name=folder.name,
            files=hash_files(new),
            parity={**bundle.manifest.parity, **certified.parity},
            certificates={**bundle.manifest.certificates, **certified.certificates},
        )
        card = new / "MODEL_CARD.md"
        if card.is_file():
            card.write_text(with_fidelity(card.read_text(encoding="utf-8"), draft), encoding="utf-8", newline="\n")
        return write_manifest(new, draft)

    return Exported(folder=folder, manifest=_put(folder, fill, say), seconds=certified.seconds)


def _place_of(out: Path, name: str) -> Path:
    """Folder of the bundle `name`; UsageError or OutputError where it cannot be one, before any work."""
    if not is_safe_path(name) or "/" in name:
        raise UsageError(f"the bundle name {name!r} is no plain name: use letters, digits, '-', '_' and '.'")
    folder = out / name
    with contextlib.suppress(OSError):  # where it cannot be done now, the place cannot be written anyway
        _recover(out)
    ground = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not ground.is_dir() or not os.access(ground, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {ground}: choose another --out, or make it a folder of yours")
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is no bundle: choose another --name or --out, or remove it")
    return folder


def _put(folder: Path, fill: Callable[[Path], Manifest], say: Say) -> Manifest:
    """The manifest that `fill` gives, after it wrote a whole bundle aside, which then was put in its place."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # One level deeper than bundles lie, so that nobody looking for bundles meanwhile takes it for one.
        aside = Path(tempfile.mkdtemp(prefix=f"{_aside_of_machine()}{os.getpid()}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {folder.parent}: {error.strerror}; is it yours?") from None
    new, old = aside / folder.name, aside / OLD / folder.name
    try:
        new.mkdir()
        manifest = fill(new)
        if folder.exists():
            _carry_engines(folder, new, say)
            _say_what_is_dropped(folder, new, say)
            old.parent.mkdir()
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; is there space, and is it yours?") from None
    finally:
        if old.exists() and not folder.exists():  # also after Ctrl-C between the two
            old.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _aside_of_machine() -> str:
    """How folders of this machine's exports begin: bundles may lie where several machines write."""
    return f"{ASIDE}{platform.node()}-"


def _recover(out: Path) -> None:
    """Nothing; bundles that an export moved away before it was killed are back, and what else it left is removed."""
    begin = _aside_of_machine()
    for aside in out.glob(f"{ASIDE}*"):
        process = aside.name.removeprefix(begin).partition("-")[0]
        if not aside.name.startswith(begin) or not process.isdecimal() or _runs(int(process)):
            continue
        for old in (aside / OLD).glob("*"):
            if not (out / old.name).exists():
                old.rename(out / old.name)
        shutil.rmtree(aside, ignore_errors=True)


def _say_what_is_dropped(old: Path, new: Path, say: Say) -> None:
    """Nothing; names what an older bundle's folder has and the new one has not, which goes with it."""
    carried = (COMPILED, VERIFIED)
    dropped = sorted(path.name for path in old.iterdir() if path.name not in carried and not (new / path.name).exists())
    if dropped:
        say(f"dropped with the older bundle: {', '.join(dropped)}")


def _runs(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Nothing; writes files into a folder."""
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Nothing; writes an .npz file, the same bytes for the same arrays (NumPy dates its entries 1980)."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(f"the table {name} of {path.name} holds values that are not finite; train the run again")
    everything: dict[str, Any] = dict(arrays)
    np.savez_compressed(path, **everything)


def _carry_engines(old: Path, new: Path, say: Say) -> None:
    """Nothing; copies the engines of the old bundle whose graph is the same byte for byte, and says what it leaves.

    Reports of their layers go with them.
    """
    if (old / VERIFIED).is_file():  # each of its records counts for the files that it names
        shutil.copyfile(old / VERIFIED, new / VERIFIED)
    try:
        before, after = open_bundle(old), open_bundle(new)
        index = load_index(engine_folder(before))
    except BundleError as error:
        say(f"engines of the older bundle are dropped: {error}")
        return
    kept: dict[Engine | TimingCache, bytes] = {}
    entries: list[Engine | TimingCache] = [*index.engines, *index.timing_caches]
    for entry in entries:
        if isinstance(entry, Engine) and entry.graph_sha256 != graph_hash(after.manifest, entry.graph, entry.precision):
            say(f"engine {entry.file} is dropped: the {entry.graph} has changed; build it again with --trt")
            continue
        try:
            kept[entry] = read_engine(before, entry)
        except BundleError:
            say(f"{entry.file} is dropped: it is damaged; build it again with --trt")
    if not kept:
        return
    engine_folder(after).mkdir(exist_ok=True)
    for entry, data in kept.items():
        (engine_folder(after) / entry.file).write_bytes(data)
        report = engine_folder(before) / report_name(entry.file)
        if isinstance(entry, Engine) and report.is_file():
            shutil.copyfile(report, engine_folder(after) / report.name)
    engines = [entry for entry in kept if isinstance(entry, Engine)]
    caches = [entry for entry in kept if isinstance(entry, TimingCache)]
    (engine_folder(after) / INDEX).write_text(index_text(engines, caches), encoding="utf-8")
