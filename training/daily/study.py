"""`fsae-train daily`: models of daily weather on days that training never saw, side by side.

Runs that share data and autoencoder, such as those of high-resolution days, low-resolution days and both. Three parts:
what the autoencoder keeps beside a linear code of as many numbers, the climate of a free ensemble over the evaluation
days, and forecasts from known states. All figures are in physical units.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32, F64
from fsae.runtime.bundle.manifest import Variable
from fsae.runtime.bundle.records import decode_record
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.climate.transforms import inverse
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.progress import Progress
from fsae.runtime.sphere.healpix import npix, zoom_of
from fsae.training.config import VariableConfig
from fsae.training.evaluation.model import TrainedModel, anomalies, draw, of_run, rebuild, without_sharpening
from fsae.training.evaluation.periods import Period, joined, read_periods
from fsae.training.evaluation.reconstruction import from_codes
from fsae.training.evaluation.report import as_json
from fsae.training.evaluation.saved import DAILY, read_daily, save_daily
from fsae.training.evaluation.tables import NAME, Column, Table, columns
from fsae.training.fitting.run_folder import Run, load_run
from fsae.training.metrics.scores import correlation, rmse
from fsae.training.metrics.spectra import power_spectrum

from . import statistics
from .forecasts import Days, model_forecast, reference_forecasts, score

log = logging.getLogger("fsae.training")
LAGS = 10  # [days]
LMAX = 60  # lowered to 2 nside on coarser grids
LARGEST_SAMPLE = 150  # fields of a variable that spectra are taken of, at most
RAIN, HEIGHT = "lwe_precipitation_rate", "geopotential_height"  # standard names
Numbers = tuple[float, ...]
AnyVariable = Variable | VariableConfig


@dataclass(frozen=True, kw_only=True)
class Kept:
    """RMSE of one variable, rebuilt by the autoencoder and by the localised linear code of as many numbers."""

    variable: str
    units: str
    numbers: int  # a day
    climatology: float  # with nothing stored
    linear: float
    autoencoder: float
    unsharpened: float  # without the angular power that its decoder restores


@dataclass(frozen=True, kw_only=True)
class Weather:
    """One variable of an ensemble, or of other true days, beside the truth; each member's own mean map removed."""

    name: str
    variable: str
    units: str
    bias: float  # of the mean over days and sphere
    std_ratio: float  # mean over pixels of the standard deviation, over that of the truth
    std_correlation: float  # of its map with the truth's
    spectrum_median: float  # of |power ratio - 1| over degrees l = 2 ... lmax
    memory: Numbers  # autocorrelation at lags 1 ... LAGS
    memory_difference: float  # largest over the lags, from the truth's


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Storm tracks, rain, and how variables go together; None for what the variables do not have."""

    name: str
    storm_ratio: float | None  # mean variance of heights at 2 to 6 days, over the truth's
    storm_correlation: float | None  # of its map with the truth's
    wet_share: float | None
    quantiles: Numbers | None  # of rain [mm day-1]
    least_rain: float | None  # [mm day-1]
    pair_correlation: float | None  # of the maps of correlations between variables with the truth's
    pair_ratio: float | None  # root mean square of these maps, over the truth's


@dataclass(frozen=True, kw_only=True)
class Skill:
    """Fair CRPS of a forecast of one variable at leads of 1, 2, ... days."""

    name: str
    variable: str
    units: str
    crps: Numbers


@dataclass(frozen=True, kw_only=True)
class DailyReport:
    """The report of `fsae-train daily`."""

    training: tuple[str, str]
    evaluation: tuple[str, str]
    members: int
    starts: int
    kept: tuple[Kept, ...]
    weather: tuple[Weather, ...]
    whole: tuple[Whole, ...]
    skill: tuple[Skill, ...]


KEPT = Table(
    (
        Column("", "variable"),
        Column("units", "units"),
        Column("numbers", "numbers"),
        Column("climatology", "climatology", ".3f"),
        Column("localised EOF", "linear", ".3f"),
        Column("autoencoder", "autoencoder", ".3f"),
        Column("not sharpened", "unsharpened", ".3f"),
        Column("over EOF", lambda row: row.unsharpened / row.linear, ".3f"),
    ),
    "RMSE of fields rebuilt from as many numbers a day; over EOF: the autoencoder not sharpened, as EOFs are not, is "
    "better below 1.",
)
WEATHER = Table(
    (
        NAME,
        Column("bias", "bias", "+.3g"),
        Column("std", "std_ratio", ".3f"),
        Column("corr", "std_correlation", ".3f"),
        Column("spectrum", "spectrum_median", ".3f"),
        *columns(range(1, LAGS + 1), "memory", ".2f"),
        Column("off", "memory_difference", ".3f"),
    ),
    "std, corr: standard-deviation map, mean over the truth's and correlation; spectrum: median of |power ratio - 1|; "
    f"1 to {LAGS}: autocorrelation at that lag in days; off: its largest difference from the truth's.",
)
WHOLE = Table(
    (
        NAME,
        Column("storms", "storm_ratio", ".3f"),
        Column("corr", "storm_correlation", ".3f"),
        Column("wet", "wet_share", ".1%"),
        *columns([f"{quantile:.1%}" for quantile in statistics.QUANTILES], lambda row: row.quantiles or (), ".1f"),
        Column("least", "least_rain", ".2f"),
        Column("pairs", "pair_correlation", ".3f"),
        Column("ratio", "pair_ratio", ".3f"),
    ),
    "storms, corr: map of the variance of heights at 2 to 6 days, mean over the truth's and correlation; wet: days of "
    "1 mm and more, then quantiles and least value of rain [mm day-1]; pairs, ratio: maps of the correlations in time "
    "between variables, their correlation with the truth's and their root mean square over it.",
)


def daily_of_runs(
    folders: Sequence[Path], *, members: int, forecast_members: int, leads: int, every: int, progress: Progress
) -> tuple[str, str]:
    """The tables of finished runs and the same as JSON; UsageError if they do not share data and autoencoder.

    Free ensembles have `members` members, forecasts `forecast_members`, from every `every`-th evaluation day on. The
    report is kept in the folder of every run.
    """
    runs = [load_run(folder) for folder in folders]
    check_runs(runs)
    data, models = runs[0].config.data, [of_run(run) for run in runs]
    years = (data.training_years, data.validation_years or data.training_years, data.evaluation_years)
    known, before, truth = read_periods(runs[0].fields, data.variables, models[0].zoom, *years)
    weather, whole = climates(models, known, truth, members)
    days = Days(model=models[0], training=known, series=joined(before, truth), leads=leads, members=forecast_members)
    starts = range(len(before.times), len(days.series.times) - leads + 1, every)
    skill = forecast_skill(models, days, starts, progress)
    report = DailyReport(
        training=known.first_and_last,
        evaluation=truth.first_and_last,
        members=members,
        starts=len(starts),
        kept=tuple(reconstruction(models[0], of_run(without_sharpening(runs[0])), known, truth)),
        weather=tuple(weather),
        whole=tuple(whole),
        skill=tuple(skill),
    )
    record = as_json(report)
    for run in runs:
        save_daily(run.path, record)
    return format_daily(report), record


def check_runs(runs: Sequence[Run]) -> None:
    """Raise UsageError unless all runs generate days and share data and autoencoder."""
    first = runs[0]
    for run in runs:
        if run.denoiser is None:
            found = f"{run.path} has no diffusion model"
            raise UsageError(found, "runs that generate", "name runs that were trained with a [diffusion] table")
        if run.facts.step != "1 day":
            raise UsageError(f"found steps of {run.facts.step} in {run.path}", "1 day", "name runs of daily data")
        if (run.config.data, run.config.autoencoder) != (first.config.data, first.config.autoencoder):
            found = f"{run.path} has other data or another autoencoder than {first.path}"
            raise UsageError(found, "the same", "compare runs that share them")


def reconstruction(model: TrainedModel, unsharpened: TrainedModel, known: Period, truth: Period) -> list[Kept]:
    """Errors of the evaluation days, rebuilt by the autoencoder and by the linear code fitted to the training days.

    `unsharpened` is the same model without the power that its decoder restores.
    """
    log.info("rebuild %d days", len(truth.times))
    numbers = npix(model.latent_zoom)
    seen = anomalies(model, truth)
    linear = from_codes(anomalies(model, known), seen, numbers * seen.shape[1])[2]
    ways = {
        "climatology": np.zeros_like(seen),
        "linear": linear,
        "autoencoder": rebuild(model, truth, model.zoom),
        "unsharpened": rebuild(unsharpened, truth, model.zoom),
    }
    fields = {name: physical(model, truth, values) for name, values in ways.items()}
    return [
        Kept(
            variable=variable.name,
            units=variable.units,
            numbers=numbers,
            **{name: rmse(field[:, v], truth.values[:, v]) for name, field in fields.items()},
        )
        for v, variable in enumerate(model.variables)
    ]


def physical(model: TrainedModel, period: Period, values: F32) -> F32:
    """Physical fields of normalised anomalies (time, variable, pixel) at the steps of a period."""
    mean = harmonic.evaluate(model.climatology, model.season(period))
    return inverse(np.asarray(values * model.scale[:, None] + mean, dtype=np.float32), model.transforms)


def climates(
    models: Sequence[TrainedModel], known: Period, truth: Period, members: int
) -> tuple[list[Weather], list[Whole]]:
    """The climate of each model over the evaluation days, and that of the last training days, beside the truth."""
    count = len(truth.times)
    last = known.part(slice(-count, None))
    stretches: list[tuple[str, Period, Callable[[], F32]]] = [
        ("truth", truth, lambda: truth.values[None]),
        ("last training days", last, lambda: last.values[None]),
    ]
    stretches += [(model.name, truth, partial(draw, model, members, truth.times[0], count, 0)) for model in models]
    weather, whole = [], []
    expected: Expected | None = None
    for name, period, make in stretches:
        log.info("%s: %d days", name, count)
        fields = make()
        own = departures(models[0], period, fields)
        found = Expected(
            moments=[moments(own[:, :, v]) for v in range(own.shape[2])], pairs=statistics.correlation_maps(own)
        )
        expected = found if expected is None else expected  # the truth comes first
        for v, variable in enumerate(models[0].variables):
            bias = fields[:, :, v].mean(dtype=np.float64) - truth.values[:, v].mean(dtype=np.float64)
            weather.append(weather_of(name, variable, float(bias), found.moments[v], expected.moments[v]))
        whole.append(whole_of(name, models[0].variables, fields, found, expected))
    return weather, whole


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Statistics of one variable of a stretch: maps (pixel,) and, by degree and lag, power and memory."""

    std: F64
    power: F64
    memory: F64
    storms: F64


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Statistics of a stretch: of each variable, and the maps (pair, pixel) of correlations between variables."""

    moments: Sequence[Moments]
    pairs: F64


def moments(own: F64) -> Moments:
    """The statistics of departures (member, time, pixel) of one variable."""
    flat = own.reshape(-1, own.shape[-1])
    return Moments(
        std=np.sqrt(np.square(own).mean(axis=1)).mean(axis=0),
        power=power_spectrum(flat[:: -(-len(flat) // LARGEST_SAMPLE)], min(LMAX, 2 << zoom_of(flat.shape[1])))[2:],
        memory=statistics.pooled_autocorrelation(own, LAGS),
        storms=statistics.storm_track(own),
    )


def departures(model: TrainedModel, period: Period, fields: F32) -> F64:
    """Fields (member, time, variable, pixel) less their season, in physical units, and less each member's own mean."""
    season = physical(model, period, np.zeros(fields.shape[1:], np.float32))
    return statistics.own_departures(fields - season)


