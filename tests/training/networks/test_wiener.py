"""The denoiser's linear part: against the closed form of Gaussian windows, and the statistics it is made from."""

import numpy as np
import pytest
import torch

from fsae.runtime.diffusion.whitening import unwhiten, whiten
from fsae.runtime.sphere.healpix import npix
from fsae.training.fitting.diffusion import large_waves, latent_fields
from fsae.training.networks import patterns
from fsae.training.networks.autoencoder import Autoencoder, AutoencoderConfig
from fsae.training.networks.denoiser import Denoiser, DenoiserConfig
from fsae.training.networks.halo import spherical_harmonics
from fsae.training.networks.patterns import WAVES, fit_basis
from fsae.training.networks.wiener import (
    KNOTS,
    WienerFilter,
    gain,
    given,
    joint_gaussian,
    knot_weights,
    mean_state,
    response,
    separate_gaussian,
)

ZOOM, WINDOW, PREVIOUS = 1, 3, 2
FORCING = 0.6
TREND = 0.5  # of all pixels with the forcing


def autoregression(steps: int, features: int, seed: int) -> np.ndarray:
    """x_t = 0.8 x_{t-1} + 0.6 e_t (time, feature), of unit variance."""
    noise = np.random.default_rng(seed).standard_normal((steps, features))
    series = noise.copy()
    for step in range(1, steps):
        series[step] = 0.8 * series[step - 1] + 0.6 * noise[step]
    return series


@pytest.fixture(scope="module")
def fitted() -> tuple[WienerFilter, np.ndarray]:
    """A filter of two levels, and the latents (time, variable, pixel) it was fitted to."""
    latents = autoregression(500, npix(ZOOM), 0).astype(np.float32)[:, None]
    model = WienerFilter(latent_zoom=ZOOM, zoom=ZOOM, variables=1, window=WINDOW, previous=PREVIOUS)
    forcing = np.linspace(-1, 1, len(latents), dtype=np.float32)
    model.fit([latents + TREND * forcing[:, None, None]], [forcing], spherical_harmonics(ZOOM, WAVES).T[:, None])
    return model, latents


def covariance_of(model: WienerFilter, known: int) -> np.ndarray:
    """Covariance (step * pixel, step * pixel) of a window in the model's statistics, from its tables in float64."""
    basis = model.basis.double().numpy()
    window, count, lead = WINDOW, len(basis), model.lead
    whole = np.zeros((window, count, window, count))
    rotation, variance = model.lead_rotation[known].double().numpy(), model.lead_variance[known].double().numpy()
    whole[:, :lead, :, :lead] = ((rotation * variance) @ rotation.T).reshape(window, lead, window, lead)
    for k in range(count - lead):
        rotation = model.rest_rotation[known, :, :, k].double().numpy()
        variance = model.rest_variance[known, :, k].double().numpy()
        whole[:, lead + k, :, lead + k] = (rotation * variance) @ rotation.T
    return np.einsum("pk,tkul,ql->tpuq", basis, whole, basis).reshape(window * count, -1)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("known", [0, 1])
def test_filter_is_the_conditional_mean(fitted, sigma: float, known: int) -> None:  # oracle: C (C + sigma^2)^-1, dense
    model, latents = fitted
    rng = np.random.default_rng(1)
    noisy = (latents[2:5] + sigma * rng.standard_normal((3, 1, npix(ZOOM)))).astype(np.float32)
    before = known * latents[0:2]
    found = model(
        torch.from_numpy(noisy)[None],
        torch.tensor([sigma]),
        torch.full((1, WINDOW), FORCING),
        torch.from_numpy(before)[None],
        torch.full((1, PREVIOUS), float(known)),
    )[0].numpy()
    covariance = covariance_of(model, known)
    basis = model.basis.double().numpy()
    trend = (knot_weights(torch.tensor(FORCING)) @ model.state).double().numpy()
    past = before[:, 0] @ basis - trend
    lead, rest = past[:, : model.lead].ravel() @ model.lead_mean.double().numpy(), past[:, model.lead :]
    expected = np.concatenate(
        [lead.reshape(WINDOW, -1), np.einsum("pk,ptk->tk", rest, model.rest_mean.double().numpy())], axis=1
    )
    mean = ((known * expected + trend) @ basis.T).ravel()
    gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(len(covariance)))
    exact = mean + gain @ (noisy.ravel() - mean)
    # patterns are rounded to bytes, which must matter the less the less noise there is
    np.testing.assert_allclose(found.ravel(), exact, atol=min(sigma, 1) * 1e-2 * max(1, abs(exact).max()))


