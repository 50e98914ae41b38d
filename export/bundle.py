"""A run as a bundle: graphs, tables, golden vectors, card and manifest, made aside and moved into place as a whole."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fsae.runtime.bundle import MANIFEST, hash_files, open_bundle, write_manifest
from fsae.runtime.engines import INDEX, engine_folder, index_text, read_engine, read_index
from fsae.runtime.errors import BundleError, DataError, OutputError, UsageError
from fsae.runtime.manifest import Manifest, Parity, graph_file, is_safe_path
from fsae.runtime.session import OUTPUTS
from fsae.training.run import Run, fast_levels

from .card import model_card, read_metrics
from .contents import make_manifest, make_tables, variables_of
from .graphs import DecoderGraph, EncoderGraph, export_graph, node_count
from .parity import check_batches, check_parity, compare, run_graph
from .samples import (
    F32,
    Inputs,
    Stretches,
    Whitening,
    decoder_inputs,
    denoiser_inputs,
    encoder_inputs,
    read_stretches,
    run_module,
    take,
)

PRECISION = "fp32"
STRETCHES = 4  # stretches of real fields that every graph is compared on
STRETCH_STEPS = 8  # steps of one where there is no denoiser to say
NOISE_LEVELS = 5  # from the sampler's smallest to its largest


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle that was written, and what its summary says."""

    folder: Path
    manifest: Manifest
    nodes: Mapping[str, int]  # of every graph file


@dataclass(frozen=True, kw_only=True)
class Part:
    """A graph to export, with inputs made from real fields and what the trained model gives for them."""

    module: nn.Module
    inputs: Inputs
    expected: F32
    fields: F32  # (row, variable, pixel), physical fields that go in or come out


def export_run(
    run: Run, out: Path, name: str | None = None, *, say: Callable[[str], None] = lambda message: None
) -> Exported:
    """The bundle `out`/`name` of a finished run, in place of an older one; without a name, that of the run's folder.

    Every graph is compared with the trained model on real fields first; above tolerance nothing is written and an older
    bundle stays as it is. Engines of the older bundle whose graph has not changed are kept.
    """
    name = run.path.resolve().name if name is None else name
    if not is_safe_path(name) or "/" in name:
        raise UsageError(f"the bundle name {name!r} is no plain name: use letters, digits, '-', '_' and '.'")
    folder = out / name
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is no bundle: choose another --name or --out, or remove it")
    say("reading real fields")
    stretches = _stretches(run)
    parts = _parts(run, stretches)
    graphs: dict[str, bytes] = {}
    golden: dict[str, F32] = {}
    parity: dict[str, Parity] = {}
    for graph, part in parts.items():
        say(f"{graph}: exporting")
        rows, output = _golden_rows(part.inputs), OUTPUTS[graph]
        data = export_graph(graph, part.module, rows)
        say(f"{graph}: comparing with the trained model")
        found = run_graph(data, output, part.inputs)
        differences = compare(
            graph,
            part.expected,
            found,
            fields=part.fields,
            scale=run.statistics["scale"],
            variables=variables_of(run),
        )
        parity[graph] = check_parity(graph, differences)
        check_batches(graph, data, part.inputs)
        golden |= {f"{graph}.{key}": value for key, value in rows.items()}
        golden[f"{graph}.{output}"] = run_module(part.module, rows)
        graphs[graph] = data
    say("writing tables and manifest")
    files = {graph_file(graph, PRECISION): data for graph, data in graphs.items()}
    manifest = _write_aside_and_place(run, folder, files, golden, parity={PRECISION: parity}, say=say)
    return Exported(folder=folder, manifest=manifest, nodes={file: node_count(data) for file, data in files.items()})


