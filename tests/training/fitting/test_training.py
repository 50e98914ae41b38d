"""Training: samples, losses, and a whole small run that is interrupted and goes on."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.numpy import load_file
from small_config import DIFFUSION, SAMPLE, VALIDATION, small_config, write_config

from fsae.runtime.climate import climatology
from fsae.runtime.errors import Stopped, UsageError
from fsae.training.cli.main import main
from fsae.training.config import NoiseConfig, TrainerConfig
from fsae.training.data.datasets import AnomalySamples, Stretch, WindowSamples
from fsae.training.fitting import loop as fit
from fsae.training.fitting.diffusion import latent_spread
from fsae.training.fitting.loop import denoiser_loss
from fsae.training.fitting.pipeline import train
from fsae.training.fitting.run_folder import Run, load_run
from fsae.training.input_files import Files


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run, trained undisturbed."""
    config = small_config(*VALIDATION, *DIFFUSION, "autoencoder.dropout = 0.1")
    return train(config, Files(inputs=[SAMPLE]), tmp_path_factory.mktemp("runs") / "small", progress=False)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also if these tests run in the background of a shell, which ignores it there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("localisation", [0.0, 1.0])
def test_mixtures_keep_variance_and_depend_on_the_index_alone(
    localisation: float,
) -> None:  # oracle: a^2 + b^2 + c^2 = 1 in every pixel, determinism
    rng = np.random.default_rng(0)
    months = rng.normal(size=(300, 1, 192)).astype(np.float32)
    season = rng.normal(size=(300, 4)).astype(np.float32)
    waves = rng.normal(size=(9, 192)).astype(np.float32)

    def make(mixture: float) -> AnomalySamples:
        return AnomalySamples(months, season, waves, mixture=mixture, localisation=localisation, seed=3)

    samples = make(1.0)
    drawn = np.stack([samples[i][0].numpy() for i in range(200)])
    np.testing.assert_allclose(np.square(drawn).mean(), np.square(months).mean(), rtol=0.03)
    np.testing.assert_array_equal(make(1.0)[157][0], drawn[157])
    plain = make(0.0)
    assert all((months == plain[i][0].numpy()).all(axis=(1, 2)).any() for i in range(5))


def test_windows_hold_consecutive_steps_and_known_noise() -> None:  # oracle: the series counts its own steps
    steps = np.arange(40, dtype=np.float32)
    white = np.broadcast_to(steps[:, None, None], (40, 1, 48)).astype(np.float32)
    index = np.arange(40) + 3 * (np.arange(40) >= 20)  # three steps are missing in the middle
    season = np.zeros((40, 2), np.float32)
    series = Stretch(source="hr", index=index, latents=white, season=season, forcing=1950 + steps)
    noise = NoiseConfig(log_mean=0.3, log_deviation=0.5, previous_share=0.5, forcing_jitter_years=0.0)
    samples = WindowSamples(
        [series],
        noise,
        forcing_jitter=0.0,
        high_resolution_share=1.0,
        window=4,
        previous=2,
        seed=0,
    )
    drawn = [samples[i] for i in range(300)]
    for sample in drawn:
        first = float(sample["clean"][0, 0, 0])
        np.testing.assert_array_equal(sample["clean"][:, 0, 0], first + np.arange(4))
        assert not 16 < first < 20
        np.testing.assert_allclose(sample["forcing"], 1950 + first + np.arange(4))
        if sample["previous_valid"].any():
            np.testing.assert_array_equal(sample["previous"][:, 0, 0], first + np.array([-2, -1]))
            assert not 20 <= first < 22
    noisiness = [float((s["noisy"] - s["clean"]).std() / s["sigma"]) for s in drawn]
    np.testing.assert_allclose(np.mean(noisiness), 1.0, rtol=0.02)
    np.testing.assert_allclose(np.log([s["sigma"] for s in drawn]).mean(), 0.3, atol=0.1)
    assert 0.3 < np.mean([bool(s["previous_valid"].any()) for s in drawn]) < 0.6


