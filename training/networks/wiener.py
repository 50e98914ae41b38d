"""The linear part of the denoiser: the Wiener filter of a window, computed from the training latents, not learned.

For a Gaussian window of covariance C in white noise of level sigma the expected clean window is C (C + sigma^2)^-1 x
(Wiener 1949; EDM's c_skip is the case C = 1). If the steps before are known, expectation and covariance given them
are used. Covariances are those of the patterns of latents (patterns.py). The mean follows the forcing by way of states
at a few of its values. Beyond these it stays at the last one if the forcing is the calendar year, for the last decade
is a better forecast of the next one's map than a trend is; with a physical forcing it goes on at the rate of all
training data, as far as these tell it from chance. The network adds what is not Gaussian or changes with season and
source.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fsae.runtime.arrays import F32, F64, Floating
from fsae.runtime.sphere.healpix import npix

from .global_map import in_bytes
from .patterns import FUNCTIONS, WAVES, fit_basis, patch_patterns

OWN_MEMORY = 5  # leading patterns of the rest that have a memory of their own, those behind share with neighbours
SHARED_MEMORY = 10  # neighbours on either side
KNOTS = 6  # of the forcing: a decade each in sixty years; the state of the last one persists beyond
PRIOR_STEPS = 3.0
MOST_MEMORY = 0.95  # correlation of steps with the ones before that the response to the forcing reckons with
PATCH_ZOOMS = 3  # levels below the cell of a patch, which has 64 latents
NUGGET = 1e-6  # share of the mean variance added before covariances are inverted
SHARED_BY = 12  # neighbouring patterns of the rest that have one memory, where patches have patterns of their own
BYTES = ("basis", "lead_rotation", "lead_mean")  # tables that are rounded to bytes with a scale a column


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Windows of T steps of K patterns, given P steps before: expectation, and eigenvectors of the covariance.

    A joint one has (P K, T K), (2, T K, T K) and (2, T K); one for each pattern has (K, P, T), (2, K, T, T) and
    (2, K, T). First axis 2: without known steps, with them.
    """

    mean: F64
    rotation: F64
    variance: F64


def joint_gaussian(series: Sequence[F64], window: int, previous: int) -> Gaussian:
    """The Gaussian of coefficients (time, K) about zero, with all covariances between patterns and steps."""
    frames, count = window + previous, series[0].shape[1]
    steps = sum(len(part) for part in series)
    covariance = np.zeros((frames, count, frames, count))
    for lag in range(frames):
        # divided by all steps, not by the pairs: so the whole is positive definite
        lagged = np.sum([part[lag:].T @ part[: max(len(part) - lag, 0)] for part in series], axis=0) / steps
        for frame in range(frames - lag):
            covariance[frame + lag, :, frame] = lagged
            covariance[frame, :, frame + lag] = lagged.T
    found = given(covariance.reshape(1, frames * count, frames * count), previous * count)
    return Gaussian(mean=found.mean[0], rotation=found.rotation[:, 0], variance=found.variance[:, 0])


def separate_gaussian(series: Sequence[F64], variance: F64, window: int, previous: int, shared_by: int = 1) -> Gaussian:
    """The Gaussians of coefficients (time, K) about zero, one for each pattern, with the given variances (K,).

    `shared_by` neighbours have one memory, so that `mean` and `rotation` are those of K / shared_by patterns.
    """
    frames = np.arange(window + previous)
    memory = autocorrelation(series, len(frames))  # (lag, K)
    memory = memory.reshape(len(frames), -1, shared_by).mean(axis=-1)
    found = given(memory.T[:, np.abs(frames[:, None] - frames)], previous)
    spread = found.variance.repeat(shared_by, axis=1) * variance[:, None]
    return Gaussian(mean=found.mean, rotation=found.rotation, variance=spread)


def autocorrelation(series: Sequence[F64], lags: int) -> F64:
    """Autocorrelation (lag, K) at lags 0 ... `lags` - 1 of coefficients (time, K) about zero, positive definite."""
    total = np.zeros((lags, series[0].shape[1]))
    for part in series:
        for lag in range(min(lags, len(part))):
            total[lag] += np.sum(part[lag:] * part[: len(part) - lag], axis=0)
    own = total / np.maximum(total[0], np.finfo(np.float64).tiny)
    padded = np.pad(own, ((0, 0), (SHARED_MEMORY, SHARED_MEMORY)), mode="edge")
    shared = np.lib.stride_tricks.sliding_window_view(padded, 2 * SHARED_MEMORY + 1, axis=1).mean(axis=-1)
    weight = np.clip(np.arange(own.shape[1]) / OWN_MEMORY - 1, 0, 1)
    return np.asarray((1 - weight) * own + weight * shared)


