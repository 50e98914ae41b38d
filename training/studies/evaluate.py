"""`fsae-train evaluate`: a run or a bundle, its data, and the ensemble it generates, put into the table of figures."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.bundle import open_bundle
from fsae.runtime.ensemble import LatentModel, generate, latent_model
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.fields import Fields, VariableSpec, read_fields
from fsae.runtime.generation import timeline
from fsae.runtime.healpix import npix
from fsae.runtime.manifest import Sampler, Time
from fsae.runtime.session import Graphs, open_graphs
from fsae.runtime.transforms import transformed_units

from .config import DEFAULT, Config, input_files, read_config
from .evaluate import Settings, evaluate
from .prepare import prepare
from .report import report_json
from .report_text import format_report
from .run import Run, latest_run, load_run, samplers_of
from .series import part_of
from .static_fields import read_static
from .subject import Period, Subject
from .torch_graphs import TorchGraphs

log = logging.getLogger("fsae.training")
F32 = NDArray[np.float32]

MEMBERS_AT_ONCE = 20


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is evaluated: the graphs, what the table says of them, and how they generate (None: they do not)."""

    subject: Subject
    graphs: Graphs
    latent: LatentModel | None
    fast: Sampler | None  # of the distilled denoiser
    time: Time
    cell_methods: str
    variables: tuple[VariableSpec, ...]


def evaluate_model(
    model: str | None,
    *,
    members: int = 20,
    sample_steps: int | None = None,
    data: Path | None = None,
    static: Sequence[Path] = (),
) -> tuple[str, str]:
    """The table of figures and the same as JSON, of a run's folder or a bundle's (default: the newest run).

    Runs are evaluated on the data they prepared; bundles on `data`, a configuration whose inputs and years to take
    (default: the sample data). `static` are files with a land mask, for figures of land and ocean. A run keeps its
    figures in metrics.json, for the model card.
    """
    folder = Path(model) if model is not None else latest_run()
    if (folder / "config.json").exists():
        run = load_run(folder)
        candidate = with_sampler_steps(of_run(run), sample_steps)
        report = report_of(candidate, run.config, run.fields, members, static)
        (folder / "metrics.json").write_text(report[1], encoding="utf-8")
        return report
    candidate = with_sampler_steps(of_bundle(str(folder)), sample_steps)
    config = read_config(data or DEFAULT)
    with tempfile.TemporaryDirectory() as scratch:
        store = prepared_inputs(candidate, config, data or DEFAULT, Path(scratch))
        return report_of(candidate, config, store, members, static)


def with_sampler_steps(candidate: Candidate, steps: int | None) -> Candidate:
    """The candidate with another number of sampler steps; as it is where None are given or it does not generate."""
    if candidate.latent is None or steps is None:
        return candidate
    sampler = replace(candidate.latent.sampler, steps=steps)
    return replace(candidate, latent=replace(candidate.latent, sampler=sampler))


def candidate_of(model: str) -> Candidate:
    """The candidate in a run's folder, or a bundle by path or name."""
    folder = Path(model)
    return of_run(load_run(folder)) if (folder / "config.json").exists() else of_bundle(model)


def of_run(run: Run) -> Candidate:
    """A training run, through PyTorch."""
    config, facts, statistics = run.config, run.facts, run.statistics
    graphs = TorchGraphs(run.autoencoder, run.denoiser, run.fast)
    sampler, fast = samplers_of(config)
    latent = None
    if config.diffusion is not None:
        latent = LatentModel(
            window=config.diffusion.window,
            previous=config.diffusion.previous,
            shape=(len(config.data.variables), statistics["latent_cell_std"].shape[1]),
            zooms=config.autoencoder.latent_zooms,
            cell_std=statistics["latent_cell_std"],
            season_std=statistics["latent_season_std"],
            level_std=statistics["latent_level_std"],
            sampler=sampler,
            source=config.sources.labels[0],
        )
    return Candidate(
        subject=Subject(
            name=run.path.name,
            codec=graphs,
            variables=tuple((v.name, transformed_units(v.units, v.transform)) for v in config.data.variables),
            zooms=config.autoencoder.zooms,
            latent_zoom=config.autoencoder.latent_zoom,
            harmonics=config.data.harmonics,
            climatology=statistics["climatology"],
            scale=statistics["scale"],
            transforms=tuple(v.transform for v in config.data.variables),
            step=facts.step,
        ),
        graphs=graphs,
        latent=latent,
        fast=fast,
        time=Time(calendar=facts.calendar, step=facts.step, harmonics=config.data.harmonics),
        cell_methods=config.data.variables[0].cell_methods,
        variables=config.data.variables,
    )