def weather_of(name: str, variable: AnyVariable, bias: float, found: Moments, expected: Moments) -> Weather:
    """The row of one variable of a stretch, beside the truth's statistics."""
    return Weather(
        name=name,
        variable=variable.name,
        units=variable.units,
        bias=bias,
        std_ratio=float(found.std.mean() / expected.std.mean()),
        std_correlation=correlation(found.std, expected.std),
        spectrum_median=float(np.median(np.abs(found.power / expected.power - 1))),
        memory=tuple(found.memory.tolist()),
        memory_difference=float(np.abs(found.memory - expected.memory).max()),
    )


def whole_of(name: str, variables: Sequence[AnyVariable], fields: F32, found: Expected, expected: Expected) -> Whole:
    """The row of all variables of a stretch (member, time, variable, pixel), beside the truth's statistics."""
    names = [variable.standard_name for variable in variables]
    rain = fields[:, :, names.index(RAIN)] if RAIN in names else None
    storms = None
    if HEIGHT in names:
        storms = [each.moments[names.index(HEIGHT)].storms for each in (found, expected)]
    several = len(names) > 1
    return Whole(
        name=name,
        storm_ratio=None if storms is None else float(storms[0].mean() / storms[1].mean()),
        storm_correlation=None if storms is None else correlation(*storms),
        wet_share=None if rain is None else statistics.wet_share(rain),
        quantiles=None if rain is None else statistics.rain_quantiles(rain),
        least_rain=None if rain is None else float(rain.min()),
        pair_correlation=statistics.pattern_correlation(found.pairs, expected.pairs) if several else None,
        pair_ratio=float(np.sqrt(np.mean(found.pairs**2) / np.mean(expected.pairs**2))) if several else None,
    )


