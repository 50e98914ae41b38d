"""How well the denoiser's response to a forcing predicts a model whose truth can be run again: ACCESS-ESM1-5.

    python tests/bench/response.py --data ../shared/data

Its pattern is fitted to the control run and to the run with 1 % more CO2 a year, exactly as a denoiser's is
(`response` of training/networks/wiener.py, with the response time of runtime/climate/scenarios.py), and predicts annual
mean maps of abruptly quadrupled CO2 and of the historical run. Without a pattern a map is that of the control run;
"global mean" spreads the pattern evenly.
"""

from pathlib import Path

import click
import numpy as np
import xarray as xr

from fsae.runtime.arrays import F64
from fsae.runtime.climate.scenarios import responded
from fsae.training.config import DEFAULT
from fsae.training.data.scenarios import read_scenarios
from fsae.training.networks.wiener import KNOTS, response

FILES = "access-esm15-tas-mon-{}-10deg.nc"
DOUBLING = 3.93  # W m-2, effective radiative forcing of doubled CO2 (IPCC AR6 WG1, table 7.4)
RESPONSE_YEARS = 3.9
SERIES = DEFAULT.parents[1] / "sample" / "effective-radiative-forcing.csv"


def annual(folder: Path, run: str) -> tuple[F64, F64]:
    """Annual means (year, point) [K] of a run, and the weight (point,) of each point, mean 1."""
    with xr.open_dataset(folder / FILES.format(run), decode_times=False) as data:
        values = data["tas"].values.astype(np.float64)
        area = np.cos(np.radians(data["lat"].values.astype(np.float64))).clip(1e-3)
    weight = np.repeat(area, values.shape[2])
    return values.reshape(len(values) // 12, 12, -1).mean(axis=1), weight / weight.mean()


def historical(first: int, last: int) -> F64:
    """The forcing [W m-2] that the climate has responded to in the years of the historical run."""
    years, values = read_scenarios(SERIES, ["historical"])
    within = (years >= first) & (years <= last)
    return responded(years, values[0], RESPONSE_YEARS)[within]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of the ACCESS files.")
def main(data: Path) -> None:
    """Print a table of predicted and true decades."""
    control, weight = annual(data, "piControl-010101-018012")
    rising, _ = annual(data, "1pctCO2-010101-018012")
    years = np.arange(len(rising))
    forcing = responded(years, DOUBLING * np.log2(1.01) * (years + 0.5), RESPONSE_YEARS)
    mean = control.mean(axis=0)
    series, forcings = [control - mean, rising - mean], [np.zeros(len(control)), forcing]
    pattern = response(series, forcings, 0) * KNOTS / 2  # K per W m-2
    even = np.full_like(pattern, np.average(pattern, weights=weight))
    quadrupled = np.arange(25)
    cases = {
        "abrupt-4xCO2, years 6-15": (
            annual(data, "abrupt-4xCO2-010101-012512")[0][5:15],
            responded(quadrupled, np.where(quadrupled > 0, 2 * DOUBLING, 0.0), RESPONSE_YEARS)[5:15],
        ),
        "abrupt-4xCO2, years 16-25": (
            annual(data, "abrupt-4xCO2-010101-012512")[0][15:],
            responded(quadrupled, np.where(quadrupled > 0, 2 * DOUBLING, 0.0), RESPONSE_YEARS)[15:],
        ),
        "historical, 2000-2014": (
            annual(data, "historical-200001-201412")[0],
            historical(2000, 2014) - historical(1850, 1850)[0],
        ),
    }
    click.echo("| ACCESS-ESM1-5, tas [K] | true | predicted | map, no pattern | global mean | pattern |")
    click.echo("|---|---:|---:|---:|---:|---:|")
    for name, (fields, given) in cases.items():
        truth = fields.mean(axis=0) - mean
        errors = [
            np.sqrt(np.average(np.square(guess * given.mean() - truth), weights=weight))
            for guess in (0 * pattern, even, pattern)
        ]
        warming = np.average(truth, weights=weight), np.average(pattern, weights=weight) * given.mean()
        click.echo(
            f"| {name} | {warming[0]:+.2f} | {warming[1]:+.2f} | " + " | ".join(f"{e:.2f}" for e in errors) + " |"
        )


if __name__ == "__main__":
    main()
