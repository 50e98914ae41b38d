"""A run folder: the files of each stage, and the trained models read back from it.

runs/<name>/config.json          the whole configuration, as resolved
            data.zarr/           prepared fields (CF, nested HEALPix)
            facts.json           inputs with hashes, calendar, step, period, versions
            statistics.npz       climatology, scale, static fields, then spreads of the latents
            archive.npz          tables of the archive codec, if it was fitted
            autoencoder.safetensors, denoiser.safetensors, fast.safetensors
            autoencoder/, diffusion/   losses (metrics.csv) and, while unfinished, checkpoints
            metrics.json, evaluation.npz, hindcast.json, report.html   what studies found (evaluation/saved.py)
            train.log
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from msgspec.structs import asdict
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fsae.runtime.arrays import F32
from fsae.runtime.atomic import write_aside
from fsae.runtime.bundle.manifest import Calendar, MonthOrDay, Sampler, Source, Step
from fsae.runtime.bundle.records import Line, Number, Record, decode_record, read_json, to_json
from fsae.runtime.diffusion.sampler import noise_levels
from fsae.runtime.ensemble.members import LatentModel
from fsae.runtime.errors import DataError, OutputError, UsageError
from fsae.training.config import Config, calendar_years
from fsae.training.networks.autoencoder import Autoencoder, CellMap
from fsae.training.networks.denoiser import Denoiser
from fsae.training.networks.global_map import FEWEST_SCALED, in_bytes

R = TypeVar("R")
CONFIG, LOG = "config.json", "train.log"
LARGE = 8192  # numbers of a matrix for whose bytes and scales it is worth while to have two constants


class Facts(Record, frozen=True, kw_only=True):
    """Facts that the input files state about themselves; `period` holds the first and last training date."""

    inputs: tuple[Source, ...]
    calendar: Calendar
    step: Step
    period: tuple[MonthOrDay, MonthOrDay]
    source_lat_deg: tuple[Number, ...]  # axes of the inputs' own grid; empty if that is HEALPix
    source_lon_deg: tuple[Number, ...]
    versions: Mapping[Line, Line]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: models in evaluation mode on the CPU, and the tables that go with them."""

    path: Path
    config: Config
    facts: Facts
    autoencoder: Autoencoder
    denoiser: Denoiser | None
    fast: Denoiser | None  # distilled
    statistics: dict[str, F32]

    @property
    def fields(self) -> Path:
        """The prepared fields."""
        return self.path / "data.zarr"


def sha256(path: Path) -> str:
    """Hash of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(part.relative_to(path).as_posix().encode())
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def hashed(path: Path) -> Source:
    """Name and hash of an input."""
    return Source(name=path.name, sha256=sha256(path))


def check_run_folder(folder: Path) -> None:
    """Raise OutputError if something is at a path that is neither a run nor an empty folder, before it is written to.

    A file config.json that is not that of a run is a UsageError.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} exists and is not a folder", advice="give another --out or --name")
    if (folder / CONFIG).exists():
        read_record(folder / CONFIG, Config)
        return
    others = sorted(path.name for path in folder.iterdir() if path.name != LOG)
    if others:
        found = f"{folder} is not a run, and holds {others[0]}"
        raise OutputError(found, advice="give another --out or --name, or an empty folder")


def write_record(path: Path, record: object) -> None:
    """Write a frozen record as JSON."""
    with write_aside(path) as aside:
        aside.write_text(to_json(record), encoding="utf-8")


