"""The configuration of a small run on real fields, with some values changed: as a record or as a file."""

import json
from pathlib import Path

import msgspec

from fsae.training.config import Config, read_config

SMALL = Path(__file__).with_name("small.toml")
SAMPLE = Path(__file__).parents[2] / "training" / "sample" / "ncep1-tas-mon-200501-201412.nc"
VALIDATION = ("data.training_years = [2005, 2009]", "data.validation_years = [2010, 2010]")
DIFFUSION = (
    "diffusion = {window = 3, previous = 2, token_zooms = [0], width = 16, heads = 2, embedding = 9}",
    "diffusion_fit = {steps = 4, batch = 4, learning_rate = 1e-3, checkpoint_every_steps = 2}",
)


def small_config(*changes: str) -> Config:
    """The small configuration; `changes` are lines of TOML with dotted keys, as of `fsae-train --set`."""
    return read_config(SMALL, [f'data.inputs = ["{SAMPLE}"]', *changes])


def write_config(folder: Path, *changes: str) -> Path:
    """Write the changed configuration into the folder as NAME.toml; return its path."""
    config = small_config(*changes)
    path = folder / f"{config.name}.toml"
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in _given(msgspec.to_builtins(config)).items()))
    return path


def _given(table: dict[str, object]) -> dict[str, object]:
    """A table without its empty values: TOML knows no null."""
    return {key: value for key, value in table.items() if value is not None}


def _toml(value: object) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in _given(value).items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)  # strings, numbers and booleans look the same in both
