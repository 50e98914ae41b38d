"""The evaluation on small made-up climates whose every figure is known, and its baselines on the sample data."""

import dataclasses
import functools
import json
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from made_up_model import made_up_model

from fsae.export.bundle.card import model_card
from fsae.runtime.arrays import F32
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import coarsen, npix, pixel_centres, refine
from fsae.training.config import DEFAULT, read_config
from fsae.training.evaluation.model import TrainedModel, rebuild
from fsae.training.evaluation.periods import Period
from fsae.training.evaluation.reconstruction import from_codes, from_eofs
from fsae.training.evaluation.report import Report, VariableReport, report_json
from fsae.training.evaluation.scorecard import Settings, evaluate
from fsae.training.evaluation.tables import format_climate, format_report
from fsae.training.metrics import scores
from fsae.training.metrics.baselines import bilinear, fit_eofs

ZOOM, LATENT_ZOOM, HARMONICS = 2, 1, 1
YEARS, HELD_OUT = 24, 4
VARIABLES = 2


@dataclasses.dataclass(frozen=True)
class BlockMeans:
    """An autoencoder whose latent is the block means of the anomalies: what it must score is known."""

    climatology: F32

    def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
        assert level_mask.shape == (len(field), ZOOM + 1)
        mean = harmonic.evaluate(self.climatology, season).astype(np.float64)
        return coarsen(field - mean, ZOOM - LATENT_ZOOM)

    def decode(self, latent: F32, season: F32) -> F32:
        mean = harmonic.evaluate(self.climatology, season).astype(np.float64)
        return (refine(latent, ZOOM - LATENT_ZOOM) + mean).astype(np.float32)