def test_loss_of_the_ideal_denoiser_of_unit_noise() -> None:  # oracle: EDM, the network's ideal answer is zero, loss 1
    rng = np.random.default_rng(1)
    sigma = torch.tensor([0.1, 1.0, 10.0]).repeat(200)
    clean = torch.from_numpy(rng.normal(size=(600, 3, 1, 48))).float()
    noisy = clean + sigma[:, None, None, None] * torch.from_numpy(rng.normal(size=clean.shape)).float()

    def ideal(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return noisy / (1 + sigma[:, None, None, None] ** 2)

    loss = denoiser_loss(ideal, {"clean": clean, "noisy": noisy, "sigma": sigma})  # type: ignore[arg-type]
    np.testing.assert_allclose(float(loss), 1.0, rtol=0.02)


def test_latent_spread_of_white_noise_is_one_per_level() -> None:  # oracle: white noise with known cell spread
    zooms = (0, 1, 2)
    cell = np.linspace(0.5, 2.0, 192)[None]
    season = climatology.season((np.arange(6000) % 12 + 0.5) / 12, 2)
    winter = np.exp(0.3 * season[:, 0])[:, None, None]  # the deviation of January over its mean
    latents = (np.random.default_rng(2).normal(size=(6000, 1, 192)) * cell * winter).astype(np.float32)
    spread = latent_spread(latents, season, zooms)
    np.testing.assert_allclose(spread["latent_season_std"][0, 0], 0.3, rtol=0.4)  # smoothed over two months
    np.testing.assert_allclose(spread["latent_season_std"][0, 0].mean(), 0.3, rtol=0.15)
    np.testing.assert_allclose(spread["latent_cell_std"], cell, rtol=0.06)  # 4 sigma of 1 / sqrt(2 * 3000)
    np.testing.assert_allclose(spread["latent_level_std"], [[0.25, 0.5, 1.0]], rtol=0.03)


@pytest.mark.parametrize(
    ("number", "trainer"),
    [
        (signal.SIGINT, TrainerConfig(accelerator="cpu")),
        (signal.SIGTERM, TrainerConfig(accelerator="cpu", cache_gib=0.0, loader_workers=1)),  # fields stay on disk
    ],
    ids=["SIGINT", "SIGTERM, streamed"],
)
@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_run_ends_like_an_undisturbed_one(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, trainer: TrainerConfig
) -> None:  # oracle: the undisturbed run with all in memory, bit for bit on the same machine
    undisturbed = fit.Fit.on_train_batch_start

    def interrupt(task: fit.Fit, batch: object, batch_idx: int) -> None:
        if task.global_step == 3:  # between two checkpoints of the autoencoder
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        undisturbed(task, batch, batch_idx)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    config, files = replace(small_run.config, trainer=trainer), Files(inputs=[SAMPLE])
    with monkeypatch.context() as patched:
        patched.setattr(fit.Fit, "on_train_batch_start", interrupt)
        with pytest.raises(Stopped, match="from step 2 of 6"):
            train(config, files, tmp_path / "parts", progress=False)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers

    seen: list[int] = []

    def note(task: fit.Fit, batch: object, batch_idx: int) -> None:
        seen.append(task.global_step)
        undisturbed(task, batch, batch_idx)

    monkeypatch.setattr(fit.Fit, "on_train_batch_start", note)
    train(config, files, tmp_path / "parts", progress=False)
    assert seen == [2, 3, 4, 5, 0, 1, 2, 3]  # the rest of the autoencoder's steps, then the denoiser's
    for name in ("autoencoder", "denoiser"):
        one, other = (load_file(run / f"{name}.safetensors") for run in (small_run.path, tmp_path / "parts"))
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
    with pytest.raises(UsageError, match="another configuration"):
        train(replace(config, seed=1), files, tmp_path / "parts", progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("autoencoder.wdith = 16", "unknown keys ['wdith']"),
        ("autoencoder.heads = 0", "autoencoder.heads is 0, expected a whole number from 1"),
        ("diffusion.token_zooms = [4]", "expected zooms from 0 to the latent's 1"),
        ("autoencoder.fine_token_zoom = 9", "small.toml: autoencoder: the token zooms are 9 and 0"),
        ("autoencoder.heads = 'two'", "heads is 'two', expected a whole number from 1"),
        ("data.evaluation_years = [2009, 2014]", "overlap"),
        ("autoencoder.latent_zoom = 4", "base_zoom < latent_zoom < zoom"),
        ("data.harmonics = 9", "expected a whole number from 1 to 5"),
        ('name = "../small"', "small.toml: name is '../small', expected a plain name: letters"),
        ('data.inputs = ["no-such-file.nc"]', "does not exist"),
        ('data.static = ["no-such-file.nc"]', "data.static names"),
        ('data.normalisation = "none"', "data.normalisation is 'none', expected one of ['climatology'"),
        ('data.scale = "zonal"', "data.scale is 'zonal', expected one of ['variable', 'pixel']"),
        ("autoencoder.static_fields = true", "expected data.static to name the files"),
        ("trainer.devices = 0", "trainer.devices is 0, expected a whole number from 1"),
        ("trainer.devices = 3", "autoencoder_fit.batch is 4, expected a multiple of the 3 devices"),
        ('trainer.precision = "8-bit"', "trainer.precision is '8-bit', expected one of"),
        ('trainer.accelerator = "tpu"', "trainer.accelerator is 'tpu', expected one of"),
        ("trainer.cache_gib = -1.0", "trainer.cache_gib is -1.0"),
        ("trainer.loader_workers = -1", "trainer.loader_workers is -1"),
        ("trainer.loader_workers = 1.5", "trainer.loader_workers is 1.5, expected a whole number from 0"),
        ('sampler.name = "rk4"', "small.toml: sampler.name is 'rk4', expected one of ['dpm2m', 'euler', 'heun']"),
        ("sampler.sigma_min = 90.0", "small.toml: sampler: sigma_min is 90.0 and sigma_max 80.0, expected a larger"),
        ("autoencoder_fit.learning_rate = nan", "autoencoder_fit.learning_rate is nan, expected a finite number above"),
        ("data.training_years = [2009, 2005]", "data: training_years is [2009, 2005], expected the earlier one first"),
        (
            "data.training_years = [2005, 99999]",
            "data.training_years[1] is 99999, expected a whole number from 0 to 9999",
        ),
        ("seed.deep = 1", "seed is {'deep': 1}, expected a whole number from 0"),
        ("trainer.tensorboard = 1", "trainer.tensorboard is 1, expected true or false"),
    ],
)
def test_bad_configurations_are_named_before_anything_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:  # oracle: the stated message, exit code 2, no run folder
    config = write_config(tmp_path, *DIFFUSION)
    assert main([str(config), "--set", change, "--out", str(tmp_path / "runs")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_not_toml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: the stated message, exit code 2, no run folder
    config = tmp_path / "small.toml"
    config.write_text("[data")
    assert main([str(config), "--out", str(tmp_path / "runs")]) == 2
    assert "is not TOML" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_unfinished_and_damaged_runs_are_refused(tmp_path: Path) -> None:  # oracle: the stated message
    with pytest.raises(UsageError, match="is not a run"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is not finished"):
        load_run(tmp_path)
