"""Configuration of a training run: frozen records read from TOML, every default visible here or in default.toml."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from fsae.runtime.backends.devices import PRECISIONS
from fsae.runtime.bundle.manifest import (
    Origin,
    PlainName,
    Rho,
    Sampler,
    SamplerName,
    Sigma,
    Variable,
    check_levels,
)
from fsae.runtime.bundle.records import (
    MOST_INTEGER,
    Count,
    NotNegative,
    Number,
    OneOrMore,
    Positive,
    Record,
    Share,
    Text,
    Zoom,
    check,
    decode_record,
)
from fsae.runtime.errors import UsageError
from fsae.training.networks.autoencoder import AutoencoderConfig
from fsae.training.networks.denoiser import DenoiserConfig

SHIPPED = Path(__file__).parent / "configs"
DEFAULT = SHIPPED / "default.toml"
MOST_BYTES, MOST_NESTED = 1 << 20, 200  # of a configuration, and of dots and brackets in a line of it
Year = Annotated[int, Meta(ge=0, le=9999)]
Day = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Years = tuple[Year | Day, Year | Day]  # first and last, both included: whole years, or days such as "2002-07-21"
Date = tuple[int, int, int]  # year, month, day
Inputs = Annotated[tuple[str, ...], Meta(min_length=1)]  # files, relative to the configuration


def days_of(years: Years) -> tuple[Date, Date]:
    """The first and the last day of a period, both included; day 31 stands for the last of any month.

    >>> days_of((2001, 2002)), days_of(("2002-07-01", "2002-07-21"))
    (((2001, 1, 1), (2002, 12, 31)), ((2002, 7, 1), (2002, 7, 21)))
    """
    first, last = (tuple(map(int, each.split("-"))) if isinstance(each, str) else (each,) for each in years)
    return (*first, 1, 1)[:3], (*last, 12, 31)[:3]  # type: ignore[return-value]


def calendar_years(years: Years) -> tuple[int, int]:
    """The calendar years of the first and the last day of a period.

    >>> calendar_years((2001, 2002)), calendar_years(("2002-07-01", "2002-07-21"))
    ((2001, 2002), (2002, 2002))
    """
    (first, *_), (last, *_) = days_of(years)
    return first, last


def whole_years(years: Years, what: str) -> tuple[int, int]:
    """The first and the last year of a period; UsageError naming `what` needs it if it is one of days."""
    first, last = years
    if isinstance(first, str) or isinstance(last, str):
        raise UsageError(f"found the days {first} to {last}", f"whole years, for {what}", "give the years of a period")
    return first, last


class VariableConfig(Variable, frozen=True, kw_only=True):
    """A variable as the input files call it and the manifest describes it."""

    cell_methods: str = "time: mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        low = self.valid_range[0]
        good = self.transform == "none" or low >= 0
        check(good, f"valid_range of {self.name} starts at {low}, expected 0 or more with transform {self.transform}")


class DataConfig(Record, frozen=True, kw_only=True):
    """Input files, and which years serve what."""

    inputs: Inputs
    variables: Annotated[tuple[VariableConfig, ...], Meta(min_length=1)]
    method: Literal["auto", "bilinear", "conservative"] = "auto"
    harmonics: Annotated[int, Meta(ge=1, le=5)] = 4  # monthly data holds no more
    # Anomalies are fields less the harmonic climatology, or less the mean alone as in the papers, divided by one scale
    # for each variable, which keeps cell means exact, or by one for each pixel.
    normalisation: Literal["climatology", "mean_std"] = "climatology"
    scale: Literal["variable", "pixel"] = "variable"
    # Files of a coarser source of the same climate, such as the same model at a lower resolution. They give the
    # harmonics if the training years lack seasons, and these the mean alone.
    cycle: tuple[str, ...] = ()
    static: tuple[str, ...] = ()  # files with orography (orog, m) and land mask (lsm, 0 to 1), for static_fields
    training_years: Years
    validation_years: Years | None = None  # watched during training, never trained on
    evaluation_years: Years
    licence: Text = "unknown"

    def __post_init__(self) -> None:
        periods = {
            "training_years": self.training_years,
            "validation_years": self.validation_years,
            "evaluation_years": self.evaluation_years,
        }
        seasonal = self.normalisation == "climatology"
        check(seasonal or not self.cycle, "found data.cycle, expected none with the normalisation mean_std")
        given = {name: years for name, years in periods.items() if years is not None}
        for name, years in given.items():
            first, last = days_of(years)
            check(first <= last, f"{name} is {list(years)}, expected the earlier one first")
            for other, beside in given.items():
                low, high = days_of(beside)
                apart = name >= other or first > high or low > last
                check(apart, f"{name} {list(years)} and {other} {list(beside)} overlap")


class FitConfig(Record, frozen=True, kw_only=True):
    """One training loop: AdamW, a one-cycle learning rate, gradient clipping, an average of the weights."""

    steps: OneOrMore
    batch: OneOrMore
    learning_rate: Positive
    weight_decay: NotNegative = 1e-4
    gradient_clip: NotNegative = 1.0
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.995
    mixture: Share = 0.0  # share of the batch that is random mixtures of three samples (autoencoder only)
    localisation: NotNegative = (
        1.0  # how much the weights of a mixture vary over the sphere (datasets.py); 0: not at all
    )
    checkpoint_every_steps: OneOrMore = 100


class LowResolution(Record, frozen=True, kw_only=True):
    """A low-resolution source of the diffusion model, one step and grid per file; members are taken one by one."""

    inputs: Inputs
    zoom: Zoom  # its fields are averaged to it, and enter by zero-shot super-resolution
    years: Years | None = None  # None: all there are
    names: Mapping[str, str] = {}  # what the files call a variable, such as tas = "ts"
    climatology: Literal["own", "training"] = "own"  # "training": the same source as the training data
    forcing: Number | None = None  # of all its steps, if their calendar means nothing; None: the decimal year


class SourcesConfig(Record, frozen=True, kw_only=True):
    """Sources of the diffusion model beside the training years, and the share of its samples from these.

    A `high_resolution_share` of 0 leaves the training years to the autoencoder alone.
    """

    high_resolution_share: Share = 1.0
    low_resolution: tuple[LowResolution, ...] = ()

    def __post_init__(self) -> None:
        check(
            (self.high_resolution_share < 1) == bool(self.low_resolution),
            f"high_resolution_share is {self.high_resolution_share} with {len(self.low_resolution)} low-resolution "
            "sources: expected 1 without any, less than 1 with some",
        )

    @property
    def labels(self) -> tuple[Origin, ...]:
        """Labels of what is learned from."""
        high: tuple[Origin, ...] = ("hr",) if self.high_resolution_share > 0 else ()
        return (*high, "lr") if self.low_resolution else high


class ForcingConfig(Record, frozen=True, kw_only=True):
    """The slow forcing of the diffusion model, as yearly series; without this table it is the calendar year.

    `file` is CSV, relative to the configuration, with the columns `year` and one of each of the `scenarios`, the first
    of them that of the training years. The climate responds within `response_years` (runtime/climate/scenarios.py).
    """

    file: Text
    scenarios: Annotated[tuple[PlainName, ...], Meta(min_length=1)]
    response_years: NotNegative = 3.9
    name: Text = "effective radiative forcing"
    units: Text = "W m-2"


class NoiseConfig(Record, frozen=True, kw_only=True):
    """Training noise, ln(sigma) ~ normal(mean, deviation) (EDM section 5), and how often earlier steps are known.

    Wider than EDM's: whitened latents still hold patterns of many cells and steps, whose amplitude is ten and more.
    """

    log_mean: Number = 0.0
    log_deviation: Positive = 1.6
    previous_share: Share = 0.8
    # The forcing names a month of the past exactly; shifted at random, by what these years are of the training years,
    # it only tells of slow change.
    forcing_jitter_years: NotNegative = 5.0


class SamplerConfig(Sampler, frozen=True, kw_only=True):
    """Sampler written into the bundle (EDM eq. 5)."""

    name: SamplerName = "dpm2m"
    steps: Annotated[int, Meta(ge=1, le=10_000)] = 10
    sigma_min: Sigma = 0.02
    sigma_max: Sigma = 80.0
    rho: Rho = 7.0


class FastConfig(Record, frozen=True, kw_only=True):
    """The distilled denoiser: its Euler steps on levels of EDM eq. 5, and the teacher's steps within each of them."""

    steps: Annotated[int, Meta(ge=1, le=4)] = 3
    teacher_steps: Annotated[int, Meta(ge=2, le=1000)] = 4
    sigma_min: Sigma = 0.5
    sigma_max: Sigma = 80.0
    rho: Rho = 100.0

    def __post_init__(self) -> None:
        check_levels(self.steps, self.sigma_min, self.sigma_max, self.rho)


