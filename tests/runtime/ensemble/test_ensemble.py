"""Members of an ensemble: the tiny denoiser is that of a known Gaussian, so every value has a closed form."""

import dataclasses
from typing import Any

import cftime
import msgspec
import numpy as np
import pytest
from tiny_bundle import (
    LATENT_PIXELS,
    LATENT_ZOOM,
    MEMORY,
    SPREAD,
    TREND,
    VARIABLES,
    WINDOW,
    YEARLY,
    tiny_decode,
    tiny_denoise,
)

from fsae.runtime.backends.graphs import DenoiserInputs, Graphs, pad_batch
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Manifest, Sampler
from fsae.runtime.diffusion.noise import member_integers, standard_normal
from fsae.runtime.diffusion.whitening import unwhiten
from fsae.runtime.ensemble.forcing import forcing_note
from fsae.runtime.ensemble.generate import Ensemble, Timeline, default_start, generate_job, resolve, timeline
from fsae.runtime.ensemble.members import (
    Plan,
    generate,
    latent_model,
    sample_window,
    window_latent,
    window_noise,
    windows_needed,
)
from fsae.runtime.ensemble.request import Request, member_ids
from fsae.runtime.errors import BundleError, DataError, UsageError
from fsae.runtime.jobs.results import in_memory

SIGMA_MAX = 20.0


def january(year: int = 1990) -> cftime.datetime:
    return cftime.datetime(year, 1, 1, calendar="standard")


def line_of(manifest: Manifest, start: cftime.datetime, count: int) -> Timeline:
    return timeline(manifest.time, WINDOW, manifest.variables[0].cell_methods, start, count, None)


def run(bundle: Bundle, graphs: Graphs, members: tuple[int, ...], steps: int, batch: int, seed: int = 4) -> np.ndarray:
    """Fields (member, time, variable, pixel), put together from the units."""
    line = line_of(bundle.manifest, january(), steps)
    whole = np.full((len(members), steps, VARIABLES, 192), np.nan, dtype=np.float32)
    plan = Plan(members=members, steps=line.steps, count=steps, seed=seed)
    for unit in generate(latent_model(bundle), graphs, plan, batch=batch):
        assert np.isnan(whole[unit.members, unit.times]).all(), "a unit came twice"
        whole[unit.members, unit.times] = unit.values
    return whole


