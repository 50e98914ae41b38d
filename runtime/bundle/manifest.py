"""`manifest.json` of a bundle as frozen records: strict both ways, so that what is written is what is read."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from fsae.runtime.climate.transforms import Transform
from fsae.runtime.diffusion.sampler import SAMPLERS
from fsae.runtime.errors import BundleError
from fsae.runtime.sphere.healpix import npix

from .records import decode_record, encode
from .schema import SCHEMA_VERSION, check, migrate, read_json

GRAPHS = ("encoder", "decoder", "denoiser")  # of every bundle that generates; "fast" is the distilled denoiser

CALENDARS = [
    "standard",
    "gregorian",
    "proleptic_gregorian",
    "julian",
    "noleap",
    "365_day",
    "all_leap",
    "366_day",
    "360_day",
]

STEP = re.compile(r"[1-9][0-9]* (minute|hour|day|month|year)s?")

DATE = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")

SHA256 = re.compile(r"[0-9a-f]{64}")

# One plain name, or one in the folder of compiled engines: nothing that could leave the bundle on any platform.
SAFE_PATH = re.compile(r"(trt/)?[A-Za-z0-9_][A-Za-z0-9._+-]*")


def is_safe_path(path: str) -> bool:
    """Whether a path of the manifest stays inside the bundle's folder.

    >>> [is_safe_path(p) for p in ("tables.npz", "trt/encoder.engine", "../x", "/etc/passwd", "trt/../x", "a/b", "C:x")]
    [True, True, False, False, False, False, False]
    """
    return SAFE_PATH.fullmatch(path) is not None


def graph_file(graph: str, precision: str) -> str:
    """Name of the ONNX file of a graph in a bundle.

    >>> graph_file("encoder", "fp32")
    'encoder.fp32.onnx'
    """
    return f"{graph}.{precision}.onnx"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """HEALPix grid of the fields."""

    zoom: int
    order: str = "nested"

    def __post_init__(self) -> None:
        check(0 <= self.zoom <= 12, f"grid.zoom is {self.zoom}, expected 0 to 12")
        check(self.order == "nested", f"grid.order is {self.order!r}, expected 'nested'")


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One physical variable; `valid_range` in `units`, `missing` says whether the model knows missing values.

    Climatology and scale are those of the transformed variable (transforms.py).
    """

    name: str
    standard_name: str
    long_name: str
    units: str
    cell_methods: str
    valid_range: tuple[float, float]
    transform: Transform = "none"
    missing: bool = False

    def __post_init__(self) -> None:
        check(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name) is not None, f"{self.name!r} is no variable name")
        check(self.valid_range[0] < self.valid_range[1], f"valid_range of {self.name} is {self.valid_range}")


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The compressed field: one per variable, on `zoom`, `ratio` times fewer numbers; shape (variable, pixel)."""

    zoom: int
    ratio: int
    shape: tuple[int, int]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check(self.dtype == "float32", f"latent.dtype is {self.dtype!r}, expected 'float32'")


@dataclass(frozen=True, kw_only=True)
class Time:
    """Time axis of the training data: CF calendar, step such as "1 month", harmonics K of the year."""

    calendar: str
    step: str
    harmonics: int

    def __post_init__(self) -> None:
        check(self.calendar in CALENDARS, f"time.calendar is {self.calendar!r}, expected one of {CALENDARS}")
        check(
            STEP.fullmatch(self.step) is not None,
            f"time.step is {self.step!r}, expected such as '1 month' or '6 hours'",
        )
        check(self.harmonics >= 1, f"time.harmonics is {self.harmonics}, expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Forcing:
    """The slow scalar forcing of the denoiser and the range it was trained on, in `units`."""

    name: str
    units: str
    range: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """Shape of the diffusion model: `window` steps drawn jointly, given `previous` clean ones."""

    window: int
    previous: int
    noise_features: int
    forcing: Forcing
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        check(self.window >= 1, f"denoiser.window is {self.window}, expected 1 or more")
        check(self.previous >= 0, f"denoiser.previous is {self.previous}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Sampler and its noise levels (EDM eq. 5)."""

    name: str
    steps: int
    sigma_min: float
    sigma_max: float
    rho: float

    def __post_init__(self) -> None:
        check(self.name in SAMPLERS, f"sampler.name is {self.name!r}, expected one of {sorted(SAMPLERS)}")
        check(self.steps >= 1, f"sampler.steps is {self.steps}, expected 1 or more")
        good = 0 < self.sigma_min < self.sigma_max and self.rho > 0
        check(good, "sampler needs 0 < sigma_min < sigma_max and rho > 0")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Hash and size [bytes] of one file."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        check(SHA256.fullmatch(self.sha256) is not None, f"{self.sha256!r} is no SHA-256 in hexadecimals")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a graph's output is from the trained model's, in means over the cells of `zoom`.

    Errors and tolerance in `units`: the variable's, for latents those it is learned in (transforms.py); "1" for the
    denoisers, which are dimensionless.
    """

    variable: str
    zoom: int
    max_abs_error: float
    rmse: float | None  # None where an older fsae did not keep it
    tolerance: float  # of max_abs_error; `verify` uses it too
    units: str

    def __post_init__(self) -> None:
        check(self.zoom >= 0, f"a difference of {self.variable} is at zoom {self.zoom}")
        check(self.tolerance > 0, f"the tolerance of {self.variable} at zoom {self.zoom} is {self.tolerance}")
        errors = (self.max_abs_error, 0.0 if self.rmse is None else self.rmse)
        check(not any(error < 0 for error in errors), f"a difference of {self.variable} is below 0")  # NaN is not

    def __str__(self) -> str:
        units = "" if self.units == "1" else f" {self.units}"
        return f"{self.max_abs_error:.2g}{units} in {self.variable} at zoom {self.zoom}, allowed {self.tolerance:.2g}"

    @property
    def good(self) -> bool:
        """Whether the largest error is inside the tolerance; NaN is not."""
        return self.max_abs_error <= self.tolerance


def worst_of(differences: Iterable[Difference]) -> Difference:
    """The difference that comes closest to its tolerance, or goes furthest beyond; NaN goes furthest."""
    return max(differences, key=lambda d: d.max_abs_error / d.tolerance if d.max_abs_error >= 0 else math.inf)


NOT_RUN = "not run on a device"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was measured of one graph in one precision.

    `device` and `backend` name what ran it; the device is "not run on a device" where none here has that precision, and
    `verify` on one that has it measures there, and records it beside the bundle (verified.py).
    """

    device: str
    backend: str
    nodes: int | None  # of the graph; None where an older fsae did not count them
    differences: tuple[Difference, ...]  # of every variable and zoom

    def __post_init__(self) -> None:
        check(self.nodes is None or self.nodes >= 1, f"a graph of parity has {self.nodes} nodes")
        check(bool(self.differences), "an entry of parity has no differences")

    @property
    def worst(self) -> Difference:
        """The difference that comes closest to its tolerance, or goes furthest beyond."""
        return worst_of(self.differences)


