"""Records of a comparison of models of one family at several ratios, what is concluded from them, and their text."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fsae.runtime.bundle.records import encode
from fsae.training.evaluation.report import LARGEST_RMSE_K, Check, table

FSAE, UNSHARPENED, CNN = "FS-AE", "FS-AE, not sharpened", "CNN-VAE"

EOF, BILINEAR, RIDGE = "EOF", "means: bilinear", "means: bilinear + ridge"

BARRED = ("tas", "K")  # the variable they hold for, and its units

ERROR_NOTES = (
    "numbers: stored per step; fitted: parameters, in millions; RMSE: by area on the method's own grid; lat-lon: at "
    "the points of the source grid by cos(latitude), HEALPix errors those of the pixel that holds the point; PSNR: in "
    "dB, range of the evaluated fields over the RMSE; worst: RMSE over time of the worst pixel; steep: in the tenth of "
    "the sphere with the steepest orography; coast: in pixels that are neither all land nor all sea, and where all "
    "land and all sea touch; coh.: share of degrees 2 to {lmax} with a squared coherence above 0.5; to l: up to which "
    "all are."
)


@dataclass(frozen=True, kw_only=True)
class Band:
    """Degrees `first` to `last` of a spectrum together."""

    first: int
    last: int
    error_share: float  # power of the error over that of the truth
    coherence: float  # mean over the degrees of the squared coherence with the truth


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one way to store and rebuild a variable, in its unit; `None` where a figure does not apply."""

    method: str
    run: str | None  # None: a baseline
    ratio: int
    numbers: int  # stored per step, all variables together
    parameters: int  # fitted numbers
    rmse: float  # by area, on the method's own grid
    lat_lon_rmse: float | None  # at the points of the source grid, by the cosine of latitude
    psnr_db: float | None  # range of the true fields over rmse; None where the error is zero
    level_rmse: tuple[float, ...]  # of each pyramid level of the error
    worst_pixel: float  # largest RMSE over time of any pixel or point
    steep_rmse: float | None
    coast_rmse: float | None
    error_share: tuple[float, ...]  # power of the error over that of the truth, l = 2 ... lmax
    coherence: tuple[float, ...]  # squared, of rebuilt and true anomalies, l = 2 ... lmax
    coherent_share: float  # of these degrees, with a coherence above 0.5
    coherent_degree: int | None  # up to which all of them are; None: not even the lowest
    bands: tuple[Band, ...]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How the models of a run were trained, the CNN-VAE as the autoencoder."""

    name: str
    ratio: int
    updates: int
    batch: int
    has_cnn_vae: bool


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Whether a field-space autoencoder at four times the ratio is at least as good as a CNN-VAE, on the same grid."""

    run: str
    ratio: int
    rmse: float
    cnn_run: str
    cnn_ratio: int
    cnn_rmse: float
    holds: bool


