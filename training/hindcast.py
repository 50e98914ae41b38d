"""`fsae-train hindcast`: ensembles started from observed months, scored at each lead beside simple forecasts.

For every month of the evaluation years that leaves room for the leads, the model starts from the months before it, as
the reanalysis has them, and knows nothing later; so do the forecasts it is compared with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsae.runtime import climatology as harmonic
from fsae.runtime.ensemble import Initial, generate
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.generation import timeline
from fsae.runtime.healpix import pixel_centres, zoom_of
from fsae.runtime.pyramid import level_mask, whiten

from .ensemble_scores import (
    lead_of_last_skill,
    outer_share,
    pointwise_crps,
    rank_counts,
    spread_skill,
    unevenness,
)
from .hindcast_report import HindcastReport, LeadScores, Ranks, SkillEnd, VariableHindcast, format_hindcast
from .periods import Material, departures, departures_of, open_material
from .record_json import as_json
from .reference_forecasts import Forecast, Observed, recent_mean, reference_forecasts
from .regions import region_weights
from .subject import Period

Array = NDArray[np.float64]
Fields = NDArray[np.float32]
Progress = Callable[[int, int], None]  # (starts done, starts in all)

NINO34 = "Nino 3.4"
RANK_ZOOM = 2  # ranks are counted at one pixel for each cell of this zoom: neighbours say the same


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Sums over the sphere of a forecast's scores, (start, lead, variable, domain), and its ranks.

    Squares and products are those of departures from the recent training mean, so that warming alone is no skill.
    """

    crps: Array
    square_error: Array  # of the ensemble mean
    variance: Array  # of the members, unbiased; zero for a single one
    product: Array  # ensemble mean times truth
    square_mean: Array
    square_truth: Array
    ranks: Array  # (lead, variable, rank)
    members: int