@dataclass(frozen=True, kw_only=True)
class EnsembleParity:
    """How an ensemble drawn in a precision differs from the same members in float32, for one variable.

    `rmse` and CRPS in the variable's units, the CRPS against the fields of the certificate's period; `spectrum` is the
    largest relative change of power over the degrees.
    """

    variable: str
    rmse: float
    spectrum: float
    spectrum_tolerance: float
    crps: float
    crps_fp32: float
    crps_tolerance: float  # of the difference of the two

    def __post_init__(self) -> None:
        good = self.spectrum_tolerance > 0 and self.crps_tolerance > 0
        check(good, f"a tolerance of the ensembles of {self.variable} is not above 0")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of data."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        check(SHA256.fullmatch(self.sha256) is not None, f"{self.sha256!r} is no SHA-256 in hexadecimals")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What the graphs of one precision were compared with and on: `parity` of the manifest has the outcome.

    `reference` gave what they should: the trained model in PyTorch, or the float32 graphs made of it before. `steps`
    fields of `period` (first and last date, outside training) came from `data`, and ensembles were of `members` x
    `ensemble_steps`.
    """

    date: str
    reference: str
    data: tuple[Source, ...]
    period: tuple[str, str]
    steps: int
    members: int
    ensemble_steps: int
    ensembles: tuple[EnsembleParity, ...]  # of every variable; none of fp32, which the others are compared with
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        check(bool(self.data), "a certificate names no data")
        for date in (self.date, *self.period):
            check(DATE.fullmatch(date) is not None, f"certificate holds {date!r}, expected a date as 1948-01-01")
        check(self.period[0] <= self.period[1], f"certificate.period is {self.period}, expected the first date first")
        check(self.steps >= 1, f"certificate.steps is {self.steps}, expected 1 or more")
        drawn = (self.members, self.ensemble_steps)
        check(min(drawn) >= (1 if self.ensembles else 0), f"certificate counts {drawn} members and steps of ensembles")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the model comes from; `data` is what it was trained on, `period` its first and last date (YYYY-MM[-DD])."""

    data: tuple[Source, ...]
    period: tuple[str, str]
    seeds: Mapping[str, int]
    revision: str
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        for date in self.period:
            good = re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", date) is not None
            check(good, f"provenance.period holds {date!r}, expected a date as 1948-01-01")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a host must know of a bundle before it loads a graph."""

    schema_version: int = SCHEMA_VERSION
    name: str
    grid: Grid
    variables: tuple[Variable, ...]
    zooms: tuple[int, ...]
    latent: Latent
    time: Time
    denoiser: Denoiser | None
    sampler: Sampler | None
    fast: Sampler | None = None
    files: Mapping[str, FileEntry]
    parity: Mapping[str, Mapping[str, Parity]]  # by precision, then by graph
    certificates: Mapping[str, Certificate]  # by precision; none in bundles of an older schema
    provenance: Provenance
    licence: str

    def __post_init__(self) -> None:
        check(self.schema_version == SCHEMA_VERSION, f"schema_version is {self.schema_version}")
        check(
            "/" not in self.name and is_safe_path(self.name), f"name is {self.name!r}, expected letters, digits, '-._'"
        )
        names = [v.name for v in self.variables]
        check(bool(names) and len(set(names)) == len(names), f"variables are {names}, expected different ones")
        rising = all(a < b for a, b in zip(self.zooms[:-1], self.zooms[1:], strict=True))
        check(len(self.zooms) > 1 and self.zooms[0] >= 0 and rising, f"zooms are {self.zooms}, expected rising ones")
        check(self.zooms[-1] == self.grid.zoom, f"the last of zooms {self.zooms} is not grid.zoom {self.grid.zoom}")
        latent = self.latent
        check(latent.zoom in self.zooms[:-1], f"latent.zoom is {latent.zoom}, expected one of {self.zooms[:-1]}")
        check(latent.ratio == 4 ** (self.grid.zoom - latent.zoom), f"latent.ratio is {latent.ratio}")
        check(latent.shape == (len(names), npix(latent.zoom)), f"latent.shape is {latent.shape}")
        check((self.denoiser is None) == (self.sampler is None), "denoiser and sampler go together: both or neither")
        check(self.fast is None or self.denoiser is not None, "fast goes with a denoiser")
        for path in self.files:
            check(is_safe_path(path), f"file {path!r} is not a plain name inside the bundle")
        check("tables.npz" in self.files, "files lack tables.npz")
        check(bool(self.precisions), f"files lack {' and '.join(graph_file(g, 'fp32') for g in self.graphs)}")
        for precision, graphs in self.parity.items():
            for graph, parity in graphs.items():
                self._check_parity(graph, precision, parity)
        for precision, certificate in self.certificates.items():
            found = [entry.variable for entry in certificate.ensembles]
            where = f"certificates.{precision}"
            check(precision in self.precisions, f"{where} is of a precision without its graphs")
            check(not found or sorted(found) == sorted(names), f"{where} has ensembles of {found}, expected {names}")

    def _check_parity(self, graph: str, precision: str, parity: Parity) -> None:
        """Nothing, or BundleError where an entry of `parity` is of something the bundle does not have, or not whole."""
        where, file = f"parity.{precision}.{graph}", graph_file(graph, precision)
        check(graph in (*GRAPHS, "fast") and file in self.files, f"{where} is of a graph that files lack")
        own = self.output_zoom(graph)
        found = [(entry.variable, entry.zoom) for entry in parity.differences]
        names, zooms = [v.name for v in self.variables], [zoom for zoom in self.zooms if zoom <= own]
        for name, zoom in found:
            check(name in names, f"{where} has a difference of {name!r}, expected one of {names}")
            check(zoom in zooms, f"{where} has a difference at zoom {zoom}, expected one of {zooms}")
            check(found.count((name, zoom)) == 1, f"{where} has two differences of {name} at zoom {zoom}")
        lacking = [name for name in names if (name, own) not in found]
        check(not lacking, f"{where} has no difference of {lacking} at zoom {own}")

    def output_zoom(self, graph: str) -> int:
        """Zoom of what a graph gives: fields for the decoder, latents for the others."""
        return self.grid.zoom if graph == "decoder" else self.latent.zoom

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs of this bundle: encoder, decoder and, where it generates, denoiser and distilled one."""
        if self.denoiser is None:
            return GRAPHS[:2]
        return GRAPHS if self.fast is None else (*GRAPHS, "fast")

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions with all their ONNX graphs, fp32 first."""
        found = sorted({path.split(".")[1] for path in self.files if path.count(".") == 2})
        whole = [p for p in found if all(graph_file(graph, p) in self.files for graph in self.graphs)]
        return tuple(sorted(whole, key=lambda precision: precision != "fp32"))

    @property
    def levels(self) -> int:
        """Levels of the pyramid, the base included: the length of `level_mask`."""
        return len(self.zooms)

    def to_json(self) -> str:
        """The text of manifest.json: keys in the order of the records, UTF-8, one newline at the end."""
        return json.dumps(encode(type(self), self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The manifest in `text`, of this schema or an older one (schema.py).

        BundleError for unknown or missing keys, wrong types and newer schemas.
        """
        raw = migrate(read_json(text))
        manifest: Self = decode_record(cls, raw, "manifest", BundleError)
        return manifest