@dataclass(frozen=True, kw_only=True)
class VariableComparison:
    """All figures of one variable."""

    name: str
    units: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `fsae-train compare` prints."""

    training_years: tuple[int, int]
    evaluation_years: tuple[int, int]
    zooms: tuple[int, ...]
    grid: str  # the source grid, in words
    runs: tuple[RunSummary, ...]
    variables: tuple[VariableComparison, ...]


def claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """Every CNN-VAE beside every field-space autoencoder of four times its ratio, on the points of the source grid."""
    found = []
    for theirs in rows:
        for own in rows:
            if (own.method, theirs.method) != (FSAE, CNN) or own.ratio != 4 * theirs.ratio:
                continue
            if own.lat_lon_rmse is None or theirs.lat_lon_rmse is None:
                continue
            claim = Claim(
                run=str(own.run),
                ratio=own.ratio,
                rmse=own.lat_lon_rmse,
                cnn_run=str(theirs.run),
                cnn_ratio=theirs.ratio,
                cnn_rmse=theirs.lat_lon_rmse,
                holds=own.lat_lon_rmse <= theirs.lat_lon_rmse,
            )
            found.append(claim)
    return tuple(found)


def checks(name: str, units: str, rows: Sequence[Row]) -> Iterator[Check]:
    """Each field-space autoencoder beside its bar, bilinear block means, and the CNN-VAE of its run."""
    for own in rows:
        if own.method != FSAE:
            continue
        where = f"{own.run}, ratio {own.ratio}"
        if (name, units) == BARRED and own.ratio in LARGEST_RMSE_K:
            limit = LARGEST_RMSE_K[own.ratio]
            yield Check(name=f"{where}: RMSE", value=own.rmse, limit=f"<= {limit:.3g}", passed=own.rmse <= limit)
        for other in rows:
            if other.method == BILINEAR and other.ratio == own.ratio:
                yield _below(f"{where}: RMSE, against bilinear block means", own.rmse, other.rmse)
            same = other.method == CNN and (other.run, other.ratio) == (own.run, own.ratio)
            if same and own.lat_lon_rmse is not None and other.lat_lon_rmse is not None:
                yield _below(f"{where}: RMSE on lat-lon, against the CNN-VAE", own.lat_lon_rmse, other.lat_lon_rmse)


def _below(name: str, value: float, limit: float) -> Check:
    return Check(name=name, value=value, limit=f"< {limit:.3g}", passed=value < limit)


def comparison_json(comparison: Comparison) -> str:
    """The comparison as JSON, keys in the order of the records."""
    return json.dumps(encode(Comparison, comparison), indent=1, allow_nan=False) + "\n"


def format_comparison(comparison: Comparison) -> str:
    """The comparison as Markdown, readable as it is in a terminal 120 columns wide."""
    known, unseen = comparison.training_years, comparison.evaluation_years
    lines = [
        f"# {len(comparison.runs)} runs on the years {unseen[0]}-{unseen[1]}",
        "",
        f"Statistics and baselines from {known[0]}-{known[1]} only; HEALPix zoom {comparison.zooms[-1]}, source on a"
        f" {comparison.grid}.",
        "",
        *_format_runs(comparison.runs),
    ]
    for variable in comparison.variables:
        lines += ["", *_format_variable(comparison, variable)]
    return "\n".join(lines) + "\n"


def _format_runs(runs: Sequence[RunSummary]) -> list[str]:
    cells = [
        [run.name, str(run.ratio), str(run.updates), str(run.batch), "the same" if run.has_cnn_vae else "none"]
        for run in runs
    ]
    return table(["run", "ratio", "updates", "batch", CNN], cells)


def _format_variable(comparison: Comparison, variable: VariableComparison) -> list[str]:
    rows = variable.rows
    names = _names(rows)
    lines = [f"## {variable.name} [{variable.units}]", "", "### Errors", "", *_format_errors(names, rows)]
    lines += ["", *textwrap.wrap(ERROR_NOTES.format(lmax=len(rows[0].coherence) + 1), 115)]
    zooms = [f"z{zoom}" for zoom in comparison.zooms]
    levels = [[name, str(row.ratio), *map(_figure, row.level_rmse)] for name, row in zip(names, rows, strict=True)]
    lines += ["", "### RMSE of each pyramid level of the error", "", *table(["", "ratio", *zooms], levels)]
    if any(row.method == CNN for row in rows):
        lines += ["", f"{CNN}: the error at the point of its grid nearest to each pixel centre, nothing interpolated."]
    models = [(n, row) for n, row in zip(names, rows, strict=True) if row.run is not None]
    bands = [f"l {band.first}-{band.last}" for band in rows[0].bands]
    shares = [[n, str(row.ratio), *(_figure(band.error_share) for band in row.bands)] for n, row in models]
    phases = [[n, str(row.ratio), *(f"{band.coherence:.3f}" for band in row.bands)] for n, row in models]
    lines += ["", "### Power of the error over that of the truth", "", *table(["", "ratio", *bands], shares)]
    lines += ["", "### Squared coherence with the truth", "", *table(["", "ratio", *bands], phases)]
    lines += ["", "Of anomalies about the training climatology on HEALPix."]
    if any(row.method == CNN for row in rows):
        lines += [
            f"{CNN}: put there with the weights that prepared the data, which take off some of its error at high l."
        ]
    lines += ["", *_format_claims(variable.claims)]
    if variable.checks:
        verdicts = [[c.name, f"{c.value:.3g}", c.limit, "pass" if c.passed else "FAIL"] for c in variable.checks]
        lines += ["", "### Bars", "", *table(["figure", "value", "bar", ""], verdicts)]
    return lines


def _format_claims(found: Sequence[Claim]) -> list[str]:
    lines = [f"### Is {FSAE} at ratio 4R at least as good as {CNN} at ratio R? (RMSE on lat-lon)", ""]
    if not found:
        return [*lines, f"No {CNN} at a ratio R and {FSAE} at 4R among these runs."]
    cells = [
        [
            claim.run,
            str(claim.ratio),
            f"{claim.rmse:.3f}",
            claim.cnn_run,
            str(claim.cnn_ratio),
            f"{claim.cnn_rmse:.3f}",
            "holds" if claim.holds else "does not hold",
        ]
        for claim in found
    ]
    return [*lines, *table([FSAE, "ratio", "RMSE", CNN, "ratio", "RMSE", ""], cells)]


def _format_errors(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    header = ["", "ratio", "numbers", "fitted", "RMSE", "lat-lon", "PSNR", "worst", "steep", "coast", "coh.", "to l"]
    cells = [
        [
            name,
            str(row.ratio),
            str(row.numbers),
            f"{row.parameters / 1e6:.2f}",
            f"{row.rmse:.3f}",
            _figure(row.lat_lon_rmse),
            "" if row.psnr_db is None else f"{row.psnr_db:.1f}",
            f"{row.worst_pixel:.2f}",
            _figure(row.steep_rmse),
            _figure(row.coast_rmse),
            f"{100 * row.coherent_share:.0f} %",
            "" if row.coherent_degree is None else str(row.coherent_degree),
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    return table(header, cells)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _names(rows: Sequence[Row]) -> list[str]:
    """Methods as the tables call them: with the run where several runs share method and ratio."""
    kinds = [(row.method, row.ratio) for row in rows]
    return [
        f"{row.method} ({row.run})" if kinds.count(kind) > 1 else row.method
        for row, kind in zip(rows, kinds, strict=True)
    ]
