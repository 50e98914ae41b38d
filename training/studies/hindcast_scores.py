"""Scores of forecasts from many starts, lead by lead: over the globe, its parts, and of the index of El Nino."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import DataError
from fsae.runtime.progress import Progress
from fsae.runtime.sphere.healpix import pixel_centres, zoom_of
from fsae.training.metrics.ensembles import rank_counts, spread_classes, thinned
from fsae.training.metrics.reference_forecasts import Forecast, Observed, recent_mean
from fsae.training.metrics.regions import region_weights
from fsae.training.metrics.scores import pointwise_crps

NINO34 = "Nino 3.4"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Means of a forecast's scores over each domain, (start, lead, variable, domain), and ranks and classes of spread.

    Squares and products are those of departures from the recent training mean, so that warming alone does not count as
    skill.
    """

    crps: F64
    square_error: F64  # of the ensemble mean
    variance: F64  # of the members, unbiased; zero for a single one
    product: F64  # ensemble mean times truth
    square_mean: F64
    square_truth: F64
    class_variance: F64  # (start, lead, variable, class), of equally many pixels each, by the spread of the members
    class_square_error: F64  # of the ensemble mean, in the same classes
    ranks: F64  # (lead, variable, rank)
    members: int


def domains(pixels: int) -> dict[str, F64]:
    """Weights (pixel + 1,) of the domains, adding up to one: of the pixels and, after them, of the Nino 3.4 index."""
    regions = region_weights(zoom_of(pixels))
    parts = {name: regions[name] for name in ("global", "tropics")}
    parts["extratropics"] = parts["global"] - parts["tropics"]
    weights = {name: np.append(part / part.sum(), 0.0) for name, part in parts.items()}
    return weights | {NINO34: np.append(np.zeros(pixels), 1.0)}


def nino34(pixels: int) -> F64:
    """Weights (pixel,) of the mean over 5 S ... 5 N, 170 W ... 120 W, where the index of that name is measured."""
    lat_deg, lon_deg = pixel_centres(zoom_of(pixels))
    inside = (np.abs(lat_deg) <= 5) & (np.abs(lon_deg % 360 - 215) <= 25)
    if not inside.any():  # only the coarsest zooms: the pixel at the box's centre
        distance = np.hypot(lat_deg, (lon_deg - 215 + 180) % 360 - 180)
        inside = distance == distance.min()
    weights: F64 = inside / inside.sum()
    return weights


def score_all(
    forecasts: dict[str, Forecast],
    series: Observed,
    starts: Sequence[int],
    leads: int,
    progress: Progress | None = None,
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
                raise DataError(
                    f"found a forecast {name} of shape {drawn.shape}",
                    f"finite fields {truth.shape}",
                    "check the forecast: some values may not be finite",
                )
            parts[name].append(_score(drawn, truth, weights, box))
        if progress is not None:
            progress(number, len(starts))
    return {name: _collect(part) for name, part in parts.items()}


def _score(members: F32, truth: F32, weights: F64, box: F32) -> Scored:
    """Scores of one start: members (member, lead, variable, pixel), truth (lead, variable, pixel).

    `weights` (pixel + 1, domain) count the pixels and, behind them, the mean over the `box` (pixel,).
    """
    forecast, known = (
        np.concatenate([field, (field @ box)[..., None]], axis=-1).astype(np.float64) for field in (members, truth)
    )
    mean = forecast.mean(axis=0)
    variance = forecast.var(axis=0, ddof=1) if len(forecast) > 1 else np.zeros_like(mean)
    thin = thinned(truth.shape[-1])
    square_error = (mean - known) ** 2
    classes = spread_classes(variance[..., :-1], square_error[..., :-1])  # without the index
    return Scored(
        crps=pointwise_crps(forecast, known) @ weights,
        square_error=square_error @ weights,
        variance=variance @ weights,
        product=(mean * known) @ weights,
        square_mean=mean**2 @ weights,
        square_truth=known**2 @ weights,
        class_variance=classes[0],
        class_square_error=classes[1],
        ranks=rank_counts(members[..., thin], truth[..., thin]),
        members=len(members),
    )


def _collect(parts: Sequence[Scored]) -> Scored:
    """The scores of all starts, stacked; ranks are counted over all of them."""
    means = [field.name for field in fields(Scored) if field.name not in ("ranks", "members")]
    return Scored(
        members=parts[0].members,
        ranks=np.sum([part.ranks for part in parts], axis=0),
        **{name: np.stack([getattr(part, name) for part in parts]) for name in means},
    )
