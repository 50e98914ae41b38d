"""Scores of files and datasets: one grid, one set of steps, units, missing values, few steps in memory."""

import re
from collections.abc import Callable
from pathlib import Path

import cftime
import numpy as np
import pytest
import scores.continuous
import scores.probability
import xarray as xr
from score_files import months, on_healpix, on_lat_lon, write

from fsae.runtime import Comparison, DataError, Source, UsageError, score
from fsae.runtime.input.fields import Fields
from fsae.runtime.scores import score as module
from fsae.runtime.scores.records import VariableScores
from fsae.runtime.sphere.healpix import npix, ring_to_nested

MEMBERS, STEPS, CELLS = 5, 14, npix(2)


def ensemble_values(*shape: int) -> np.ndarray:
    """Values [K] of that shape around 280 K, in float32."""
    return (280 + 5 * np.random.default_rng(3).normal(size=shape)).astype(np.float32)


def reference_values(*shape: int) -> np.ndarray:
    """Values [K] that are wider spread and warmer."""
    return (281 + 8 * np.random.default_rng(4).normal(size=shape)).astype(np.float32)


def check(found: VariableScores, members: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> None:
    """Compare scores with those of the library `scores` for members (member, time, point), weights (point,)."""
    forecast = xr.DataArray(members.astype(np.float64), dims=("member", "time", "point"))
    known = xr.DataArray(truth.astype(np.float64), dims=("time", "point"))
    there = np.isfinite(truth) & np.isfinite(members).all(axis=0)
    forecast, known = forecast.where(there), known.where(there)
    weight = xr.DataArray(weights, dims="point") * xr.ones_like(known).where(there, 0.0)
    for method, own in (("ecdf", found.crps), ("fair", found.fair_crps)):
        other = scores.probability.crps_for_ensemble(forecast, known, "member", method=method, weights=weight)
        assert own == pytest.approx(float(other), rel=1e-6)  # the reference was regridded in float32
    mean = forecast.mean("member")
    assert found.rmse == pytest.approx(float(scores.continuous.rmse(mean, known, weights=weight)), rel=1e-6)
    assert found.bias == pytest.approx(float(scores.continuous.additive_bias(mean, known, weights=weight)), rel=1e-5)
    variance = float(forecast.var("member", ddof=1).weighted(weight.fillna(0)).mean())
    assert found.spread == pytest.approx(np.sqrt(variance), rel=1e-6)
    count = len(members)
    assert found.spread_error == pytest.approx(np.sqrt((count + 1) / count * variance) / found.rmse, rel=1e-6)
    assert (found.cases, found.missing) == (there.sum(), there.size - there.sum())
    points = np.argwhere(there)
    ranks = np.zeros(count + 1)
    for time, point in points:
        ranks[(members[:, time, point] < truth[time, point]).sum()] += weights[point]
    np.testing.assert_allclose(found.ranks.shares, ranks / ranks.sum(), rtol=1e-9)


def test_units_order_calendar_and_stamps_of_the_reference(tmp_path: Path) -> None:
    # oracle: the library `scores` on the arrays; the reference is in degC, ring order, noleap, stamped on the first
    members, truth = ensemble_values(MEMBERS, STEPS, CELLS), reference_values(20, CELLS)
    one = write(on_healpix(members, months(STEPS)), tmp_path / "ensemble.nc")
    nested = np.argsort(ring_to_nested(2))
    stamps = months(20, 2004, "noleap", day=1)
    celsius = (truth.astype(np.float64) - 273.15)[:, nested]
    other = write(on_healpix(celsius, stamps, "ring", units="degC"), tmp_path / "reference.nc")
    found = score(one, other).variables["tas"]
    check(found, members[:, :8], truth[12:], np.full(CELLS, 1 / CELLS))
    assert (found.steps, found.first, found.last, found.units) == (8, "2005-01", "2005-08", "K")
    assert [step.time for step in found.by_step] == [f"2005-{month:02d}" for month in range(1, 9)]
    errors = [(members[:, t].mean(axis=0, dtype=np.float64) - truth[12 + t]).mean() for t in range(8)]
    np.testing.assert_allclose([step.bias for step in found.by_step], errors, rtol=1e-4)


def test_points_of_a_lat_lon_grid_count_by_their_areas() -> None:
    # oracle: the library `scores` with weights from the sines of the rows' edges; the reference runs from south to
    # north and from 180 W on, and both stay on their grid
    lat, lon = np.linspace(85, -85, 18), np.arange(36) * 10.0
    members, truth = ensemble_values(MEMBERS, 3, 18, 36), reference_values(3, 18, 36)
    turned = np.roll(truth[:, ::-1], 18, axis=-1)
    other = on_lat_lon(turned, months(3), lat[::-1], lon - 180)
    found = score(on_lat_lon(members, months(3), lat, lon), other).variables["tas"]
    area = np.repeat(np.diff(np.sin(np.radians(np.arange(-90, 91, 10)))) / 72, 36)
    check(found, members.reshape(MEMBERS, 3, -1), truth.reshape(3, -1), area)
    assert found.grid == found.ensemble_grid == found.reference_grid == "18 x 36 lat-lon grid"


def test_different_grids_come_to_healpix() -> None:  # oracle: closed form, fields that are the same everywhere
    lat, lon = np.linspace(87.5, -87.5, 36), np.arange(72) * 5.0
    reference = on_lat_lon(np.full((2, 36, 72), 279.0), months(2), lat, lon)
    members = np.full((3, 2, CELLS), 280.0) + np.array([-1.0, 0.0, 4.0])[:, None, None]
    for zoom, grid in ((None, 2), (1, 1)):
        found = score(on_healpix(members, months(2)), reference, Comparison(zoom=zoom)).variables["tas"]
        assert found.grid == f"HEALPix grid of zoom {grid} (nested)"
        assert found.reference_grid == f"36 x 72 lat-lon grid, conservative to HEALPix zoom {grid}"
        assert found.bias == pytest.approx(2, abs=1e-5)
        # |x - y| is 0, 1, 5, and the distances of pairs 1, 4, 5
        assert found.crps == pytest.approx(2 - 10 / 9, abs=1e-5)
        assert found.fair_crps == pytest.approx(2 - 10 / 6, abs=1e-5)
    with pytest.raises(UsageError, match="expected 0 to 2, which both support"):
        score(on_healpix(members, months(2)), reference, Comparison(zoom=3))


def test_missing_values_are_left_out() -> None:  # oracle: the library `scores` without these points
    members, truth = ensemble_values(MEMBERS, 3, CELLS), reference_values(3, CELLS)
    members[2, 0, :50] = np.nan
    truth[1] = np.nan
    found = score(on_healpix(members, months(3)), on_healpix(truth, months(3))).variables["tas"]
    check(found, members, truth, np.full(CELLS, 1 / CELLS))
    assert found.by_step[1].crps is None
    assert found.spectra is not None
    assert found.spectra.steps == 1
    with pytest.raises(DataError, match="no point where dataset and every member have a value"):
        score(on_healpix(members, months(3)), on_healpix(np.full_like(truth, np.nan), months(3)))


def test_power_is_compared_by_degrees() -> None:  # oracle: twice the departure has four times the power
    truth = reference_values(6, CELLS)
    members = np.stack([280 + 2 * (truth - 280)] * 3)
    spectra = score(on_healpix(members, months(6)), on_healpix(truth, months(6))).variables["tas"].spectra
    assert spectra is not None
    assert [(band.first, band.last) for band in spectra.bands] == [(1, 8)]
    assert spectra.bands[0].ratio == pytest.approx(4, rel=1e-5)
    assert (spectra.steps, len(spectra.members), len(spectra.reference)) == (6, 9, 9)


def days(first: int, count: int, hour: int) -> list[cftime.datetime]:
    return [cftime.datetime(2005, 3, first + d, hour, calendar="standard") for d in range(count)]


def test_days_are_matched_whatever_their_hour() -> None:  # oracle: the dates, written out
    members, truth = ensemble_values(2, 5, CELLS), reference_values(5, CELLS)
    one, other = on_healpix(members, days(1, 5, 12)), on_healpix(truth, days(4, 5, 0), cell_methods="time: mean")
    found = score(one, other).variables["tas"]
    check(found, members[:, 3:], truth[:2], np.full(CELLS, 1 / CELLS))
    assert score(one, on_healpix(truth, days(4, 5, 0), cell_methods="")).variables["tas"] == found
    narrower = score(one, other, Comparison(times="2005-03-05/2005-04")).variables["tas"]
    assert (narrower.steps, narrower.first) == (1, "2005-03-05")


def test_bounds_tell_the_month_of_a_stamp_at_its_end() -> None:  # oracle: the months, written out
    members, truth = ensemble_values(2, 4, CELLS), reference_values(4, CELLS)
    edges = months(5, day=1)
    other = on_healpix(truth, edges[1:])
    other["time"].attrs["bounds"] = "time_bnds"
    other["time_bnds"] = (("time", "bnds"), np.stack([edges[:-1], edges[1:]], axis=-1))
    found = score(on_healpix(members, months(4)), other).variables["tas"]
    check(found, members, truth, np.full(CELLS, 1 / CELLS))


def test_a_single_month_of_the_reference() -> None:  # oracle: its year and month, whatever its stamp
    members, truth = ensemble_values(2, 4, CELLS), reference_values(1, CELLS)
    found = score(on_healpix(members, months(4)), on_healpix(truth, months(3, day=1)[2:])).variables["tas"]
    check(found, members[:, 2:3], truth, np.full(CELLS, 1 / CELLS))
    assert (found.first, found.last) == ("2005-03", "2005-03")


Change = Callable[[xr.Dataset], xr.Dataset]


@pytest.mark.parametrize(
    ("ensemble", "reference", "said"),
    [
        (lambda e: e.isel(realization=0), None, "tas in dataset has no dimension of members, expected two or more"),
        (lambda e: e.isel(realization=[0]), None, "tas in dataset has 1 member, expected two or more"),
        (lambda e: e.mean("realization", keep_attrs=True), None, "tas in dataset has no dimension of members"),
        (lambda e: e[["crs"]], None, "dataset has no field on a grid of the globe with times"),
        (None, lambda r: r.expand_dims(member=2), "tas in dataset has 2 members, expected one"),
        (None, lambda r: r.assign_coords(time=months(4, 1990)), r"1990-01 to 1990-04\) have no step in common"),
        (
            None,
            lambda r: r.assign_coords(time=days(1, 4, 0)),
            "are 1 month and those of dataset 1 day, expected the same",
        ),
        (None, lambda r: r.rename(tas="psl").drop_attrs(), "dataset has no variable 'tas'"),
        (None, lambda r: r.assign(tas=r["tas"].assign_attrs(units="Pa")), "cannot be converted to 'K'"),
    ],
)
def test_what_does_not_fit_is_refused(ensemble: Change | None, reference: Change | None, said: str) -> None:
    # oracle: the class of exit code 5, and its sentence
    one = on_healpix(ensemble_values(2, 4, CELLS), months(4))
    other = on_healpix(reference_values(4, CELLS), months(4))
    with pytest.raises(DataError, match=said):
        score(ensemble(one) if ensemble else one, reference(other) if reference else other)


def test_variables_by_name(tmp_path: Path) -> None:  # oracle: each variable alone
    members, truth = ensemble_values(2, 4, CELLS), reference_values(4, CELLS)
    one = on_healpix(members, months(4))
    one["psl"] = one["tas"].assign_attrs(standard_name="air_pressure_at_mean_sea_level", units="Pa")
    other = on_healpix(truth, months(4)).rename(tas="skin")
    pressure = other["skin"].copy(data=truth / 100)
    other["msl"] = pressure.assign_attrs(standard_name="air_pressure_at_mean_sea_level", units="1")
    one["mean"] = one["tas"].mean("realization", keep_attrs=True)  # has no members
    both = score(one, Source.of(other, units={"psl": "hPa"}), Comparison(names={"tas": "skin"}))
    alone = score(one[["tas", "crs"]], other, Comparison(names={"tas": "skin"}))
    assert list(both.variables) == ["tas", "psl"]
    assert both.variables["tas"] == alone.variables["tas"]
    assert both.variables["psl"].reference_variable == "msl"
    assert both.variables["psl"].rmse == pytest.approx(both.variables["tas"].rmse, rel=1e-4)
    chosen = score(one, other, Comparison(variables="tas", names={"tas": "skin"}))  # type: ignore[arg-type]
    assert chosen == alone
    with pytest.raises(DataError, match="has no field 'pr'; its fields are tas, psl, mean"):
        score(one, other, Comparison(variables=["pr"]))
    with pytest.raises(UsageError, match="for pr, which is not scored, expected one of tas, psl"):
        score(one, other, Comparison(names={"pr": "x"}))


def test_members_in_a_file_each(tmp_path: Path) -> None:  # oracle: the same members in one dataset
    members, truth = ensemble_values(3, 4, CELLS), reference_values(4, CELLS)
    whole = on_healpix(members, months(4))
    for number in range(3):
        write(whole.isel(realization=number).assign_attrs(variant_label=f"r{number}i1p1f1"), tmp_path / f"m{number}.nc")
    other = on_healpix(truth, months(4))
    found, expected = score(str(tmp_path / "m*.nc"), other), score(whole, other)
    assert found.variables["tas"].crps == expected.variables["tas"].crps
    assert found.variables["tas"].by_step == expected.variables["tas"].by_step
    assert re.fullmatch(r"m0\.nc to m2\.nc \(3 files\)", found.ensemble)


def test_a_few_steps_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the sizes of what is read, and the scores of all steps at once
    one = on_healpix(ensemble_values(MEMBERS, STEPS, CELLS), months(STEPS))
    other = on_healpix(reference_values(STEPS, CELLS), months(STEPS))
    expected = score(one, other)
    read, sizes = Fields.read, []

    def noted(fields: Fields, times: slice = slice(None), member: int | None = None) -> np.ndarray:
        values = read(fields, times, member)
        sizes.append(values.shape[:2])
        return values

    monkeypatch.setattr(Fields, "read", noted)
    monkeypatch.setattr(module, "BLOCK_VALUES", 3 * MEMBERS * CELLS)
    seen: list[tuple[int, int]] = []
    found = score(one, other, progress=lambda done, total: seen.append((done, total)))
    assert set(sizes) == {(1, 3), (1, 2)}
    assert seen == [(MEMBERS * done, MEMBERS * STEPS) for done in (3, 6, 9, 12, 14)]
    assert found == expected
