"""Decades of data and of a model that share one known forced law; runs that drift, and the reduction of long runs."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from gaussian_model import LATENT_PIXELS, SCALE, GaussianGraphs, gaussian_case

from fsae.runtime.errors import UsageError
from fsae.training.evaluation.data import ModelWithData
from fsae.training.evaluation.long_runs import LongRun, reduce_run
from fsae.training.evaluation.report import as_json
from fsae.training.studies.decades import (
    DecadesReport,
    Ensembles,
    VariableDecades,
    decade_years,
    decades,
    format_decades,
    persistence_and_trend,
)
from fsae.training.studies.stability import stability_of

TREND = 0.03  # of the latent, a year: 0.6 K a decade
MEMBERS = 5


@functools.cache
def case() -> ModelWithData:
    return gaussian_case(training=(1978, 1999), evaluation=(2000, 2004), memory=0.0, trend=TREND)


@functools.cache
def report() -> DecadesReport:
    return decades(case(), Ensembles(members=MEMBERS, stability_members=4, years=20))


def own() -> VariableDecades:
    return report().variables[0]


def test_decades_follow_the_forcing_as_the_law_says() -> None:
    # oracle: the mean over ten years is the trend times their middle year less 1990, and every month of each pixel adds
    # noise of the scale; decades of less than five years (1978, 1979) are left out
    assert [row.years for row in own().decades] == [(1980, 1989), (1990, 1999)]
    error = SCALE / np.sqrt(120 * LATENT_PIXELS)  # of one decadal mean over the globe
    for row, expected in zip(own().decades, (-5 * TREND * SCALE, 5 * TREND * SCALE), strict=True):
        assert row.truth == pytest.approx(expected, abs=4 * error)
        assert row.generated == pytest.approx(expected, abs=4 * error)
        assert row.spread == pytest.approx(error, rel=0.9)  # of five members
        assert row.map_rmse == pytest.approx(SCALE * np.sqrt((1 + 1 / MEMBERS) / 120), rel=0.2)
    assert own().trend.years == (1980, 1999)
    assert own().trend.truth == pytest.approx(10 * TREND * SCALE, rel=0.05)
    assert own().trend.generated == pytest.approx(10 * TREND * SCALE, rel=0.05)


def test_extrapolation_is_as_far_off_as_the_law_says() -> None:
    # oracle: 2000-2004 lies 7.5 years behind the middle of the last decade and 13.5 behind that of the training years
    error = 5 * SCALE / np.sqrt(60 * LATENT_PIXELS)
    rows = {row.name: row for row in own().extrapolation}
    expected = {
        "generated": 0,
        "persistence of the last decade": -7.5 * TREND * SCALE,
        "linear trend, training years": 0,
        "training climatology": -13.5 * TREND * SCALE,
    }
    assert list(rows) == list(expected)
    for name, off in expected.items():
        assert rows[name].difference == pytest.approx(off, abs=error), name
        assert rows[name].annual_rmse >= abs(rows[name].difference) - 1e-6
    assert rows["generated"].spread is not None
    assert rows["persistence of the last decade"].spread is None


def test_persistence_and_trend_of_an_exact_line_are_exact() -> None:
    # oracle: without noise the linear trend is the truth, and the last decade is the mean of its ten years
    line = case()
    year = np.array([time.year for time in line.training.times])
    mean = line.training.values.mean(axis=0)
    values = (280 - 10 * np.cos(2 * np.pi * line.training.phase) + 0.5 * (year - 1990))[:, None, None] + 0 * mean
    training = dataclasses.replace(line.training, values=values.astype(np.float32))
    found = persistence_and_trend(dataclasses.replace(line, training=training))
    later = np.arange(2000, 2005)
    np.testing.assert_allclose(
        found["linear trend, training years"][:, 0, 0], 0.5 * (later - 1990), atol=1e-3
    )  # float32 at 280
    np.testing.assert_allclose(found["persistence of the last decade"][:, 0, 5], 0.5 * 4.5, atol=1e-3)
    np.testing.assert_allclose(found["training climatology"], 0.5 * (1988.5 - 1990), atol=1e-3)


def test_a_run_under_constant_forcing_stays_where_it_is() -> None:
    # oracle: the law at 1999.5 for ever, whatever year the months are called: its mean, and the deviation of a block
    drift, spread = own().stability
    assert drift.mean == pytest.approx((1999.5 - 1990) * TREND * SCALE, abs=0.03)  # three standard errors
    assert spread.mean == pytest.approx(SCALE, rel=0.02)
    assert abs(drift.change) <= 3 * drift.error + 0.01
    assert own().std_ratio == pytest.approx(1, abs=0.03)
    assert own().not_finite == 0
    checks = {check.name: check.passed for check in own().checks}
    assert checks["drift of the global mean"]
    assert checks["drift of the spatial standard deviation"]
    assert checks["values that are not finite"]


def made_run(last: float, *, rise: float = 0.0, broken: bool = False) -> LongRun:
    """Twenty years of months; the last decade has `last` times the amplitude, the mean rises by `rise` a year."""
    fields = np.random.default_rng(0).normal(size=(4, 240, 1, 192)).astype(np.float32)
    fields[:, 120:] *= last
    fields += np.float32(rise / 12) * np.arange(240, dtype=np.float32)[:, None, None]
    if broken:
        fields[1, 200, 0, 3] = np.nan
    return reduce_run([(slice(0, 4), slice(0, 240), fields)], fields.shape, [slice(0, 120), slice(120, 240)], thin=5)


def test_a_run_that_drifts_is_seen() -> None:
    # oracle: 0.02 a year is 0.4 in 20 years and 0.2 from decade to decade; noise 1 / sqrt(4 * 240 * 192) = 0.002 of it
    found = stability_of(made_run(1.0, rise=0.02), 0, 1.0, 20)
    drift = found.drifts[0]
    assert drift.change == pytest.approx(0.4, abs=0.02)
    assert drift.difference == pytest.approx(0.2, abs=0.02)
    assert {check.name for check in found.checks if not check.passed} == {"drift of the global mean"}


def test_a_run_that_grows_or_breaks_fails_its_own_checks() -> None:
    # oracle: 1.2 times the amplitude is 1.44 times the power; one missing value is one missing value
    grown = stability_of(made_run(1.2), 0, 1.0, 20)
    assert grown.std_ratio == pytest.approx(1.2, rel=0.02)
    assert np.median(grown.spectrum_ratio) == pytest.approx(1.44, rel=0.05)
    failed = {check.name for check in grown.checks if not check.passed}
    assert "drift of the global mean" not in failed
    assert len(failed) == 4
    steady = stability_of(made_run(1.0), 0, 1.0, 20)
    assert [check.name for check in steady.checks[:3] if not check.passed] == []
    with np.errstate(invalid="ignore"):
        broken = stability_of(made_run(1.0, broken=True), 0, 1.0, 20)
    assert broken.not_finite == 1
    assert not any(check.passed for check in broken.checks)


def test_long_runs_are_reduced_alike_in_whatever_pieces() -> None:
    # oracle: NumPy on the whole array; pieces that cross the ends of spans, members apart
    rng = np.random.default_rng(1)
    fields = rng.normal(3, 2, size=(3, 20, 2, 48)).astype(np.float32)
    spans = [slice(2, 9), slice(9, 17)]
    pieces = [
        (slice(m, m + 1), slice(t, min(t + 6, 20)), fields[m : m + 1, t : t + 6])
        for t in (0, 6, 12, 18)
        for m in range(3)
    ]
    run = reduce_run(pieces, fields.shape, spans, thin=3)
    np.testing.assert_allclose(run.mean, fields.mean(axis=-1), rtol=1e-5)
    np.testing.assert_allclose(run.spatial_std, fields.std(axis=-1), rtol=1e-5)
    for number, span in enumerate(spans):
        np.testing.assert_allclose(run.span_mean[number], fields[:, span].mean(axis=1), rtol=1e-5)
        np.testing.assert_allclose(run.span_std[number], fields[:, span].std(axis=1), rtol=1e-4)
        np.testing.assert_array_equal(run.samples[number], fields[:, span][:, ::3][:, :3])
    assert run.not_finite == 0


def test_the_seed_decides_and_progress_counts_every_piece() -> None:  # oracle: the same again, bitwise
    seen: list[tuple[int, int]] = []

    def draw() -> DecadesReport:
        return decades(case(), Ensembles(members=2, stability_members=2, years=20, seed=1), lambda *at: seen.append(at))

    one = draw()
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]  # none too many
    assert draw() == one
    assert one.variables[0].trend.generated != own().trend.generated


def test_decades_need_five_years_of_one() -> None:
    assert decade_years(case().training) == [(1980, 1989), (1990, 1999)]
    with pytest.raises(UsageError, match="five years of a decade"):
        decade_years(gaussian_case(training=(1996, 1999), evaluation=(2000, 2001), memory=0).training)


def test_the_report_is_tables_and_json() -> None:  # oracle: the records
    text = format_decades(report())
    row = own().decades[0]
    assert f"| 1980-1989 | {row.truth:+.3f} |" in text
    assert max(map(len, text.splitlines())) <= 120
    assert json.loads(as_json(report()))["variables"][0]["trend"]["generated"] == own().trend.generated
    assert isinstance(case().model.graphs, GaussianGraphs)
