"""Configuration of a training run: frozen records read from TOML, every default visible here or in default.toml."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fsae.runtime.bundle.records import decode_record
from fsae.runtime.climate.transforms import Transform
from fsae.runtime.diffusion.sampler import SAMPLERS
from fsae.runtime.errors import UsageError
from fsae.training.networks.autoencoder import AutoencoderConfig
from fsae.training.networks.denoiser import DenoiserConfig

SHIPPED = Path(__file__).parent / "configs"

DEFAULT = SHIPPED / "default.toml"

Years = tuple[int, int]  # first and last, both included


@dataclass(frozen=True, kw_only=True)
class VariableConfig:
    """One variable: how the input files call it and what the manifest says of it; `valid_range` in `units`."""

    name: str
    standard_name: str
    long_name: str
    units: str
    cell_methods: str = "time: mean"
    valid_range: tuple[float, float]
    transform: Transform = "none"  # "sqrt" for what is never negative: learned as its square root, decoded as a square
    missing: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name):
            raise UsageError(f"a variable's name is {self.name!r}, expected a letter, then letters, digits and '_'")
        if not self.valid_range[0] < self.valid_range[1]:
            raise UsageError(f"valid_range of {self.name} is {list(self.valid_range)}, expected [low, high]")
        if self.transform == "sqrt" and self.valid_range[0] < 0:
            raise UsageError(
                f"valid_range of {self.name} starts at {self.valid_range[0]}, expected 0 or more with transform sqrt"
            )
        if self.missing:
            raise UsageError(f"missing of {self.name} is true, expected false: models learn from complete fields only")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Input files (relative to the configuration file), target zoom, and which years serve what."""

    inputs: tuple[str, ...]
    variables: tuple[VariableConfig, ...]
    method: Literal["auto", "bilinear", "conservative"] = "auto"
    harmonics: int = 4
    # What is taken off and divided by: the harmonic climatology, or the mean alone as in the papers; one scale for each
    # variable, which keeps cell means exact, or one for each pixel.
    normalisation: Literal["climatology", "mean_std"] = "climatology"
    scale: Literal["variable", "pixel"] = "variable"
    static: tuple[str, ...] = ()  # files with orography (orog, m) and land mask (lsm, 0 to 1), for static_fields
    training_years: Years
    validation_years: Years | None = None  # watched during training, never trained on
    evaluation_years: Years
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if not self.inputs or not self.variables:
            raise UsageError("data needs at least one input and one variable")
        periods = {
            "training_years": self.training_years,
            "validation_years": self.validation_years,
            "evaluation_years": self.evaluation_years,
        }
        given = {name: years for name, years in periods.items() if years is not None}
        for name, (first, last) in given.items():
            if first > last:
                raise UsageError(f"data.{name} is [{first}, {last}], expected the earlier year first")
            for other, (low, high) in given.items():
                if name < other and first <= high and low <= last:
                    raise UsageError(f"data.{name} [{first}, {last}] and data.{other} [{low}, {high}] overlap")
        if not 1 <= self.harmonics <= 5:
            raise UsageError(f"data.harmonics is {self.harmonics}, expected 1 to 5 (monthly data holds no more)")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One training loop: AdamW, a one-cycle learning rate, gradient clipping, an average of the weights."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    average_decay: float = 0.995
    mixture: float = 0.0  # share of the batch that is random mixtures of three samples (autoencoder only)
    localisation: float = 1.0  # how much the weights of a mixture vary over the sphere (samples.py); 0: not at all
    checkpoint_every_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "learning_rate", "checkpoint_every_steps"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if not (0 <= self.mixture <= 1 and 0 <= self.average_decay < 1):
            raise UsageError("mixture and average_decay must lie within 0 and 1")
        if min(self.weight_decay, self.gradient_clip, self.localisation) < 0:
            raise UsageError("weight_decay, gradient_clip and localisation must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class LowResolution:
    """A low-resolution source of the diffusion model, one step and grid per file; members are taken one by one."""

    inputs: tuple[str, ...]
    zoom: int  # its fields are averaged to it, and enter by zero-shot super-resolution
    years: Years | None = None  # None: all there are
    names: Mapping[str, str] = field(default_factory=dict)  # what the files call a variable, such as tas = "ts"
    climatology: Literal["own", "training"] = "own"  # "training": the same source as the training data
    forcing: float | None = None  # of all its steps, for a calendar that means nothing; None: the decimal year

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UsageError("a low-resolution source has no inputs, expected one or more files")


@dataclass(frozen=True, kw_only=True)
class SourcesConfig:
    """What the diffusion model learns from beside the training years, and how often it sees these.

    A `high_resolution_share` of 0 leaves the training years to the autoencoder alone.
    """

    high_resolution_share: float = 1.0
    low_resolution: tuple[LowResolution, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.high_resolution_share <= 1:
            raise UsageError(
                f"sources.high_resolution_share is {self.high_resolution_share}, expected a number within 0 and 1"
            )
        if (self.high_resolution_share < 1) != bool(self.low_resolution):
            raise UsageError(
                f"sources.high_resolution_share is {self.high_resolution_share} with {len(self.low_resolution)} "
                "low-resolution sources: expected 1 without any, less than 1 with some"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of what is learned from."""
        return ("hr",) * (self.high_resolution_share > 0) + ("lr",) * bool(self.low_resolution)


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Training noise, ln(sigma) ~ normal(mean, deviation) (EDM section 5), and how often earlier steps are known.

    Wider than EDM's: whitened latents still hold patterns of many cells and steps, whose amplitude is ten and more.
    """

    log_mean: float = 0.0
    log_deviation: float = 1.6
    previous_share: float = 0.8
    # The calendar year names a month of the past exactly; shifted at random [years] it only tells of slow change.
    forcing_jitter_years: float = 5.0

    def __post_init__(self) -> None:
        if self.log_deviation <= 0 or self.forcing_jitter_years < 0 or not 0 <= self.previous_share <= 1:
            raise UsageError(
                "noise needs log_deviation above 0, forcing_jitter_years of 0 or more, previous_share within 0 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Sampler written into the bundle (EDM eq. 5)."""

    name: str = "dpm2m"
    steps: int = 10
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise UsageError(f"sampler.name is {self.name!r}, expected one of {sorted(SAMPLERS)}")
        if self.steps < 1 or not 0 < self.sigma_min < self.sigma_max or self.rho <= 0:
            raise UsageError("sampler needs steps of 1 or more, 0 < sigma_min < sigma_max and rho above 0")


@dataclass(frozen=True, kw_only=True)
class FastConfig:
    """The distilled denoiser: its Euler steps on levels of EDM eq. 5, and the teacher's steps within each of them."""

    steps: int = 3
    teacher_steps: int = 4
    sigma_min: float = 0.5
    sigma_max: float = 80.0
    rho: float = 100.0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 4 or self.teacher_steps < 2:
            raise UsageError(
                f"fast.steps is {self.steps} and fast.teacher_steps {self.teacher_steps}, expected 1 to 4 and 2 or more"
            )
        if not 0 < self.sigma_min < self.sigma_max or self.rho <= 0:
            raise UsageError("fast needs 0 < sigma_min < sigma_max and rho above 0")


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What graphs of one precision may differ from the trained model; above it nothing is exported.

    The largest error of a field is in the variable's units in `fields`, else `share` of the variable's scale (the
    deviation of its anomalies); where a variable is learned as its square root, that is an error of the root, and a
    field may be off by what it makes of the largest value. Beside it the rounding of what enters and leaves is allowed.
    `denoiser` is the largest error of a denoised window of unit variance. Of an ensemble, the power of a degree may
    change by `spectrum` of itself, and the CRPS by `crps` of itself.
    """

    share: float
    denoiser: float
    spectrum: float = 0.0
    crps: float = 0.0
    fields: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.share, self.denoiser, *self.fields.values()) <= 0 or min(self.spectrum, self.crps) < 0:
            raise UsageError(f"tolerances are {self}, expected numbers above 0 (spectrum and crps 0 or more)")

    def of(self, variable: str, scale: float, slope: float = 1.0) -> float:
        """The largest error of a variable in the units it is learned in, beside the rounding of what enters and leaves.

        `scale` is in these units; `slope` is what one of them is worth at most in the variable's own, for `fields`.
        """
        return self.fields[variable] / slope if variable in self.fields else self.share * scale


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Tolerances of `fsae-export` by precision."""

    # In float32 some hundred roundings of 6e-8 add up to less than 2e-5 of the scale. Ten times that leaves room for
    # other processors and GPUs, and is less than what TensorFloat-32 or 16 bits do, which must not pass for float32.
    fp32: Tolerance = field(default_factory=lambda: Tolerance(share=2e-4, denoiser=5e-4))
    # Half of the last of 11 bits is 5e-4 of an update of up to five scales, and six blocks' and maps' worth may add up.
    fp16: Tolerance = field(default_factory=lambda: Tolerance(share=0.015, denoiser=0.003, spectrum=0.002, crps=0.002))
    # The same with 8 bits, eight times as much: at its worst half, on average a hundredth of what compression costs.
    bf16: Tolerance = field(default_factory=lambda: Tolerance(share=0.12, denoiser=0.025, spectrum=0.01, crps=0.005))
    # One step of 8 bits is a hundredth of the largest number of a token, which sets the scale for all. Rare extremes
    # are some tenths of a scale off, the average stays below a tenth of what compression costs.
    int8: Tolerance = field(default_factory=lambda: Tolerance(share=0.6, denoiser=0.15, spectrum=0.05, crps=0.01))


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How Lightning runs the loops: one process for each device, which takes its share of the batch.

    The result depends on `precision` alone, but for the rounding of another device or another number of them.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    cache_gib: float = 4.0  # memory [GiB] of a process for training data; what is larger is read from disk as needed
    loader_workers: int = 0  # processes that make samples beside each device's; 0: the device's own does
    tensorboard: bool = False  # losses as TensorBoard events too, beside metrics.csv

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UsageError(f"trainer.devices is {self.devices}, expected 1 or more")
        if min(self.cache_gib, self.loader_workers) < 0:
            raise UsageError(
                f"trainer.cache_gib is {self.cache_gib} and trainer.loader_workers is {self.loader_workers}, expected "
                "0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole training run."""

    name: str
    seed: int = 0
    data: DataConfig
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    autoencoder_fit: FitConfig
    diffusion: DenoiserConfig | None = None
    diffusion_fit: FitConfig | None = None
    sources: SourcesConfig = field(default_factory=SourcesConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    fast: FastConfig | None = None
    fast_fit: FitConfig | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", self.name):
            raise UsageError(f"name is {self.name!r}, expected letters, digits, '.', '_' and '-'")
        if self.autoencoder.global_harmonics > self.data.harmonics:
            raise UsageError(
                f"autoencoder.global_harmonics is {self.autoencoder.global_harmonics}, expected at most data.harmonics "
                f"{self.data.harmonics}"
            )
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, expected 0 or more")
        if self.diffusion is not None and not all(
            0 <= zoom <= self.autoencoder.latent_zoom for zoom in self.diffusion.token_zooms
        ):
            raise UsageError(
                f"diffusion.token_zooms are {list(self.diffusion.token_zooms)}, expected zooms from 0 to the latent's "
                f"{self.autoencoder.latent_zoom}"
            )
        if (self.diffusion is None) != (self.diffusion_fit is None):
            raise UsageError("the tables [diffusion] and [diffusion_fit] go together: give both or neither")
        if (self.fast is None) != (self.fast_fit is None) or (self.fast is not None and self.diffusion is None):
            raise UsageError("the tables [fast] and [fast_fit] go together, and with [diffusion]: give both or neither")
        self._check_sources()
        known = {variable.name for variable in self.data.variables}
        for precision in ("fp32", "fp16", "bf16", "int8"):
            unknown = sorted(set(getattr(self.export, precision).fields) - known)
            if unknown:
                raise UsageError(f"export.{precision}.fields names {unknown}, expected variables of {sorted(known)}")
        if self.autoencoder.static_fields and not self.data.static:
            raise UsageError("autoencoder.static_fields is true, expected data.static to name the files that hold them")
        for name in ("autoencoder_fit", "diffusion_fit", "fast_fit"):
            settings = getattr(self, name)
            if settings is not None and settings.batch % self.trainer.devices:
                raise UsageError(
                    f"{name}.batch is {settings.batch}, expected a multiple of the {self.trainer.devices} devices that "
                    "share it (trainer.devices)"
                )

    def _check_sources(self) -> None:
        """Nothing, or UsageError for low-resolution sources that do not fit the rest."""
        if self.sources.low_resolution and self.diffusion is None:
            raise UsageError(
                "found low-resolution sources without a table [diffusion]: only a diffusion model uses them"
            )
        for source in self.sources.low_resolution:
            if source.zoom not in self.autoencoder.zooms[:-1]:
                raise UsageError(
                    f"a low-resolution source has zoom {source.zoom}, expected one of the coarser zooms "
                    f"{list(self.autoencoder.zooms[:-1])}"
                )
            low, high = source.years or self.data.evaluation_years
            first, last = self.data.evaluation_years
            if source.climatology == "training" and low <= last and first <= high:
                raise UsageError(
                    f"a low-resolution source of the training data's own has the years {source.years}, expected years "
                    f"outside the evaluation years [{first}, {last}]"
                )


def read_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """The configuration in a TOML file; UsageError names an unknown key, a wrong type or a bad value.

    `changes` are lines of TOML with dotted keys that replace values of the file.

    >>> read_config(DEFAULT, ["autoencoder.width = 96"]).autoencoder.width
    96
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    for change in changes:
        try:
            _put(raw, tomllib.loads(change))
        except ValueError as error:
            raise UsageError(f"found --set {change!r}, expected such as autoencoder.width=96: {error}") from None
    config: Config = decode_record(Config, raw, path.name, UsageError)
    return config


def _put(table: dict[str, Any], changes: dict[str, Any]) -> None:
    """Replace values of a nested table in place."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _put(table[key], value)
        else:
            table[key] = value


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where the files of a configuration are: inputs, static fields, and those of each low-resolution source."""

    inputs: Sequence[Path]
    static: Sequence[Path] = ()
    low_resolution: Sequence[Sequence[Path]] = ()

    @property
    def all(self) -> list[Path]:
        """Every file, in that order."""
        return [*self.inputs, *self.static, *(path for part in self.low_resolution for path in part)]


def find_config(name: Path | None) -> Path:
    """The configuration meant by `name`: a file, or a shipped one's name; the default without one.

    >>> find_config(Path("z5-ratio-64")).name
    'z5-ratio-64.toml'
    """
    if name is None:
        return DEFAULT
    shipped = SHIPPED / f"{name}.toml"
    if name.exists() or name.suffix == ".toml":
        return name
    if name.name == str(name) and shipped.exists():
        return shipped
    known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.toml")))
    raise UsageError(f"found no configuration {str(name)!r}: give a TOML file or one of the shipped names {known}")


def input_files(names: Sequence[str], config: Path) -> list[Path]:
    """Paths of a configuration's inputs, relative to its folder; the sample data also to ./training of a checkout."""
    folders = [config.parent, Path("training") / SHIPPED.name]
    found = next((folder for folder in folders if all((folder / name).exists() for name in names)), config.parent)
    return [found / name for name in names]
