"""The CNN-VAE baseline: its symmetry, its size, and what it makes of real fields in a small run."""

import os
import re
import signal
import time
from pathlib import Path

import healpy
import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.numpy import load_file
from small_config import VALIDATION, write_config

from fsae.runtime.errors import DataError, Stopped, UsageError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import pixel_centres
from fsae.training.cli.main import main
from fsae.training.config import Config, read_config
from fsae.training.fitting import cnn_vae as cnn_stage
from fsae.training.fitting.cnn_vae import mixture_waves, reconstruct, sample_at_points, train_cnn_vae
from fsae.training.fitting.run_folder import load_run, make_autoencoder, read_statistics
from fsae.training.networks.cnn_vae import KL_WEIGHT, CnnVae, cnn_vae_loss, fitting_width, parameter_count, places
from fsae.training.networks.halo import spherical_harmonics

LAT_DEG = torch.linspace(90, -90, 73, dtype=torch.float64)
LON_DEG = torch.arange(144, dtype=torch.float64) * 2.5
SEASONS = 4
CHANGES = (
    *VALIDATION,
    'data.inputs = ["tas.nc"]',
    "autoencoder.latent_zoom = 2",
    "autoencoder.coarse_token_zoom = 1",
    "autoencoder_fit = {steps = 12, batch = 8, learning_rate = 1e-2, mixture = 0.5}",
    "autoencoder_fit.average_decay = 0.5",
    "autoencoder_fit.checkpoint_every_steps = 4",
)


def make_model(stages: int, *, width: int = 8, lat: int = 73, lon: int = 144, variables: int = 1) -> CnnVae:
    """A CNN-VAE on a global grid, every weight of it random: none stays at its start of zero."""
    lat_deg = torch.linspace(90, -90, lat, dtype=torch.float64)
    constant = places(lat_deg, torch.arange(lon, dtype=torch.float64) * 360 / lon)
    torch.manual_seed(0)
    model = CnnVae(variables=variables, seasons=SEASONS, lat_deg=lat_deg, constant=constant, stages=stages, width=width)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory, sample_data: Path) -> Path:
    """A small configuration, beside every second latitude and longitude of the sample's 2005 to 2014."""
    folder = tmp_path_factory.mktemp("small")
    with xr.open_dataset(sample_data / "ncep1-tas-mon-200501-201412.nc") as sample:
        sample.isel(lat=slice(0, None, 2), lon=slice(0, None, 2)).to_netcdf(folder / "tas.nc", engine="h5netcdf")
    return write_config(folder, *CHANGES)


@pytest.fixture(scope="module")
def trained(configuration: Path) -> Path:
    """A run with its autoencoder and its CNN-VAE, made by the commands."""
    runs = configuration.parent / "runs"
    assert main([str(configuration), "--out", str(runs), "--quiet"]) == 0
    assert main(["cnn-vae", str(configuration), "--out", str(runs), "--quiet"]) == 0
    return runs / "small"


def settings(configuration: Path) -> tuple[Config, list[Path]]:
    return read_config(configuration), [configuration.parent / "tas.nc"]


def run_with_autoencoder(trained: Path, folder: Path) -> Path:
    """A copy of the run as it was before its CNN-VAE."""
    folder.mkdir()
    for name in ("config.json", "facts.json", "statistics.npz", "autoencoder.safetensors", "data.zarr"):
        (folder / name).symlink_to(trained / name)
    return folder


@pytest.mark.parametrize("stages", [1, 3])
def test_the_world_may_be_turned(stages: int) -> None:  # oracle: the same model on a globe turned by 24 or 16 columns
    model = make_model(stages)
    anomaly, season = torch.randn(2, 1, 73, 144), torch.randn(2, SEASONS)
    with torch.no_grad():
        straight = model(anomaly.flatten(-2), season).reshape(anomaly.shape)
        columns = 16 if stages > 1 else 24  # a multiple of the 8 columns that one of the coarsest grid spans
        for stage in range(stages + 1):
            constant = model.get_buffer(f"constant_{stage}")
            constant.copy_(constant.roll(columns >> stage, -1))
        turned = model(anomaly.roll(columns, -1).flatten(-2), season).reshape(anomaly.shape)
    assert straight.std() > 0.05
    np.testing.assert_allclose(turned, straight.roll(columns, -1), atol=1e-4)  # float32 of sums in another order


