"""`fsae-train compare`: runs of one family at several ratios, beside their CNN-VAEs, EOFs and block means.

Everything is fitted on the training years; the evaluation years are only ever compared with.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix
from fsae.training.config import Years
from fsae.training.evaluation.climate_checks import at_most, below
from fsae.training.evaluation.model import TrainedModel, anomalies, of_run, rebuild, without_sharpening
from fsae.training.evaluation.periods import Period, read_periods
from fsae.training.evaluation.reconstruction import LOCALISED, from_block_means, from_codes, from_eofs
from fsae.training.evaluation.report import LARGEST_RMSE_K, Check, as_json
from fsae.training.evaluation.tables import NAME, Column, Table, columns, verdicts
from fsae.training.fitting.cnn_vae import reconstruct
from fsae.training.fitting.run_folder import Run, load_run
from fsae.training.metrics import baselines

from .compare_scores import Rebuilt, Row, row_of, scene_of
from .places import places_of

log = logging.getLogger("fsae.training")
FSAE, UNSHARPENED, CNN = "FS-AE", "FS-AE, not sharpened", "CNN-VAE"
EOF, BILINEAR, RIDGE = "EOF", "means: bilinear", "means: bilinear + ridge"
BARRED = ("tas", "K")  # variable and units that the bars in kelvin hold for


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
    """A CNN-VAE, and a field-space autoencoder of four times its ratio: is that at least as good on the same grid?"""

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
    """The report of `fsae-train compare`."""

    training_years: Years
    evaluation_years: Years
    zooms: tuple[int, ...]
    grid: str  # the source grid, in words
    runs: tuple[RunSummary, ...]
    variables: tuple[VariableComparison, ...]


def comparison_of_runs(folders: Sequence[Path], static: Sequence[Path]) -> tuple[str, str]:
    """The tables of finished runs and the same as JSON."""
    found = compare_runs(folders, static)
    return format_comparison(found), as_json(found)


def compare_runs(folders: Sequence[Path], static: Sequence[Path] = ()) -> Comparison:
    """The comparison of finished runs on the same data, by rising ratio; `static` files have orog [m] and lsm.

    UsageError for a folder without a finished run, DataError if the runs differ in their data.
    """
    runs = sorted(map(load_run, folders), key=ratio_of)
    check_same_data(runs)
    # Baselines and spectra are of anomalies about a climatology, whatever a run takes off its fields.
    reference = next((run for run in runs if run.config.data.normalisation == "climatology"), runs[0])
    model, data = of_run(reference), reference.config.data
    training, evaluation = read_periods(
        reference.fields, data.variables, model.zoom, data.training_years, data.evaluation_years
    )
    log.info("compare: places and spectra of %d true steps", len(evaluation.times))
    grid = _grid(reference)
    scene = scene_of(model, evaluation, weights=places_of(static, model.zoom), grid=grid, method=data.method)
    rows: list[list[Row]] = [[] for _ in model.named_units]
    for rebuilt in _methods(runs, model, training, evaluation):
        for v, own in enumerate(rows):
            own.append(row_of(rebuilt, scene, v))
    return Comparison(
        training_years=data.training_years,
        evaluation_years=data.evaluation_years,
        zooms=scene.zooms,
        grid=str(grid or f"HEALPix grid of zoom {scene.zooms[-1]}"),
        runs=tuple(map(_summary, runs)),
        variables=tuple(
            VariableComparison(
                name=name, units=units, rows=tuple(own), claims=claims(own), checks=tuple(checks(name, units, own))
            )
            for (name, units), own in zip(model.named_units, rows, strict=True)
        ),
    )


def ratio_of(run: Run) -> int:
    """Values of a field for each number stored."""
    shape = run.config.autoencoder
    return int(4 ** (shape.zoom - shape.latent_zoom))


def check_same_data(runs: Sequence[Run]) -> None:
    """Raise DataError if runs differ in inputs, years, variables, zoom or regridding, or share a name."""
    names = [run.path.name for run in runs]
    if len(set(names)) < len(names):
        raise DataError(f"found the runs {', '.join(names)}", "a name of its own for each", "rename a folder")
    for run in runs[1:]:
        for (what, expected), (_, found) in zip(_data(runs[0]), _data(run), strict=True):
            if found != expected:
                raise DataError(
                    f"the {what} of {run.path} are {found}",
                    f"those of {runs[0].path}, {expected}",
                    "compare runs on the same data",
                )


def _data(run: Run) -> Iterator[tuple[str, object]]:
    """The data that runs must have in common, by name."""
    data = run.config.data
    files = run.facts.inputs[: len(data.inputs)]  # the rest are static fields, which some of the models read
    yield "inputs (SHA-256)", [f"{file.name} {file.sha256[:12]}" for file in files]
    yield "training years", data.training_years
    yield "evaluation years", data.evaluation_years
    yield "variables", [(v.name, v.units, v.transform) for v in data.variables]
    yield "zoom and regridding", (run.config.autoencoder.zoom, data.method)


def _grid(run: Run) -> LatLonGrid | None:
    """The grid of the run's inputs; None if that is HEALPix."""
    facts = run.facts
    if not facts.source_lat_deg:
        return None
    return LatLonGrid(lat_deg=np.array(facts.source_lat_deg), lon_deg=np.array(facts.source_lon_deg))