def knot_weights(forcing: Tensor) -> Tensor:
    """Weights (..., knot) of the mean states at a scaled forcing (...): linear between knots, constant beyond the ends.

    The knots are the middles of `KNOTS` equal parts of -1 to 1.

    >>> knot_weights(torch.tensor([-3.0, 0.0]))[:, :4].tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    place = _knot(forcing).clamp(0, KNOTS - 1)
    knots = torch.arange(KNOTS, dtype=forcing.dtype, device=forcing.device)
    return (1 - (place[..., None] - knots).abs()).clamp(min=0)


def beyond_knots(forcing: Tensor) -> Tensor:
    """How far a scaled forcing (...) is beyond the first or the last knot, in distances of knots; 0 between them.

    >>> beyond_knots(torch.tensor([-3.0, 0.0, 1.5])).tolist()
    [-6.5, 0.0, 2.0]
    """
    place = _knot(forcing)
    return place - place.clamp(0, KNOTS - 1)


def _knot(forcing: Tensor) -> Tensor:
    """The place of a scaled forcing among the knots."""
    return (forcing + 1) * (KNOTS / 2) - 0.5


def mean_state(series: Sequence[F64], weights: Sequence[F64]) -> F64:
    """Mean states (knot, K) of coefficients (time, K) whose knots weigh (time, knot), by least squares.

    `PRIOR_STEPS` draw each towards zero, where a knot without data stays.
    """
    design, values = np.concatenate(weights), np.concatenate(series)
    return np.asarray(np.linalg.solve(design.T @ design + PRIOR_STEPS * np.eye(KNOTS), design.T @ values))


def response(series: Sequence[F64], forcing: Sequence[Floating], lead: int) -> F64:
    """Change (K,) of coefficients (time, K) from one knot of the scaled forcing (time,) to the next: a regression.

    The `lead` first and the others are each shrunk by the share of their squares that chance would give as well
    (Stein 1956), with fewer independent steps where a step resembles the one before.
    """
    values, given_forcing = np.concatenate(series), np.concatenate(forcing).astype(np.float64)
    away, values = given_forcing - given_forcing.mean(), values - values.mean(axis=0)
    slope = away @ values / (away @ away)
    rest = values - away[:, None] * slope
    power = np.square(rest).sum(axis=0)
    memory = np.clip((rest[1:] * rest[:-1]).sum(axis=0) / power, 0, MOST_MEMORY)
    chance = power / len(rest) / (away @ away) * (1 + memory) / (1 - memory)
    for part in (slice(0, lead), slice(lead, None)):
        slope[part] *= max(1 - chance[part].sum() / np.square(slope[part]).sum(), 0) if slope[part].size else 1
    return np.asarray(slope * 2 / KNOTS)


def given(covariance: F64, known: int) -> Gaussian:
    """The Gaussians of covariances (K, n, n) whose first `known` entries may be known."""
    first, later = covariance[:, :known, :known], covariance[:, known:, known:]
    size = np.trace(first, axis1=1, axis2=2)[:, None, None] / known
    mean = np.linalg.solve(first + NUGGET * size * np.eye(known), covariance[:, :known, known:])
    both = np.stack([later, later - covariance[:, known:, :known] @ mean])
    variance, rotation = np.linalg.eigh(both)
    return Gaussian(mean=mean, rotation=rotation, variance=np.maximum(variance, 0))


Noise = tuple[Tensor, Tensor | None]  # level (B, 1), and the following one if the step is an exact one


def gain(variance: Tensor, sigma: Tensor, following: Tensor | None) -> Tensor:
    """Factor of a pattern of that variance at noise level sigma: the Wiener filter's, or that of an exact flow step.

    The probability flow takes x at sigma to x sqrt((v + s^2) / (v + sigma^2)) at s. An Euler step gets there with the
    denoised state x (that root - s / sigma) / (1 - s / sigma).
    """
    if following is None:
        return variance / (variance + sigma * sigma)
    ratio = following / sigma
    flow = ((variance + following * following) / (variance + sigma * sigma)).sqrt()
    return (flow - ratio) / (1 - ratio)


def unit_gain(noise: Noise) -> Tensor:
    """Factor (B, 1) of a pattern of unit variance.

    Vectors whose patterns are rounded get it as they are, and these patterns what their own gains exceed it by: with
    exact patterns that is the same, and as noise and the whole filter's effect vanish the rounding does too.
    """
    return gain(torch.ones_like(noise[0]), *noise)


class WienerFilter(nn.Module):
    """The filter; `zoom`: as many patterns have a covariance as there are latents at that zoom."""

    patterns: Tensor
    basis: Tensor
    state: Tensor
    lead_mean: Tensor
    lead_rotation: Tensor
    lead_variance: Tensor
    rest_mean: Tensor
    rest_rotation: Tensor
    rest_variance: Tensor
    response: Tensor | None

    def __init__(
        self,
        *,
        latent_zoom: int,
        zoom: int,
        variables: int,
        window: int,
        previous: int,
        responds: bool = False,
    ) -> None:
        super().__init__()
        self.variables, self.window, self.previous = variables, window, previous
        count, finer = variables * npix(latent_zoom), max(0, latent_zoom - zoom)
        self.size = 4 ** min(latent_zoom, PATCH_ZOOMS)  # latents of a patch
        self.leading = max(1, self.size >> 2 * finer)  # its patterns that have a covariance with those of others
        self.patched = self.leading < self.size
        together = count * self.leading // self.size
        self.lead = min(min(WAVES, together // variables) * variables + FUNCTIONS, together)
        rest, joint = count - self.lead, window * self.lead
        self.shared_by = math.gcd(rest, SHARED_BY) if self.patched else 1
        memories = rest // self.shared_by
        # until it is fitted: unit white noise without memory
        if self.patched:
            patterns = torch.eye(self.size).repeat(variables, npix(latent_zoom) // self.size, 1, 1)
            self.register_buffer("patterns", patterns)
        self.register_buffer("basis", torch.eye(together))
        self.register_buffer("state", torch.zeros(KNOTS, count))
        # change of the state from one knot to the next beyond the ends, if the climate responds to the forcing there
        self.register_buffer("response", torch.zeros(count) if responds else None)
        self.register_buffer("lead_mean", torch.zeros(previous * self.lead, joint))
        self.register_buffer("lead_rotation", torch.eye(joint).repeat(2, 1, 1))
        self.register_buffer("lead_variance", torch.ones(2, joint))
        self.register_buffer("rest_mean", torch.zeros(previous, window, memories))
        self.register_buffer("rest_rotation", torch.eye(window)[None, :, :, None].repeat(2, 1, 1, memories))
        self.register_buffer("rest_variance", torch.ones(2, window, rest))

    def fit(
        self,
        series: Sequence[F32],
        forcing: Sequence[F32],
        waves: F32,
        fields: tuple[F64, F64] | None = None,
    ) -> None:
        """Take the statistics of whitened latents: stretches (time, variable, pixel) of consecutive steps.

        The forcing (time,) of each, scaled as in the denoiser, moves the mean of the patterns.
        waves (wave, variable, pixel): what multiplies whitened latents to give the largest waves of the latents.
        fields: maps of each variable (variable, latent, pixel) to the fields that latents stand for, and back
        (variable, pixel, latent), if these spread over distances.
        """
        if self.patched:
            self.patterns.copy_(torch.from_numpy(in_bytes(patch_patterns(series, self.size))))
        together, others = zip(*map(self._split, series), strict=True)
        coarse = self._split(waves)[0].T
        if fields is not None:
            there = [self._split(maps.T[:, None], variable)[0].T for variable, maps in enumerate(fields[0])]
            back = [self._split(maps[:, None], variable)[0] for variable, maps in enumerate(fields[1])]
            fields = np.stack(there), np.stack(back)
        basis, variance = fit_basis(together, coarse, fields)
        basis = in_bytes(basis)
        variance = np.concatenate([variance, np.square(np.concatenate(others)).mean(axis=0)])
        coefficients = [
            np.concatenate([one @ basis, other], axis=1) for one, other in zip(together, others, strict=True)
        ]
        hats = [knot_weights(torch.from_numpy(part)).numpy().astype(np.float64) for part in forcing]
        state = mean_state(coefficients, hats)
        tables = {} if self.response is None else {"response": response(coefficients, forcing, self.lead)}
        coefficients = [part - weight @ state for part, weight in zip(coefficients, hats, strict=True)]
        lead = joint_gaussian([part[:, : self.lead] for part in coefficients], self.window, self.previous)
        behind = [part[:, self.lead :] for part in coefficients]
        rest = separate_gaussian(behind, variance, self.window, self.previous, self.shared_by)
        tables |= {
            "basis": basis,
            "state": state,
            "lead_mean": lead.mean,
            "lead_rotation": lead.rotation,
            "lead_variance": lead.variance,
            "rest_mean": rest.mean.transpose(1, 2, 0),
            "rest_rotation": rest.rotation.transpose(0, 2, 3, 1),
            "rest_variance": rest.variance.transpose(0, 2, 1),
        }
        # A bundle stores these so, without any loss, and the data determine no more. What has no common scale, as
        # variances, gets the 11 bits of half precision.
        for name, table in tables.items():
            rounded = in_bytes(table) if name in BYTES else table.astype(np.float16)
            self.get_buffer(name).copy_(torch.from_numpy(rounded))

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        forcing: Tensor,
        previous: Tensor,
        previous_valid: Tensor,
        following: Tensor | None = None,
    ) -> Tensor:
        """Filtered (B, T, V, Nzb) of noisy, same shape, at sigma (B,) with scaled forcing (B, T).

        previous (B, P, V, Nzb) is zero where unknown. With the noise level `following` (B,) the result is the state
        that takes an Euler step from sigma to there exactly where a Gaussian's flow goes (see `gain`).
        """
        known = previous_valid[:, :1]  # (B, 1): all are known or none
        noise = (sigma[:, None], None if following is None else following[:, None])
        state = self.mean(forcing)
        coefficients = self._coefficients(noisy)
        field = coefficients - state  # (B, T, K)
        before = self._coefficients(previous) - state[:, :1]  # (B, P, K)
        lead = self._lead(field[..., : self.lead].flatten(1), before[..., : self.lead].flatten(1), known, noise)
        rest = self._rest(field[..., self.lead :], before[..., self.lead :], known[..., None], noise)
        filtered = torch.cat([torch.unflatten(lead, 1, (self.window, -1)), rest], dim=-1) + state
        unit = unit_gain(noise)[..., None]  # (B, 1, 1)
        return unit[..., None] * noisy + self._latents(filtered - unit * coefficients)

    def mean(self, forcing: Tensor) -> Tensor:
        """The mean of the patterns (B, T, K) at a scaled forcing (B, T)."""
        state: Tensor = knot_weights(forcing) @ self.state
        return state if self.response is None else state + beyond_knots(forcing)[..., None] * self.response

    def _coefficients(self, latents: Tensor) -> Tensor:
        """Coefficients (B, F, K) of latents (B, F, V, pixel)."""
        if not self.patched:
            together: Tensor = latents.flatten(2) @ self.basis
            return together
        patches = torch.unflatten(latents, -1, (-1, 1, self.size))
        turned = (patches @ self.patterns).squeeze(-2)  # (B, F, V, patch, pattern)
        together = turned[..., : self.leading].flatten(2) @ self.basis
        return torch.cat([together, turned[..., self.leading :].flatten(2)], dim=-1)

    def _latents(self, coefficients: Tensor) -> Tensor:
        """Latents (B, F, V, pixel) of coefficients (B, F, K): the inverse of `_coefficients`."""
        count = len(self.basis)
        together = coefficients[..., :count] @ self.basis.T
        if not self.patched:
            return torch.unflatten(together, -1, (self.variables, -1))
        parts = [
            torch.unflatten(part, -1, (*self.patterns.shape[:2], -1)) for part in (together, coefficients[..., count:])
        ]
        turned = torch.cat(parts, dim=-1)[..., None, :]
        return (turned @ self.patterns.mT).flatten(-3)

    def _split(self, latents: Floating, variable: int | None = None) -> tuple[F64, F64]:
        """Leading and other patterns (time, feature) of latents (time, variable, pixel), or of one variable's alone."""
        if not self.patched:
            return latents.astype(np.float64).reshape(len(latents), -1), np.empty((len(latents), 0))
        patterns = self.patterns.double().numpy()[... if variable is None else [variable]]
        patches = latents.astype(np.float64).reshape(*latents.shape[:2], -1, 1, self.size)
        turned = (patches @ patterns)[..., 0, :]
        leading, others = turned[..., : self.leading], turned[..., self.leading :]
        return leading.reshape(len(latents), -1), others.reshape(len(latents), -1)

    def _lead(self, field: Tensor, before: Tensor, known: Tensor, noise: Noise) -> Tensor:
        """(B, T K) of the leading patterns -> the same, filtered."""
        expected = known * (before @ self.lead_mean)
        rest, unit = field - expected, unit_gain(noise)

        def filtered(case: int) -> Tensor:
            inside = (rest @ self.lead_rotation[case]) * (gain(self.lead_variance[case], *noise) - unit)
            return unit * rest + inside @ self.lead_rotation[case].T

        without, within = filtered(0), filtered(1)
        return expected + without + known * (within - without)

    def _rest(self, field: Tensor, before: Tensor, known: Tensor, noise: Noise) -> Tensor:
        """(B, T, K) of the other patterns -> the same, filtered."""
        expected = known * (before[:, :, None] * self._spread(self.rest_mean)).sum(1)
        rest = field - expected

        def filtered(case: int) -> Tensor:
            rotation, variance = self._spread(self.rest_rotation[case]), self.rest_variance[case]  # (T, T, K), (T, K)
            gains = torch.stack([gain(part, *noise) for part in variance], dim=1)  # (B, T, K)
            inside = (rest[:, :, None] * rotation).sum(1) * gains
            return (inside[:, None] * rotation).sum(2)

        without, within = filtered(0), filtered(1)
        return expected + without + known * (within - without)

    def _spread(self, table: Tensor) -> Tensor:
        """A table (..., memory) for all patterns (..., K) that share these."""
        return table if self.shared_by == 1 else table[..., None].expand(*table.shape, self.shared_by).flatten(-2)