def of_bundle(model: str) -> Candidate:
    """An exported bundle, through the runtime: what is served."""
    bundle = open_bundle(model)
    manifest, tables = bundle.manifest, bundle.tables
    graphs = open_graphs(bundle, "cpu")
    latent = latent_model(bundle) if manifest.denoiser is not None else None
    return Candidate(
        subject=Subject(
            name=manifest.name,
            codec=graphs,
            variables=tuple((v.name, transformed_units(v.units, v.transform)) for v in manifest.variables),
            zooms=manifest.zooms,
            latent_zoom=manifest.latent.zoom,
            harmonics=manifest.time.harmonics,
            climatology=tables.climatology,
            scale=tables.scale,
            transforms=tuple(v.transform for v in manifest.variables),
            step=manifest.time.step,
        ),
        graphs=graphs,
        latent=latent,
        fast=manifest.fast,
        time=manifest.time,
        cell_methods=manifest.variables[0].cell_methods,
        variables=manifest.variables,
    )


def prepared_inputs(candidate: Candidate, config: Config, source: Path, scratch: Path) -> Path:
    """The inputs of a configuration on the candidate's grid, prepared into `scratch`."""
    inputs = input_files(config.data.inputs, source)
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise UsageError(f"found no {missing[0]}: give the data as a training configuration, --data CONFIG.toml")
    log.info("prepare: %d files", len(inputs))
    output = scratch / "data.zarr"
    prepare(inputs, output, config.data.variables, zoom=candidate.subject.zooms[-1], method=config.data.method)
    return output


def report_of(
    candidate: Candidate, config: Config, store: Path, members: int, static: Sequence[Path] = ()
) -> tuple[str, str]:
    """The table and its JSON: years of `config`, prepared fields in `store`, a land mask in `static` if any."""
    zoom = candidate.subject.zooms[-1]
    land = read_static(static, zoom).get("lsm") if static else None
    if static and land is None:
        raise DataError(f"found no lsm (land_binary_mask) in {', '.join(path.name for path in static)}")
    fields = read_fields(store, candidate.variables, zoom=zoom, finest_zoom=zoom)
    try:
        training, evaluation = (
            period_of(fields, years) for years in (config.data.training_years, config.data.evaluation_years)
        )
    finally:
        fields.close()

    def generated(count: int, start: Any, steps: int, seed: int) -> F32:
        return draw(candidate, count, start, steps, seed)

    report = evaluate(
        candidate.subject,
        training,
        evaluation,
        generate=None if candidate.latent is None else generated,
        land=land,
        settings=Settings(members=members),
        progress=lambda message: log.info("evaluate: %s", message),
    )
    return format_report(report), report_json(report)


def draw(candidate: Candidate, members: int, start: Any, steps: int, seed: int) -> F32:
    """Generated fields (member, time, variable, pixel) [physical units] of `steps` steps from `start` on.

    DataError where the candidate does not generate.
    """
    if candidate.latent is None:
        raise DataError("found a model without a denoiser, expected one that generates")
    line = timeline(candidate.time, candidate.latent.window, candidate.cell_methods, start, steps)
    whole = np.empty((members, steps, len(candidate.variables), npix(candidate.subject.zooms[-1])), dtype=np.float32)
    pieces = generate(candidate.latent, candidate.graphs, range(members), line.steps, steps, seed, MEMBERS_AT_ONCE)
    for unit in pieces:
        whole[unit.members, unit.times] = unit.values
    return whole


def period_of(fields: Fields, years: tuple[int, int]) -> Period:
    """The fields of `years`, in memory."""
    part = part_of(fields, years)
    return Period(values=fields.read(part)[0], phase=fields.phase[part], times=fields.times[part])