def forecast_skill(
    models: Sequence[TrainedModel], days: Days, starts: Sequence[int], progress: Progress
) -> list[Skill]:
    """CRPS of the forecasts of every model and of the simple ones from the same starts."""
    forecasts = {model.name: model_forecast(replace(days, model=model)) for model in models}
    found = score(forecasts | reference_forecasts(days), days, starts, progress)
    return [
        Skill(name=name, variable=variable.name, units=variable.units, crps=tuple(crps[:, v].tolist()))
        for v, variable in enumerate(days.model.variables)
        for name, crps in found.items()
    ]


def saved_report(folder: Path) -> DailyReport | None:
    """The last report on a run, None if there is none of these weights; DataError if it is damaged or of old form."""
    found = read_daily(folder)
    if found is None:
        return None
    return decode_record(DailyReport, found, str(folder / DAILY), DataError, "run fsae-train daily again")


def format_daily(report: DailyReport) -> str:
    """The report as Markdown."""
    lines = [
        f"# Daily weather from {report.evaluation[0]} to {report.evaluation[1]}",
        "",
        f"Trained on {report.training[0]} to {report.training[1]}; {report.members} members, {report.starts} starts.",
        *KEPT.lines(report.kept, "## What the autoencoder keeps"),
    ]
    leads = range(1, len(report.skill[0].crps) + 1)
    for variable in dict.fromkeys(row.variable for row in report.weather):
        rows = [row for row in report.weather if row.variable == variable]
        lines += WEATHER.lines(rows, f"## {variable} [{rows[0].units}]")
        skill = [row for row in report.skill if row.variable == variable]
        lines += Table((Column("CRPS at lead", "name"), *columns(leads, "crps", ".3g"))).lines(skill, "")
    return "\n".join([*lines, *WHOLE.lines(report.whole, "## Storm tracks, rain, and all variables together")]) + "\n"
