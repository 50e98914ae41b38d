"""The results of a run that its report shows: figures, arrays and forecasts, as studies kept them in its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsae.runtime.arrays import F64
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import npix
from fsae.training.config import Config
from fsae.training.evaluation.report import Climate, Stretches
from fsae.training.evaluation.saved import Arrays, read_arrays, read_hindcast, read_metrics, saved_climate
from fsae.training.fitting.run_folder import CONFIG, Facts, read_record


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of one variable; those that are missing are None, or empty."""

    name: str
    units: str
    zoom: int
    latent_zoom: int
    step: str
    training: str  # years, such as 1948–2004
    evaluation: str
    middle: str  # the step whose fields are in the arrays
    seed: int
    figures: Mapping[str, Any]
    climate: tuple[Climate, ...]
    stretches: Stretches | None
    arrays: Mapping[str, F64]
    hindcast: Mapping[str, Any] | None  # of the variable
    forecasts: str  # the forecasts in words; empty without any

    @property
    def members(self) -> int:
        """Members of the generated ensemble."""
        return self.climate[0].members if self.climate else 0

    @property
    def decade(self) -> str:
        """The length of the evaluation in words."""
        return f"{self.stretches.steps if self.stretches else 0} steps of {self.step}"

    def has(self, *names: str) -> bool:
        """True if the arrays of those names are there."""
        return set(names) <= set(self.arrays)


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The results of a run, variable by variable; none if it is not evaluated."""

    path: Path
    config: Config
    facts: Facts
    is_evaluated: bool
    has_arrays: bool
    variables: tuple[Results, ...]


def read_results(folder: Path) -> RunResults:
    """The contents of the folder of a run; UsageError if it is no run, DataError if its figures cannot be read."""
    config, facts = read_record(folder / CONFIG, Config), read_record(folder / "facts.json", Facts)
    metrics = read_metrics(folder)
    arrays = read_arrays(folder) if metrics is not None else None
    hindcast = read_hindcast(folder)
    return RunResults(
        path=folder,
        config=config,
        facts=facts,
        is_evaluated=metrics is not None,
        has_arrays=arrays is not None,
        variables=() if metrics is None else _variables(folder, metrics, arrays or {}, hindcast),
    )


def _variables(
    folder: Path, metrics: Mapping[str, Any], arrays: Arrays, hindcast: Mapping[str, Any] | None
) -> tuple[Results, ...]:
    try:
        return tuple(
            _results(metrics, v, variable, arrays, hindcast) for v, variable in enumerate(metrics["variables"])
        )
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"the figures of {folder} are of another version ({error!r})", advice="run fsae-train evaluate again"
        ) from None


def _results(
    metrics: Mapping[str, Any], v: int, variable: Mapping[str, Any], arrays: Arrays, hindcast: Mapping[str, Any] | None
) -> Results:
    name, zoom = variable["name"], metrics["zooms"][-1]
    own = {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
    wrong = [key for key in ("bias", "std") if key in own and own[key].shape != (npix(zoom),)]
    if wrong:
        raise DataError(
            f"the arrays {wrong} of {name} are no maps of zoom {zoom}", advice="run fsae-train evaluate again"
        )
    climate, stretches = saved_climate(variable) or ((), None)
    return Results(
        name=name,
        units=variable["units"],
        zoom=zoom,
        latent_zoom=metrics["latent_zoom"],
        step=metrics["step"],
        training=_years(metrics["training"]),
        evaluation=_years(metrics["evaluation"]),
        middle=str(metrics.get("middle", ""))[:7],
        seed=metrics.get("seed", 0),
        figures=variable,
        climate=climate,
        stretches=stretches,
        arrays=own,
        hindcast=None if hindcast is None else hindcast["variables"][v],
        forecasts="" if hindcast is None else _forecasts(hindcast),
    )


def _years(stamps: tuple[str, str]) -> str:
    """The years from the first to the last stamp.

    >>> _years(("1948-01-01 00:00:00", "2004-12-01 00:00:00"))
    '1948–2004'
    """
    return "–".join(stamp.split("-")[0] for stamp in stamps)


def _forecasts(hindcast: Mapping[str, Any]) -> str:
    first, last = (str(hindcast[name])[:7] for name in ("first", "last"))
    return f"{hindcast['starts']} starts from {first} to {last}, {hindcast['members']} members each"