class Tolerance(Record, frozen=True, kw_only=True):
    """Largest differences of the graphs of one precision from the trained model; above them nothing is exported.

    The largest error of a field is in the variable's units in `fields`, else `share` of the variable's scale (the
    deviation of its anomalies); for a variable learned as a root of itself, that is an error of the root, and a field
    may be off by what it makes of the largest value. Beside it the rounding of what enters and leaves is allowed.
    `denoiser` is the largest error of a denoised window of unit variance. Of an ensemble, the power of a degree may
    change by `spectrum` of itself, and the CRPS by `crps` of itself.
    """

    share: Positive
    denoiser: Positive
    spectrum: NotNegative = 0.0
    crps: NotNegative = 0.0
    fields: Mapping[str, Positive] = {}

    def of(self, variable: str, scale: float, slope: float = 1.0) -> float:
        """The largest error of a variable in the units it is learned in, beside the rounding of what enters and leaves.

        `scale` is in these units; `slope` is what one of them is worth at most in the variable's own, for `fields`.
        """
        return self.fields[variable] / slope if variable in self.fields else self.share * scale


class ExportConfig(Record, frozen=True, kw_only=True):
    """Tolerances of `fsae-export` by precision."""

    # In float32 some hundred roundings of 6e-8 add up to less than 2e-5 of the scale. Ten times that leaves room for
    # other processors and GPUs, and is less than what TensorFloat-32 or 16 bits do, which must not pass for float32.
    fp32: Tolerance = Tolerance(share=2e-4, denoiser=5e-4)
    # Half of the last of 11 bits is 5e-4 of an update of up to five scales, and six blocks' and maps' worth may add up.
    fp16: Tolerance = Tolerance(share=0.015, denoiser=0.003, spectrum=0.002, crps=0.002)
    # The same with 8 bits, eight times as much: at its worst half, on average a hundredth of what compression costs.
    bf16: Tolerance = Tolerance(share=0.12, denoiser=0.025, spectrum=0.01, crps=0.005)
    # One step of 8 bits is a hundredth of the largest number of a token, which sets the scale for all. Rare extremes
    # are some tenths of a scale off, the average stays below a tenth of what compression costs.
    int8: Tolerance = Tolerance(share=0.6, denoiser=0.15, spectrum=0.05, crps=0.01)


