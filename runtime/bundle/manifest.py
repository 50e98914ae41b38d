"""`manifest.json` of a bundle as frozen records: strict both ways, so that what is written is what is read."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self, get_args

from msgspec import UNSET, Meta, UnsetType

from fsae.runtime.climate.steps import CALENDARS, MOST_HARMONICS, STEP
from fsae.runtime.climate.transforms import Transform
from fsae.runtime.diffusion.sampler import SAMPLERS, noise_levels
from fsae.runtime.errors import BundleError
from fsae.runtime.sphere.healpix import npix

from .plausible import Plausible
from .records import (
    Count,
    Line,
    NotNegative,
    Number,
    OneOrMore,
    Positive,
    Record,
    Text,
    Zoom,
    check,
    decode_record,
    one_of,
    to_json,
    whole,
)
from .schema import ADVICE, BAD, SCHEMA_VERSION, Json, migrate, read_manifest

GRAPHS = ("encoder", "decoder", "denoiser")  # of every bundle that generates; "fast" is the distilled denoiser
Origin = Literal["hr", "lr"]  # what a denoiser learned from: its input `source` counts them from 0
SOURCES: tuple[Origin, ...] = get_args(Origin)
MONTH, DAY = "[0-9]{4}-(0[1-9]|1[0-2])", "(0[1-9]|[12][0-9]|3[01])"
PLAIN = "[A-Za-z0-9_][A-Za-z0-9._+-]*"

# One plain name, or one in the folder of compiled engines: nothing that could leave the bundle on any platform.
SAFE_PATH = f"(trt/)?{PLAIN}"
PlainName = Annotated[str, whole(PLAIN, "a plain name: letters, digits, '.', '_', '+' and '-', not '.' first")]
FilePath = Annotated[str, whole(SAFE_PATH, "a plain name inside the bundle")]
Graph = Annotated[str, one_of(*GRAPHS, "fast")]
PrecisionName = Annotated[str, whole("[A-Za-z0-9_-]+", "a precision such as fp32")]
VariableName = Annotated[str, whole("[A-Za-z][A-Za-z0-9_]*", "a letter, then letters, digits and '_'")]
Calendar = Annotated[str, one_of(*CALENDARS)]
SamplerName = Annotated[str, one_of(*SAMPLERS)]
Step = Annotated[str, whole(STEP, "a time step such as '1 month' or '6 hours'")]
Day = Annotated[str, whole(f"{MONTH}-{DAY}", "a date such as 1948-01-31")]
MonthOrDay = Annotated[str, whole(f"{MONTH}(-{DAY})?", "a date such as 1948-01-31")]
Sha256 = Annotated[str, whole("[0-9a-f]{64}", "a SHA-256 in 64 hexadecimal digits")]

Sigma = Annotated[float, Meta(ge=1e-6, le=1e6)]  # any model of unit variance; powers of EDM eq. 5 stay finite
Rho = Annotated[float, Meta(ge=0.1, le=1e6)]


def is_safe_path(path: str) -> bool:
    """True if a path of the manifest stays inside the bundle's folder.

    >>> [is_safe_path(p) for p in ("tables.npz", "trt/encoder.engine", "../x", "/etc/passwd", "trt/../x", "a/b", "C:x")]
    [True, True, False, False, False, False, False]
    """
    return re.fullmatch(SAFE_PATH, path) is not None


def graph_file(graph: str, precision: str) -> str:
    """Name of the ONNX file of a graph in a bundle.

    >>> graph_file("encoder", "fp32")
    'encoder.fp32.onnx'
    """
    return f"{graph}.{precision}.onnx"


class Grid(Record, frozen=True, kw_only=True):
    """HEALPix grid of the fields."""

    zoom: Zoom
    order: Literal["nested"] = "nested"


class Variable(Record, frozen=True, kw_only=True):
    """One physical variable; `valid_range` in `units`.

    Climatology and scale are those of the transformed variable (transforms.py).
    """

    name: VariableName
    standard_name: Line
    long_name: Line
    units: Line
    cell_methods: Line
    valid_range: tuple[Number, Number]
    transform: Transform = "none"  # "sqrt" or "fourth_root", for what is never negative: learned as that root
    # A constant of the file format: models learn from complete fields only.
    missing: Annotated[bool, Meta(extra_json_schema={"const": False})] = False

    def __post_init__(self) -> None:
        low, high = self.valid_range
        check(low < high, f"valid_range of {self.name} is {[low, high]}, expected the lower end first")
        check(not self.missing, f"missing of {self.name} is true, expected false: models know complete fields only")


class Latent(Record, frozen=True, kw_only=True):
    """The compressed field: one per variable, on `zoom`, `ratio` times fewer numbers; shape (variable, pixel).

    Bundles with one `key`, a hash of the float32 encoder and decoder, have latents in common, whatever precisions their
    graphs are in.
    """

    zoom: Zoom
    ratio: OneOrMore
    shape: tuple[OneOrMore, OneOrMore]
    dtype: Literal["float32"] = "float32"
    key: Sha256 | UnsetType = UNSET  # unset in older bundles


class Time(Record, frozen=True, kw_only=True):
    """Time axis of the training data: CF calendar, step such as "1 month", harmonics K of the year."""

    calendar: Calendar
    step: Step
    harmonics: Annotated[int, Meta(ge=1, le=MOST_HARMONICS)]


class Forcing(Record, frozen=True, kw_only=True):
    """The slow scalar forcing of the denoiser and the range it was trained on, in `units`.

    `scenarios` name the yearly series in tables.npz, the first of them that of the training data, and the climate
    responds within `response_years` (scenarios.py). Without any, the forcing is the calendar year.
    """

    name: Line
    units: Line
    range: tuple[Number, Number]
    scenarios: tuple[PlainName, ...] | UnsetType = UNSET
    response_years: NotNegative | UnsetType = UNSET


class DenoiserFacts(Record, frozen=True, kw_only=True):
    """Shape of the diffusion model: `window` steps drawn jointly, given `previous` clean ones."""

    window: Annotated[int, Meta(ge=1, le=10_000)]
    previous: Annotated[int, Meta(ge=0, le=10_000)]
    noise_features: OneOrMore
    forcing: Forcing
    sources: Annotated[tuple[Origin, ...], Meta(min_length=1)]


class Sampler(Record, frozen=True, kw_only=True):
    """Sampler and its noise levels (EDM eq. 5)."""

    name: SamplerName
    steps: Annotated[int, Meta(ge=1, le=10_000)]
    sigma_min: Sigma
    sigma_max: Sigma
    rho: Rho

    def __post_init__(self) -> None:
        check_levels(self.steps, self.sigma_min, self.sigma_max, self.rho)


def check_levels(steps: int, sigma_min: float, sigma_max: float, rho: float) -> None:
    """Raise ValueError unless the noise levels fall from each step to the next."""
    check(sigma_min < sigma_max, f"sigma_min is {sigma_min} and sigma_max {sigma_max}, expected a larger sigma_max")
    falling = all(low < high for high, low in pairwise(noise_levels(steps, sigma_min, sigma_max, rho).tolist()))
    check(falling, f"{steps} noise levels from {sigma_max} to {sigma_min} are not all different (rho {rho})")


class FileEntry(Record, frozen=True, kw_only=True):
    """Hash and size [bytes] of one file."""

    sha256: Sha256
    size: Count


class Difference(Record, frozen=True, kw_only=True):
    """How far a graph's output is from the trained model's, in means over the cells of `zoom`.

    Errors and tolerance in `units`: the variable's, for latents those it is learned in (transforms.py); "1" for the
    denoisers, which are dimensionless.
    """

    variable: VariableName
    zoom: Zoom
    max_abs_error: NotNegative
    rmse: NotNegative | None  # None if an older fsae did not record it
    tolerance: Positive  # of max_abs_error; `verify` uses it too
    units: Line

    def __str__(self) -> str:
        units = "" if self.units == "1" else f" {self.units}"
        return f"{self.max_abs_error:.2g}{units} in {self.variable} at zoom {self.zoom}, allowed {self.tolerance:.2g}"

    @property
    def good(self) -> bool:
        """True if the largest error is within the tolerance; NaN is not."""
        return self.max_abs_error <= self.tolerance


def worst_of(differences: Iterable[Difference]) -> Difference:
    """The difference that comes closest to its tolerance, or goes furthest beyond; NaN goes furthest."""
    return max(differences, key=lambda d: d.max_abs_error / d.tolerance if d.max_abs_error >= 0 else math.inf)


NOT_RUN = "not run on a device"


class Parity(Record, frozen=True, kw_only=True):
    """Measured differences of one graph in one precision.

    `device` and `backend` name what ran it; the device is "not run on a device" if none of the exporter's has that
    precision. Then `verify` on a device that has it measures there, and records it beside the bundle (verify.py).
    """

    device: Line
    backend: Line
    nodes: OneOrMore | None  # of the graph; None if an older fsae did not count them
    differences: Annotated[tuple[Difference, ...], Meta(min_length=1)]  # of every variable and zoom

    @property
    def worst(self) -> Difference:
        """The difference that comes closest to its tolerance, or goes furthest beyond."""
        return worst_of(self.differences)


class EnsembleParity(Record, frozen=True, kw_only=True):
    """How an ensemble drawn in a precision differs from the same members in float32, for one variable.

    `rmse` and CRPS in the variable's units, the CRPS against the fields of the certificate's period; `spectrum` is the
    largest relative change of power over the degrees.
    """

    variable: VariableName
    rmse: Number
    spectrum: Number
    spectrum_tolerance: Positive
    crps: Number
    crps_fp32: Number
    crps_tolerance: Positive  # of the difference of the two


class Source(Record, frozen=True, kw_only=True):
    """One file of data."""

    name: Line
    sha256: Sha256


class Certificate(Record, frozen=True, kw_only=True):
    """The comparison behind the graphs of one precision; its outcome is in the manifest's `parity`.

    `reference` is what they were compared with: the trained model in PyTorch, or float32 graphs exported from it
    earlier. The inputs were `steps` fields of `period` (first and last date, outside training) from `data`; ensembles
    had `members` x `ensemble_steps` fields.
    """

    date: Day
    reference: Line
    data: Annotated[tuple[Source, ...], Meta(min_length=1)]
    period: tuple[Day, Day]
    steps: OneOrMore
    members: Count
    ensemble_steps: Count
    ensembles: tuple[EnsembleParity, ...]  # of every variable; none of fp32, which the others are compared with
    versions: Mapping[Line, Line]
    tables: Sha256 | UnsetType = UNSET  # of the numbers in tables.npz (tables.py); unset in older bundles

    def __post_init__(self) -> None:
        check(self.period[0] <= self.period[1], f"period is {list(self.period)}, expected the first date first")
        drawn = (self.members, self.ensemble_steps)
        check(not self.ensembles or min(drawn) > 0, f"ensembles are of {drawn} members and steps, expected some")


class Provenance(Record, frozen=True, kw_only=True):
    """Where the model comes from; `data` is what it was trained on, `period` its first and last date (YYYY-MM[-DD])."""

    data: tuple[Source, ...]
    period: tuple[MonthOrDay, MonthOrDay]
    seeds: Mapping[Line, Count]
    revision: Line
    versions: Mapping[Line, Line]


class Manifest(Record, frozen=True, kw_only=True):
    """Everything a host must know about a bundle before it loads a graph."""

    schema_version: Literal[2] = SCHEMA_VERSION
    name: PlainName
    grid: Grid
    variables: Annotated[tuple[Variable, ...], Meta(min_length=1)]
    plausible: Mapping[VariableName, Plausible] | UnsetType = UNSET  # by variable; unset in older bundles
    archive_rmse: Mapping[VariableName, Positive] | UnsetType = UNSET  # of archives, unless another quality is asked
    zooms: Annotated[tuple[Zoom, ...], Meta(min_length=2)]
    latent: Latent
    time: Time
    denoiser: DenoiserFacts | None
    sampler: Sampler | None
    fast: Sampler | None = None
    files: Mapping[FilePath, FileEntry]
    parity: Mapping[PrecisionName, Mapping[Graph, Parity]]
    certificates: Mapping[PrecisionName, Certificate]  # none in bundles of an older schema
    provenance: Provenance
    licence: Text

    def __post_init__(self) -> None:
        names, zooms, latent = [v.name for v in self.variables], list(self.zooms), self.latent
        check(len(set(names)) == len(names), f"variables are {names}, expected different ones")
        check(all(low < high for low, high in pairwise(zooms)), f"zooms are {zooms}, expected rising ones")
        check(zooms[-1] == self.grid.zoom, f"the last of zooms {zooms} is not grid.zoom {self.grid.zoom}")
        check(latent.zoom in zooms[:-1], f"latent.zoom is {latent.zoom}, expected one of {zooms[:-1]}")
        ratio, shape = 4 ** (self.grid.zoom - latent.zoom), (len(names), npix(latent.zoom))
        check(latent.ratio == ratio, f"latent.ratio is {latent.ratio}, expected {ratio}")
        check(latent.shape == shape, f"latent.shape is {list(latent.shape)}, expected {list(shape)}")
        check(set(self.distances) <= set(names), f"plausible is of {sorted(self.distances)}, expected some of {names}")
        for name, known in self.distances.items():
            own = {one.zoom for one in known.round_trips or ()}
            check(own <= set(zooms), f"round_trips of {name} are of zooms {sorted(own)}, expected some of {zooms}")
        check((self.denoiser is None) == (self.sampler is None), "denoiser and sampler go together: both or neither")
        check(self.fast is None or self.denoiser is not None, "fast goes with a denoiser")
        check("tables.npz" in self.files, "files lack tables.npz")
        check(bool(self.precisions), f"files lack {' and '.join(graph_file(g, 'fp32') for g in self.graphs)}")
        for precision, graphs in self.parity.items():
            for graph, parity in graphs.items():
                where = f"parity.{precision}.{graph}"
                check(graph_file(graph, precision) in self.files, f"{where} is of a graph that files lack")
                self._check_differences(where, self.output_zoom(graph), parity.differences)
        for precision, certificate in self.certificates.items():
            found = [entry.variable for entry in certificate.ensembles]
            where = f"certificates.{precision}"
            check(precision in self.precisions, f"{where} is of a precision without its graphs")
            check(not found or sorted(found) == sorted(names), f"{where} has ensembles of {found}, expected {names}")

    def _check_differences(self, where: str, own: int, differences: Iterable[Difference]) -> None:
        """Raise ValueError unless there is one of every variable at zoom `own`, and at most one at any coarser zoom."""
        names, zooms = [v.name for v in self.variables], [zoom for zoom in self.zooms if zoom <= own]
        found = Counter((entry.variable, entry.zoom) for entry in differences)
        for (name, zoom), count in found.items():
            check(name in names, f"{where} has a difference of {name!r}, expected one of {names}")
            check(zoom in zooms, f"{where} has a difference at zoom {zoom}, expected one of {zooms}")
            check(count == 1, f"{where} has {count} differences of {name} at zoom {zoom}, expected one")
        lacking = [name for name in names if (name, own) not in found]
        check(not lacking, f"{where} has no difference of {lacking} at zoom {own}")

    def output_zoom(self, graph: str) -> int:
        """Zoom of what a graph gives: fields for the decoder, latents for the others."""
        return self.grid.zoom if graph == "decoder" else self.latent.zoom

    @property
    def distances(self) -> Mapping[str, Plausible]:
        """Distances of training fields by variable; of variables without, input is not held against them."""
        return {} if isinstance(self.plausible, UnsetType) else self.plausible

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs of this bundle: encoder, decoder and, if it generates, denoiser and distilled one."""
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
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The manifest in `text`, of this schema or an older one (schema.py).

        BundleError for unknown or missing keys, wrong types and newer schemas.
        """
        return cls.from_values(read_manifest(text))

    @classmethod
    def from_values(cls, values: Json) -> Self:
        """The manifest of the JSON object in its file, as `from_json` gives it."""
        return decode_record(cls, migrate(values), BAD, BundleError, ADVICE)
