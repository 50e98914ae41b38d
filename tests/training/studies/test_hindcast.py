"""Hindcasts of data by the very law they were drawn from, and reference forecasts whose every value is known."""

import dataclasses
import functools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from gaussian_model import SCALE, gaussian_case

from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.training.cli.main import main
from fsae.training.evaluation.data import ModelWithData
from fsae.training.evaluation.periods import joined
from fsae.training.evaluation.report import as_json
from fsae.training.metrics import ensembles as ensemble_scores
from fsae.training.metrics.baselines import fit_eofs, fit_inverse_model
from fsae.training.metrics.reference_forecasts import (
    Observed,
    climatology,
    damped_persistence,
    draw_from_state,
    reference_forecasts,
)
from fsae.training.metrics.scores import pointwise_crps
from fsae.training.studies.hindcast import (
    HindcastReport,
    LeadScores,
    encode_white,
    format_hindcast,
    hindcast,
    model_forecast,
    skill_sentence,
)
from fsae.training.studies.hindcast_scores import domains, nino34

MEMORY, LEADS, MEMBERS = 0.7, 4, 12
DEVIATION = np.sqrt(1 - MEMORY ** (2.0 * np.arange(1, LEADS + 1)))  # of x at each lead, given the last known step


@functools.cache
def case() -> ModelWithData:
    return gaussian_case(training=(1961, 1995), evaluation=(1996, 1999), memory=MEMORY)


@functools.cache
def report() -> HindcastReport:
    # four leads and windows of three steps: the last lead is drawn from generated steps
    return hindcast(case(), members=MEMBERS, leads=LEADS, every=3)


def row(name: str, domain: str = "global") -> LeadScores:
    (found,) = (r for r in report().variables[0].scores if (r.name, r.domain) == (name, domain))
    return found


def test_an_ensemble_of_the_truths_own_law_is_reliable_and_scores_as_the_law_says() -> None:
    # oracle: fair CRPS sd / sqrt(pi), RMSE sd sqrt(1 + 1 / M), spread / RMSE 1;
    # 16 starts of 48 pixels, three months apart: standard errors of 3 %
    own = row("model")
    np.testing.assert_allclose(own.crps, SCALE * DEVIATION / np.sqrt(np.pi), rtol=0.08)
    np.testing.assert_allclose(own.rmse, SCALE * DEVIATION * np.sqrt(1 + 1 / MEMBERS), rtol=0.08)
    assert own.spread_skill == pytest.approx([1] * LEADS, abs=0.08)
    ranks = report().variables[0].ranks[0]
    assert ranks.name == "model"
    for counts, outside in zip(ranks.counts, ranks.outer_share, strict=True):
        assert sum(counts) == report().starts * npix(2)
        assert outside == pytest.approx(1, abs=0.35)  # 150 of 1056 independent cases expected outside


def test_references_score_as_the_law_says() -> None:
    # oracles: climatology has unit deviation; of two normal numbers correlated by c the mean absolute difference is
    # 2 sqrt((1 - c) / pi), which is what the CRPS of plain persistence is; damped, it knows the law but for its fit
    lead = np.arange(1, LEADS + 1)
    assert row("climatology").crps == pytest.approx([SCALE / np.sqrt(np.pi)] * LEADS, rel=0.08)
    plain = row("persistence")
    assert (plain.members, plain.spread, plain.spread_skill) == (1, None, None)
    np.testing.assert_allclose(plain.crps, SCALE * 2 * np.sqrt((1 - MEMORY**lead) / np.pi), rtol=0.08)
    for name in ("damped persistence", "VAR(1) of EOFs"):
        np.testing.assert_allclose(row(name).crps, SCALE * DEVIATION / np.sqrt(np.pi), rtol=0.12)
    ends = {end.reference: end for end in report().variables[0].skill if end.domain == "global"}
    assert ends["persistence"].clearly_lower == LEADS
    assert ends["climatology"].clearly_lower >= 2


def test_the_first_of_the_initial_states_is_the_last_step_before_the_start() -> None:
    # oracle: whitening with unit deviations gives the latent; changed later fields change no forecast, earlier ones do
    whole = joined(case().training, case().evaluation)
    start = len(case().training.times) + 3
    white = encode_white(case().model, whole.part(slice(start - 2, start)))
    mean = 280 - 10 * np.cos(2 * np.pi * whole.phase[start - 2 : start])
    blocks = (whole.values[start - 2 : start, 0] - mean[:, None]).reshape(2, -1, 4).mean(axis=-1) / SCALE
    np.testing.assert_allclose(white[:, 0], blocks, atol=1e-4)  # float32 at 280
    expected = model_forecast(case().model, whole, LEADS, 2, seed=0)(start)
    for change, same in ((start, True), (start - 1, False)):
        values = whole.values.copy()
        values[change:start] += 1
        values[max(change, start) :] += 5
        found = model_forecast(case().model, dataclasses.replace(whole, values=values), LEADS, 2, seed=0)(start)
        assert np.array_equal(found, expected) == same