@pytest.mark.parametrize(("lat", "lon"), [(73, 144), (9, 15), (10, 17)])
def test_an_untrained_model_interpolates(lat: int, lon: int) -> None:
    # oracle: smoothing and linear interpolation keep a constant everywhere, and a line of latitude between the poles
    lat_deg = torch.linspace(90, -90, lat, dtype=torch.float64)
    constant = places(lat_deg, torch.arange(lon, dtype=torch.float64) * 360 / lon)
    model = CnnVae(variables=1, seasons=SEASONS, lat_deg=lat_deg, constant=constant, stages=2, width=8)
    line = torch.arange(lat, dtype=torch.float32)[:, None].expand(lat, lon)
    fields = torch.stack([torch.full_like(line, 3.0), line])[:, None].flatten(-2)  # (2, 1, lat * lon)
    with torch.no_grad():
        rebuilt = model(fields, torch.zeros(2, SEASONS)).reshape(2, lat, lon)
    np.testing.assert_allclose(rebuilt[0], 3.0, rtol=1e-6)
    inside = slice(4, (lat - 1) // 4 * 4 - 3)  # what lies between points that saw no border
    np.testing.assert_allclose(rebuilt[1, inside], line[inside], atol=1e-5)


@pytest.mark.parametrize(("stages", "numbers"), [(1, 37 * 72), (2, 19 * 36), (3, 10 * 18), (4, 5 * 9)])
@pytest.mark.parametrize("budget", [300_000, 700_000])
def test_it_is_as_large_as_the_autoencoder(stages: int, numbers: int, budget: int) -> None:
    # oracle: the budget; and the grid of 73 x 144 halved `stages` times, rounded up
    shape = {"variables": 1, "seasons": 8, "lat_deg": LAT_DEG, "constant": places(LAT_DEG, LON_DEG), "stages": stages}
    model = CnnVae(width=fitting_width(budget, **shape), **shape)  # type: ignore[arg-type]
    assert abs(parameter_count(model) / budget - 1) <= 0.1
    assert model.numbers == numbers


def test_too_small_an_autoencoder_is_named() -> None:  # oracle: the stated message
    with pytest.raises(UsageError, match="found no CNN-VAE with about the autoencoder's 50 parameters"):
        fitting_width(50, variables=1, seasons=8, lat_deg=LAT_DEG, constant=places(LAT_DEG, LON_DEG), stages=2)


def test_loss_is_by_area_with_a_little_divergence() -> None:  # oracle: NumPy on the model's own latent
    model = make_model(1, lat=9, lon=16, variables=2)
    anomaly, season = torch.randn(3, 2, 144), torch.randn(3, SEASONS)
    with torch.no_grad():
        torch.manual_seed(5)
        loss = float(cnn_vae_loss(model, (anomaly, season)))
        mean, log_variance = (part.double().numpy() for part in model.encode(anomaly, season))
        torch.manual_seed(5)
        drawn = mean + np.exp(log_variance / 2) * torch.randn(3, 2, 5, 8).numpy()
        rebuilt = model.decode(torch.from_numpy(drawn).float(), season)
    square = np.square((rebuilt - anomaly).double().numpy()).reshape(3, 2, 9, 16).mean(axis=(0, 1, 3))
    cosine = np.cos(np.radians(np.linspace(90, -90, 9)))
    variance = np.exp(log_variance)
    divergence = 0.5 * np.mean(variance + mean**2 - 1 - np.log(variance))
    np.testing.assert_allclose(loss, np.average(square, weights=cosine) + KL_WEIGHT * divergence, rtol=1e-5)


def test_mixtures_are_those_of_the_autoencoder() -> None:  # oracle: its own waves at pixel centres
    lat_deg, lon_deg = (axis[::1021] for axis in pixel_centres(5))
    waves = mixture_waves(LatLonGrid(lat_deg=lat_deg, lon_deg=lon_deg), 9).reshape(9, len(lat_deg), len(lon_deg))
    expected = spherical_harmonics(5, 9)[::1021].T
    np.testing.assert_allclose(np.diagonal(waves, axis1=1, axis2=2), expected, atol=2e-3)  # those are normed on pixels


def test_points_get_the_pixel_that_holds_them() -> None:  # oracle: healpy
    field = np.random.default_rng(0).normal(size=(2, 768))
    lat_deg, lon_deg = LAT_DEG.numpy()[1:-1:3], LON_DEG.numpy()[::5] + 0.7
    lat, lon = np.meshgrid(lat_deg, lon_deg, indexing="ij")
    pixel = healpy.ang2pix(8, lon, lat, nest=True, lonlat=True)
    np.testing.assert_array_equal(sample_at_points(field, lat_deg, lon_deg), field[:, pixel])


def test_a_small_run_learns(trained: Path, configuration: Path) -> None:
    # oracle: NumPy's least squares for the truth; the climatology and the untrained model for the error
    result = reconstruct(trained)
    with xr.open_dataset(configuration.parent / "tas.nc") as source:
        values = source.tas.transpose("time", "lat", "lon").values.astype(np.float64)
        lat_deg = source.lat.values
    month = np.arange(120)
    days = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    leap = (month // 12 + 2005) % 4 == 0
    length = np.where(leap & (month % 12 == 1), 29, days[month % 12])
    start = np.array([length[m - m % 12 : m].sum() for m in month])
    phase = (start + length / 2) / np.where(leap, 366, 365)
    wave = 2 * np.pi * phase[:, None] * np.array([1, 2])
    design = np.concatenate([np.ones((120, 1)), np.cos(wave), np.sin(wave)], axis=1)
    coefficients = np.linalg.lstsq(design[:60], values[:60].reshape(60, -1), rcond=None)[0]
    anomaly = values[72:] - (design[72:] @ coefficients).reshape(48, *values.shape[1:])
    np.testing.assert_allclose(result.truth[:, 0], anomaly, atol=0.03)  # K: harmonics of 30 K have 11 bits

    def rmse(error: np.ndarray) -> float:
        return float(np.sqrt(np.average(np.square(error[:, 0]).mean(axis=(0, 2)), weights=np.cos(np.radians(lat_deg)))))

    run = load_run(trained)
    with cnn_stage.open_lat_lon(run.config, [configuration.parent / "tas.nc"], trained) as fields:
        untrained = cnn_stage.make_cnn_vae(run.config, fields.grid, run.statistics)
    scale = float(run.statistics["scale"][0])
    with torch.no_grad():
        start_error = untrained(torch.from_numpy(result.truth / scale).flatten(-2), torch.zeros(48, 4)) * scale
    error = start_error.reshape(result.truth.shape).numpy() - result.truth
    assert rmse(result.error) < 0.95 * rmse(error)
    assert rmse(error) < rmse(result.truth)
    assert result.numbers == 19 * 36
    assert abs(result.parameters / parameter_count(make_autoencoder(run.config, read_statistics(trained))) - 1) <= 0.1
    log = (trained / "train.log").read_text()
    assert re.search(r"cnn-vae: \d+ parameters, 684 latent numbers; 12 steps of 8 samples", log)
    assert log.count(" validation ") == 6  # three epochs of the autoencoder and of the CNN-VAE


def test_interrupted_training_ends_like_an_undisturbed_one(
    trained: Path, configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the undisturbed one, bit for bit on the same machine
    from fsae.training.fitting import loop as fit

    config, inputs = settings(configuration)
    folder = run_with_autoencoder(trained, tmp_path / "run")

    undisturbed = fit.Fit.on_train_batch_start

    def interrupt(task: fit.Fit, batch: object, batch_idx: int) -> None:
        if task.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        undisturbed(task, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(fit.Fit, "on_train_batch_start", interrupt)
        with pytest.raises(Stopped, match="from step 4 of 12"):
            train_cnn_vae(config, inputs, folder, progress=False)
    assert not (folder / "cnn_vae.safetensors").exists()
    with pytest.raises(UsageError, match="found no CNN-VAE"):
        reconstruct(folder)
    train_cnn_vae(config, inputs, folder, progress=False)
    whole, parts = (load_file(run / "cnn_vae.safetensors") for run in (trained, folder))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name], err_msg=name)
    assert list((folder / "cnn_vae").glob("*.ckpt")) == []


def test_a_finished_one_is_not_trained_again(
    trained: Path, configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: no fit is called and the weights stay as they are
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(cnn_stage, "fit_compression", refuse)
    before = (trained / "cnn_vae.safetensors").stat().st_mtime_ns
    assert main(["cnn-vae", str(configuration), "--out", str(trained.parent), "--quiet"]) == 0
    assert (trained / "cnn_vae.safetensors").stat().st_mtime_ns == before


def test_without_an_autoencoder_it_says_what_to_do(
    configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the stated message, exit code 2, nothing written
    assert main(["cnn-vae", str(configuration), "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "found no finished autoencoder in" in said
    assert "run fsae-train with the same arguments" in said
    assert not (tmp_path / "runs").exists()


def test_other_inputs_are_refused(trained: Path, configuration: Path, sample_data: Path, tmp_path: Path) -> None:
    # oracle: the stated message
    config, _ = settings(configuration)
    folder = run_with_autoencoder(trained, tmp_path / "run")
    with pytest.raises(DataError, match=r"is not what .* was trained on"):
        train_cnn_vae(config, [sample_data / "ncep1-tas-mon-200501-201412.nc"], folder, progress=False)
    with pytest.raises(UsageError, match="found no CNN-VAE"):
        reconstruct(folder)
