"""Autoencoder and denoiser: conservation, equivariances and closed forms, on small untrained-but-random networks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fsae.runtime.climatology import evaluate, season
from fsae.runtime.errors import UsageError
from fsae.runtime.healpix import coarsen, npix, refine
from fsae.runtime.pyramid import level_mask
from fsae.runtime.sampler import noise_features
from fsae.training.autoencoder import Autoencoder, AutoencoderConfig
from fsae.training.denoiser import Denoiser, DenoiserConfig
from fsae.training.layers import FieldSpaceBlock, Tokens

CONFIG = AutoencoderConfig(
    base_zoom=0, latent_zoom=1, zoom=3, fine_token_zoom=1, coarse_token_zoom=0, depths=(1, 1, 1, 1), width=16, heads=2
)
HARMONICS = 2


def scramble(model: torch.nn.Module) -> None:
    """Give every parameter a random value, so that nothing holds only because it starts at zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    rng = np.random.default_rng(0)
    climatology = rng.normal(size=(2, 1 + 2 * HARMONICS, npix(3))).astype(np.float32)
    model = Autoencoder(CONFIG, torch.from_numpy(climatology), torch.tensor([1.5, 4.0]))
    scramble(model)
    model.sharpening.copy_(torch.tensor([[0.3, 0.2], [-0.1, 0.4]]))
    return model.eval()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(1)
    field = torch.from_numpy(rng.normal(size=(4, 2, npix(3))).astype(np.float32))
    features = torch.from_numpy(season(np.array([0.1, 0.4, 0.6, 0.9]), HARMONICS))
    return field, features, torch.ones(4, 4)


