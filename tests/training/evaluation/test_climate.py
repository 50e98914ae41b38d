"""The figures of a climate, their range over real stretches and what is checked, on made-up fields of known climate."""

from dataclasses import fields

import numpy as np
import pytest
from msgspec.structs import replace

from fsae.runtime.sphere.healpix import npix
from fsae.training.evaluation.climate import (
    View,
    compare,
    ensemble_arrays,
    moments,
    stacked,
    stretches_among_themselves,
)
from fsae.training.evaluation.climate_checks import climate_checks
from fsae.training.evaluation.report import Climate, Range, Stretches
from fsae.training.evaluation.tables import format_climate
from fsae.training.metrics.scores import nearest_distances
from fsae.training.metrics.spectra import harmonic_coefficients

ZOOM, LATENT_ZOOM, STEPS = 3, 1, 36
VIEW = View.of(ZOOM, LATENT_ZOOM)


def made_up(count: int, steps: int = STEPS, seed: int = 0) -> np.ndarray:
    """Fields (member, time, pixel), noise of one size in the north and another in the south, and of a memory."""
    rng = np.random.default_rng(seed)
    fields = rng.standard_normal((count, steps, npix(ZOOM))) * np.linspace(2, 1, npix(ZOOM))
    fields += rng.standard_normal((count, steps, 1))
    for time in range(1, steps):
        fields[:, time] = 0.8 * fields[:, time - 1] + 0.6 * fields[:, time]
    return fields.astype(np.float32)


TRUTH = made_up(1)[0]
TRUE = moments(TRUTH[None], VIEW)


def row(members: np.ndarray, library: np.ndarray | None = None) -> Climate:
    near = None if library is None else nearest_distances(TRUTH, library)
    return compare("generated", members, TRUTH, TRUE, VIEW, library=library, true_near=near)


def test_members_are_averaged_as_single_stretches() -> None:
    # oracle: the mean of what each member has alone; all but the pattern, which is that of all together
    members = made_up(3)
    alone = stacked([moments(member[None], VIEW) for member in members])
    together = moments(members, VIEW)
    for field in fields(together):
        if field.name not in ("pattern", "jumps"):  # jumps: a ratio of means
            found, expected = getattr(together, field.name), getattr(alone, field.name).mean(axis=0)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=field.name)


def test_power_from_known_coefficients_is_the_power_of_the_fields() -> None:
    # oracle: the other way to it, each field transformed after its mean map is off
    waves = harmonic_coefficients(TRUTH, VIEW.lmax)
    np.testing.assert_allclose(moments(TRUTH[None], VIEW, waves).power, TRUE.power, rtol=1e-4)  # float32 means


def test_a_mean_map_counts_in_the_bias_alone() -> None:
    # oracle: fields with a map of their own added have the same statistics otherwise
    shift = np.linspace(0, 1, npix(ZOOM), dtype=np.float32)
    own = row(np.stack([TRUTH + shift, TRUTH + shift]))
    assert own.bias == pytest.approx(0.5, abs=1e-5)
    assert own.mean_map_rmse == pytest.approx(np.sqrt(np.mean(shift**2)), rel=1e-5)
    ones = (own.std_correlation, own.std_ratio, own.within_10, own.edge_jump, own.pattern_correlation)
    ones += (own.low_correlation, own.high_correlation)
    assert ones == pytest.approx((1,) * len(ones), abs=1e-5)
    zeros = (own.low_rmse, own.high_rmse, own.skewness_rmse, own.kurtosis_rmse, own.spectrum_median)
    zeros += tuple(memory.difference for memory in own.memory)
    assert zeros == pytest.approx((0,) * len(zeros), abs=1e-4)
    assert (own.crps, own.energy_score) == pytest.approx((0, 0), abs=1e-5)  # every member is the truth
    assert own.autocorrelation == own.memory[0].autocorrelation


