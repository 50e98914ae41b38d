"""Train the golden run of `test_other_torch.py` with the torch installed here: python tests/golden/make_run.py FOLDER.

The run in `run-torch-2.6/` was made so, with torch 2.6; it stays as it is, because what it shows is that an older run
still exports. Beside the run's own files stands `outputs.npz`: what that torch computed, named as in a bundle's
golden.npz.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

from fsae.export.certificate.originals import expected_of, make_parts, original_run
from fsae.export.graphs.inputs import take
from fsae.runtime.backends.graphs import OUTPUTS
from fsae.training.config import Config, DataConfig, FitConfig, VariableConfig
from fsae.training.fitting.pipeline import train
from fsae.training.fitting.run_folder import Run, load_run
from fsae.training.input_files import Files
from fsae.training.networks.autoencoder import AutoencoderConfig
from fsae.training.networks.denoiser import DenoiserConfig

SAMPLE = "ncep1-tas-mon-200501-201412.nc"
STEPS, ROWS = 60, 4
KEPT = ("config.json", "facts.json", "statistics.npz", "data.zarr", "autoencoder.safetensors", "denoiser.safetensors")


def config() -> Config:
    """A run as small as it can be, with an autoencoder and a diffusion model."""
    loop = FitConfig(steps=STEPS, batch=8, learning_rate=3e-3, average_decay=0.9)
    tas = VariableConfig(
        name="tas",
        standard_name="air_temperature",
        long_name="near-surface air temperature",
        units="K",
        valid_range=(150.0, 350.0),
    )
    return Config(
        name="golden-run",
        data=DataConfig(
            inputs=(SAMPLE,),
            variables=(tas,),
            harmonics=2,
            training_years=(2005, 2011),
            evaluation_years=(2012, 2014),
            licence="public domain (NCEP/NCAR Reanalysis 1, NOAA PSL)",
        ),
        autoencoder=AutoencoderConfig(
            zoom=2, latent_zoom=1, fine_token_zoom=1, coarse_token_zoom=0, width=8, heads=2, embedding=4
        ),
        autoencoder_fit=loop,
        diffusion=DenoiserConfig(window=3, previous=2, token_zooms=(1,), width=8, heads=2, embedding=4),
        diffusion_fit=loop,
    )


def outputs(run: Run) -> dict[str, np.ndarray]:
    """Inputs of every graph from the evaluation years, and what torch gives for them."""
    original = original_run(run)
    found = {}
    for graph, part in make_parts(original, original.years).items():
        rows = take(part.inputs, np.linspace(0, len(part.expected) - 1, ROWS).astype(int).tolist())
        found |= {f"{graph}.{name}": array for name, array in rows.items()}
        found[f"{graph}.{OUTPUTS[graph]}"] = expected_of(original, graph, rows)
    return found


def make(folder: Path) -> None:
    """Train the run in `folder` and leave there only what an export needs, and `outputs.npz`."""
    sample = Path(__file__).parents[2] / "training" / "sample" / SAMPLE
    train(config(), Files(inputs=[sample]), folder, progress=False)
    for path in folder.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    np.savez_compressed(folder / "outputs.npz", **outputs(load_run(folder)))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