def has_cnn_vae(run: Run) -> bool:
    """True if a CNN-VAE was trained beside the run's autoencoder."""
    return (run.path / "cnn_vae.safetensors").exists()


def _summary(run: Run) -> RunSummary:
    fit = run.config.autoencoder_fit
    return RunSummary(
        name=run.path.name, ratio=ratio_of(run), updates=fit.steps, batch=fit.batch, has_cnn_vae=has_cnn_vae(run)
    )


def _methods(runs: Sequence[Run], model: TrainedModel, training: Period, evaluation: Period) -> Iterator[Rebuilt]:
    """Every method, made one by one: at each ratio the models first and then the baselines."""
    known, truth = anomalies(model, training), anomalies(model, evaluation)
    log.info("compare: empirical orthogonal functions")
    eofs = baselines.fit_eofs(known.reshape(len(known), -1), training.time_years)
    finest, features = model.zoom, truth[0].size
    for latent_zoom in sorted({run.config.autoencoder.latent_zoom for run in runs}, reverse=True):
        ratio = 4 ** (finest - latent_zoom)
        for run in runs:
            if ratio_of(run) == ratio:
                yield from _models(run, evaluation)
        log.info("compare: baselines at ratio %d", ratio)
        numbers = features // ratio
        (_, modes, from_modes), *_ = from_eofs(eofs, truth, numbers)
        means = {name: field for name, _, field in from_block_means(known, truth, latent_zoom)}
        _, _, from_code = from_codes(known, truth, numbers)
        for method, stored, parameters, field in (
            (EOF, modes, modes * features, from_modes),
            (LOCALISED, numbers, numbers * features, from_code),
            (BILINEAR, numbers, 0, means[BILINEAR]),
            (RIDGE, numbers, numbers * features, means[RIDGE]),
        ):
            error = (field - truth) * model.scale[:, None]
            yield Rebuilt(method=method, run=None, ratio=ratio, numbers=stored, parameters=parameters, error=error)


def _models(run: Run, evaluation: Period) -> Iterator[Rebuilt]:
    """The field-space autoencoder of a run, the same without its sharpening, and its CNN-VAE, if it has them."""
    variants = [(FSAE, run)]
    if run.config.autoencoder.sharpen:
        variants.append((UNSHARPENED, without_sharpening(run)))
    for method, variant in variants:
        log.info("compare: %s of %s", method, run.path)
        model = of_run(variant)
        error = rebuild(model, evaluation, model.zoom) - anomalies(model, evaluation)
        yield Rebuilt(
            method=method,
            run=run.path.name,
            ratio=ratio_of(run),
            numbers=len(model.variables) * npix(model.latent_zoom),
            parameters=sum(weights.numel() for weights in run.autoencoder.parameters()),
            error=error * model.scale[:, None],
        )
    if has_cnn_vae(run):
        log.info("compare: %s of %s", CNN, run.path)
        made = reconstruct(run.path)
        yield Rebuilt(
            method=CNN,
            run=run.path.name,
            ratio=ratio_of(run),
            numbers=made.numbers,
            parameters=made.parameters,
            error=made.error.reshape(*made.error.shape[:2], -1),
            on_points=True,
        )


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
            yield at_most(f"{where}: RMSE", own.rmse, LARGEST_RMSE_K[own.ratio])
        for other in rows:
            if other.method == BILINEAR and other.ratio == own.ratio:
                yield below(f"{where}: RMSE, against bilinear block means", own.rmse, other.rmse)
            same = other.method == CNN and (other.run, other.ratio) == (own.run, own.ratio)
            if same and own.lat_lon_rmse is not None and other.lat_lon_rmse is not None:
                yield below(f"{where}: RMSE on lat-lon, against the CNN-VAE", own.lat_lon_rmse, other.lat_lon_rmse)


RUNS = Table(
    (
        Column("run", "name"),
        Column("ratio", "ratio"),
        Column("updates", "updates"),
        Column("batch", "batch"),
        Column(CNN, lambda run: "the same" if run.has_cnn_vae else "none"),
    )
)