def _parts(run: Run, stretches: Stretches) -> dict[str, Part]:
    """The graphs to export by name: encoder, decoder and, where the run has them, denoiser and distilled denoiser."""
    zooms = run.config.autoencoder.zooms
    encoder, decoder = EncoderGraph(run.autoencoder).eval(), DecoderGraph(run.autoencoder).eval()
    fields = encoder_inputs(stretches, zooms)
    latent = run_module(encoder, fields)
    back = decoder_inputs(latent, fields["season"])
    decoded = run_module(decoder, back)
    parts = {
        "encoder": Part(module=encoder, inputs=fields, expected=latent, fields=fields["field"]),
        "decoder": Part(module=decoder, inputs=back, expected=decoded, fields=decoded),
    }
    if run.denoiser is not None and run.config.diffusion is not None:
        sampler = run.config.sampler
        whitening = Whitening(
            zooms=run.config.autoencoder.latent_zooms,
            cell_std=run.statistics["latent_cell_std"],
            season_std=run.statistics["latent_season_std"],
            level_std=run.statistics["latent_level_std"],
        )
        models = {"denoiser": (run.denoiser, np.geomspace(sampler.sigma_min, sampler.sigma_max, NOISE_LEVELS))}
        if run.fast is not None:
            models["fast"] = (run.fast, fast_levels(run.config)[:-1])
        for name, (model, sigmas) in models.items():
            windows = denoiser_inputs(
                latent, stretches, whitening, previous=run.config.diffusion.previous, sigmas=sigmas.tolist()
            )
            module = model.eval()
            parts[name] = Part(module=module, inputs=windows, expected=run_module(module, windows), fields=decoded)
    return parts


def _stretches(run: Run) -> Stretches:
    """Real fields of the validation years, else of the evaluation years: unseen, and nothing is tuned on them."""
    data, diffusion = run.config.data, run.config.diffusion
    return read_stretches(
        str(run.fields),
        variables_of(run),
        run.config.autoencoder.zoom,
        data.harmonics,
        data.validation_years or data.evaluation_years,
        count=STRETCHES,
        length=STRETCH_STEPS if diffusion is None else diffusion.previous + diffusion.window,
    )


def _golden_rows(inputs: Inputs) -> Inputs:
    """Two rows that differ in every way rows can: the first and the last."""
    return take(inputs, [0, len(next(iter(inputs.values()))) - 1])


def _write_aside_and_place(
    run: Run,
    folder: Path,
    files: Mapping[str, bytes],
    golden: Mapping[str, F32],
    *,
    parity: Mapping[str, Mapping[str, Parity]],
    say: Callable[[str], None],
) -> Manifest:
    """The manifest, after the whole bundle was written beside `folder` and then put in its place."""
    # One level deeper than bundles lie, so that nobody looking for bundles meanwhile takes it for one.
    aside = folder.parent / f".partial-{os.getpid()}"
    new, old = aside / folder.name, aside / "old"
    try:
        new.mkdir(parents=True)
        for name, data in files.items():
            (new / name).write_bytes(data)
        _write_arrays(new / "tables.npz", make_tables(run))
        _write_arrays(new / "golden.npz", golden)
        draft = make_manifest(run, folder.name, parity, hash_files(new))
        card = model_card(draft, run.config, metrics=read_metrics(run.path / "metrics.json"))
        (new / "MODEL_CARD.md").write_text(card, encoding="utf-8", newline="\n")
        manifest = write_manifest(new, draft)
        if folder.exists():
            _carry_engines(folder, new, say)
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; is there space, and is it yours?") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Nothing; writes an .npz file, the same bytes for the same arrays (NumPy dates its entries 1980)."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(f"the table {name} of {path.name} holds values that are not finite; train the run again")
    everything: dict[str, Any] = dict(arrays)
    np.savez_compressed(path, **everything)


def _carry_engines(old: Path, new: Path, say: Callable[[str], None]) -> None:
    """Nothing; copies the engines of the old bundle whose graph is the same byte for byte, and says what it leaves."""
    try:
        before, after = open_bundle(old), open_bundle(new)
        engines = read_index(engine_folder(before))
    except BundleError as error:
        say(f"engines of the older bundle are dropped: {error}")
        return
    kept = []
    for engine in engines:
        file = after.manifest.files.get(graph_file(engine.graph, engine.precision))
        try:
            data = read_engine(before, engine)
        except BundleError:
            data = b""
        if not data or file is None or file.sha256 != engine.graph_sha256:
            say(f"engine {engine.file} is dropped: the {engine.graph} has changed; build it again with --trt")
            continue
        engine_folder(after).mkdir(exist_ok=True)
        (engine_folder(after) / engine.file).write_bytes(data)
        kept.append(engine)
    if kept:
        (engine_folder(after) / INDEX).write_text(index_text(kept), encoding="utf-8")