def hindcast_model(
    model: str | None,
    *,
    data: Path | None = None,
    members: int = 20,
    leads: int = 6,
    every: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[str, str]:
    """The tables of a run's or a bundle's hindcasts (default: the newest run) and the same as JSON."""
    if members < 2 or leads < 1 or every < 1:
        raise UsageError(
            f"found {members} members, {leads} leads and every {every}, expected 2 members, 1 lead and 1 or more"
        )
    material = open_material(model, data)
    report = hindcast(material, members=members, leads=leads, every=every, seed=seed, progress=progress)
    return format_hindcast(report), as_json(report)


def hindcast(
    material: Material, *, members: int, leads: int, every: int = 1, seed: int = 0, progress: Progress | None = None
) -> HindcastReport:
    """Scores of the model and of simple forecasts over every `every`-th start of the evaluation years."""
    whole = joined(material.training, material.evaluation)
    series = Observed(
        values=departures_of(material.subject, whole),
        phase=whole.phase,
        time_years=whole.time_years,
        known=len(material.training.times),
    )
    starts = range(series.known, len(whole.times) - leads + 1, every)
    if not starts:
        raise DataError(f"found {len(material.evaluation.times)} evaluation steps, expected {leads} or more")
    forecasts = {material.subject.name: model_forecast(material, whole, leads, members, seed)}
    forecasts |= reference_forecasts(series, leads, members, seed)
    scored = score_all(forecasts, series, starts, leads, progress)
    own, *others = scored
    years = series.year[list(starts)]
    names = tuple(domains(series.values.shape[-1]))
    variables = [
        VariableHindcast(
            name=name,
            units=units,
            scores=tuple(_lead_scores(scored[k], k, v, d, names[d]) for d in range(len(names)) for k in scored),
            ranks=tuple(_ranks(scored[k], k, v) for k in scored if scored[k].members > 1),
            skill=tuple(
                _skill_end(scored, own, other, v, d, names[d], years) for d in range(len(names)) for other in others
            ),
        )
        for v, (name, units) in enumerate(material.subject.variables)
    ]
    return HindcastReport(
        name=material.subject.name,
        members=members,
        leads=leads,
        step=material.candidate.time.step,
        starts=len(starts),
        first=str(whole.times[starts[0]]),
        last=str(whole.times[starts[-1]]),
        training=(str(material.training.times[0]), str(material.training.times[-1])),
        variables=tuple(variables),
    )


def joined(one: Period, other: Period) -> Period:
    """Two periods, one behind the other."""
    return Period(
        values=np.concatenate([one.values, other.values]),
        phase=np.concatenate([one.phase, other.phase]),
        times=[*one.times, *other.times],
    )


def model_forecast(material: Material, whole: Period, leads: int, members: int, seed: int) -> Forecast:
    """Forecasts of the diffusion model from the steps of `whole` before the start, each start with other noise."""
    candidate, latent = material.candidate, material.latent
    if latent.previous == 0:
        raise DataError("found a denoiser that knows no earlier steps, expected diffusion.previous of 1 or more")

    def forecast(start: int) -> Fields:
        known = slice(start - latent.previous, start)
        initial = Initial(white=encode_white(material, whole, known), valid=np.ones(latent.previous, np.float32))
        line = timeline(candidate.time, latent.window, candidate.cell_methods, whole.times[start], leads)
        ids = range(start * members, (start + 1) * members)  # overlapping forecasts must not share their noise
        units = generate(latent, candidate.graphs, ids, line.steps, leads, seed, members, initial)
        values = np.concatenate([unit.values for unit in units], axis=1)
        return departures(material.subject, values, line.steps.season[:leads])

    return forecast


def encode_white(material: Material, period: Period, part: slice) -> Fields:
    """Latents (time, variable, latent pixel) of some steps of a period, in white space."""
    subject, latent = material.subject, material.latent
    season = harmonic.season(period.phase[part], subject.harmonics)
    mask = np.repeat(level_mask(subject.zooms, subject.zooms[-1])[None], len(season), axis=0)
    encoded = material.candidate.graphs.encode(period.values[part].astype(np.float32), season, mask)
    return np.asarray(whiten(encoded, latent.zooms, latent.cell_std, latent.level_std), dtype=np.float32)


def domains(pixels: int) -> dict[str, Array]:
    """Weights of the domains at the pixels and, behind them, at the Nino 3.4 index: (pixel + 1,), adding up to one."""
    regions = region_weights(zoom_of(pixels))
    parts = {name: regions[name] for name in ("global", "tropics")}
    parts["extratropics"] = parts["global"] - parts["tropics"]
    weights = {name: np.append(part / part.sum(), 0.0) for name, part in parts.items()}
    return weights | {NINO34: np.append(np.zeros(pixels), 1.0)}


def nino34(pixels: int) -> Array:
    """Weights (pixel,) of the mean over 5 S ... 5 N, 170 W ... 120 W, where the index of that name is measured."""
    lat_deg, lon_deg = pixel_centres(zoom_of(pixels))
    inside = (np.abs(lat_deg) <= 5) & (np.abs(lon_deg % 360 - 215) <= 25)
    if not inside.any():  # only the coarsest zooms: the pixel at the box's centre
        distance = np.hypot(lat_deg, (lon_deg - 215 + 180) % 360 - 180)
        inside = distance == distance.min()
    weights: Array = inside / inside.sum()
    return weights


def score_all(
    forecasts: dict[str, Forecast], series: Observed, starts: Sequence[int], leads: int, progress: Progress | None = None
) -> dict[str, Scored]:
    """Every forecast scored at every start."""
    parts: dict[str, list[Scored]] = {name: [] for name in forecasts}
    centre = recent_mean(series).astype(np.float32)
    pixels = series.values.shape[-1]
    weights, box = np.stack(list(domains(pixels).values()), axis=-1), nino34(pixels).astype(np.float32)
    for number, start in enumerate(starts, 1):
        truth = series.values[start : start + leads] - centre
        for name, forecast in forecasts.items():
            drawn = forecast(start) - centre
            if drawn.shape[1:] != truth.shape or not np.isfinite(drawn).all():
                raise DataError(f"found a forecast {name} of shape {drawn.shape}, expected finite fields {truth.shape}")
            parts[name].append(_score(drawn, truth, weights, box))
        if progress is not None:
            progress(number, len(starts))
    return {name: _collect(part) for name, part in parts.items()}


def _score(members: Fields, truth: Fields, weights: Array, box: Fields) -> Scored:
    """Scores of one start: members (member, lead, variable, pixel), truth (lead, variable, pixel).

    `weights` (pixel + 1, domain) count the pixels and, behind them, the mean over the `box` (pixel,).
    """
    forecast, known = (
        np.concatenate([field, (field @ box)[..., None]], axis=-1).astype(np.float64) for field in (members, truth)
    )
    mean = forecast.mean(axis=0)
    variance = forecast.var(axis=0, ddof=1) if len(forecast) > 1 else np.zeros_like(mean)
    thin = thinned(truth.shape[-1])
    return Scored(
        crps=pointwise_crps(forecast, known) @ weights,
        square_error=(mean - known) ** 2 @ weights,
        variance=variance @ weights,
        product=(mean * known) @ weights,
        square_mean=mean**2 @ weights,
        square_truth=known**2 @ weights,
        ranks=rank_counts(members[..., thin], truth[..., thin]),
        members=len(members),
    )


def thinned(pixels: int) -> NDArray[np.int64]:
    """One pixel beside the centre of each cell of zoom `RANK_ZOOM`; all of them on coarser grids.

    >>> thinned(768)[:3].tolist()
    [3, 7, 11]
    """
    finer = zoom_of(pixels) - RANK_ZOOM
    if finer <= 0:
        return np.arange(pixels)
    inside = 4**finer  # the children of a cell in nested order; the last quarter's first touches the centre
    return np.asarray(np.arange(pixels // inside) * inside + 3 * inside // 4)


def _collect(parts: Sequence[Scored]) -> Scored:
    """Starts put together."""
    return Scored(
        crps=np.stack([part.crps for part in parts]),
        square_error=np.stack([part.square_error for part in parts]),
        variance=np.stack([part.variance for part in parts]),
        product=np.stack([part.product for part in parts]),
        square_mean=np.stack([part.square_mean for part in parts]),
        square_truth=np.stack([part.square_truth for part in parts]),
        ranks=np.sum([part.ranks for part in parts], axis=0),
        members=parts[0].members,
    )


def _lead_scores(scored: Scored, name: str, variable: int, domain: int, domain_name: str) -> LeadScores:
    """Means over starts of one forecast for one variable in one domain."""

    def mean(values: Array) -> Array:
        return np.asarray(values[:, :, variable, domain].mean(axis=0))  # (lead,)

    error, variance = mean(scored.square_error), mean(scored.variance)
    single = scored.members == 1
    size = np.sqrt(mean(scored.square_mean) * mean(scored.square_truth))
    known = np.divide(mean(scored.product), size, out=np.full_like(size, np.nan), where=size > 0)
    return LeadScores(
        name=name,
        domain=domain_name,
        members=scored.members,
        crps=tuple(mean(scored.crps).tolist()),
        rmse=tuple(np.sqrt(error).tolist()),
        spread=None if single else tuple(np.sqrt(variance).tolist()),
        spread_skill=None if single else tuple(spread_skill(variance, error, scored.members).tolist()),
        correlation=tuple(known.tolist()),
    )


def _ranks(scored: Scored, name: str, variable: int) -> Ranks:
    counts = scored.ranks[:, variable]
    return Ranks(
        name=name,
        counts=tuple(tuple(row) for row in counts.tolist()),
        unevenness=tuple(unevenness(counts).tolist()),
        outer_share=tuple(outer_share(counts).tolist()),
    )


def _skill_end(
    scored: dict[str, Scored],
    own: str,
    other: str,
    variable: int,
    domain: int,
    domain_name: str,
    years: NDArray[np.int64],
) -> SkillEnd:
    crps = [scored[name].crps[:, :, variable, domain] for name in (own, other)]
    lower, clearly = lead_of_last_skill(crps[0], crps[1], years)
    return SkillEnd(domain=domain_name, reference=other, lower=lower, clearly_lower=clearly)