@torch.no_grad()
def test_latents_of_patches_are_filtered_with_their_own_covariance() -> None:
    # oracle: C (C + sigma^2)^-1 of the patches' covariance, which the series are drawn with
    rng = np.random.default_rng(9)
    root = rng.standard_normal((2, 12, 16, 16)) * np.geomspace(2, 0.1, 16)
    latents = np.einsum("vcpk,tvck->tvcp", root, rng.standard_normal((4000, 2, 12, 16))).reshape(-1, 2, npix(2))
    series = latents.astype(np.float32)
    model = WienerFilter(latent_zoom=2, zoom=1, variables=2, window=WINDOW, previous=PREVIOUS)
    waves = np.concatenate(
        [np.eye(2)[variable, :, None] * spherical_harmonics(2, WAVES).T[:, None] for variable in (0, 1)]
    )
    model.fit([series], [np.zeros(len(series), dtype=np.float32)], waves)
    assert len(model.basis) == 2 * npix(1)
    noisy = torch.from_numpy(series[:WINDOW] + 0.3 * rng.standard_normal((WINDOW, 2, npix(2))).astype(np.float32))
    empty = torch.zeros(1, PREVIOUS, 2, npix(2)), torch.zeros(1, PREVIOUS)
    found = model(noisy[None], torch.tensor([0.3]), torch.zeros(1, WINDOW), *empty)[0].numpy()
    covariance = root @ root.swapaxes(-1, -2)
    gains = covariance @ np.linalg.inv(covariance + 0.09 * np.eye(16))
    exact = np.einsum("vcpq,tvcq->tvcp", gains, noisy.numpy().reshape(WINDOW, 2, 12, 16)).reshape(found.shape)
    error = np.sqrt(np.square(found - exact).mean())
    assert error < 0.05 * exact.std()
    assert error < 0.3 * np.sqrt(np.square(noisy.numpy() / 1.09 - exact).mean())  # filtered as white noise


def test_mean_follows_the_forcing(fitted) -> None:  # oracle: the trend that was added to every pixel, held at its end
    model, _ = fitted
    noise = torch.zeros(1, WINDOW, 1, npix(ZOOM))
    nothing = torch.zeros(1, PREVIOUS, 1, npix(ZOOM)), torch.zeros(1, PREVIOUS)
    far = torch.tensor([1e4])
    cold, mild, warm, beyond = (
        model(noise, far, torch.full((1, WINDOW), forcing), *nothing).mean().item() for forcing in (-0.8, 0.0, 0.8, 3.0)
    )
    np.testing.assert_allclose([warm - cold, mild, beyond], [1.6 * TREND, 0, 5 / 6 * TREND], atol=0.1)


def test_the_response_is_a_regression_without_what_chance_gives() -> None:
    rng = np.random.default_rng(7)
    forcing = np.linspace(-1, 1, 600).astype(np.float32)
    clear = 2.0 * forcing[:, None] + 0.01 * rng.standard_normal((600, 4))
    chance = rng.standard_normal((600, 400))
    series = np.concatenate([clear, chance], axis=1)
    halves = [series[:250], series[250:]], [forcing[:250], forcing[250:]]
    found = response(*halves, lead=4)
    np.testing.assert_allclose(found[:4], 2.0 * 2 / KNOTS, rtol=2e-3)  # oracle: the slope, from one knot to the next
    raw = (
        np.linalg.lstsq(forcing[:, None].astype(np.float64), chance - chance.mean(axis=0), rcond=None)[0][0] * 2 / KNOTS
    )
    assert np.square(found[4:]).sum() < 0.05 * np.square(raw).sum()  # oracle: there is nothing but chance


@torch.no_grad()
def test_the_mean_goes_on_beyond_the_range_only_where_the_climate_responds() -> None:
    # oracle: closed form, a trend of all pixels; white latents of noise, so that the mean shows at a large sigma
    latents = autoregression(600, npix(ZOOM), 5).astype(np.float32)[:, None]
    forcing = np.linspace(-1, 1, len(latents), dtype=np.float32)
    waves = spherical_harmonics(ZOOM, WAVES).T[:, None]
    for responds, expected in ((True, 2.0), (False, 0.0)):
        shape = {"variables": 1, "window": WINDOW, "previous": PREVIOUS}
        model = WienerFilter(latent_zoom=ZOOM, zoom=ZOOM, **shape, responds=responds)
        model.fit([0.2 * latents + 3 * forcing[:, None, None]], [forcing], waves)
        empty = torch.zeros(1, WINDOW, 1, npix(ZOOM)), torch.full((1,), 1e4)
        before = torch.zeros(1, PREVIOUS, 1, npix(ZOOM)), torch.zeros(1, PREVIOUS)
        last, beyond = (
            model(*empty, torch.full((1, WINDOW), value), *before).mean()
            for value in (1 - 1 / KNOTS, 1 - 1 / KNOTS + 2 / 3)
        )
        assert float(beyond - last) == pytest.approx(expected, abs=0.12)


