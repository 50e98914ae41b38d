"""Ensemble members drawn from the latent diffusion, window after window, member by member reproducible.

A member is a function of (seed, member, time) and of the windows before it: of nothing that depends on the batch, the
order or the other members. The graphs keep rows apart (see session.py), the sampler is elementwise, and everything else
is done for one member at a time, in shapes that are always the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import DenoiserInputs, Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Denoiser, Manifest, Sampler
from fsae.runtime.diffusion.noise import member_integers, standard_normal
from fsae.runtime.diffusion.sampler import SAMPLERS, noise_features, noise_levels
from fsae.runtime.diffusion.whitening import seasonal_std, unwhiten
from fsae.runtime.errors import BundleError
from fsae.runtime.jobs.job import Finished
from fsae.runtime.output.layout import Unit

SOURCES = ("hr", "lr")  # labels of what denoisers learn from: their input `source` counts them from 0

NOTHING = Finished()

DRAW = 0  # the first noise of a step; later draws are for stochastic samplers


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What the model must know of consecutive time steps, one entry each."""

    season: F32  # (step, 2K)
    index: NDArray[np.int64]  # (step), whole steps since a fixed date: names the noise
    forcing: F32  # (step), in the manifest's unit

    def window(self, first: int, size: int) -> "Steps":
        """`size` of the steps from `first` on."""
        part = slice(first, first + size)
        return Steps(season=self.season[part], index=self.index[part], forcing=self.forcing[part])


@dataclass(frozen=True, kw_only=True)
class LatentModel:
    """What a host must know of a diffusion model beside its graphs, from a bundle or from a training run."""

    window: int
    previous: int
    shape: tuple[int, int]  # (variable, latent pixel)
    zooms: tuple[int, ...]  # of the latent's pyramid
    cell_std: F32  # (variable, latent pixel), see pyramid.seasonal_std
    season_std: F32  # (variable, 2H, latent pixel)
    level_std: F32  # (variable, level)
    sampler: Sampler
    source: str = "hr"  # the label drawn with, one of SOURCES
    graph: str = "denoiser"  # or "fast", the distilled one, whose steps `sampler` then has

    def deviation(self, season: F32) -> F32:
        """Standard deviations (step, variable, latent pixel) of the cells at season features (step, 2K)."""
        return seasonal_std(self.cell_std, self.season_std, season)


@dataclass(frozen=True, kw_only=True)
class Initial:
    """The known steps before a first window, in white space and oldest first, of one state or of several.

    Of S states the member of number m starts from the state m % S: it is the same in any set of members.
    """

    white: F32  # (state, P, variable, latent pixel); anything where valid is 0
    valid: F32  # (P,), 1 where the step is known, else 0: all known or none, as in training

    def place(self, member: int) -> int:
        """Which of the states a member starts from."""
        return member % len(self.white)


def latent_model(bundle: Bundle, fast: bool = False) -> LatentModel:
    """The diffusion model of a bundle, or its distilled one; BundleError where it has none."""
    manifest, tables = bundle.manifest, bundle.tables
    denoiser, sampler = parts_of(manifest)
    if fast:
        if manifest.fast is None:
            raise BundleError(f"bundle {manifest.name} has no distilled denoiser: leave out --sampler fast")
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


def parts_of(manifest: Manifest) -> tuple[Denoiser, Sampler]:
    """The manifest's denoiser and sampler; BundleError where the bundle does not generate."""
    if manifest.denoiser is None or manifest.sampler is None:
        raise BundleError(f"bundle {manifest.name} has no denoiser, so it cannot generate: take one that has")
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
    members: Sequence[int],
    steps: Steps,
    count: int,
    seed: int,
    batch: int,
    initial: Initial | None = None,
    done: Finished = NOTHING,
) -> Iterator[Unit]:
    """Finished pieces of an ensemble of `count` steps, `batch` members at a time, each piece one window of a member.

    `steps` covers whole windows, so it may be longer than `count`; what is beyond is drawn but not given out. With
    `initial` the members go on from the steps it holds, else the first window is drawn from the climate. What is done
    is left out: a member goes on from the state that came with its last window, its last steps in white space.
    """
    groups: dict[int, list[int]] = {}  # places of members by windows done, so that a batch works on the same steps
    for place in range(len(members)):
        groups.setdefault(windows_needed(done.steps(place), model.window), []).append(place)
    for windows, places in groups.items():
        if windows < windows_needed(count, model.window):
            for first in range(0, len(places), batch):
                part = places[first : first + batch]
                yield from _go_on(model, graphs, members, part, windows, steps, count, seed, initial, done)