class ClosedForm:
    """The tiny graphs in NumPy, float64 inside: no ONNX Runtime."""

    device, backend, precision = "cpu", "numpy 0", "fp32"

    def encode(self, field: np.ndarray, season: np.ndarray, level_mask: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def decode(self, latent: np.ndarray, season: np.ndarray) -> np.ndarray:
        return tiny_decode(latent, season).astype(np.float32)

    def denoise(self, inputs: DenoiserInputs, graph: str = "denoiser") -> np.ndarray:
        return tiny_denoise(*inputs).astype(np.float32)


def test_graphs_are_the_closed_forms(tiny_bundle: Bundle, graphs: Graphs) -> None:  # oracle: NumPy, float64
    members, steps = (0, 3), 7
    expected = run(tiny_bundle, ClosedForm(), members, steps, batch=2)
    np.testing.assert_allclose(
        run(tiny_bundle, graphs, members, steps, batch=2), expected, atol=2e-3
    )  # K, float32 at 300


def test_samples_follow_the_exact_flow(tiny_bundle: Bundle) -> None:
    # oracle: the probability flow of a Gaussian N(m, s^2) takes x at sigma to m + s / sqrt(s^2 + sigma^2) (x - m)
    fine = msgspec.structs.replace(tiny_bundle.manifest.sampler, steps=200)
    manifest = msgspec.structs.replace(tiny_bundle.manifest, sampler=fine)
    model = dataclasses.replace(latent_model(tiny_bundle), sampler=fine)
    line = line_of(manifest, january(), WINDOW)
    noise = window_noise(0, 1, line.steps.index, manifest.latent.shape)[None]
    previous = np.ones((1, 2, VARIABLES, LATENT_PIXELS), dtype=np.float32)
    valid = np.ones((1, 2), dtype=np.float32)
    found = sample_window(ClosedForm(), model, noise, line.steps, previous, valid)
    scalar = YEARLY * line.steps.season[:, 0] + TREND * (line.steps.forcing - 1990)
    mean = scalar[None, :, None, None] + MEMORY
    expected = mean + SPREAD / np.hypot(SPREAD, SIGMA_MAX) * (SIGMA_MAX * noise - mean)
    np.testing.assert_allclose(found, expected, atol=5e-3)  # the sampler's own error at 200 steps and sigma_min 0.01


def test_noise_of_a_frame_is_named_by_member_and_date(tiny_bundle: Bundle) -> None:  # oracle: the documented formula
    line = line_of(tiny_bundle.manifest, cftime.datetime(2005, 3, 20, calendar="standard"), 2)
    shape = tiny_bundle.manifest.latent.shape
    raw = [member_integers(9, 37, 12 * 2005 + month, 0, shape[0] * shape[1]) for month in (2, 3, 4)]
    expected = standard_normal(np.stack(raw)).reshape(3, *shape)
    np.testing.assert_array_equal(window_noise(9, 37, line.steps.index, shape), expected)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_results_do_not_depend_on_the_batch(tiny_bundle: Bundle, graphs: Graphs, batch: int) -> None:
    # oracle: one batch of all, bitwise
    members = tuple(range(7))
    np.testing.assert_array_equal(
        run(tiny_bundle, graphs, members, 8, batch), run(tiny_bundle, graphs, members, 8, batch=64)
    )


def test_a_member_alone_in_another_order_or_shard_is_the_same(tiny_bundle: Bundle, graphs: Graphs) -> None:
    whole = run(tiny_bundle, graphs, (0, 1, 2, 3, 4), 5, batch=5)
    np.testing.assert_array_equal(run(tiny_bundle, graphs, (3,), 5, batch=5)[0], whole[3])
    np.testing.assert_array_equal(run(tiny_bundle, graphs, (4, 2, 0), 5, batch=2), whole[[4, 2, 0]])


def test_fewer_steps_are_the_first_of_more(tiny_bundle: Bundle, graphs: Graphs) -> None:  # windows are drawn whole
    longer = run(tiny_bundle, graphs, (0, 1), 8, batch=2)
    for steps in (1, 3, 4):
        np.testing.assert_array_equal(run(tiny_bundle, graphs, (0, 1), steps, batch=2), longer[:, :steps])


def test_the_second_window_knows_the_end_of_the_first(tiny_bundle: Bundle) -> None:
    # oracle: without noise every frame is its mean, and the mean holds MEMORY times the last frame of the window before
    class Means(ClosedForm):
        def denoise(self, inputs: DenoiserInputs, graph: str = "denoiser") -> np.ndarray:
            return tiny_denoise(np.zeros_like(inputs[0]), np.full(len(inputs[0]), 1e6), *inputs[2:]).astype(np.float32)

    line = line_of(tiny_bundle.manifest, january(), 6)
    plan = Plan(members=[0], steps=line.steps, count=6, seed=0)
    units = list(generate(latent_model(tiny_bundle), Means(), plan, batch=1))
    scalar = YEARLY * line.steps.season[:, 0] + TREND * (line.steps.forcing - 1990)
    means = [*scalar[:3], *(scalar[3:] + MEMORY * scalar[2])]
    white = np.broadcast_to(np.array(means)[:, None, None], (6, VARIABLES, LATENT_PIXELS))
    tables = tiny_bundle.tables
    latent = unwhiten(white, range(LATENT_ZOOM + 1), tables.latent_cell_std, tables.latent_level_std)
    expected = tiny_decode(latent, line.steps.season)
    np.testing.assert_allclose(np.concatenate([u.values[0] for u in units]), expected, atol=1e-3)


def test_white_space_goes_back_through_both_statistics(tiny_bundle: Bundle) -> None:
    # oracle: a constant field has a base alone: gain 2**zoom * base std, then the cells' own std
    tables = tiny_bundle.tables
    season = line_of(tiny_bundle.manifest, january(), WINDOW).steps.season
    white = np.ones((WINDOW, VARIABLES, LATENT_PIXELS), dtype=np.float32)
    model = latent_model(tiny_bundle)
    found = window_latent(model, white, model.deviation(season))
    expected = 2**LATENT_ZOOM * tables.latent_level_std[:, :1] * tables.latent_cell_std
    np.testing.assert_allclose(found, np.stack([expected] * WINDOW), rtol=1e-5)


def test_a_row_does_not_see_the_rows_beside_it(tiny_bundle: Bundle, graphs: Graphs) -> None:  # bitwise, batch 1 too
    rng = np.random.default_rng(0)
    field = rng.normal(250, 10, size=(7, VARIABLES, 192)).astype(np.float32)
    season = rng.uniform(-1, 1, size=(7, 4)).astype(np.float32)
    mask = np.ones((7, 3), dtype=np.float32)
    whole = graphs.encode(field, season, mask)
    for rows in (slice(0, 1), slice(6, 7), slice(2, 5)):
        np.testing.assert_array_equal(graphs.encode(field[rows], season[rows], mask[rows]), whole[rows])


def test_padding_repeats_the_last_row() -> None:
    assert pad_batch(np.array([[1.0], [2.0]], np.float32), 4).tolist() == [[1.0], [2.0], [2.0], [2.0]]


def test_default_start_is_the_last_training_year(tiny_bundle: Bundle) -> None:  # oracle: the manifest's period
    assert str(default_start(tiny_bundle.manifest))[:10] == "2004-01-01"
    noleap = msgspec.structs.replace(tiny_bundle.manifest.time, calendar="360_day")  # whose December has no 31st
    assert str(default_start(msgspec.structs.replace(tiny_bundle.manifest, time=noleap)))[:10] == "2004-01-01"


def test_dates_outside_the_calendar_are_refused(tiny_bundle: Bundle, graphs: Graphs) -> None:
    noleap = msgspec.structs.replace(tiny_bundle.manifest.time, calendar="noleap")
    manifest = msgspec.structs.replace(tiny_bundle.manifest, time=noleap)
    bundle = dataclasses.replace(tiny_bundle, manifest=manifest)
    assert str(resolve(bundle, graphs, Request(start="2004-02-28")).start)[:10] == "2004-02-28"
    with pytest.raises(DataError, match="does not exist in the calendar 'noleap'"):
        resolve(bundle, graphs, Request(start="2004-02-29"))
    with pytest.raises(UsageError, match="found the date 'soon'"):
        resolve(bundle, graphs, Request(start="soon"))


def test_averages_are_stamped_in_the_middle_of_their_bounds(tiny_bundle: Bundle) -> None:  # oracle: the calendar
    line = line_of(tiny_bundle.manifest, january(2005), 2)
    assert [str(t) for t in line.stamps] == ["2005-01-16 12:00:00", "2005-02-15 00:00:00"]
    assert [tuple(map(str, pair)) for pair in line.bounds or ()] == [
        ("2005-01-01 00:00:00", "2005-02-01 00:00:00"),
        ("2005-02-01 00:00:00", "2005-03-01 00:00:00"),
    ]
    np.testing.assert_allclose(line.steps.forcing[:2], [2005 + 15.5 / 365, 2005 + 45 / 365], atol=2e-4)


def test_forcing_outside_its_range_is_noted_in_the_output(tiny_bundle: Bundle, graphs: Graphs) -> None:
    assert forcing_note(tiny_bundle.manifest, np.array([1990.0, 2004.9])) == ()
    job = generate_job(tiny_bundle, graphs, Ensemble(members=(0,), start=january(2010), steps=2, seed=0))
    assert job.notes[0].startswith("The forcing (calendar year) runs from 2010.04 to 2010.1")
    assert in_memory(job).attrs["comment"] == job.notes[0]


def test_requests_that_make_no_sense_are_refused(tiny_bundle: Bundle, graphs: Graphs) -> None:
    for members, steps, seed in (((), 1, 0), ((1, 1), 1, 0), ((-1,), 1, 0), ((0,), 0, 0), ((0,), 1, -1)):
        with pytest.raises(UsageError, match="expected"):
            Request(members=members, start="1990", steps=steps, seed=seed)
    plain = msgspec.structs.replace(tiny_bundle.manifest, denoiser=None, sampler=None)
    with pytest.raises(BundleError, match="bundle tiny has no diffusion model, so it cannot generate"):
        generate_job(
            dataclasses.replace(tiny_bundle, manifest=plain),
            graphs,
            Ensemble(members=(0,), start=january(), steps=1, seed=0),
        )


def test_member_numbers_are_read_from_ranges() -> None:
    assert member_ids("37, 90-92,5") == (37, 90, 91, 92, 5)
    for text in ("", "a", "3-", "5-3", "-1", "1,,2"):
        with pytest.raises(UsageError, match="found the members"):
            member_ids(text)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"seed": 2**64}, "found the seed 18446744073709551616, expected 0 to 2"),
        ({"seed": -1}, "found the seed -1, expected 0 to 2"),
        ({"members": [2**63]}, "found the member 9223372036854775808, expected numbers below 2"),
        ({"members": 10**11}, "found 100000000000 members, expected 10000000 at most"),
        ({"members": [1, 1]}, "found the members .*, expected one or more, 0 or above, none twice"),
        ({"steps": 10**8}, "found 100000000 steps, expected 1 to 10000000"),
    ],
)
def test_requests_beyond_what_noise_and_files_can_tell_apart(asked: dict[str, Any], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        Request(**asked)
    assert Request(seed=2**64 - 1, members=[2**63 - 1]).seed == 2**64 - 1


def test_windows_cover_the_steps() -> None:
    assert [windows_needed(n, 5) for n in (1, 5, 6, 12)] == [1, 1, 2, 3]
    assert Sampler(name="heun", steps=1, sigma_min=0.1, sigma_max=1, rho=7).steps == 1
