"""A trained model as evaluations see it: a run in PyTorch, or a bundle in the runtime."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fsae.runtime.arrays import F32, Floating
from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import open_bundle
from fsae.runtime.bundle.manifest import Sampler, Time, Variable
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.climate.scenarios import Scenarios
from fsae.runtime.climate.transforms import Transform, forward, transformed_units
from fsae.runtime.ensemble.forcing import default_forcing
from fsae.runtime.ensemble.generate import timeline
from fsae.runtime.ensemble.members import Initial, LatentModel, Plan, generate, latent_model
from fsae.runtime.errors import DataError
from fsae.runtime.output.layout import Unit
from fsae.runtime.sphere.healpix import coarsen, npix, refine
from fsae.runtime.sphere.pyramid import level_mask
from fsae.training.config import VariableConfig
from fsae.training.data.scenarios import scenarios_of
from fsae.training.fitting.run_folder import Run, latent_model_of, load_run, samplers_of
from fsae.training.networks.torch_graphs import TorchGraphs

from .periods import Period

BATCH = 16  # steps per graph call
MEMBERS_AT_ONCE = 20  # limits memory, never changes results


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The graphs of a model, the tables that normalise its fields, and how it generates."""

    name: str
    graphs: Graphs
    variables: tuple[Variable | VariableConfig, ...]
    zooms: tuple[int, ...]
    latent_zoom: int
    time: Time
    climatology: F32  # (variable, 1 + 2 harmonics, pixel), of transformed variables
    scale: F32  # (variable,)
    latent: LatentModel | None  # None: it does not generate
    fast: Sampler | None  # of the distilled denoiser
    scenarios: Scenarios | None = None  # of the forcing; None: it is the calendar year

    def __post_init__(self) -> None:
        expected = (len(self.variables), 1 + 2 * self.time.harmonics, npix(self.zoom))
        if self.climatology.shape != expected or self.scale.shape != expected[:1]:
            raise DataError(
                f"found climatology {self.climatology.shape} and scales {self.scale.shape}",
                f"{expected} and {expected[:1]}",
                "take the tables of this model",
            )

    @property
    def zoom(self) -> int:
        """The finest zoom."""
        return self.zooms[-1]

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transform of each variable."""
        return tuple(variable.transform for variable in self.variables)

    @property
    def named_units(self) -> tuple[tuple[str, str], ...]:
        """Name and units of each variable, the units those of its transform."""
        return tuple((v.name, transformed_units(v.units, v.transform)) for v in self.variables)

    @property
    def generator(self) -> LatentModel:
        """The latent diffusion model; DataError if there is none."""
        if self.latent is None:
            raise DataError(
                f"found no denoiser in {self.name}",
                "a model that generates",
                "name one that was trained with a [diffusion] table",
            )
        return self.latent

    def season(self, period: Period) -> F32:
        """Harmonics of the year (time, 2K) at the steps of a period."""
        return harmonic.season(period.phase, self.time.harmonics).astype(np.float32)


def model_of(name: str) -> TrainedModel:
    """The model of a run's folder, or of a bundle given by path or name."""
    folder = Path(name)
    return of_run(load_run(folder)) if is_run(folder) else of_bundle(name)


def is_run(folder: Path) -> bool:
    """True if `folder` is that of a run; otherwise it names a bundle."""
    return (folder / "config.json").exists()


def without_sharpening(run: Run) -> Run:
    """A run whose decoder does not restore the angular power: what it rebuilds is smoother, and nearer in the mean."""
    plain = copy.deepcopy(run.autoencoder)
    if run.config.autoencoder.sharpen:
        plain.sharpening.zero_()
    return replace(run, autoencoder=plain)


def of_run(run: Run) -> TrainedModel:
    """The model of a training run, through PyTorch."""
    config, facts, statistics = run.config, run.facts, run.statistics
    return TrainedModel(
        name=run.path.name,
        graphs=TorchGraphs(run.autoencoder, run.denoiser, run.fast),
        variables=config.data.variables,
        zooms=config.autoencoder.zooms,
        latent_zoom=config.autoencoder.latent_zoom,
        time=Time(calendar=facts.calendar, step=facts.step, harmonics=config.data.harmonics),
        climatology=statistics["climatology"],
        scale=statistics["scale"],
        latent=latent_model_of(config, statistics),
        fast=samplers_of(config)[1],
        scenarios=scenarios_of(config, statistics),
    )


