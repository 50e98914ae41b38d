"""The linear part of the denoiser: the Wiener filter of a window, computed from the training latents, not learned.

For a Gaussian window of covariance C in white noise of level sigma the expected clean window is C (C + sigma^2)^-1 x
(Wiener 1949; EDM's c_skip is the case C = 1). If the steps before are known, expectation and covariance given them
are used. The mean follows the forcing by way of states at a few of its values. Beyond these it stays at the last one if
the forcing is the calendar year, for the last decade is a better forecast of the next one's map than a trend is; with a
physical forcing it goes on at the rate of all training data, as far as these tell it from chance. The network adds what
is not Gaussian or changes with season and source.

Hundreds of steps determine the covariance of few patterns only. Those that carry the climate's memory, the largest
waves of the sphere and the leading empirical orthogonal functions, have a full covariance among each other in space
and time. The rest has a covariance in space that is damped with distance (Houtekamer and Mitchell 2001,
doi:10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2), and in time one for each of its eigenvectors. Without the waves
the damping would take away what balances far regions, and give means over them too much variance and too little memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn

from fsae.runtime.arrays import F32, F64, Floating
from fsae.runtime.sphere.healpix import coarsen, npix, zoom_of

from .layers import decompose, recompose
from .localisation import damping

WAVES = 9  # of each variable: spherical harmonics of degree 0 to 2
FUNCTIONS = 6  # leading empirical orthogonal functions
LENGTH_RADIANS = 0.4  # of the Gaussian damping: 2,500 km
FLOOR = 0.1  # share of the covariance that no distance takes away
UNIT_SHARE = 0.05  # of the rest's covariance replaced by unit white noise of the same trace
FIELDS_UNIT_SHARE = 0.02  # the same where fields are damped, whose patterns differ more in variance
OWN_SHARE = 0.85  # least share of its variance in the series that a pattern keeps: about what later steps have of it
OWN_MEMORY = 5  # leading patterns of the rest that have a memory of their own, those behind share with neighbours
SHARED_MEMORY = 10  # neighbours on either side
KNOTS = 6  # of the forcing: a decade each in sixty years; the state of the last one persists beyond
PRIOR_STEPS = 3.0
MOST_MEMORY = 0.95  # correlation of steps with the ones before that the response to the forcing reckons with
NUGGET = 1e-6  # share of the mean variance added before covariances are inverted


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Windows of T steps of K patterns, given P steps before: expectation, and eigenvectors of the covariance.

    A joint one has (P K, T K), (2, T K, T K) and (2, T K); one for each pattern has (K, P, T), (2, K, T, T) and
    (2, K, T). First axis 2: without known steps, with them.
    """

    mean: F64
    rotation: F64
    variance: F64


def fit_basis(series: Sequence[F64], waves: F64, fields: tuple[F64, F64] | None = None) -> tuple[F64, F64]:
    """Orthonormal patterns (feature, feature) of latents (time, feature), and the variances of all but the leading.

    The leading ones span `waves` (feature, wave) and `FUNCTIONS` empirical orthogonal functions. `fields` are the maps
    (feature, variable and pixel) to the fields that latents stand for, and back, if latents spread over distances:
    damped in place of these, they would get several times too much power of small scale.
    """
    steps = sum(len(part) for part in series)
    covariance = np.sum([part.T @ part for part in series], axis=0) / steps
    functions = linalg.eigh(covariance)[1][:, ::-1][:, :FUNCTIONS]
    span = linalg.qr(np.concatenate([waves, functions], axis=1), mode="economic")[0]
    lead = span @ linalg.eigh(span.T @ covariance @ span)[1][:, ::-1]
    outside = np.eye(len(lead)) - lead @ lead.T
    rest = outside @ covariance @ outside
    variables = waves.shape[1] // WAVES
    if fields is None:
        rest, share = damped(rest, variables), UNIT_SHARE
    else:
        there, back = fields
        rest, share = back.T @ damped(there.T @ rest @ there, variables) @ back, FIELDS_UNIT_SHARE
    rest = (1 - share) * rest + share * np.trace(rest) / len(rest) * np.eye(len(rest))
    variance, vectors = linalg.eigh(outside @ rest @ outside)
    kept = slice(None, lead.shape[1] - 1, -1)  # from the largest on, without the zeros of the span
    variance, vectors = variance[kept], vectors[:, kept]
    own = np.einsum("pk,pq,qk->k", vectors, covariance, vectors, optimize=True)  # damping has taken from the largest
    return np.concatenate([lead, vectors], axis=1), np.maximum(variance, OWN_SHARE * own)