def test_fields_learned_by_heart_are_found_out() -> None:
    # oracle: copies have distance zero and are all nearer than the truth's nearest; another draw is as far as the truth
    library = made_up(1, 400, seed=1)[0]
    copied = row(np.stack([library[:STEPS], library[50 : 50 + STEPS]]), library)
    assert copied.nearest == pytest.approx((0,) * 5, abs=2e-3)  # float32
    assert copied.near_share == 1
    new = row(made_up(2, seed=2), library)
    assert new.nearest is not None
    assert (
        new.nearest_training
        == new.nearest[2]
        == pytest.approx(float(np.median(nearest_distances(TRUTH, library))), rel=0.1)
    )
    assert new.near_share is not None
    assert new.near_share < 0.3


def test_ranges_are_those_of_all_pairs_without_a_common_step() -> None:
    # oracle: pairs picked by hand of 9 years with stretches of 3, of starts in years 0 ... 6
    known = made_up(1, 108, seed=3)[0]
    found = stretches_among_themselves(known, STEPS, 12, VIEW)
    assert (found.count, found.steps, found.side_by_side) == (7, STEPS, 3)
    parts = [moments(known[None, 12 * year : 12 * year + STEPS], VIEW) for year in range(7)]
    pairs = [(i, j) for i in range(7) for j in range(7) if abs(i - j) >= 3]
    ratios = [parts[i].std.mean() / parts[j].std.mean() for i, j in pairs]
    patterns = [abs(np.corrcoef(parts[i].pattern, parts[j].pattern)[0, 1]) for i, j in pairs]
    for figure, values in (("std_ratio", ratios), ("pattern_correlation", patterns)):
        span = found.range_of(figure)
        assert span is not None
        assert (span.low, span.high) == pytest.approx((min(values), max(values)), rel=1e-4)
    memory = np.stack([part.memory[0] for part in parts])
    assert found.memory[0].low == pytest.approx(memory.min(axis=0), abs=1e-5)
    near = [nearest_distances(known[:36], known[36:]), nearest_distances(known[72:], known[:72])]
    span = found.range_of("nearest_training")
    assert span is not None
    assert all(span.low <= np.median(values) <= span.high for values in near)
    single = stretches_among_themselves(known[:STEPS], STEPS, 12, VIEW)  # no other stretch: nothing to range over
    assert (single.count, single.ranges) == (1, ())


def test_arrays_of_hand_made_members() -> None:
    # oracle: arithmetic on members of 1 and 3 beside a truth of 0; the second month of three is the middle
    truth = np.zeros((3, 192))
    members = np.stack([np.full((3, 192), 1.0), np.full((3, 192), 3.0)])
    members[:, 1] += [[0.0], [1.0]]  # 1 and 4
    found = ensemble_arrays(members, truth, View.of(2, 1))
    np.testing.assert_allclose(found["bias"], (2 + 2.5 + 2) / 3)
    np.testing.assert_allclose(found["error"], np.sqrt((4 + 6.25 + 4) / 3))
    np.testing.assert_allclose(found["spread"], np.sqrt(1.5 * (2 + 4.5 + 2) / 3))
    np.testing.assert_allclose(found["member_std"], np.std([3, 4, 3]) / 2)
    assert (found["generated"][0], found["real"][0]) == (1, 0)
    assert found["ranks"].shape == (4, 3)
    assert found["ranks"][0].tolist() == [3 * 192, 0, 0]


@pytest.fixture(scope="module")
def stretches() -> Stretches:
    return stretches_among_themselves(made_up(1, 108, seed=3)[0], STEPS, 12, VIEW)


def failures(own: Climate, stretches: Stretches, *others: Climate) -> set[str]:
    checks = climate_checks(own, own, row(TRUTH[None]), others, stretches, kelvin=False)
    return {check.name for check in checks if not check.passed}


