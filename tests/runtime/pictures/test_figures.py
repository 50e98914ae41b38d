"""The numbers behind a picture: the field that is shown, statistics over members, means over the globe."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from picture_files import LABELS, STEPS, lat_lon_dataset, write

from fsae.runtime.input.sources import Source
from fsae.runtime.pictures import field as field_module
from fsae.runtime.pictures.field import Field, Shown, open_field
from fsae.runtime.pictures.figures import global_means, moments, spectra
from fsae.runtime.pictures.panels import draw_series

Opened = Callable[..., Field]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """A function that opens the field of a file, here of the one on a lat-lon grid."""
    still = []

    def make(path: Path | None = None, **asked: str) -> Field:
        path = write(lat_lon_dataset(), tmp_path / "in.nc") if path is None else path
        still.append(open_field(Source.of(path), Shown(**{"select": {}, **asked})))
        return still[-1].__enter__()

    yield make
    for one in still:
        one.__exit__(None, None, None)


def nothing(done: int, total: int, note: str = "") -> None:
    """A progress bar that is not shown."""


def test_the_field_shown_is_that_asked_for(opened: Opened) -> None:  # oracle: xarray
    field = opened(member="r3i1p1f1", time="2002-04", units="degC")
    expected = lat_lon_dataset().tas.values[2, 15] - 273.15
    np.testing.assert_allclose(field.shown_values(), expected.ravel(), atol=1e-4)
    assert (field.units, field.shown_time, field.shown_member) == ("degC", "2002-04", "member r3i1p1f1")
    assert (field.members, len(field.times), field.step) == (LABELS, STEPS, "1 month")


def test_the_first_variable_on_the_globe_is_taken(opened: Opened, tmp_path: Path) -> None:  # oracle: the only one
    dataset = (
        lat_lon_dataset()
        .drop_vars("tas")
        .assign(index=("time", np.arange(30.0)), box=(("lat", "nv"), np.ones((18, 2))))
    )
    field = opened(write(dataset, tmp_path / "mask.nc"))
    assert (field.name, field.times, field.count) == ("mask", (), (1, 1))


def test_a_difference_of_temperatures_keeps_its_zero(opened: Opened, tmp_path: Path) -> None:
    # oracle: CF 1.11, 3.1.2: differences are converted without the offset
    dataset = lat_lon_dataset()
    dataset.tas.attrs["units_metadata"] = "temperature: difference"
    dataset["tas"] = dataset.tas - 288
    dataset.tas.attrs = lat_lon_dataset().tas.attrs | {"units_metadata": "temperature: difference"}
    field = opened(write(dataset, tmp_path / "difference.nc"), units="degC")
    assert field.is_difference
    np.testing.assert_allclose(field.shown_values(), dataset.tas.values[0, 0].ravel(), rtol=1e-6)


@pytest.mark.parametrize("block", [1, 1500, 1 << 22])
def test_statistics_do_not_depend_on_blocks(opened: Opened, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    # oracle: NumPy on the whole array
    monkeypatch.setattr(field_module, "BLOCK_VALUES", block)
    field = opened(time="2001-03")
    found, whole = moments(field), lat_lon_dataset().tas.values.astype(np.float64)
    np.testing.assert_allclose(found.mean, whole[:, 2].mean(axis=0).ravel(), rtol=1e-12)
    np.testing.assert_allclose(found.std, whole[:, 2].std(axis=0).ravel(), rtol=1e-9)
    edges = np.radians(np.linspace(90, -90, 19))
    band = np.sin(edges[:-1]) - np.sin(edges[1:])
    expected = np.average(whole.mean(axis=-1), axis=-1, weights=band)
    np.testing.assert_allclose(global_means(field, nothing), expected, rtol=1e-12)


def test_global_means_leave_missing_values_out(opened: Opened, tmp_path: Path) -> None:
    # oracle: constants on either side of the equator, one of them missing in half of the north
    dataset = lat_lon_dataset()
    dataset["tas"] = xr.where(dataset.lat > 0, 1.0, 4.0).broadcast_like(dataset.tas).transpose(*dataset.tas.dims).copy()
    dataset.tas[..., :9, :18] = np.nan
    dataset.tas[0, 1] = np.nan
    means = global_means(opened(write(dataset, tmp_path / "gaps.nc")), nothing)
    assert np.isnan(means[0, 1])
    np.testing.assert_allclose(np.delete(means.ravel(), 1), (1 * 0.25 + 4 * 0.5) / 0.75, rtol=1e-12)


def test_the_fan_has_the_quantiles_of_the_members(opened: Opened) -> None:  # oracle: numpy.quantile, as drawn
    field = opened()
    means = np.random.default_rng(1).normal(size=(5, STEPS))
    axes = Figure().subplots()
    draw_series(axes, means, field, "tas [K]")
    outer, inner = (band.get_paths()[0].vertices[:, 1] for band in axes.collections)
    median, member, _ = (line.get_ydata() for line in axes.lines)
    for band, shares in ((outer, (0.05, 0.95)), (inner, (0.25, 0.75))):
        for share in shares:
            edge = np.quantile(means, share, axis=0)
            np.testing.assert_allclose(edge[:, None], band[np.abs(edge[:, None] - band).argmin(axis=1)][:, None])
    np.testing.assert_allclose(median, np.quantile(means, 0.5, axis=0))
    np.testing.assert_allclose(member, means[0])
    assert [text.get_text() for text in axes.legend_.get_texts()] == [
        *("5 to 95 %", "25 to 75 %", "median of 5 members", "member r1i1p1f1")
    ]


def test_spectra_are_of_the_member_shown_and_all(opened: Opened) -> None:  # oracle: each member by itself
    field = opened(member=LABELS[3])
    power = spectra(field)
    assert power.shape == (6, 10)
    np.testing.assert_allclose(power[0], power[4], rtol=1e-12)
    assert not np.allclose(power[0], power[1], rtol=1e-3)
