"""A run as small as it can be that still has every part: real fields, its weights not trained but stirred."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from fsae.runtime.backends.graphs import INPUTS
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Source, Variable
from fsae.runtime.climate.climatology import evaluate, fit, season
from fsae.runtime.input.joining import read_fields
from fsae.runtime.output.layout import Cells, Layout, Unit, open_output
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.training.config import Config, DataConfig, FastConfig, FitConfig, SamplerConfig, VariableConfig
from fsae.training.fitting.run_folder import (
    Facts,
    fast_levels,
    make_autoencoder,
    make_denoiser,
    save_weights,
    write_record,
    write_statistics,
)
from fsae.training.networks.autoencoder import AutoencoderConfig
from fsae.training.networks.denoiser import Denoiser, DenoiserConfig
from fsae.training.networks.halo import spherical_harmonics
from fsae.training.networks.patterns import WAVES

TAS = Variable(
    name="tas",
    standard_name="air_temperature",
    long_name="near-surface air temperature",
    units="K",
    cell_methods="time: mean",
    valid_range=(150.0, 350.0),
)
SAMPLE = "ncep1-tas-mon-200501-201412.nc"


def tiny_config() -> Config:
    """A run as small as it can be that still has every part."""
    loop = FitConfig(steps=1, batch=1, learning_rate=1e-3)
    return Config(
        name="tiny-run",
        data=DataConfig(
            inputs=("/somewhere/on/this/machine/a.nc",),
            variables=(
                VariableConfig(
                    name=TAS.name,
                    standard_name=TAS.standard_name,
                    long_name=TAS.long_name,
                    units=TAS.units,
                    valid_range=TAS.valid_range,
                ),
            ),
            harmonics=2,
            training_years=(2005, 2011),
            evaluation_years=(2012, 2014),
            licence="public domain",
        ),
        autoencoder=AutoencoderConfig(
            zoom=2, latent_zoom=1, fine_token_zoom=1, coarse_token_zoom=0, width=8, heads=2, embedding=4
        ),
        autoencoder_fit=loop,
        diffusion=DenoiserConfig(window=3, previous=2, token_zooms=(1,), width=8, heads=2, embedding=4),
        diffusion_fit=loop,
        fast=FastConfig(steps=2, sigma_min=0.5),
        fast_fit=loop,
        sampler=SamplerConfig(steps=3),
    )


def stir(module: nn.Module) -> None:
    """Move every weight, so that no part of the model is still the identity or zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))


def fit_linear_part(model: Denoiser) -> None:
    """Statistics of white noise with a memory for the denoiser's linear part."""
    noise = np.random.default_rng(3).standard_normal((60, 1, 48)).astype(np.float32)
    series = noise[1:] + 0.5 * noise[:-1]
    waves = spherical_harmonics(1, WAVES).T[:, None].astype(np.float32)
    model.wiener.fit([series], [np.linspace(-1, 1, len(series), dtype=np.float32)], waves)


def write_run(folder: Path, sample_data: Path) -> Path:
    """Write the tiny run into a new folder; return the folder."""
    folder.mkdir(parents=True)
    config = tiny_config()
    source = read_fields(sample_data / SAMPLE, [TAS], zoom=2)
    values = source.read()[0]
    layout = Layout(
        variables={"tas": {"standard_name": TAS.standard_name, "units": "K", "cell_methods": TAS.cell_methods}},
        attributes={"Conventions": "CF-1.12"},
        time=encode_times(source.times, None, source.calendar),
        grid=Cells(zoom=2),
        time_chunk=12,
    )
    with open_output(folder / "data.zarr", layout) as write:
        write(Unit(members=slice(0, 1), times=slice(0, len(values)), values=values[None]))
    waves = season(source.phase, config.data.harmonics)
    climatology = fit(values, source.phase, config.data.harmonics)
    anomalies = values - evaluate(climatology, waves).astype(np.float64)
    generator = np.random.default_rng(2)
    statistics = {
        "climatology": climatology,
        "scale": np.sqrt(np.square(anomalies).mean(axis=(0, 2))).astype(np.float32),
        "latent_cell_std": generator.uniform(0.5, 1.5, (1, 48)).astype(np.float32),
        "latent_season_std": generator.uniform(-0.3, 0.3, (1, 2, 48)).astype(np.float32),
        "latent_level_std": generator.uniform(0.5, 1.5, (1, 2)).astype(np.float32),
    }
    assert isinstance(source.grid, LatLonGrid)
    write_record(folder / "config.json", config)
    write_record(
        folder / "facts.json",
        Facts(
            inputs=(Source(name=SAMPLE, sha256="ab" * 32),),
            calendar=source.calendar,
            step="1 month",
            period=("2005-01-01", "2011-12-01"),
            source_lat_deg=tuple(map(float, source.grid.lat_deg)),
            source_lon_deg=tuple(map(float, source.grid.lon_deg)),
            versions={"torch": torch.__version__},
        ),
    )
    write_statistics(folder, statistics)
    models = {
        "autoencoder": make_autoencoder(config, statistics),
        "denoiser": make_denoiser(config),
        "fast": make_denoiser(config, fast_levels(config)),
    }
    for name, model in models.items():
        stir(model)
        if isinstance(model, Denoiser):
            fit_linear_part(model)
        save_weights(model, folder / f"{name}.safetensors")
    return folder


def files_of(bundle: Bundle, graph: str, precision: str = "fp32") -> dict[str, bytes]:
    """The files of a graph, as the exporter's functions take them."""
    name = f"{graph}.{precision}.onnx"
    return {name: bundle.read(name)}


def model_of(bundle: Bundle, graph: str, precision: str = "fp32") -> onnx.ModelProto:
    return onnx.load_from_string(bundle.read(f"{graph}.{precision}.onnx"))


def rows_of(bundle: Bundle, graph: str, count: int) -> dict[str, np.ndarray]:
    """Inputs of a graph: golden rows in turn, each moved a little."""
    golden = bundle.arrays("golden.npz")
    shift = np.linspace(0, 1, count, dtype=np.float32)
    found = {}
    for name in INPUTS[graph]:
        array = golden[f"{graph}.{name}"]
        rows = np.resize(array, (count, *array.shape[1:]))
        found[name] = rows + shift.reshape(-1, *[1] * (array.ndim - 1))
    return found