def test_each_defect_fails_its_own_figures(stretches: Stretches) -> None:
    # oracle: what was done to another draw of the same climate; each change leaves the other figures alone
    drawn = made_up(4, seed=4)
    usual = failures(row(drawn), stretches)
    assert len(usual) <= 2  # of 24 figures two may lie outside of what these few years span among themselves
    rng = np.random.default_rng(5)
    shuffled = failures(row(rng.permutation(drawn, axis=1)), stretches) - usual
    assert {f"autocorrelation, {part}: outside by" for part in ("global", "south")} <= shuffled
    assert not any(name.startswith(("spectrum", "skewness", "1st", "patches")) for name in shuffled)
    louder = failures(row(1.5 * drawn), stretches) - usual
    assert {
        "standard deviation: mean ratio",
        "spectrum: share of degrees within 20 %",
        "99th percentile: RMSE",
    } <= louder
    assert not any(name.startswith(("autocorrelation", "skewness", "kurtosis", "patches")) for name in louder)
    skewed = failures(row(drawn + 0.3 * drawn**2), stretches)
    assert {"skewness: mean", "skewness: RMSE"} <= skewed
    edges = drawn + np.repeat(rng.normal(0, 2, (4, STEPS, npix(1))), npix(ZOOM) // npix(1), axis=-1).astype(np.float32)
    assert row(edges).edge_jump > 1.2 * row(drawn).edge_jump
    assert "patches: jumps across cell edges" in failures(row(edges), stretches)


def test_the_wider_of_range_and_tolerance_counts(stretches: Stretches) -> None:
    # oracle: the limits in words, of ranges narrower and wider than the tolerance of 0.1
    own = row(made_up(2, seed=4))

    def limit(span: tuple[float, float]) -> str:
        ranges = (Range(figure="spectrum_median", low=span[0], high=span[1]),)
        checks = climate_checks(own, own, own, (), replace(stretches, ranges=ranges), kelvin=False)
        return next(check.limit for check in checks if check.name.startswith("spectrum: median"))

    assert (limit((0.01, 0.05)), limit((0.01, 0.3))) == ("<= 0.1", "<= 0.3 (named 0.1)")


def test_the_simple_generator_is_beaten_or_it_is_said(stretches: Stretches) -> None:
    # oracle: figures put in by hand; the best of two generators counts, and an equal figure does not beat it
    own = replace(row(made_up(2, seed=4)), energy_score=0.5, skewness_rmse=0.2, kurtosis_rmse=0.3)
    other = replace(own, energy_score=0.6, skewness_rmse=0.2, kurtosis_rmse=0.25)
    worse = replace(own, energy_score=0.7, skewness_rmse=0.9, kurtosis_rmse=0.9)
    against = {name for name in failures(own, stretches, other, worse) if name.endswith("against VAR(1)")}
    assert against == {"skewness RMSE, against VAR(1)", "kurtosis RMSE, against VAR(1)"}


def test_tables_show_every_row_and_the_range(stretches: Stretches) -> None:
    # oracle: the figures, looked up; a figure that is not there leaves its cell blank
    own = row(made_up(2, seed=4))
    lines = format_climate((own, replace(own, name="truth")), stretches, "1 month")
    assert sum(line.startswith("| generated ") for line in lines) == 4
    assert sum(line.startswith("| highest of training ") for line in lines) == 4
    first = next(line for line in lines if line.startswith("| generated "))
    assert f" {own.std_correlation:.3f} | {own.std_ratio:.3f} " in first
    assert own.nearest is None
    assert next(line for line in reversed(lines) if line.startswith("| generated ")).endswith("|        |")
    assert max(map(len, lines)) <= 120
    assert own.cell_peak is not None


def test_memory_beyond_range_and_tolerance_is_measured(stretches: Stretches) -> None:
    # oracle: by hand, range -0.1 to 0.5 at every lag, truth 0.45: 0.65 is 0.1 beyond 0.55, -0.3 is 0.2 below -0.1
    own = row(made_up(2, seed=4))
    lags = {"truth": (0.45,) * 6, "above": (0.2, 0.65, 0.3, 0.3, 0.3, 0.3), "below": (0.2, 0.65, 0.3, 0.3, 0.3, -0.3)}
    made = {
        name: replace(own, memory=tuple(replace(m, autocorrelation=a) for m in own.memory)) for name, a in lags.items()
    }
    spans = tuple(replace(span, low=(-0.1,) * 6, high=(0.5,) * 6) for span in stretches.memory)
    narrow = replace(stretches, memory=spans)
    for name, expected in (("truth", 0.0), ("above", 0.1), ("below", 0.2)):
        checks = climate_checks(made[name], own, made["truth"], (), narrow, kelvin=False)
        check = next(check for check in checks if check.name == "autocorrelation, tropics: outside by")
        assert (check.value, check.passed) == (pytest.approx(expected), expected == 0)