def damped(covariance: F64, variables: int) -> F64:
    """A covariance between pixels of some variables (variable and pixel, twice), damped with distance."""
    factors = damping(zoom_of(len(covariance) // variables), LENGTH_RADIANS, FLOOR)
    return covariance * np.tile(factors, (variables, variables))


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


def separate_gaussian(series: Sequence[F64], variance: F64, window: int, previous: int) -> Gaussian:
    """The Gaussians of coefficients (time, K) about zero, one for each pattern, with the given variances (K,)."""
    frames = np.arange(window + previous)
    memory = autocorrelation(series, len(frames))  # (lag, K)
    return given(variance[:, None, None] * memory.T[:, np.abs(frames[:, None] - frames)], previous)


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


class WienerFilter(nn.Module):
    """The filter on the levels up to `zoom`; finer levels are filtered as white noise, by EDM's c_skip."""

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
        zooms: Sequence[int],
        zoom: int,
        variables: int,
        window: int,
        previous: int,
        responds: bool = False,
    ) -> None:
        super().__init__()
        self.zooms, self.coarse = tuple(zooms), tuple(z for z in zooms if z <= zoom)
        self.window, self.previous = window, previous
        count, lead = variables * npix(self.coarse[-1]), min(WAVES, npix(self.coarse[-1])) * variables + FUNCTIONS
        self.lead = min(lead, count)
        rest, joint = count - self.lead, window * self.lead
        # until it is fitted: unit white noise without memory
        self.register_buffer("basis", torch.eye(count))
        self.register_buffer("state", torch.zeros(KNOTS, count))
        # change of the state from one knot to the next beyond the ends, if the climate responds to the forcing there
        self.register_buffer("response", torch.zeros(count) if responds else None)
        self.register_buffer("lead_mean", torch.zeros(previous * self.lead, joint))
        self.register_buffer("lead_rotation", torch.eye(joint).repeat(2, 1, 1))
        self.register_buffer("lead_variance", torch.ones(2, joint))
        self.register_buffer("rest_mean", torch.zeros(previous, window, rest))
        self.register_buffer("rest_rotation", torch.eye(window)[None, :, :, None].repeat(2, 1, 1, rest))
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
        fields: see `fit_basis`; for latents no finer than this filter.
        """
        steps = self.zooms[-1] - self.coarse[-1]
        unit = [
            (coarsen(part.astype(np.float64), steps) * 2**steps).reshape(len(part), -1) for part in series
        ]  # a mean over 4 cells has half their noise
        coarse: F64 = coarsen(waves.astype(np.float64), steps).reshape(len(waves), -1).T  # type: ignore[assignment]
        basis, variance = fit_basis(unit, coarse, fields)
        coefficients = [part @ basis for part in unit]
        hats = [knot_weights(torch.from_numpy(part)).numpy().astype(np.float64) for part in forcing]
        state = mean_state(coefficients, hats)
        tables = {} if self.response is None else {"response": response(coefficients, forcing, self.lead)}
        coefficients = [part - weight @ state for part, weight in zip(coefficients, hats, strict=True)]
        lead = joint_gaussian([part[:, : self.lead] for part in coefficients], self.window, self.previous)
        rest = separate_gaussian([part[:, self.lead :] for part in coefficients], variance, self.window, self.previous)
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
        for name, table in tables.items():
            # A bundle stores in half precision what it holds exactly, and the data determine far less than 11 bits.
            self.get_buffer(name).copy_(torch.from_numpy(table).half().float())

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
        levels = decompose(noisy, self.zooms)
        kept = len(self.coarse)
        field = self._coefficients(levels[:kept])  # (B, T, K)
        before = self._coefficients(decompose(previous, self.zooms)[:kept])  # (B, P, K)
        state = self.mean(forcing)
        field, before = field - state, before - state[:, :1]
        lead = self._lead(field[..., : self.lead].flatten(1), before[..., : self.lead].flatten(1), known, noise)
        rest = self._rest(field[..., self.lead :], before[..., self.lead :], known[..., None], noise)
        field = torch.cat([lead.reshape(*field.shape[:2], self.lead), rest], dim=-1) + state
        coarse = (field @ self.basis.T).reshape(*noisy.shape[:3], -1) / self._unit
        white = gain(torch.ones_like(noise[0]), *noise)[..., None, None]  # (B, 1, 1, 1)
        finer = [white * level for level in levels[kept:]]
        return recompose([*decompose(coarse, self.coarse), *finer], self.zooms)

    def mean(self, forcing: Tensor) -> Tensor:
        """The mean of the patterns (B, T, K) at a scaled forcing (B, T)."""
        state: Tensor = knot_weights(forcing) @ self.state
        return state if self.response is None else state + beyond_knots(forcing)[..., None] * self.response

    @property
    def _unit(self) -> float:
        return float(2 ** (self.zooms[-1] - self.coarse[-1]))

    def _coefficients(self, levels: Sequence[Tensor]) -> Tensor:
        """Coefficients (B, F, K) of unit noise from the coarse levels (B, F, V, pixel)."""
        coefficients: Tensor = (self._unit * recompose(levels, self.coarse).flatten(2)) @ self.basis
        return coefficients

    def _lead(self, field: Tensor, before: Tensor, known: Tensor, noise: Noise) -> Tensor:
        """(B, T K) of the leading patterns -> the same, filtered."""
        expected = known * (before @ self.lead_mean)
        rest = field - expected

        def filtered(case: int) -> Tensor:
            inside = (rest @ self.lead_rotation[case]) * gain(self.lead_variance[case], *noise)
            return inside @ self.lead_rotation[case].T

        without, within = filtered(0), filtered(1)
        return expected + without + known * (within - without)

    def _rest(self, field: Tensor, before: Tensor, known: Tensor, noise: Noise) -> Tensor:
        """(B, T, K) of the other patterns -> the same, filtered."""
        expected = known * (before[:, :, None] * self.rest_mean).sum(1)
        rest = field - expected

        def filtered(case: int) -> Tensor:
            rotation, variance = self.rest_rotation[case], self.rest_variance[case]  # (T, T, K), (T, K)
            gains = torch.stack([gain(part, *noise) for part in variance], dim=1)  # (B, T, K)
            inside = (rest[:, :, None] * rotation).sum(1) * gains
            return (inside[:, None] * rotation).sum(2)

        without, within = filtered(0), filtered(1)
        return expected + without + known * (within - without)
