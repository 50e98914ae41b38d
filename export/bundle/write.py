"""Write a bundle: graphs, tables, golden vectors, model card and manifest, of a run or of another bundle."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from fsae.export.certificate.certify import certify
from fsae.export.certificate.originals import original_bundle, original_run
from fsae.export.certificate.plausibility import learn_distances
from fsae.export.engines.layer_report import report_name
from fsae.export.graphs.trace import OPSET, OPSETS
from fsae.runtime.archive.lookup import FILE
from fsae.runtime.backends.engine_index import (
    Engine,
    TimingCache,
    engine_folder,
    graph_hash,
    index_text,
    load_index,
    read_engine,
)
from fsae.runtime.bundle.exported import remember
from fsae.runtime.bundle.files import (
    COMPILED,
    INDEX,
    VERIFIED,
    Bundle,
    fingerprint,
    hash_files,
    open_bundle,
    write_manifest,
)
from fsae.runtime.bundle.manifest import Manifest, graph_file
from fsae.runtime.codec.latents import latent_key
from fsae.runtime.errors import BundleError, DataError, UsageError
from fsae.training.daily.study import saved_report
from fsae.training.evaluation.saved import read_metrics
from fsae.training.fitting.run_folder import Run

from .card import model_card, with_fidelity
from .contents import make_manifest, make_tables, read_codec, with_archive_quality, with_distances, with_tables
from .place import place_of, replacing

log = logging.getLogger("fsae.export.bundle")
CARD = "MODEL_CARD.md"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A written bundle, and the seconds that each graph file took."""

    folder: Path
    manifest: Manifest
    seconds: Mapping[str, float]


def export_run(
    run: Run, out: Path, name: str | None = None, *, precisions: Sequence[str] = ("fp32",), opset: int = OPSET
) -> Exported:
    """Write the bundle `out`/`name` of a finished run, replacing an older one; by default it is named after the run.

    Every graph is first compared with the trained model on real fields; if one is above its tolerance, nothing is
    written and an older bundle stays as it is. Engines of the older bundle are kept if their graph has not changed.
    """
    folder = place_of(out, run.path.resolve().name if name is None else name)
    if opset not in OPSETS:
        raise UsageError(f"found opset {opset}", f"{OPSETS[0]} to {OPSETS[-1]}", "leave --opset out for the default")
    metrics, daily = read_metrics(run.path), saved_report(run.path)  # fails now, not after minutes of exporting
    codec = read_codec(run)
    original, tables = original_run(run), make_tables(run)
    certified, distances = certify(original, precisions, opset), learn_distances(original)
    log.info("writing tables and manifest")
    with replacing(folder) as new:
        _write_files(new, certified.files)
        _write_arrays(new / "tables.npz", tables)
        _write_arrays(new / "golden.npz", certified.golden)
        if codec is not None:
            (new / FILE).write_bytes(codec)
        draft = make_manifest(run, folder.name, certified, hash_files(new))
        draft = with_archive_quality(with_tables(with_distances(draft, distances), tables))
        _write_card(new, model_card(draft, run.config, metrics=metrics, daily=daily))
        manifest = write_manifest(new, draft)
        _keep_from_older(folder, new)
    remember(fingerprint(folder))
    return Exported(folder=folder, manifest=manifest, seconds=certified.seconds)


def export_bundle(
    bundle: Bundle, out: Path, name: str | None = None, *, precisions: Sequence[str], data: Path | None = None
) -> Exported:
    """Write a bundle again as `out`/`name`, with graphs in other `precisions` made from its float32 graphs.

    They are compared with the float32 graphs on the inputs of the configuration `data` (default: the sample data), in
    years outside its training. By default the name stays, so that the bundle is replaced if `out` is its own folder.
    """
    folder = place_of(out, bundle.manifest.name if name is None else name)
    wanted = [each for each in precisions if each != "fp32"]
    if not wanted:
        raise UsageError(
            f"bundle {bundle.manifest.name} has its float32 graphs", advice="give --precision fp16, bf16 or int8"
        )
    with original_bundle(bundle, data) as original:
        certified = certify(original, wanted, OPSET)
    log.info("writing the manifest")
    replaced = tuple(graph_file(graph, each) for graph in bundle.manifest.graphs for each in wanted)
    with replacing(folder) as new:
        for file in bundle.manifest.files:
            if not file.startswith(replaced):
                shutil.copyfile(bundle.check(file), new / file)
        _write_files(new, certified.files)
        draft = replace(
            bundle.manifest,
            name=folder.name,
            files=hash_files(new),
            parity={**bundle.manifest.parity, **certified.parity},
            certificates={**bundle.manifest.certificates, **certified.certificates},
            latent=replace(bundle.manifest.latent, key=latent_key(bundle)),
        )
        draft = with_tables(draft, bundle.arrays("tables.npz"))
        if (new / CARD).is_file():
            _write_card(new, with_fidelity((new / CARD).read_text(encoding="utf-8"), draft))
        manifest = write_manifest(new, draft)
        _keep_from_older(folder, new)
    remember(fingerprint(folder))
    return Exported(folder=folder, manifest=manifest, seconds=certified.seconds)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder."""
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz file, the same bytes for the same arrays (NumPy dates its entries 1980)."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(
                f"the table {name} of {path.name} holds values that are not finite", advice="train the run again"
            )
    # rows first: readers of other languages need not know the other order
    everything: dict[str, Any] = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    np.savez_compressed(path, **everything)


def _write_card(folder: Path, text: str) -> None:
    """Write a model card, the same bytes on every system."""
    (folder / CARD).write_text(text, encoding="utf-8", newline="\n")


def _keep_from_older(old: Path, new: Path) -> None:
    """Copy from an older bundle what is still valid, and report what will be gone."""
    if not old.exists():
        return
    if (old / VERIFIED).is_file():  # each of its records is valid for the files it names
        shutil.copyfile(old / VERIFIED, new / VERIFIED)
    try:
        _keep_engines(open_bundle(old), open_bundle(new))
    except BundleError as error:
        log.info("engines of the older bundle are dropped: %s", error)
    dropped = sorted(path.name for path in old.iterdir() if path.name != COMPILED and not (new / path.name).exists())
    if dropped:
        log.info("dropped with the older bundle: %s", ", ".join(dropped))


def _keep_engines(old: Bundle, new: Bundle) -> None:
    """Copy timings, and engines whose graph is byte for byte the same, with the reports of their layers."""
    index = load_index(engine_folder(old))
    kept: dict[Engine | TimingCache, bytes] = {}
    entries: list[Engine | TimingCache] = [*index.engines, *index.timing_caches]
    for entry in entries:
        if isinstance(entry, Engine) and entry.graph_sha256 != graph_hash(new.manifest, entry.graph, entry.precision):
            log.info("engine %s is dropped: the %s has changed; build it again with --trt", entry.file, entry.graph)
            continue
        try:
            kept[entry] = read_engine(old, entry)
        except BundleError:
            log.info("%s is dropped: it is damaged; build it again with --trt", entry.file)
    if not kept:
        return
    engine_folder(new).mkdir(exist_ok=True)
    for entry, data in kept.items():
        (engine_folder(new) / entry.file).write_bytes(data)
        report = engine_folder(old) / report_name(entry.file)
        if isinstance(entry, Engine) and report.is_file():
            shutil.copyfile(report, engine_folder(new) / report.name)
    engines = [entry for entry in kept if isinstance(entry, Engine)]
    caches = [entry for entry in kept if isinstance(entry, TimingCache)]
    (engine_folder(new) / INDEX).write_text(index_text(engines, caches), encoding="utf-8")