def test_mean_state_is_the_mean_of_its_steps() -> None:  # oracle: closed form of steps that lie on knots
    weights = np.repeat(np.eye(6), 100, axis=0)
    series = np.repeat(np.arange(6.0), 100)[:, None]
    np.testing.assert_allclose(mean_state([series], [weights])[:, 0], np.arange(6) * 100 / 103, rtol=1e-12)
    np.testing.assert_array_equal(mean_state([series[:300]], [weights[:300]])[3:], 0)


def test_flow_gain_takes_exact_steps() -> None:  # oracle: the probability flow of a Gaussian, in closed form
    variance = torch.tensor([0.01, 1.0, 50.0]).double()
    for now, after in ((80.0, 6.0), (6.0, 0.5), (0.5, 0.0)):
        sigma, following = torch.tensor([[now]]).double(), torch.tensor([[after]]).double()
        denoised = gain(variance, sigma, following)  # of a state of one
        step = after / now + (1 - after / now) * denoised
        np.testing.assert_allclose(step[0], ((variance + after**2) / (variance + now**2)).sqrt(), rtol=1e-12)
    np.testing.assert_allclose(gain(variance, sigma, None)[0], variance / (variance + 0.25), rtol=1e-12)


def test_a_denoiser_of_few_steps_knows_what_follows() -> None:  # oracle: its levels
    config = DenoiserConfig(window=3, previous=2, token_zooms=(0,), width=16, heads=2, embedding=8)
    years, levels = torch.tensor([1948.0, 2005.0]), torch.tensor([80.0, 6.0, 0.5, 0.0])
    settings = {"zooms": (0, 1), "variables": 1, "harmonics": 2, "forcing_range": years}
    student = Denoiser(config, levels=levels, **settings)
    assert student.following(levels[:-1]).tolist() == levels[1:].tolist()
    assert Denoiser(config, **settings).following(levels[:-1]) is None
    assert "levels" not in student.state_dict()  # of the configuration, not of the weights


def test_statistics_are_those_of_the_series() -> None:  # oracle: a first-order autoregression, known in closed form
    series = autoregression(20000, 3, 2)
    joint = joint_gaussian([series[:12000], series[12000:]], WINDOW, PREVIOUS)
    expected = np.zeros((PREVIOUS, 3, WINDOW, 3))
    for step in range(WINDOW):
        expected[-1, :, step] = 0.8 ** (step + 1) * np.eye(3)  # the last known step tells all
    np.testing.assert_allclose(joint.mean.reshape(expected.shape), expected, atol=0.04)
    separate = separate_gaussian([series], np.array([1.0, 1.0, 4.0]), WINDOW, PREVIOUS)
    np.testing.assert_allclose(separate.mean[2], expected[:, 2, :, 2], atol=0.04)
    total = separate.variance.sum(axis=-1)  # trace: without known steps, then with them
    np.testing.assert_allclose(total[0], 3 * np.array([1.0, 1.0, 4.0]), rtol=0.01)
    left = sum(1 - 0.64 ** (step + 1) for step in range(WINDOW))
    np.testing.assert_allclose(total[1], left * np.array([1.0, 1.0, 4.0]), rtol=0.05)


def test_given_is_the_schur_complement() -> None:  # oracle: inverse of the block of the precision matrix
    root = np.random.default_rng(3).standard_normal((1, 6, 9))
    covariance = root @ root.transpose(0, 2, 1)
    found = given(covariance, 2)
    conditional = (found.rotation[1] * found.variance[1][:, None]) @ found.rotation[1].transpose(0, 2, 1)
    precision = np.linalg.inv(covariance[0])
    np.testing.assert_allclose(conditional[0], np.linalg.inv(precision[2:, 2:]), rtol=1e-4)


