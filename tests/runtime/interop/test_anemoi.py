"""A forecast of anemoi.inference kept as an archive.

Oracle: anemoi.inference's own registry and base class, and the fields that went in. Run by `pip install "fsae[anemoi]"
&& pytest tests/runtime/interop`: it is no part of the extra `dev`, as it brings 50 packages and changes no code here.
"""

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from fsae.runtime.errors import FsaeError

outputs = pytest.importorskip("anemoi.inference.outputs")
SAMPLE = Path(__file__).parents[3] / "training" / "sample" / "ncep1-tas-mon-200501-201412.nc"
METADATA = SimpleNamespace(dataset_name="data", typed_variables={})


def context() -> Any:
    """What a runner tells its outputs."""
    from anemoi.inference.context import Context

    class Runner(Context):  # type: ignore[misc]
        checkpoint = None
        typed_variables: dict[str, object] = {}  # noqa: RUF012 - as anemoi has it

    return Runner()


@pytest.fixture(scope="module")
def months() -> xr.DataArray:
    """A year of the sample data."""
    with xr.open_dataset(SAMPLE) as dataset:
        return (
            dataset[next(str(name) for name in dataset.data_vars if dataset[name].ndim == 3)]
            .isel(time=slice(12))
            .load()
        )


def states(months: xr.DataArray) -> list[dict[str, Any]]:
    """The states of a forecast: fields and places along one dimension."""
    lat, lon = (axis.ravel() for axis in np.meshgrid(months["lat"], months["lon"], indexing="ij"))
    dates = [datetime.datetime.fromisoformat(str(time)[:19]) for time in months["time"].values]
    return [
        {
            "date": date,
            "step": date - dates[0],
            "latitudes": lat,
            "longitudes": lon,
            "fields": {"2t": values.ravel(), "tp": np.zeros(lat.size)},
        }
        for date, values in zip(dates, months.values, strict=True)
    ]


def written(months: xr.DataArray, **config: Any) -> None:
    """Do what a runner does with its output."""
    output = outputs.create_output(context(), {"fsae": config}, METADATA)
    first, *later = states(months)
    output.open(first)
    output.write_initial_state(first)
    for state in later:
        output.write_state(state)
    output.close()


def test_a_forecast_becomes_an_archive(months: xr.DataArray, tmp_path: Path) -> None:
    path = tmp_path / "forecast.zarr"
    written(months, path=str(path), names={"tas": "2t"}, quality={"max_error": 0.5})
    with xr.open_dataset(path, engine="fsae") as found:
        assert list(found.data_vars) == ["tas"]
        assert found["tas"].dims == ("time", "lat", "lon")
        again = found["tas"].sel(lat=months["lat"].values, lon=months["lon"].values)
        assert np.abs(again.values - months.values).max() <= 0.5
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < months.nbytes / 10


def test_what_is_refused_before_the_forecast(months: xr.DataArray, tmp_path: Path) -> None:  # oracle: one sentence each
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(FsaeError, match=r"mine.zarr exists"):
        written(months, path=str(tmp_path / "mine.zarr"), names={"tas": "2t"})
    with pytest.raises(FsaeError, match=r"found the variable 2t in `names`, expected one of tas"):
        written(months, path=str(tmp_path / "a.zarr"), names={"2t": "tas"})
    with pytest.raises(FsaeError, match=r"found no tas in the forecast, expected one of 2t, tp: name it in `names`"):
        written(months, path=str(tmp_path / "a.zarr"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.zarr"]