def made_up(*, coarse: bool) -> tuple[TrainedModel, Period, Period]:
    """Monthly fields of a year's cycle and anomalies with a memory; `coarse`: constant inside the latent's cells."""
    rng = np.random.default_rng(5)
    steps = 12 * (YEARS + HELD_OUT)
    noise = rng.normal(size=(steps, VARIABLES, npix(LATENT_ZOOM if coarse else ZOOM)))
    for time in range(1, steps):
        noise[time] = 0.6 * noise[time - 1] + 0.8 * noise[time]
    noise += 0.6 * noise.mean(axis=-1, keepdims=True) * np.sqrt(noise.shape[-1])  # a global mean of some size
    phase = (np.arange(steps) % 12 + 0.5) / 12
    warm = 280 + 10 * np.cos(2 * np.pi * phase)[:, None, None] * np.linspace(0, 1, npix(ZOOM))
    values = (warm + refine(noise, ZOOM - LATENT_ZOOM) if coarse else warm + noise).astype(np.float32)
    times = [cftime.datetime(1981 + month // 12, 1 + month % 12, 1, calendar="noleap") for month in range(steps)]
    cut = 12 * YEARS
    training = Period(values=values[:cut], phase=phase[:cut], times=times[:cut])
    evaluation = Period(values=values[cut:], phase=phase[cut:], times=times[cut:])
    climatology = harmonic.fit(training.values, training.phase, HARMONICS)
    model = made_up_model(BlockMeans(climatology), climatology, (1.5, 0.5), zooms=(0, 1, 2), latent_zoom=LATENT_ZOOM)
    return model, training, evaluation


@functools.cache
def report_of(change: str = "none", *, coarse: bool = True) -> tuple[Report, TrainedModel, Period]:
    """A report on a generator that draws the truth itself, changed in one known way."""
    model, training, evaluation = made_up(coarse=coarse)
    mean = harmonic.evaluate(model.climatology, harmonic.season(evaluation.phase, HARMONICS))
    fields = evaluation.values
    if change == "warmer":
        fields = fields + np.float32(0.5)
    elif change == "stronger":
        fields = mean + 2 * (fields - mean)
    elif change == "shuffled":
        fields = mean + np.random.default_rng(1).permutation(fields - mean)

    def generate(members: int, start: cftime.datetime, steps: int, seed: int) -> F32:
        assert (start, steps, seed) == (evaluation.times[0], len(evaluation.times), 9)
        return np.repeat(fields[None], members, axis=0)

    settings = Settings(members=3, seed=9, eof_ensembles=change == "none" and coarse, stretches=6)
    return evaluate(model, training, evaluation, generate=generate, settings=settings), model, evaluation


def failed(variable: VariableReport) -> set[str]:
    return {check.name for check in variable.checks if not check.passed}


def test_a_perfect_generator_and_codec_pass_everything() -> None:
    # oracle: fields without detail below the latent are rebuilt exactly, and the truth has the truth's climate
    report, _, _ = report_of()
    for variable in report.variables:
        # what real stretches span does not hold each new one: the truth's own level of these may lie outside
        assert failed(variable) <= {"nearest training field: median", "skewness: mean", "kurtosis: mean"}
        own, seen = variable.reconstruction[:2]
        assert max(own.rmse, seen.rmse, own.worst_pixel, own.cell_mean) < 1e-4  # float32 of 290 K
        nearest = next(row for row in variable.reconstruction if row.name == "means: nearest")
        assert nearest.rmse < 1e-4
        drawn, truth = variable.climate[0], variable.climate[-1]
        assert (drawn.name, drawn.members, truth.name) == ("generated", 3, "truth")
        for row in (drawn, truth):
            assert abs(row.bias) < 1e-6
            assert row.std_correlation == pytest.approx(1)
            assert (row.within_10, row.spectrum_median) == pytest.approx((1, 0), abs=1e-6)
        assert drawn.crps == pytest.approx(0, abs=1e-6)  # every member is the truth
        assert drawn.autocorrelation == pytest.approx(truth.autocorrelation)
        assert {check.name for check in variable.checks if "VAR(1)" in check.name} == {
            f"{figure}, against VAR(1)" for figure in ("energy score", "skewness RMSE", "kurtosis RMSE")
        }
        names = [row.name for row in variable.climate]
        assert names[1:4] == ["EOF, VAR(1)", "EOF, VAR(1) + trend", "EOF, Gaussian"]
        assert names[4:] == ["previous period", "truth, reconstructed", "truth"]


def test_each_defect_fails_its_own_figure() -> None:
    # oracle: 0.5 K of bias; twice the amplitude is four times the power; shuffled months have no memory
    usual = {*failed(report_of()[0].variables[0]), *failed(report_of()[0].variables[1])}
    warmer, _, _ = report_of("warmer")
    tas, uas = warmer.variables
    assert tas.climate[0].bias == pytest.approx(0.5, abs=1e-4)
    assert "global-mean bias" in failed(tas)
    assert "global-mean bias" not in {check.name for check in uas.checks}  # the tolerance is in kelvin
    assert tas.climate[0].crps == pytest.approx(0, abs=1e-4)  # means removed
    stronger, _, _ = report_of("stronger")
    row = stronger.variables[1].climate[0]
    assert row.std_ratio == pytest.approx(2, rel=1e-5)
    np.testing.assert_allclose(row.spectrum_ratio, 4, rtol=1e-4)
    assert "spectrum: share of degrees within 20 %" in failed(stronger.variables[1])
    shuffled, _, _ = report_of("shuffled")
    lost = failed(shuffled.variables[1]) - usual
    assert "autocorrelation, global: outside by" in lost
    assert all(name.startswith(("autocorrelation", "energy")) for name in lost)
    assert shuffled.variables[0].climate[0].within_10 == 1


def test_super_resolution_shows_the_encoder_block_means_only() -> None:
    # oracle: hand-made block means, repeated, and a mask of the one level they resolve; every step once, in order
    model, _, evaluation = made_up(coarse=False)
    seen: list[F32] = []

    class Spy(BlockMeans):
        def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
            assert level_mask.tolist() == [[1.0, 0.0, 0.0]] * len(field)
            assert season.shape == (len(field), 2 * HARMONICS)
            seen.append(field)
            return super().encode(field, season, level_mask)

    rebuild(dataclasses.replace(model, graphs=Spy(model.climatology)), evaluation, 0)
    blocks = evaluation.values.reshape(len(evaluation.values), 2, 12, 16).mean(axis=-1, dtype=np.float64)
    np.testing.assert_allclose(np.concatenate(seen), np.repeat(blocks, 16, axis=-1), rtol=1e-6)


def test_errors_of_a_block_mean_codec_are_those_of_block_means() -> None:
    # oracle: the baseline of the same definition, and hand-made sums over the held-out fields
    report, model, evaluation = report_of(coarse=False)
    mean = harmonic.evaluate(model.climatology, harmonic.season(evaluation.phase, HARMONICS))
    for v, variable in enumerate(report.variables):
        rows = {row.name: row for row in variable.reconstruction}
        own = rows["field-space autoencoder"]
        anomaly = (evaluation.values - mean)[:, v].astype(np.float64)
        left = anomaly - refine(coarsen(anomaly, 1), 1)
        assert own.rmse == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-4)
        assert own.rmse == pytest.approx(rows["means: nearest"].rmse, rel=1e-4)
        assert own.level_rmse == pytest.approx((0, 0, own.rmse), abs=1e-4)  # all of it below the latent's zoom
        assert own.worst_pixel == pytest.approx(np.sqrt(np.mean(left**2, axis=0)).max(), rel=1e-4)
        assert rows["climatology only"].rmse == pytest.approx(np.sqrt(np.mean(anomaly**2)), rel=1e-5)
        assert rows["climatology only"].cell_mean == pytest.approx(np.abs(coarsen(anomaly, 2)).max(), rel=1e-4)
        assert own.numbers == rows["means: ridge"].numbers == 2 * npix(LATENT_ZOOM)
        # from means at the latent's zoom it gives them back as from the whole field; it ignores the level mask
        finest = variable.superresolution[-1]
        assert finest.zoom == LATENT_ZOOM
        assert finest.rows[0].rmse == pytest.approx(own.rmse, rel=1e-4)


def test_only_training_years_enter_the_statistics() -> None:
    # oracle: other evaluation fields change no range, and no row that is fitted rather than compared
    model, training, evaluation = made_up(coarse=False)
    other = dataclasses.replace(evaluation, values=evaluation.values + np.float32(3))
    settings = Settings(members=2, eof_ensembles=False, stretches=6)
    first, second = (evaluate(model, training, part, settings=settings) for part in (evaluation, other))
    assert first.variables[0].stretches == second.variables[0].stretches
    assert first.variables[0].reconstruction[1] == second.variables[0].reconstruction[1]  # training years
    assert {row.name for row in first.variables[0].climate}.isdisjoint({"generated", "EOF, Gaussian"})
    assert second.variables[0].climate[0].bias == pytest.approx(first.variables[0].climate[0].bias - 3, abs=1e-4)


def test_land_and_ocean_have_figures_where_a_mask_is_given() -> None:
    # oracle: the mean over the masked half of the truth, its autocorrelation by NumPy
    model, training, evaluation = made_up(coarse=False)
    land = (np.arange(npix(ZOOM)) % 2).astype(np.float64)
    report = evaluate(
        model, training, evaluation, land=land, settings=Settings(members=2, eof_ensembles=False, stretches=6)
    )
    truth = report.variables[0].climate[-1]
    assert [memory.region for memory in truth.memory] == ["global", "tropics", "north", "south", "land", "ocean"]
    mean = harmonic.evaluate(model.climatology, harmonic.season(evaluation.phase, HARMONICS))
    series = (evaluation.values - mean)[:, 0, 1::2].mean(axis=-1, dtype=np.float64)
    series -= series.mean()
    expected = np.sum(series[1:] * series[:-1]) / np.sum(series**2)
    assert truth.memory[4].autocorrelation[0] == pytest.approx(expected, abs=1e-4)


def test_scores_of_hand_made_numbers() -> None:
    # oracles: arithmetic; the fair CRPS of members 0 and 2 against 1 is 1 - 2 / 2 = 0
    assert scores.rmse(np.array([[1.0, 2.0]]), np.array([[4.0, 6.0]])) == pytest.approx(np.sqrt(12.5))
    assert scores.correlation(np.array([1.0, 2.0, 3.0]), np.array([5.0, 3.0, 1.0])) == pytest.approx(-1)
    members = np.stack([np.zeros((30, 4)), np.full((30, 4), 2.0)])
    assert scores.fair_crps(members, np.ones((30, 4))) == pytest.approx(0)
    assert scores.fair_crps(members, np.full((30, 4), 4.0)) == pytest.approx(2)
    series = np.array([[0.0], [1.0], [3.0], [3.1]])
    np.testing.assert_allclose(scores.nearest_distances(series, series, 2), [3.0, 2.1, 3.0, 2.1], rtol=1e-5)
    assert scores.psnr_db(0.0, np.array([1.0, 2.0])) == float("inf")


def test_the_report_is_json_and_tables() -> None:
    report, _, _ = report_of()
    read = json.loads(report_json(report))
    assert read["passed"] is report.passed
    assert read["variables"][1]["climate"][0]["memory"][1]["region"] == "tropics"
    assert read["variables"][0]["stretches"]["count"] == 6
    assert read["variables"][1]["climate"][0]["name"] == "generated"
    text = format_report(report)
    assert text.count("## tas [K]") == text.count("## uas [m s-1]") == 1
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert max(map(len, text.splitlines())) <= 120
    assert all(line.endswith("|") for line in rows)
    assert not any("|" in check.name + check.limit for variable in report.variables for check in variable.checks)


def test_the_card_carries_the_climate(tiny_bundle: Bundle) -> None:
    # oracle: the report's own tables, through JSON and back; without an ensemble the card has none
    report, _, _ = report_of()
    metrics = json.loads(report_json(report))
    card = model_card(tiny_bundle.manifest, read_config(DEFAULT), metrics=metrics).splitlines()
    for variable in report.variables:
        lines = format_climate(variable.climate, variable.stretches, report.step, "####")
        assert set(lines) <= set(card)
    assert sum(line.startswith("| generated ") for line in card) == 4 * len(report.variables)
    for part in metrics["variables"]:
        part["climate"] = part["climate"][1:]
    assert "EOF, VAR(1)" not in model_card(tiny_bundle.manifest, read_config(DEFAULT), metrics=metrics)


@pytest.mark.parametrize("fault", ["overlap", "missing", "shape", "short", "ensemble"])
def test_bad_input_is_named(fault: str) -> None:
    model, training, evaluation = made_up(coarse=True)
    if fault == "missing":
        values = evaluation.values.copy()
        values[0, 0, 0] = np.nan
        with pytest.raises(DataError, match="missing values"):
            dataclasses.replace(evaluation, values=values)
        return
    if fault == "overlap":
        training, message = evaluation, "both periods"
    elif fault == "shape":
        training, message = dataclasses.replace(training, values=training.values[:, :1]), "training fields of shape"
    elif fault == "short":
        evaluation, message = evaluation.part(slice(None, None, 12)), "expected more than 7"
    else:
        message = "generated ensemble of shape"
    with pytest.raises(DataError, match=message):
        evaluate(model, training, evaluation, generate=lambda members, *_: np.zeros((members, 1, 1, 1), np.float32))


SAMPLE = Path(__file__).parents[3] / "training" / "sample"


def sample(name: str) -> tuple[F32, np.ndarray]:
    """Sample fields on zoom 5 and their phases, interpolated here so that nothing of the product is in the way."""
    with xr.open_dataset(SAMPLE / name, engine="h5netcdf") as dataset:
        fields = dataset["tas"].to_numpy().astype(np.float32)  # (time, lat 90 ... -90, lon 0 ... 357.5)
        stamps = dataset["time"].to_numpy().astype("datetime64[M]")
    lat, lon = pixel_centres(5)
    row, column = (90 - lat) / 2.5, lon / 2.5
    north, west = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right = (row - north).astype(np.float32), (column - west).astype(np.float32)
    upper = fields[:, north, west] * (1 - right) + fields[:, north, (west + 1) % 144] * right
    lower = fields[:, north + 1, west] * (1 - right) + fields[:, north + 1, (west + 1) % 144] * right
    return (upper * (1 - down) + lower * down)[:, None], (stamps.astype(int) % 12 + 0.5) / 12


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample data are part of a checkout, not of the wheel")
def test_baselines_on_the_sample_data_give_the_known_figures() -> None:
    # oracle: figures of an independent first attempt on the same data [K], its own regridding: within 4 %
    known, known_phase = sample("ncep1-tas-mon-194801-200412.nc")
    truth, phase = sample("ncep1-tas-mon-200501-201412.nc")
    climatology = harmonic.fit(known, known_phase, 4)
    known -= harmonic.evaluate(climatology, harmonic.season(known_phase, 4))
    truth -= harmonic.evaluate(climatology, harmonic.season(phase, 4))
    assert scores.rmse(truth, np.zeros_like(truth)) == pytest.approx(1.59, rel=0.04)
    for levels, expected in ((1, 0.32), (2, 0.60), (3, 0.90)):
        blocks = coarsen(truth, levels)
        assert scores.rmse(refine(blocks, levels), truth) == pytest.approx(expected, rel=0.05)
    assert scores.rmse(bilinear(coarsen(truth, 2), 5), truth) == pytest.approx(0.53, rel=0.04)
    assert scores.rmse(bilinear(coarsen(truth, 1), 5), truth) == pytest.approx(0.25, rel=0.04)
    eofs = fit_eofs(known.reshape(len(known), -1), np.arange(684.0))
    (row,) = from_eofs(eofs, truth, 768)
    assert scores.rmse(row[2], truth) == pytest.approx(0.317, rel=0.04)
    for numbers, expected in ((192, 0.459), (3072, 0.036)):
        assert scores.rmse(from_codes(known, truth, numbers)[2], truth) == pytest.approx(expected, rel=0.02)