def test_patterns_are_orthonormal_and_keep_the_waves() -> None:  # oracle: variance of a wave is the series' own
    waves = spherical_harmonics(ZOOM, WAVES)
    series = autoregression(300, npix(ZOOM), 4) * (1 + np.arange(npix(ZOOM)) / 10)
    basis, variance = fit_basis([series], waves)
    np.testing.assert_allclose(basis.T @ basis, np.eye(npix(ZOOM)), atol=1e-10)
    lead = basis[:, : npix(ZOOM) - len(variance)]
    np.testing.assert_allclose(lead @ (lead.T @ waves), waves, atol=1e-10)
    rest = basis[:, lead.shape[1] :]
    own = np.square(series @ rest).mean(axis=0)
    assert (variance >= 0.85 * own - 1e-12).all()
    assert variance.sum() < 1.2 * own.sum()


def test_latents_that_spread_over_the_sphere_are_damped_as_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the fields themselves, of which the latents are a rotation
    monkeypatch.setattr(patterns, "FIELDS_UNIT_SHARE", patterns.UNIT_SHARE)
    count = npix(ZOOM)
    turn = np.linalg.qr(np.random.default_rng(6).standard_normal((count, count)))[0]
    waves = spherical_harmonics(ZOOM, WAVES)
    series = autoregression(300, count, 4) * (1 + np.arange(count) / 10)
    basis, variance = fit_basis([series], waves)
    turned, found = fit_basis([series @ turn], turn.T @ waves, (turn.T[None], turn[None]))
    np.testing.assert_allclose(found, variance, rtol=1e-6)
    covariance = (basis[:, -len(variance) :] * variance) @ basis[:, -len(variance) :].T
    same = turn @ (turned[:, -len(found) :] * found) @ turned[:, -len(found) :].T @ turn.T
    np.testing.assert_allclose(same, covariance, atol=1e-6)
    assert np.abs(fit_basis([series @ turn], turn.T @ waves)[1] - variance).max() > 0.1  # taken for cells, they differ


def test_whitened_latents_stand_for_the_fields_of_dense_maps() -> None:  # oracle: unwhitened and mapped one by one
    rng = np.random.default_rng(8)
    config = AutoencoderConfig(
        base_zoom=0, latent_zoom=1, global_zoom=2, global_cell_zoom=0, zoom=3, fine_token_zoom=1, coarse_token_zoom=0
    )
    model = Autoencoder(config, torch.zeros(2, 3, npix(3)), torch.ones(2))
    for name in ("to_latent", "from_latent"):
        buffer = model.get_buffer(name)
        buffer.copy_(torch.from_numpy(rng.standard_normal(tuple(buffer.shape)).astype(np.float32)))
    spread = {
        "latent_cell_std": rng.uniform(0.5, 2, (2, npix(1))).astype(np.float32),
        "latent_level_std": rng.uniform(0.5, 2, (2, 2)).astype(np.float32),
    }
    maps = latent_fields(model, spread)
    assert maps is not None
    white = rng.standard_normal((5, 2, npix(1)))
    latents = unwhiten(white, (0, 1), spread["latent_cell_std"], spread["latent_level_std"])
    season = torch.zeros(5, 2)
    with torch.no_grad():
        fields = model._of_season(torch.from_numpy(latents.astype(np.float32))[:, :, None], model.from_latent, season)
        again = model._of_season(fields, model.to_latent, season)[:, :, 0].numpy()
    np.testing.assert_allclose(np.einsum("tvl,vlp->tvp", white, maps[0]), fields[:, :, 0].numpy(), rtol=1e-4, atol=1e-4)
    back = whiten(again, (0, 1), spread["latent_cell_std"], spread["latent_level_std"])
    np.testing.assert_allclose(np.einsum("tvp,vpl->tvl", fields[:, :, 0].numpy(), maps[1]), back, rtol=1e-3, atol=1e-3)


def test_waves_of_whitened_latents_give_waves_of_latents() -> None:  # oracle: the sum over the latents themselves
    rng = np.random.default_rng(5)
    zooms, shape = (0, 1, 2), (2, npix(2))
    cell_std = rng.uniform(0.5, 2, shape).astype(np.float32)
    level_std = rng.uniform(0.5, 2, (2, 3)).astype(np.float32)
    latents = rng.standard_normal((4, *shape)).astype(np.float32)
    white = whiten(latents, zooms, cell_std, level_std)
    np.testing.assert_allclose(unwhiten(white, zooms, cell_std, level_std), latents, atol=1e-5)
    found = np.einsum("wvp,tvp->tw", large_waves(zooms, cell_std, level_std), white)
    expected = np.einsum("wp,tvp->tvw", spherical_harmonics(2, WAVES).T, latents).reshape(4, -1)
    np.testing.assert_allclose(found, expected, atol=2e-3)
