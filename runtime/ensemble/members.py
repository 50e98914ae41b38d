"""Ensemble members drawn from the latent diffusion, window after window, member by member reproducible.

A member depends on (seed, member, time) and on the windows before it, never on batch, order or other members: graphs
keep rows apart (see `backends.onnx`), the sampler is elementwise, and everything else is done for one member at a
time in shapes that are always the same.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import DenoiserInputs, Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import SOURCES, DenoiserFacts, Manifest, Origin, Sampler
from fsae.runtime.diffusion.noise import member_integers, standard_normal
from fsae.runtime.diffusion.sampler import SAMPLERS, noise_features, noise_levels
from fsae.runtime.diffusion.whitening import seasonal_std, unwhiten
from fsae.runtime.errors import BundleError
from fsae.runtime.jobs.job import Done, nothing_done
from fsae.runtime.output.layout import Unit

DRAW = 0  # the first noise of a step; later draws are for stochastic samplers


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Consecutive time steps as the model sees them, one entry each."""

    season: F32  # (step, 2K)
    index: NDArray[np.int64]  # (step), whole steps since a fixed date: names the noise
    forcing: F32  # (step), in the manifest's unit

    def window(self, first: int, size: int) -> "Steps":
        """`size` of the steps from `first` on."""
        part = slice(first, first + size)
        return Steps(season=self.season[part], index=self.index[part], forcing=self.forcing[part])


@dataclass(frozen=True, kw_only=True)
class LatentModel:
    """A diffusion model without its graphs, from a bundle or a training run."""

    window: int
    previous: int
    shape: tuple[int, int]  # (variable, latent pixel)
    zooms: tuple[int, ...]  # of the latent's pyramid
    cell_std: F32  # (variable, latent pixel), see pyramid.seasonal_std
    season_std: F32  # (variable, 2H, latent pixel)
    level_std: F32  # (variable, level)
    sampler: Sampler
    source: Origin = "hr"  # the label drawn with, one of SOURCES
    graph: str = "denoiser"  # or "fast", the distilled one, whose steps `sampler` then has

    def deviation(self, season: F32) -> F32:
        """Standard deviations (step, variable, latent pixel) of the cells at season features (step, 2K)."""
        return seasonal_std(self.cell_std, self.season_std, season)


@dataclass(frozen=True, kw_only=True)
class Initial:
    """The known steps before a first window, in white space and oldest first, of one state or of several.

    Of S states the member of number m starts from the state m % S: it is the same in any set of members.
    """

    white: F32  # (state, P, variable, latent pixel); anything if valid is 0
    valid: F32  # (P,), 1 if the step is known, else 0: all known or none, as in training

    def place(self, member: int) -> int:
        """The index of the state that a member starts from."""
        return member % len(self.white)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan of what to draw: members by their numbers, `count` time steps, and where they start.

    `steps` covers whole windows, so it may be longer than `count`; what is beyond is drawn but not given out. Without
    `initial` the first window is drawn from the climate.
    """

    members: Sequence[int]
    steps: Steps
    count: int
    seed: int
    initial: Initial | None = None


def latent_model(bundle: Bundle, fast: bool = False) -> LatentModel:
    """The diffusion model of a bundle, or its distilled one; BundleError if it has none."""
    manifest, tables = bundle.manifest, bundle.tables
    denoiser, sampler = parts_of(manifest)
    if fast:
        if manifest.fast is None:
            raise BundleError(f"bundle {manifest.name} has no distilled denoiser", advice="leave out --sampler fast")
        sampler = manifest.fast
    return LatentModel(
        window=denoiser.window,
        previous=denoiser.previous,
        shape=manifest.latent.shape,
        zooms=manifest.zooms[: manifest.zooms.index(manifest.latent.zoom) + 1],
        cell_std=tables.latent_cell_std,
        season_std=tables.latent_season_std,
        level_std=tables.latent_level_std,
        sampler=sampler,
        graph="fast" if fast else "denoiser",
        source="hr" if "hr" in denoiser.sources else denoiser.sources[0],
    )


def windows_needed(steps: int, window: int) -> int:
    """Windows that cover `steps` steps; whole ones are always drawn.

    >>> windows_needed(12, 5)
    3
    """
    return -(-steps // window)


def parts_of(manifest: Manifest) -> tuple[DenoiserFacts, Sampler]:
    """The manifest's denoiser and sampler; BundleError if the bundle does not generate."""
    if manifest.denoiser is None or manifest.sampler is None:
        raise BundleError(
            f"bundle {manifest.name} has no diffusion model, so it cannot generate", advice="take one that has"
        )
    return manifest.denoiser, manifest.sampler


def window_noise(seed: int, member: int, index: NDArray[np.int64], shape: tuple[int, int]) -> F32:
    """Unit noise (time, variable, latent pixel) of a member's window, each step a draw of its own."""
    count = shape[0] * shape[1]
    raw = np.stack([member_integers(seed, member, int(i), DRAW, count) for i in index])
    return standard_normal(raw).reshape(len(index), *shape)