def read_record(path: Path, kind: type[R]) -> R:
    """The record of type `kind` in a JSON file; UsageError if it does not fit."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {path} ({error})",
            "a folder that fsae-train wrote",
            "name another folder, or train the run again",
        ) from None
    return decode_record(kind, read_json(text, str(path), UsageError), str(path), UsageError)


def write_statistics(folder: Path, statistics: Mapping[str, F32]) -> None:
    """Write the tables of a run, in place of those written before."""
    with write_aside(folder / "statistics.npz") as aside, aside.open("wb") as file:
        np.savez_compressed(file, **dict(statistics))  # type: ignore[arg-type]


def read_statistics(folder: Path) -> dict[str, F32]:
    """The tables written so far; empty if there are none yet."""
    path = folder / "statistics.npz"
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as tables:
            return {name: tables[name] for name in tables.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {path} ({error})", advice="remove it and run the same fsae-train command again"
        ) from None


def make_autoencoder(config: Config, statistics: Mapping[str, F32]) -> Autoencoder:
    """An untrained autoencoder for the run's climatology, scale and static fields."""
    torch.manual_seed(config.seed)
    scale = statistics["scale"][:, None] * statistics.get("pixel_scale", np.float32(1))
    static = statistics["static"] if config.autoencoder.static_fields else None
    return Autoencoder(
        config.autoencoder,
        torch.from_numpy(statistics["climatology"]),
        torch.from_numpy(scale),
        static=None if static is None else torch.from_numpy(static),
        transforms=[variable.transform for variable in config.data.variables],
    )


def samplers_of(config: Config) -> tuple[Sampler, Sampler | None]:
    """The sampler of a configuration's denoiser, and of its distilled one if there is one."""
    sampler, fast = Sampler(**asdict(config.sampler)), config.fast
    if fast is None:
        return sampler, None
    return sampler, Sampler(
        name="euler", steps=fast.steps, sigma_min=fast.sigma_min, sigma_max=fast.sigma_max, rho=fast.rho
    )


def latent_model_of(config: Config, statistics: Mapping[str, F32]) -> LatentModel | None:
    """The diffusion model of a run without its network; None if it has none."""
    if config.diffusion is None:
        return None
    return LatentModel(
        window=config.diffusion.window,
        previous=config.diffusion.previous,
        shape=(len(config.data.variables), statistics["latent_cell_std"].shape[1]),
        zooms=config.autoencoder.latent_zooms,
        cell_std=statistics["latent_cell_std"],
        season_std=statistics["latent_season_std"],
        level_std=statistics["latent_level_std"],
        sampler=samplers_of(config)[0],
        source=config.sources.labels[0],
    )


def fast_levels(config: Config) -> NDArray[np.float64]:
    """Noise levels of the distilled denoiser's steps."""
    if config.fast is None:
        raise UsageError(
            f"the run {config.name} has no [fast]",
            advice="add that table to the configuration, as in training/configs/default.toml",
        )
    return noise_levels(config.fast.steps, config.fast.sigma_min, config.fast.sigma_max, config.fast.rho)


def make_denoiser(config: Config, levels: NDArray[np.float64] | None = None) -> Denoiser:
    """An untrained denoiser; the forcing range is that of the training years. A distilled one has `levels`."""
    if config.diffusion is None:
        raise UsageError(
            f"the run {config.name} has no [diffusion]",
            advice="add that table to the configuration, as in training/configs/default.toml",
        )
    torch.manual_seed(config.seed + 1)
    first, last = calendar_years(config.data.training_years)
    known = torch.tensor([float(first), float(last + 1)])  # decimal years of the first and the last moment
    return Denoiser(
        config.diffusion,
        zooms=config.autoencoder.latent_zooms,
        variables=len(config.data.variables),
        harmonics=config.data.harmonics,
        forcing_range=known,
        responds=config.forcing is not None,
        levels=None if levels is None else torch.from_numpy(levels).float(),
    )


