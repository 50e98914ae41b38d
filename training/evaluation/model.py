"""What an evaluation looks at: a trained model, and the periods of real fields it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import open_bundle
from fsae.runtime.bundle.manifest import Sampler, Time
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.climate.transforms import Transform, forward, transformed_units
from fsae.runtime.ensemble.generate import timeline
from fsae.runtime.ensemble.members import LatentModel, Plan, generate, latent_model
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import VariableSpec
from fsae.runtime.sphere.healpix import coarsen, npix, refine
from fsae.runtime.sphere.pyramid import level_mask
from fsae.training.fitting.run_folder import Run, load_run, samplers_of
from fsae.training.networks.torch_graphs import TorchGraphs

BATCH = 16  # steps per graph call


class Codec(Protocol):
    """The two graphs of the autoencoder, as sessions and trained modules offer them."""

    def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
        """Latent (batch, variable, latent pixel) of physical fields (batch, variable, pixel)."""
        ...

    def decode(self, latent: F32, season: F32) -> F32:
        """Physical fields (batch, variable, pixel) of latents."""
        ...


@dataclass(frozen=True, kw_only=True)
class Period:
    """Physical fields (time, variable, pixel), the fraction of the year (time,) and the cftime stamp of each step."""

    values: F32
    phase: NDArray[np.float64]
    times: Sequence[Any]

    def __post_init__(self) -> None:
        counts = (len(self.values), len(self.phase), len(self.times))
        if len(set(counts)) > 1:
            raise DataError("found {} fields, {} phases and {} times, expected one of each per step".format(*counts))
        if not np.isfinite(self.values).all():
            raise DataError("found missing values in the fields to evaluate with, expected none: fill them first")

    @property
    def time_years(self) -> NDArray[np.float64]:
        """Decimal year of each step: the calendar year and the fraction of it gone."""
        return np.array([time.year for time in self.times]) + self.phase

    def every(self, stride: int) -> "Period":
        """The period with every `stride`-th step only."""
        part = slice(None, None, stride)
        return Period(values=self.values[part], phase=self.phase[part], times=self.times[part])


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model as the evaluation sees it, from a run or from a bundle."""

    name: str
    codec: Codec
    variables: tuple[tuple[str, str], ...]  # name and units, those of the transformed variable
    zooms: tuple[int, ...]
    latent_zoom: int
    harmonics: int
    climatology: F32  # (variable, 1 + 2 harmonics, pixel)
    scale: F32  # (variable,)
    transforms: tuple[Transform, ...]
    step: str = "1 month"

    def __post_init__(self) -> None:
        expected = (len(self.variables), 1 + 2 * self.harmonics, npix(self.zooms[-1]))
        if self.climatology.shape != expected or self.scale.shape != expected[:1]:
            raise DataError(
                f"found climatology {self.climatology.shape} and scales {self.scale.shape}, expected {expected} and"
                f" {expected[:1]}: the tables belong to another model"
            )


def anomalies(subject: Subject, period: Period, values: F32 | None = None) -> F32:
    """Normalised anomalies (time, variable, pixel): the climatology of the training years off, divided by the scale.

    `values` are physical fields to take in place of the period's own, (..., time, variable, pixel).
    """
    values = forward(period.values if values is None else values, subject.transforms)
    season = harmonic.season(period.phase, subject.harmonics)
    mean = harmonic.evaluate(subject.climatology, season)  # (time, variable, pixel)
    normalised: F32 = ((values - mean) / subject.scale[:, None]).astype(np.float32)
    return normalised


def rebuild(subject: Subject, period: Period, zoom: int) -> F32:
    """Anomalies (time, variable, pixel) of the period after encoding and decoding.

    The encoder sees block means at `zoom`, repeated to its own zoom, with the finer levels masked out.
    """
    step = subject.zooms[-1] - zoom
    season = harmonic.season(period.phase, subject.harmonics).astype(np.float32)
    mask = level_mask(subject.zooms, zoom)
    decoded = np.empty_like(period.values, dtype=np.float32)
    for start in range(0, len(period.values), BATCH):
        part = slice(start, start + BATCH)
        seen = period.values[part].astype(np.float32)
        if step:
            seen = refine(coarsen(seen.astype(np.float64), step), step).astype(np.float32)
        masks = np.repeat(mask[None], len(seen), axis=0)
        latent = subject.codec.encode(seen, season[part], masks)
        decoded[part] = subject.codec.decode(latent, season[part])
    return anomalies(subject, period, decoded)


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


def draw(candidate: Candidate, members: int, start: Any, steps: int, seed: int) -> F32:
    """Generated fields (member, time, variable, pixel) [physical units] of `steps` steps from `start` on.

    DataError where the candidate does not generate.
    """
    if candidate.latent is None:
        raise DataError("found a model without a denoiser, expected one that generates")
    line = timeline(candidate.time, candidate.latent.window, candidate.cell_methods, start, steps)
    whole = np.empty((members, steps, len(candidate.variables), npix(candidate.subject.zooms[-1])), dtype=np.float32)
    plan = Plan(members=range(members), steps=line.steps, count=steps, seed=seed)
    for unit in generate(candidate.latent, candidate.graphs, plan, batch=MEMBERS_AT_ONCE):
        whole[unit.members, unit.times] = unit.values
    return whole