def sample_window(
    graphs: Graphs, model: LatentModel, noise: F32, steps: Steps, previous: F32, previous_valid: F32
) -> F32:
    """A window in white space, (member, time, variable, latent pixel), from its noise of that shape.

    previous (member, P, variable, latent pixel) holds the last clean steps, oldest first; previous_valid (member, P).
    """
    batch = noise.shape[0]
    season = np.repeat(steps.season[None], batch, axis=0)
    forcing = np.repeat(steps.forcing[None], batch, axis=0)
    label = np.full(batch, SOURCES.index(model.source), dtype=np.float32)

    def denoise(noisy: F32, sigma: float) -> F32:
        sigmas = np.full(batch, sigma, dtype=np.float32)
        features = np.repeat(noise_features(np.array([sigma])), batch, axis=0)
        inputs = DenoiserInputs(noisy, sigmas, features, season, forcing, label, previous, previous_valid)
        return graphs.denoise(inputs, model.graph)

    sampler = model.sampler
    levels = noise_levels(sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho)
    return SAMPLERS[sampler.name](denoise, noise, levels)


def window_latent(model: LatentModel, white: F32, deviation: F32) -> F32:
    """Latent (time, variable, latent pixel) of one member's window in white space; see `LatentModel.deviation`."""
    latent: F32 = unwhiten(white, model.zooms, deviation, model.level_std).astype(np.float32)
    return latent


def generate(
    model: LatentModel,
    graphs: Graphs,
    plan: Plan,
    *,
    batch: int,
    done: Done = nothing_done,
    by_window: bool = False,
) -> Iterator[Unit]:
    """Draw an ensemble, `batch` members at a time, and yield each window of a member as a unit.

    The order is member by member, or `by_window`: a window of all members in their order, then the next. The values are
    the same to the bit. Finished units are left out: a member goes on from the state that came with its last finished
    window, which is its last P steps in white space, (P, variable, latent pixel). `by_window`, only the last unit of a
    window has a state: that of all members, (member, P, variable, latent pixel), kept as the state of the member 0.
    """
    for windows, places in _blocks(plan, model.window, batch, done, by_window):
        numbers = [plan.members[place] for place in places]
        previous, valid = _first_states(model, numbers, plan.initial)
        if windows:
            previous[:] = done.state(0) if by_window else [done.state(place) for place in places]
            valid = _last(model.previous, valid, np.ones(windows * model.window, np.float32))
        for start in range(windows * model.window, plan.count, model.window):
            now, kept = plan.steps.window(start, model.window), min(model.window, plan.count - start)
            deviation = model.deviation(now.season)
            for first in range(0, len(places), batch):
                part = slice(first, first + batch)
                noise = np.stack([window_noise(plan.seed, number, now.index, model.shape) for number in numbers[part]])
                known = np.repeat(valid[None], len(noise), axis=0)
                white = sample_window(graphs, model, noise, now, previous[part], known)
                previous[part] = [_last(model.previous, *pair) for pair in zip(previous[part], white, strict=True)]
                # Build all latents first, so that decoding is not held up by Python between members.
                latents = [window_latent(model, one, deviation) for one in white]
                for row, latent in enumerate(latents, first):
                    values = graphs.decode(latent, now.season)[None, :kept]
                    members, times = slice(places[row], places[row] + 1), slice(start, start + kept)
                    if not by_window:
                        yield Unit(members=members, times=times, values=values, state=previous[row].copy())
                    else:
                        last = row + 1 == len(places)
                        yield Unit(members=members, times=times, values=values, state=previous.copy() if last else None)
            valid = _last(model.previous, valid, np.ones(model.window, np.float32))


def warm_up(model: LatentModel, graphs: Graphs, plan: Plan) -> None:
    """Load the graphs by drawing a window of one member in one step, so that their memory counts as used."""
    once = dataclasses.replace(model, sampler=msgspec.structs.replace(model.sampler, steps=1))
    next(generate(once, graphs, dataclasses.replace(plan, members=plan.members[:1]), batch=1))


def _blocks(plan: Plan, window: int, batch: int, done: Done, by_window: bool) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the number of finished windows and the places of members that are drawn side by side, to the end.

    They are a batch of members with the same number of finished windows, or `by_window` all members.
    """
    alike: dict[int, list[int]] = {}
    for place in range(len(plan.members)):
        finished = windows_needed(done.steps(0 if by_window else place), window)
        alike.setdefault(finished, []).append(place)
    for finished, places in alike.items():
        if finished < windows_needed(plan.count, window):
            size = len(places) if by_window else batch
            yield from ((finished, places[first : first + size]) for first in range(0, len(places), size))


def _first_states(model: LatentModel, members: Sequence[int], initial: Initial | None) -> tuple[F32, F32]:
    """Steps before the first window, (member, P, variable, latent pixel), and 1 for those that are known, (P,)."""
    previous = np.zeros((len(members), model.previous, *model.shape), dtype=np.float32)
    valid = np.zeros(model.previous, dtype=np.float32)
    if initial is not None:
        previous[:], valid[:] = initial.white[[initial.place(member) for member in members]], initial.valid
    return previous, valid


def _last(count: int, before: F32, new: F32) -> F32:
    """The last `count` of the steps before and the new ones, along the first axis."""
    whole = np.concatenate([before, new])
    return whole[len(whole) - count :]