@torch.no_grad()
def round_weights(model: nn.Module) -> None:
    """Round weights to half precision; to bytes the maps of single cells and the large ones of a denoiser.

    A bundle stores them so, without any loss. 11 bits are far more than hundreds of steps determine; the maps of a cell
    are regressions on few samples, and a denoiser corrects its linear part. Dense maps are rounded already
    (global_map.py).
    """
    for values in model.parameters():
        values.copy_(values.half().float())
    if isinstance(model, Denoiser):
        for weight in (part.weight for part in model.blocks.modules() if isinstance(part, nn.Linear)):
            if weight.numel() > LARGE and weight.shape[1] >= FEWEST_SCALED:
                weight.copy_(torch.from_numpy(in_bytes(weight.numpy(), axis=-1)))
    for module in model.modules():
        if isinstance(module, CellMap) and module.own is not None and module.own[0, 0].numel() >= FEWEST_SCALED:
            cells = module.own.flatten(2)
            module.own.copy_(torch.from_numpy(in_bytes(cells.numpy(), axis=-1)).reshape(module.own.shape))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights as safetensors."""
    with write_aside(path) as aside:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, aside)
        aside.chmod(0o644)  # safetensors writes for the owner alone


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from a safetensors file; DataError if it is damaged or of another shape."""
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot use the weights {path} ({reason})", advice="train the run again") from None
    model.eval()


def is_finished(folder: Path) -> bool:
    """True if every stage of the run in `folder` is finished."""
    config = folder / "config.json"
    if not config.exists() or not (folder / "autoencoder.safetensors").exists():
        return False
    try:
        record = json.loads(config.read_text(encoding="utf-8"))
        diffusion, fast = record.get("diffusion"), record.get("fast")
    except (ValueError, OSError, AttributeError):
        return False
    whole = diffusion is None or (folder / "denoiser.safetensors").exists()
    return whole and (fast is None or (folder / "fast.safetensors").exists())


def latest_run(folder: Path = Path("runs")) -> Path:
    """The finished run in `folder` whose weights are newest; UsageError if there is none."""
    found = [path.parent for path in folder.glob("*/config.json") if is_finished(path.parent)]
    if not found:
        raise UsageError(f"found no finished run in {folder}", advice="train one with `fsae-train` or name its folder")
    return max(found, key=lambda path: (path / "autoencoder.safetensors").stat().st_mtime_ns)


def _check_statistics(folder: Path, config: Config, statistics: Mapping[str, F32]) -> None:
    """Raise DataError if tables are missing that the stages of a finished run write."""
    names = ["climatology", "scale", *(["static"] if config.autoencoder.static_fields else [])]
    if config.diffusion is not None:
        names += ["latent_cell_std", "latent_season_std", "latent_level_std"]
    missing = [name for name in names if name not in statistics]
    if missing:
        found = f"lacks {', '.join(missing)}" if statistics else "is missing or empty"
        raise DataError(
            f"{folder / 'statistics.npz'} {found}", "all tables of the run", "copy them again, or train anew"
        )


def load_run(path: Path) -> Run:
    """The finished run in the folder `path`; UsageError if it is not a finished run, DataError if it is damaged."""
    if not (path / "config.json").exists():
        raise UsageError(
            f"{path} is not a run: it has no config.json",
            "a folder that fsae-train wrote",
            "name such a folder, or train a run with `fsae-train`",
        )
    if not is_finished(path):
        raise UsageError(f"the run {path} is not finished", advice="run the same fsae-train command again")
    config = read_record(path / "config.json", Config)
    facts = read_record(path / "facts.json", Facts)
    statistics = read_statistics(path)
    _check_statistics(path, config, statistics)
    autoencoder = make_autoencoder(config, statistics)
    load_weights(autoencoder, path / "autoencoder.safetensors")
    denoiser = None
    if config.diffusion is not None:
        denoiser = make_denoiser(config)
        load_weights(denoiser, path / "denoiser.safetensors")
    fast = None
    if config.fast is not None:
        fast = make_denoiser(config, fast_levels(config))
        load_weights(fast, path / "fast.safetensors")
    return Run(
        path=path,
        config=config,
        facts=facts,
        autoencoder=autoencoder,
        denoiser=denoiser,
        fast=fast,
        statistics=statistics,
    )