def _go_on(
    model: LatentModel,
    graphs: Graphs,
    members: Sequence[int],
    places: Sequence[int],
    windows: int,
    steps: Steps,
    count: int,
    seed: int,
    initial: Initial | None,
    done: Finished,
) -> Iterator[Unit]:
    """The rest of the members at some places, of which so many windows are done."""
    window = model.window
    previous, valid = _first_states(model, [members[place] for place in places], windows, initial)
    if windows:
        previous[:] = [done.state(place) for place in places]
    for start in range(windows * window, count, window):
        now = steps.window(start, window)
        white, previous = _draw(model, graphs, [members[place] for place in places], now, seed, previous, valid)
        valid = _later(valid, np.ones(window, np.float32), model.previous)
        kept, deviation = min(window, count - start), model.deviation(now.season)
        # Before the first is decoded: from one to the next the writer then needs to wait for no other Python.
        latents = [window_latent(model, one, deviation) for one in white]
        for place, latent, state in zip(places, latents, previous, strict=True):
            values = graphs.decode(latent, now.season)[None, :kept]
            times = slice(start, start + kept)
            yield Unit(members=slice(place, place + 1), times=times, values=values, state=state)


def generate_together(
    model: LatentModel,
    graphs: Graphs,
    members: Sequence[int],
    steps: Steps,
    count: int,
    seed: int,
    batch: int,
    initial: Initial | None = None,
    done: Finished = NOTHING,
) -> Iterator[Unit]:
    """The pieces of `generate`, bit by bit, in another order: a window of all members in their order, then the next.

    The last piece of a window comes with the states (member, P, variable, latent pixel) of all members after it; what
    is done is known by such a state of the one member 0.
    """
    window, windows = model.window, windows_needed(done.steps(0), model.window)
    previous, valid = _first_states(model, members, windows, initial)
    if windows and windows < windows_needed(count, window):
        previous[:] = done.state(0)
    for start in range(windows * window, count, window):
        now, kept = steps.window(start, window), min(window, count - start)
        deviation = model.deviation(now.season)
        for first in range(0, len(members), batch):
            part = slice(first, min(first + batch, len(members)))
            white, previous[part] = _draw(model, graphs, members[part], now, seed, previous[part], valid)
            latents = [window_latent(model, one, deviation) for one in white]  # see `_go_on`
            for place, latent in zip(range(part.start, part.stop), latents, strict=True):
                values = graphs.decode(latent, now.season)[None, :kept]
                state = previous.copy() if place == len(members) - 1 else None
                times = slice(start, start + kept)
                yield Unit(members=slice(place, place + 1), times=times, values=values, state=state)
        valid = _later(valid, np.ones(window, np.float32), model.previous)


def _first_states(model: LatentModel, members: Sequence[int], windows: int, initial: Initial | None) -> tuple[F32, F32]:
    """Steps before a window (member, P, variable, latent pixel), as yet those before the first one, and which hold (P).

    `windows` are done before it.
    """
    previous = np.zeros((len(members), model.previous, *model.shape), dtype=np.float32)
    valid = np.zeros(model.previous, dtype=np.float32)
    if initial is not None:
        previous[:], valid[:] = initial.white[[initial.place(member) for member in members]], initial.valid
    return previous, _later(valid, np.ones(windows * model.window, np.float32), model.previous)


def _draw(
    model: LatentModel,
    graphs: Graphs,
    members: Sequence[int],
    now: Steps,
    seed: int,
    previous: F32,
    valid: F32,
) -> tuple[F32, F32]:
    """A window (member, time, variable, latent pixel) of some members in white space, and the last P steps then."""
    noise = np.stack([window_noise(seed, member, now.index, model.shape) for member in members])
    white = sample_window(graphs, model, noise, now, previous, np.repeat(valid[None], len(members), axis=0))
    return white, np.stack([_later(*pair, model.previous) for pair in zip(previous, white, strict=True)])


def _later(before: F32, new: F32, known: int) -> F32:
    """The last `known` of the steps before and the new ones, along the first axis."""
    whole = np.concatenate([before, new])
    return whole[len(whole) - known :]