METHOD = (NAME, Column("ratio", "ratio"))

ERRORS = (
    *METHOD,
    Column("numbers", "numbers"),
    Column("fitted", lambda row: row["parameters"] / 1e6, ".2f"),
    Column("RMSE", "rmse", ".3f"),
    Column("lat-lon", "lat_lon_rmse", ".3f"),
    Column("PSNR", "psnr_db", ".1f"),
    Column("worst", "worst_pixel", ".2f"),
    Column("steep", "steep_rmse", ".3f"),
    Column("coast", "coast_rmse", ".3f"),
    Column("coh.", "coherent_share", ".0%"),
    Column("to l", "coherent_degree"),
)

ERRORS_NOTE = (
    "numbers: stored per step; fitted: parameters, in millions; RMSE: by area on the method's own grid; lat-lon: at "
    "the points of the source grid by cos(latitude), HEALPix errors those of the pixel that holds the point; PSNR: in "
    "dB, range of the evaluated fields over the RMSE; worst: RMSE over time of the worst pixel; steep: in the tenth of "
    "the sphere with the steepest orography; coast: in pixels that are neither all land nor all sea, and where all "
    "land and all sea touch; coh.: share of degrees 2 to {lmax} with a squared coherence above 0.5; to l: up to which "
    "all are."
)

CLAIMS = Table(
    (
        Column(FSAE, "run"),
        Column("ratio", "ratio"),
        Column("RMSE", "rmse", ".3f"),
        Column(CNN, "cnn_run"),
        Column("ratio", "cnn_ratio"),
        Column("RMSE", "cnn_rmse", ".3f"),
        Column("", lambda claim: "holds" if claim.holds else "does not hold"),
    )
)


def format_comparison(comparison: Comparison) -> str:
    """The comparison as Markdown, readable as it is in a terminal 120 columns wide."""
    known, unseen = comparison.training_years, comparison.evaluation_years
    lines = [
        f"# {len(comparison.runs)} runs on the years {unseen[0]}-{unseen[1]}",
        "",
        f"Statistics and baselines from {known[0]}-{known[1]} only; HEALPix zoom {comparison.zooms[-1]}, source on a"
        f" {comparison.grid}.",
        "",
        *RUNS.lines(comparison.runs),
    ]
    for variable in comparison.variables:
        lines += ["", f"## {variable.name} [{variable.units}]", *_format_variable(comparison, variable)]
    return "\n".join(lines) + "\n"


def _format_variable(comparison: Comparison, variable: VariableComparison) -> list[str]:
    rows = [{**vars(row), "name": name} for name, row in zip(_names(variable.rows), variable.rows, strict=True)]
    models = [row for row in rows if row["run"] is not None]
    note_levels, note_spectra = "", "Of anomalies about the training climatology on HEALPix."
    if any(row.method == CNN for row in variable.rows):
        note_levels = f"{CNN}: the error at the point of its grid nearest to each pixel centre, nothing interpolated."
        note_spectra += (
            f" {CNN}: put there with the weights that prepared the data, which take off some of its error at high l."
        )
    levels = columns((f"z{zoom}" for zoom in comparison.zooms), "level_rmse", ".3f")
    bands = [f"l {band.first}-{band.last}" for band in variable.rows[0].bands]
    power = columns(bands, lambda row: [band.error_share for band in row["bands"]], ".3f")
    phase = columns(bands, lambda row: [band.coherence for band in row["bands"]], ".3f")
    claim = f"### Is {FSAE} at ratio 4R at least as good as {CNN} at ratio R? (RMSE on lat-lon)"
    lines = [
        *Table(ERRORS, ERRORS_NOTE.format(lmax=len(variable.rows[0].coherence) + 1)).lines(rows, "### Errors"),
        *Table((*METHOD, *levels), note_levels).lines(rows, "### RMSE of each pyramid level of the error"),
        *Table((*METHOD, *power)).lines(models, "### Power of the error over that of the truth"),
        *Table((*METHOD, *phase), note_spectra).lines(models, "### Squared coherence with the truth"),
    ]
    if variable.claims:
        lines += CLAIMS.lines(variable.claims, claim)
    else:
        lines += ["", claim, "", f"No {CNN} at a ratio R and {FSAE} at 4R among these runs."]
    return lines + (verdicts("bar").lines(variable.checks, "### Bars") if variable.checks else [])


def _names(rows: Sequence[Row]) -> list[str]:
    """Methods as the tables call them: with the run if several runs share method and ratio."""
    kinds = [(row.method, row.ratio) for row in rows]
    return [
        f"{row.method} ({row.run})" if kinds.count(kind) > 1 else row.method
        for row, kind in zip(rows, kinds, strict=True)
    ]