@torch.no_grad()
def test_base_cell_means_survive(autoencoder: Autoencoder, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    # oracle: means over the 12 base cells of the input, whatever the weights
    field, features, mask = batch
    latent = autoencoder.encode(field, features, mask)
    rebuilt = autoencoder.decode(latent, features)
    assert (rebuilt - field).abs().max() > 0.1  # the weights are random: the field itself does not survive
    np.testing.assert_allclose(coarsen(rebuilt.numpy(), 3), coarsen(field.numpy(), 3), atol=2e-5)  # float32 sums
    anomaly = (field - autoencoder.mean(features)) / autoencoder.scale[:, None]
    np.testing.assert_allclose(coarsen(latent.numpy(), 1), coarsen(anomaly.numpy(), 3), atol=2e-6)


@torch.no_grad()
def test_mean_is_the_harmonic_climatology(autoencoder: Autoencoder) -> None:  # oracle: the runtime's NumPy original
    features = season(np.array([0.0, 0.3]), HARMONICS)
    expected = evaluate(autoencoder.climatology.numpy(), features)
    np.testing.assert_allclose(autoencoder.mean(torch.from_numpy(features)).numpy(), expected, atol=1e-6)


@torch.no_grad()
def test_masked_levels_are_not_seen(autoencoder: Autoencoder, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    # oracle: two fields with the same means at zoom 2 must give the same latent when finer levels are masked
    field, features, _ = batch
    mask = torch.from_numpy(level_mask(CONFIG.zooms, 2)).expand(4, -1)
    blocky = torch.from_numpy(refine(coarsen(field.numpy(), 1), 1))
    one, other = (autoencoder.encode(x, features, mask) for x in (field, blocky))
    np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)


@torch.no_grad()
def test_batch_items_do_not_see_each_other(autoencoder: Autoencoder, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    # oracle: permutation equivariance
    field, features, mask = batch
    order = torch.tensor([2, 0, 3, 1])
    straight = autoencoder.decode(autoencoder.encode(field, features, mask), features)
    mixed = autoencoder.decode(autoencoder.encode(field[order], features[order], mask), features[order])
    np.testing.assert_allclose(mixed.numpy(), straight[order].numpy(), atol=1e-5)


@torch.no_grad()
def test_untrained_autoencoder_is_block_means_of_anomalies() -> None:  # oracle: block means
    climatology = torch.zeros(1, 1 + 2 * HARMONICS, npix(3))
    model = Autoencoder(CONFIG, climatology, torch.ones(1))
    for name, parameter in model.named_parameters():
        if "gate" in name:
            torch.nn.init.zeros_(parameter)
    field = torch.randn(2, 1, npix(3), generator=torch.Generator().manual_seed(2))
    features = torch.from_numpy(season(np.array([0.2, 0.7]), HARMONICS))
    rebuilt = model.decode(model.encode(field, features, torch.ones(2, 4)), features)
    np.testing.assert_allclose(rebuilt.numpy(), refine(coarsen(field.numpy(), 2), 2), atol=1e-6)


def test_tokens_come_apart_and_together() -> None:  # oracle: the identity, and means for levels coarser than the token
    zooms = (0, 1, 2)
    generator = torch.Generator().manual_seed(3)
    levels = [torch.randn(2, 1, 3, npix(zoom), generator=generator) for zoom in zooms]
    tokens = Tokens(zooms, 1)
    inside, halo = tokens.take(levels)
    assert inside.shape == (2, 1, 48, 3 * (1 + 1 + 4))
    assert halo.shape == (2, 1, 48, 3 * (8 + 8 + 12))
    for level, back in zip(levels, tokens.put(inside, 3), strict=True):
        np.testing.assert_allclose(back.numpy(), level.numpy(), atol=1e-6)


def test_block_without_gates_is_the_identity() -> None:  # oracle: field + 0
    block = FieldSpaceBlock(zooms=(0, 1, 2), token_zoom=1, width=8, heads=2, embedding=4)
    scramble(block)
    torch.nn.init.zeros_(block.attention_gate)
    torch.nn.init.zeros_(block.mlp_gate)
    levels = [torch.randn(2, 1, 1, npix(zoom)) for zoom in (0, 1, 2)]
    out = block(levels, torch.randn(48, 4), torch.randn(2, 1, 4))
    for level, same in zip(levels, out, strict=True):
        np.testing.assert_array_equal(same.detach().numpy(), level.numpy())


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    config = DenoiserConfig(window=3, previous=2, token_zooms=(0, 1), width=16, heads=2, embedding=8)
    model = Denoiser(
        config, zooms=(0, 1), variables=1, harmonics=HARMONICS, forcing_range=torch.tensor([1950.0, 2000.0])
    )
    scramble(model)
    return model.eval()


def denoise(model: Denoiser, sigma: float, noisy: Tensor, previous: Tensor, valid: Tensor) -> Tensor:
    count = len(noisy)
    features = torch.from_numpy(noise_features(np.full(count, sigma)))
    year = torch.from_numpy(season(np.full((count, 3), 0.3), HARMONICS))
    with torch.no_grad():
        out: Tensor = model(
            noisy,
            torch.full((count,), sigma),
            features,
            year,
            torch.full((count, 3), 1990.0),
            torch.zeros(count),
            previous,
            valid,
        )
    return out


def test_little_noise_is_passed_through(denoiser: Denoiser) -> None:  # oracle: EDM eq. 7, c_skip -> 1 and c_out -> 0
    noisy = torch.randn(2, 3, 1, 48, generator=torch.Generator().manual_seed(7))
    out = denoise(denoiser, 1e-4, noisy, torch.zeros(2, 2, 1, 48), torch.zeros(2, 2))
    np.testing.assert_allclose(out.numpy(), noisy.numpy(), atol=5e-3)


def test_unknown_previous_steps_are_not_read(denoiser: Denoiser) -> None:  # oracle: no dependence where valid is 0
    generator = torch.Generator().manual_seed(8)
    noisy, one, other = (torch.randn(2, n, 1, 48, generator=generator) for n in (3, 2, 2))
    unknown, known = torch.zeros(2, 2), torch.ones(2, 2)
    first = denoise(denoiser, 1.0, noisy, one, unknown)
    assert torch.equal(first, denoise(denoiser, 1.0, noisy, other, unknown))
    assert not torch.allclose(denoise(denoiser, 1.0, noisy, one, known), denoise(denoiser, 1.0, noisy, other, known))


def test_bad_shapes_of_networks_are_refused() -> None:  # oracle: the stated conditions
    with pytest.raises(UsageError, match="base_zoom < latent_zoom < zoom"):
        AutoencoderConfig(base_zoom=3, latent_zoom=3, zoom=5)
    with pytest.raises(UsageError, match="not a multiple of heads"):
        DenoiserConfig(width=30, heads=4)