class TrainerConfig(Record, frozen=True, kw_only=True):
    """How Lightning runs the loops: one process for each device, which takes its share of the batch.

    The result depends on `precision` alone, but for the rounding of another device or another number of them.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: OneOrMore = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    cache_gib: NotNegative = 4.0  # memory [GiB] of a process for training data; what is larger is read as needed
    loader_workers: Count = 0  # processes that make samples beside each device's; 0: the device's own does
    tensorboard: bool = False  # losses as TensorBoard events too, beside metrics.csv


class Config(Record, frozen=True, kw_only=True):
    """A whole training run."""

    name: PlainName
    seed: Annotated[int, Meta(ge=0, le=MOST_INTEGER - 2)] = 0  # of the autoencoder; the later stages use the next two
    data: DataConfig
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    autoencoder_fit: FitConfig
    diffusion: DenoiserConfig | None = None
    diffusion_fit: FitConfig | None = None
    sources: SourcesConfig = SourcesConfig()
    forcing: ForcingConfig | None = None
    noise: NoiseConfig = NoiseConfig()
    sampler: SamplerConfig = SamplerConfig()
    fast: FastConfig | None = None
    fast_fit: FitConfig | None = None
    trainer: TrainerConfig = TrainerConfig()
    export: ExportConfig = ExportConfig()

    def __post_init__(self) -> None:
        most, latent_zoom = self.data.harmonics, self.autoencoder.latent_zoom
        found = self.autoencoder.global_harmonics
        check(found <= most, f"autoencoder.global_harmonics is {found}, expected at most data.harmonics {most}")
        zooms = [] if self.diffusion is None else list(self.diffusion.token_zooms)
        expected = f"expected zooms from 0 to the latent's {latent_zoom}"
        check(max(zooms, default=0) <= latent_zoom, f"diffusion.token_zooms are {zooms}, {expected}")
        for stage in ("diffusion", "fast"):
            both = (getattr(self, stage) is None) == (getattr(self, f"{stage}_fit") is None)
            check(both, f"the tables [{stage}] and [{stage}_fit] go together: give both or neither")
        check(self.fast is None or self.diffusion is not None, "the table [fast] needs the table [diffusion]")
        self._check_sources()
        known = {variable.name for variable in self.data.variables}
        for precision in PRECISIONS:
            unknown = sorted(set(getattr(self.export, precision).fields) - known)
            check(not unknown, f"export.{precision}.fields names {unknown}, expected variables of {sorted(known)}")
        static = not self.autoencoder.static_fields or bool(self.data.static)
        check(static, "autoencoder.static_fields is true, expected data.static to name the files that hold them")
        devices = self.trainer.devices
        for name in ("autoencoder_fit", "diffusion_fit", "fast_fit"):
            batch = 0 if getattr(self, name) is None else getattr(self, name).batch
            expected = f"expected a multiple of the {devices} devices that share it (trainer.devices)"
            check(batch % devices == 0, f"{name}.batch is {batch}, {expected}")

    def _check_sources(self) -> None:
        """Raise ValueError for low-resolution sources that do not fit the rest."""
        sources, coarser = self.sources.low_resolution, self.autoencoder.zooms[:-1]
        good = not sources or self.diffusion is not None
        check(good, "found low-resolution sources without a table [diffusion]: only a diffusion model uses them")
        first, last = days_of(self.data.evaluation_years)
        for source in sources:
            good = source.zoom in coarser
            check(good, f"a low-resolution source has zoom {source.zoom}, expected a coarser zoom of {list(coarser)}")
            low, high = days_of(source.years or self.data.evaluation_years)
            check(
                source.climatology == "own" or low > last or first > high,
                f"a low-resolution source of the training data's own has the years {source.years}, expected years "
                f"outside the evaluation years {list(self.data.evaluation_years)}",
            )


def read_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """The configuration in a TOML file; UsageError names an unknown key, a wrong type or a bad value.

    `changes` are lines of TOML with dotted keys that replace values of the file.

    >>> read_config(DEFAULT, ["autoencoder.width = 96"]).autoencoder.width
    96
    """
    advice = "give a TOML file such as training/configs/default.toml"
    try:
        size = path.stat().st_size if path.is_file() else 0
        if size > MOST_BYTES or not path.is_file():  # a pipe or a device would never end
            raise UsageError(f"{path} is not a file of at most {MOST_BYTES} bytes", advice=advice)
        raw = _toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}", advice=advice) from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}", advice=advice) from None
    for change in changes:
        try:
            _put(raw, _toml(change))
        except ValueError as error:
            advice = "text needs quotes, as in --set 'name=\"mine\"'"
            raise UsageError(f"found --set {change!r} ({error})", "KEY=VALUE as in TOML", advice) from None
    return decode_record(Config, raw, path.name, UsageError)


def _toml(text: str) -> dict[str, Any]:
    """The tables of a text; ValueError if it is not TOML, or nests so deeply that reading it would not end soon."""
    if any(line.count(".") + line.count("[") + line.count("{") > MOST_NESTED for line in text.splitlines()):
        raise ValueError(f"a line has more than {MOST_NESTED} dots and brackets")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _put(table: dict[str, Any], changes: dict[str, Any]) -> None:
    """Replace values of a nested table in place."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _put(table[key], value)
        else:
            table[key] = value