def test_every_start_has_noise_of_its_own() -> None:  # oracle: leads of neighbouring starts share their month
    whole = joined(case().training, case().evaluation)
    forecast = model_forecast(
        case().model, dataclasses.replace(whole, values=whole.values * 0 + whole.values[:1]), 2, 20, 0
    )
    one, other = forecast(30)[:, 1], forecast(31)[:, 0]  # the same month
    assert abs(np.corrcoef((one - one.mean(0)).ravel(), (other - other.mean(0)).ravel())[0, 1]) < 0.1


def observed(values: np.ndarray, known: int) -> Observed:
    """Monthly values (time,) from 1950 on, at one pixel."""
    phase = (np.arange(len(values)) % 12 + 0.5) / 12
    return Observed(
        values=values.astype(np.float32)[:, None, None],
        phase=phase,
        time_years=1950 + np.arange(len(values)) // 12 + phase,
        known=known,
    )


def test_climatologies_of_hand_made_years() -> None:
    # oracle: value = year since 1950 + month / 100; members are the same month of the last 30 training years; moved to
    # the mean of the last ten; along a trend of one a year every member becomes the truth
    steps = np.arange(12 * 50)
    series = observed(steps // 12 + (steps % 12) / 100, known=12 * 40)
    start = 12 * 45 + 10
    members = {shift: climatology(series, 3, shift)(start)[:, :, 0, 0] for shift in ("none", "recent", "trend")}
    years, month = np.arange(10, 40), np.array([10, 11, 0]) / 100
    np.testing.assert_allclose(members["none"], years[:, None] + month, atol=1e-5)
    np.testing.assert_allclose(members["recent"], years[:, None] + month + 10, atol=1e-5)
    # the months' own steps bend the fitted line by 0.001 a year, which 35 years carry on
    np.testing.assert_allclose(members["trend"], np.tile([45.10, 45.11, 46.0], (30, 1)), atol=0.05)


def test_damped_persistence_of_a_decay_is_the_decay() -> None:
    # oracle: x(t + 1) = 0.95 x(t) without errors, so every member is 0.95^k times the last known step
    values = 0.95 ** np.arange(12 * 14)
    found = damped_persistence(observed(values, known=12 * 12), 3)(12 * 12 + 5)[:, :, 0, 0]
    np.testing.assert_allclose(found, np.tile(values[12 * 12 + 5 :][:3], (len(found), 1)), rtol=1e-3)
    assert len(found) == 11  # all years but the first


def test_references_know_nothing_after_the_last_step_before_the_start() -> None:  # oracle: invariance
    rng = np.random.default_rng(2)
    values = rng.normal(size=(12 * 12, 1, 48)).astype(np.float32)
    phase = (np.arange(144) % 12 + 0.5) / 12
    series = Observed(values=values, phase=phase, time_years=1950 + np.arange(144) // 12 + phase, known=120)
    changed = values.copy()
    changed[126:] += 3
    other = dataclasses.replace(series, values=changed)
    for name, forecast in reference_forecasts(series, 2, 3, seed=1).items():
        again = reference_forecasts(other, 2, 3, seed=1)[name]
        np.testing.assert_array_equal(forecast(126), again(126), err_msg=name)
        assert (name.startswith("climatology")) == np.array_equal(forecast(127), again(127)), name


def test_an_autoregression_started_from_a_state_follows_its_law() -> None:
    # oracle: x(t + 1) = A x(t) + e: mean A^k x, covariance after one step that of e; A from 4000 steps, +- 0.02
    step, noise = np.array([[0.7, -0.4], [0.4, 0.7]]), np.array([1.0, 0.5])
    rng = np.random.default_rng(3)
    states = np.zeros((4000, 3))
    for time in range(1, 4000):
        states[time, :2] = step @ states[time - 1, :2] + rng.normal(size=2) * noise
        states[time, 2] = 0.5 * states[time - 1, 2] + rng.normal() * 0.1
    years = np.arange(4000) / 12
    eofs = fit_eofs(states, years)
    model = fit_inverse_model(eofs, modes=2)
    start = np.array([3.0, -1.0, 0.4], dtype=np.float32)
    drawn = draw_from_state(eofs, model, start, years[:3], 4000, np.random.default_rng(0))
    np.testing.assert_allclose(drawn[:, 0].mean(0), [*(step @ start[:2]), 0.2], atol=0.12)
    np.testing.assert_allclose(drawn[:, 1].mean(0), [*(step @ step @ start[:2]), 0.1], atol=0.15)
    np.testing.assert_allclose(drawn[:, 0].std(0), [*noise, 0.1], rtol=0.06)


def test_the_trend_of_an_autoregression_is_carried_on() -> None:
    # oracle: a state on the line stays on it, for the departures from the line have the mean zero
    years = np.linspace(1950, 2000, 600)
    noise = np.random.default_rng(4).normal(size=(600, 2)) * 0.05
    eofs = fit_eofs(noise + 0.1 * (years - 1975)[:, None] * [1.0, 2.0], years)
    model = fit_inverse_model(eofs, modes=2, trend=True)
    later = np.array([2010.0, 2020.0])
    drawn = draw_from_state(eofs, model, np.array([3.5, 7.0], np.float32), later, 400, np.random.default_rng(0))
    np.testing.assert_allclose(drawn[:, 0].mean(0), [4.5, 9.0], atol=0.05)


def test_scores_of_normal_ensembles() -> None:
    # oracles: truth and members of one law are flat and 1; members of half the deviation: closed form, too narrow
    rng = np.random.default_rng(0)
    truth, members = rng.normal(size=(1, 40000)), rng.normal(size=(9, 1, 40000))
    for factor in (1.0, 0.5):
        drawn = factor * members
        variance, error = drawn.var(0, ddof=1).mean(), np.mean((drawn.mean(0) - truth) ** 2)
        expected = factor * np.sqrt(10 / 9) / np.sqrt(1 + factor**2 / 9)
        assert ensemble_scores.spread_skill(variance, error, 9) == pytest.approx(expected, rel=0.02)
        counts = ensemble_scores.rank_counts(drawn, truth)
        assert counts.shape == (1, 10)
        direct = np.bincount((drawn < truth).sum(axis=0)[0], minlength=10)
        np.testing.assert_allclose(counts[0], direct)
        if factor == 1:
            assert ensemble_scores.unevenness(counts)[0] < 0.02
            assert ensemble_scores.outer_share(counts)[0] == pytest.approx(1, abs=0.05)
        else:
            assert ensemble_scores.outer_share(counts)[0] > 1.8


def test_crps_of_hand_made_members() -> None:
    # oracles: of one member the absolute error; of 0 and 2 against 1 and 4 it is 1 - 1 and 3 - 1
    members = np.array([[0.0, 0.0], [2.0, 2.0]])
    assert pointwise_crps(members[:1], np.array([-3.0, 4.0])).tolist() == [3, 4]
    np.testing.assert_allclose(pointwise_crps(members, np.array([1.0, 4.0])), [0, 2])


def test_skill_ends_before_the_first_loss_and_doubt_counts_years() -> None:
    # oracle: differences of -1 everywhere, of -1 or +0.9 by year, of +1, of -1 again after skill has ended
    years = np.repeat([2001, 2002], 3)
    own = np.zeros((6, 4))
    other = np.array([[1, 1, -1, 1]] * 3 + [[1, -0.9, -1, 1]] * 3)
    assert ensemble_scores.lead_of_last_skill(own, other, years) == (2, 1)
    assert ensemble_scores.lead_of_last_skill(own[:3], other[:3], years[:3]) == (2, 0)  # one year proves nothing
    assert ensemble_scores.lead_of_last_skill(other, own, years) == (0, 0)


def test_domains_weigh_equal_areas_and_the_index_its_box() -> None:
    # oracle: weights add up to one; a field of latitudes has the box's mean 0, and the box is on the equator at 145 W
    pixels = npix(5)
    for weights in domains(pixels).values():
        assert weights.sum() == pytest.approx(1)
    assert [name for name, w in domains(pixels).items() if w[-1]] == ["Nino 3.4"]
    lat, lon = pixel_centres(5)
    box = nino34(pixels)
    assert box @ lat == pytest.approx(0, abs=0.1)
    assert box @ (lon % 360) == pytest.approx(215, abs=1)
    assert np.abs(lat[box > 0]).max() <= 5
    assert np.count_nonzero(nino34(npix(1))) == 1
    cells = ensemble_scores.thinned(pixels) // 64
    assert cells.tolist() == list(range(192))  # one for each cell of zoom 2


def test_the_report_says_where_skill_ends() -> None:  # oracle: the records
    variable = report().variables[0]
    text = format_hindcast(report())
    end = variable.skill[0]
    assert (end.domain, end.reference) == ("global", "climatology")
    said = skill_sentence(variable, "global", LEADS)
    assert said in text
    assert ("at all 4 leads" in said) == (LEADS in (s.lower for s in variable.skill[:2]))
    assert f"| {'model':<24} | {' | '.join(f'{value:.3f}' for value in row('model').crps)} |" in text
    assert json.loads(as_json(report()))["variables"][0]["scores"][0]["crps"] == list(row("model").crps)


def test_what_cannot_be_started_or_compared_is_refused() -> None:
    latent = dataclasses.replace(case().model.generator, previous=0)
    forgetful = dataclasses.replace(case(), model=dataclasses.replace(case().model, latent=latent))
    with pytest.raises(DataError, match="knows no earlier steps"):
        hindcast(forgetful, members=2, leads=1)
    with pytest.raises(DataError, match="expected 49 or more"):
        hindcast(case(), members=2, leads=49)
    late = case().evaluation.part(slice(1, None))
    with pytest.raises(DataError, match="right after the training years"):
        dataclasses.replace(case(), evaluation=late)


@pytest.mark.parametrize("command", ["hindcast", "decades"])
def test_commands_refuse_bad_input_in_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the table of exit codes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("fsae"), "handlers", [])  # the command adds one, on a stream that ends
    for arguments, code, words in (
        (["no-such-model"], 4, "no-such-model"),
        (["--json", "no-such-folder/out.json"], 7, "no-such-folder"),
        (["--members", "1"], 2, "members"),
    ):
        assert main([command, *arguments]) == code
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said
