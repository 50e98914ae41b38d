"""Measure what the shape of the autoencoder and its training are worth: the table of training/STUDIES.md.

Every row is the default configuration with the named keys changed, trained on 1948-1996 for a few hundred steps; the
error is that of 1997-2004, which no row was trained on. All but the first have maps of cells alone, without the dense
map of the sphere. Rows that are done are not trained again.

    python tests/bench/ablations.py [--steps 300] [--out runs/ablations] [ROW ...]
"""

import logging
import re
import time
from pathlib import Path

import click
from msgspec.structs import replace

from fsae.training.config import DEFAULT, Config, read_config
from fsae.training.fitting.pipeline import train
from fsae.training.fitting.run_folder import read_statistics
from fsae.training.input_files import Files, input_files

PERIODS = ("data.training_years=[1948,1996]", "data.validation_years=[1997,2004]")
FAST = ("autoencoder.sharpen=false", "autoencoder_fit.average_decay=0.98")
FINER = ("autoencoder.fine_token_zoom=3", "autoencoder.coarse_token_zoom=3")
ROWS: dict[str, tuple[str, ...]] = {
    "default": (),
    "maps of cells alone": (),
    "width 96": ("autoencoder.width=96",),
    "embedding 36": ("autoencoder.embedding=36",),
    "depths 2 1 1 3": ("autoencoder.depths=[2,1,1,3]",),
    "fine token zoom 3": ("autoencoder.fine_token_zoom=3",),
    "attention window zoom 1": ("autoencoder.attention_window_zoom=1",),
    "tokens of zoom 3, windows of zoom 0": (*FINER, "autoencoder.attention_window_zoom=0"),  # 576 keys
    "tokens of zoom 3, windows of zoom 1": (*FINER, "autoencoder.attention_window_zoom=1"),  # 144 keys, as at zoom 8
    "MLP maps, 32 hidden": ("autoencoder.map_hidden=32",),
    "no maps of the cells' own": ("autoencoder.per_cell_maps=false",),
    "a scale for each pixel": ('data.scale="pixel"',),
    "mean and deviation only": ('data.normalisation="mean_std"',),
    "no mixtures": ("autoencoder_fit.mixture=0.0",),
    "mixtures not localised": ("autoencoder_fit.localisation=0.0",),
}


def config_of(name: str, steps: int) -> Config:
    """The autoencoder of a row, trained for so many updates."""
    changes = (*PERIODS, *FAST, f"autoencoder_fit.steps={steps}", *ROWS[name])
    config = read_config(DEFAULT, changes)
    shape = config.autoencoder if name == "default" else replace(config.autoencoder, global_zoom=None)
    return replace(
        config, autoencoder=shape, diffusion=None, diffusion_fit=None, fast=None, fast_fit=None, forcing=None
    )


@click.command()
@click.argument("names", nargs=-1, metavar="[ROW]...")
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True, help="Updates of each row.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/ablations"), show_default=True)
def main(names: tuple[str, ...], steps: int, out: Path) -> None:
    """Train the ROWs (default: all) and print their table."""
    logger = logging.getLogger("fsae.training")
    logger.setLevel(logging.INFO)
    click.echo("| | parameters | validation RMSE [K] | minutes |")
    click.echo("|---|---:|---:|---:|")
    for name in names or ROWS:
        config = config_of(name, steps)
        folder = out / re.sub(r"[^a-z0-9]+", "-", name.lower())
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
        logger.addHandler(handler)
        start = time.perf_counter()
        run = train(config, Files(inputs=input_files(config.data.inputs, DEFAULT)), folder, progress=False)
        minutes = (time.perf_counter() - start) / 60
        logger.removeHandler(handler)
        handler.close()
        found = re.findall(r"validation ([0-9.]+)", (folder / "train.log").read_text(encoding="utf-8"))
        error = float(found[-1]) * float(read_statistics(folder)["scale"][0])
        parameters = sum(parameter.numel() for parameter in run.autoencoder.parameters())
        click.echo(f"| {name} | {parameters} | {error:.3f} | {minutes:.1f} |")


if __name__ == "__main__":
    main()
