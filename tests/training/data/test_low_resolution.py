"""Low-resolution sources: their anomalies, their way into the compressed space, and how often they are drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from msgspec import structs

from fsae.runtime.climate import climatology
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.sphere.healpix import coarsen, npix, refine
from fsae.training.config import Config, FitConfig, LowResolution, NoiseConfig, SourcesConfig, read_config
from fsae.training.data.datasets import Stretch, WindowSamples
from fsae.training.data.low_resolution import (
    Reference,
    amplified,
    anomalies_of,
    encode_coarse,
    level_gains,
    low_resolution_stretches,
)
from fsae.training.fitting.diffusion import consecutive
from fsae.training.fitting.pipeline import train
from fsae.training.fitting.run_folder import load_run, read_record, read_statistics
from fsae.training.input_files import Files
from fsae.training.networks.autoencoder import Autoencoder, AutoencoderConfig
from fsae.training.networks.denoiser import DenoiserConfig

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
SAMPLE = CONFIGS.parent / "sample"


@pytest.fixture(scope="module")
def config() -> Config:
    """A small model of zoom 3 with a ratio of 16, for the years 2005 to 2009."""
    shipped = read_config(CONFIGS / "default.toml")
    data = structs.replace(shipped.data, training_years=(2005, 2009), evaluation_years=(2010, 2014), harmonics=2)
    shape = AutoencoderConfig(zoom=3, latent_zoom=1, fine_token_zoom=1, coarse_token_zoom=0, width=16, heads=2)
    return structs.replace(
        shipped,
        name="small",
        data=data,
        forcing=None,
        autoencoder=shape,
        autoencoder_fit=FitConfig(steps=2, batch=2, learning_rate=1e-3),
        diffusion=DenoiserConfig(window=3, previous=2, token_zooms=(0,), width=16, heads=2),
        diffusion_fit=FitConfig(steps=2, batch=4, learning_rate=1e-3),
    )


def months(years: int) -> np.ndarray:
    """Phases of the middles of months."""
    return (np.arange(12 * years) % 12 + 0.5) / 12


def test_own_climatology_leaves_nothing_of_a_pure_cycle(config: Config) -> None:  # oracle: closed form
    statistics = {"scale": np.ones(1, np.float32), "climatology": np.zeros((1, 5, npix(3)), np.float32)}
    phase = months(10)
    wave = 280 + 10 * np.cos(2 * np.pi * phase) + 3 * np.sin(4 * np.pi * phase)
    fields = np.broadcast_to(wave[None, :, None, None], (2, 120, 1, npix(2))).astype(np.float32)
    source = LowResolution(inputs=("x.nc",), zoom=2)
    np.testing.assert_allclose(anomalies_of(config, source, fields, phase, statistics), 0, atol=1e-3)


@pytest.mark.parametrize(("members", "years"), [(1, 1), (1, 8), (5, 1)])
def test_few_steps_keep_the_variance(config: Config, members: int, years: int) -> None:  # oracle: unit white noise
    statistics = {"scale": np.full(1, 2, np.float32), "climatology": np.zeros((1, 5, npix(3)), np.float32)}
    noise = np.random.default_rng(years).standard_normal((members, 12 * years, 1, npix(2))).astype(np.float32)
    found = anomalies_of(config, LowResolution(inputs=("x.nc",), zoom=2), noise, months(years), statistics)
    np.testing.assert_allclose(np.square(2 * found).mean(), 1, rtol=0.05)


def test_training_climatology_is_block_averaged(
    config: Config,
) -> None:  # oracle: averaged fine anomalies
    rng = np.random.default_rng(0)
    table = rng.normal(size=(1, 5, npix(3))).astype(np.float32)
    phase = months(1)
    fine = rng.normal(size=(12, 1, npix(3))).astype(np.float32)
    expected = coarsen(fine - climatology.evaluate(table, climatology.season(phase, 2)), 2) / 2
    source = LowResolution(inputs=("x.nc",), zoom=1, years=(1950, 1960), climatology="training")
    statistics = {"scale": np.full(1, 2, np.float32), "climatology": table}
    found = anomalies_of(config, source, coarsen(fine, 2)[None], phase, statistics)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_coarse_fields_take_the_zero_shot_path() -> None:  # oracle: the same means under other fine structure, masked
    shape = AutoencoderConfig(zoom=3, latent_zoom=1, fine_token_zoom=1, coarse_token_zoom=0, width=16, heads=2)
    torch.manual_seed(0)
    model = Autoencoder(shape, torch.zeros(1, 5, npix(3)), torch.ones(1)).eval()
    rng = np.random.default_rng(1)
    coarse = rng.normal(size=(4, 1, npix(2))).astype(np.float32)
    detail = rng.normal(size=(4, 1, npix(3))).astype(np.float32)
    detail -= refine(coarsen(detail, 1), 1)
    season = climatology.season(months(1)[:4], 2)
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(4, -1)
    with torch.no_grad():
        expected = model.encode_anomaly(torch.from_numpy(refine(coarse, 1) + detail), torch.from_numpy(season), mask)
    np.testing.assert_allclose(encode_coarse(model, coarse, season, 2), expected.numpy(), atol=1e-5)


def test_gains_are_what_coarse_fields_lose(config: Config) -> None:  # oracle: latents that are known multiples of seen
    torch.manual_seed(2)
    model = Autoencoder(config.autoencoder, torch.zeros(1, 5, npix(3)), torch.ones(1)).eval()
    rng = np.random.default_rng(6)
    anomalies = rng.normal(size=(24, 1, npix(3))).astype(np.float32)
    season = climatology.season(months(2), 2)
    zooms = config.autoencoder.latent_zooms
    seen = encode_coarse(model, coarsen(anomalies, 1).astype(np.float32), season, 2)
    wanted = np.array([[1.5, 0.5]])
    reference = Reference(anomalies=anomalies, season=season, latents=amplified(seen, wanted, zooms))
    np.testing.assert_allclose(level_gains(model, reference, 2, zooms), wanted, rtol=1e-4)


def stretch(source: str, first: int, steps: int) -> Stretch:
    """Latents that hold their own step number."""
    values = np.arange(first, first + steps, dtype=np.float32)[:, None, None].repeat(12, axis=-1)
    season = np.zeros((steps, 2), np.float32)
    return Stretch(source=source, index=np.arange(steps), latents=values, season=season, forcing=values[:, 0, 0])


def test_sources_are_drawn_by_their_share() -> None:  # oracle: labels and values name the stretch a window is from
    parts = [stretch("hr", 0, 20), stretch("lr", 100, 30), stretch("lr", 200, 4)]
    noise = NoiseConfig(forcing_jitter_years=0.0)
    samples = WindowSamples(
        parts,
        noise,
        forcing_jitter=0.0,
        high_resolution_share=0.25,
        window=4,
        previous=2,
        seed=0,
    )
    drawn = [samples[i] for i in range(2000)]
    first = np.array([float(sample["clean"][0, 0, 0]) for sample in drawn])
    label = np.array([float(sample["source"]) for sample in drawn])
    np.testing.assert_array_equal(label, (first >= 100).astype(float))
    assert abs((label == 0).mean() - 0.25) < 0.03
    assert abs((first == 200).sum() / (label == 1).sum() - 1 / 28) < 0.015  # its only window among 28 of that label
    with pytest.raises(DataError, match="no 5 consecutive steps in the lr data"):
        WindowSamples(
            parts[::2],
            noise,
            forcing_jitter=0.0,
            high_resolution_share=0.5,
            window=5,
            previous=2,
            seed=0,
        )


def test_stretches_are_cut_at_gaps() -> None:  # oracle: the values count the steps
    whole = stretch("hr", 0, 6)
    parts = consecutive(replace(whole, index=np.array([0, 1, 2, 7, 8, 9])))
    assert [part.latents[:, 0, 0].tolist() for part in parts] == [[0, 1, 2], [3, 4, 5]]
    assert [part.index.tolist() for part in parts] == [[0, 1, 2], [7, 8, 9]]


def test_hybrid_run_on_an_autoencoder_of_another_run(config: Config, tmp_path: Path) -> None:
    """Oracles: the first run's weights; the source's own stretches; a run of other data is refused."""
    later = SAMPLE / "ncep1-tas-mon-200501-201412.nc"
    earlier = tmp_path / "earlier.nc"
    with xr.open_dataset(SAMPLE / "ncep1-tas-mon-194801-200412.nc") as whole:
        whole.sel(time=slice("1990-01", "1991-12")).rename(tas="ts").to_netcdf(earlier)
    first = train(config, Files(inputs=[later]), tmp_path / "first", progress=False)
    source = LowResolution(inputs=("x",), zoom=2, years=(1990, 1990), names={"tas": "ts"}, climatology="training")
    hybrid = structs.replace(config, sources=SourcesConfig(high_resolution_share=0.5, low_resolution=(source,)))
    files = Files(inputs=[later], low_resolution=[[earlier]])
    run = train(hybrid, files, tmp_path / "hybrid", autoencoder=tmp_path / "first", progress=False)
    assert [item.name for item in run.facts.inputs] == [later.name, "earlier.nc"]
    for name, value in first.autoencoder.state_dict().items():
        np.testing.assert_array_equal(value, run.autoencoder.state_dict()[name], err_msg=name)
    assert run.denoiser is not None
    assert run.denoiser.forcing_range.tolist() == [1990.0, 2010.0]
    statistics = read_statistics(tmp_path / "hybrid")
    (found,) = low_resolution_stretches(hybrid, [[earlier]], statistics, run.autoencoder, "1 month", None)
    assert (found.source, found.latents.shape) == ("lr", (12, 1, npix(1)))
    np.testing.assert_allclose(found.forcing, 1990 + (np.arange(12) + 0.5) / 12, atol=0.01)
    assert load_run(tmp_path / "hybrid").config == read_record(tmp_path / "hybrid" / "config.json", Config)
    with pytest.raises(UsageError, match="found other seed in"):
        train(
            structs.replace(hybrid, seed=1),
            files,
            tmp_path / "other",
            autoencoder=tmp_path / "first",
            progress=False,
        )