def of_bundle(name: str) -> TrainedModel:
    """The model of an exported bundle, through the runtime: what is served."""
    bundle = open_bundle(name)
    manifest = bundle.manifest
    return TrainedModel(
        name=manifest.name,
        graphs=open_graphs(bundle, "cpu"),
        variables=manifest.variables,
        zooms=manifest.zooms,
        latent_zoom=manifest.latent.zoom,
        time=manifest.time,
        climatology=bundle.tables.climatology,
        scale=bundle.tables.scale,
        latent=latent_model(bundle) if manifest.denoiser is not None else None,
        fast=manifest.fast,
        scenarios=bundle.tables.scenarios,
    )


def with_sampler_steps(model: TrainedModel, steps: int | None) -> TrainedModel:
    """The model with another number of sampler steps; unchanged if `steps` is None or it does not generate."""
    if model.latent is None or steps is None:
        return model
    return replace(
        model, latent=replace(model.latent, sampler=msgspec.structs.replace(model.latent.sampler, steps=steps))
    )


def departures(model: TrainedModel, values: Floating, season: F32) -> F32:
    """Departures (..., time, variable, pixel) of physical fields from the training climatology.

    In the units of the transformed variables; `season` (time, 2K) holds the harmonics of each step.
    """
    mean = harmonic.evaluate(model.climatology, season)  # (time, variable, pixel)
    return np.asarray(forward(values, model.transforms) - mean, dtype=np.float32)


def departures_of(model: TrainedModel, period: Period) -> F32:
    """Departures (time, variable, pixel) of a period's own fields."""
    return departures(model, period.values, model.season(period))


def anomalies(model: TrainedModel, period: Period, values: F32 | None = None) -> F32:
    """Normalised anomalies (..., time, variable, pixel): departures from the climatology divided by the scale.

    Of physical `values` (..., time, variable, pixel) at the steps of the period, by default of its own fields.
    """
    return departures(model, period.values if values is None else values, model.season(period)) / model.scale[:, None]


def rebuild(model: TrainedModel, period: Period, zoom: int) -> F32:
    """Anomalies (time, variable, pixel) of the period after encoding and decoding.

    The encoder sees block means at `zoom`, repeated to its own zoom, with the finer levels masked out.
    """
    finer = model.zoom - zoom
    season, mask = model.season(period), level_mask(model.zooms, zoom)
    decoded = np.empty_like(period.values, dtype=np.float32)
    for start in range(0, len(period.values), BATCH):
        part = slice(start, start + BATCH)
        seen = period.values[part].astype(np.float32)
        if finer:
            seen = refine(coarsen(seen.astype(np.float64), finer), finer).astype(np.float32)
        latent = model.graphs.encode(seen, season[part], np.repeat(mask[None], len(seen), axis=0))
        decoded[part] = model.graphs.decode(latent, season[part])
    return anomalies(model, period, decoded)


def plan_of(
    model: TrainedModel, members: Sequence[int], start: Any, count: int, seed: int, initial: Initial | None = None
) -> Plan:
    """Plan `count` steps from the one that holds the date `start` on, after the `initial` states if there are any.

    Their forcing is that of the training data.
    """
    methods, forcing = model.variables[0].cell_methods, default_forcing(model.scenarios)
    steps = timeline(model.time, model.generator.window, methods, start, count, forcing).steps
    return Plan(members=members, steps=steps, count=count, seed=seed, initial=initial)


def generated(model: TrainedModel, plan: Plan) -> Iterator[Unit]:
    """The pieces of a generated ensemble [physical units], each of one member."""
    return generate(model.generator, model.graphs, plan, batch=MEMBERS_AT_ONCE)


def fields_of(model: TrainedModel, plan: Plan) -> F32:
    """A whole generated ensemble (member, time, variable, pixel) [physical units]."""
    fields = np.empty((len(plan.members), plan.count, len(model.variables), npix(model.zoom)), dtype=np.float32)
    for unit in generated(model, plan):
        fields[unit.members, unit.times] = unit.values
    return fields


def draw(model: TrainedModel, members: int, start: Any, count: int, seed: int) -> F32:
    """Generated fields (member, time, variable, pixel) [physical units] of `count` steps from `start` on.

    DataError if the model does not generate.
    """
    return fields_of(model, plan_of(model, range(members), start, count, seed))
