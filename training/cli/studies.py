"""Subcommands of `fsae-train` that evaluate, compare and analyse trained models."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import click

from fsae.runtime.errors import OutputError


def log_to(path: Path | None) -> None:
    """Send the log to stderr and, where given, to the end of the file `path`."""
    logger = logging.getLogger("fsae")
    logger.setLevel(logging.INFO)
    for handler in logger.handlers:
        handler.close()
    logger.handlers.clear()
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(terminal)
    if path is not None:
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(file)


@click.command(context_settings={"show_default": True})
@click.argument("model", required=False)
@click.option("--members", type=click.IntRange(min=2), default=20, help="Members of the generated ensemble.")
@click.option("--sample-steps", type=click.IntRange(min=1), help="Noise levels; default: the model's own.")
@click.option("--data", type=click.Path(path_type=Path), help="Configuration with data for a bundle; default: sample.")
@click.option(
    "--static",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File with a land mask (lsm, 0 to 1), for figures of land and ocean (repeatable).",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def evaluate(
    model: str | None,
    members: int,
    sample_steps: int | None,
    data: Path | None,
    static: tuple[Path, ...],
    json_path: Path | None,
) -> None:
    """Figures of MODEL (a run or a bundle; default: the newest run) on its evaluation years, beside baselines."""
    if json_path is not None and not json_path.parent.is_dir():
        raise OutputError(f"found no folder {json_path.parent} for --json: make it first")
    from fsae.training.studies.evaluate import evaluate_model

    log_to(None)

    text, record = evaluate_model(model, members=members, sample_steps=sample_steps, data=data, static=static)
    if json_path is not None:
        json_path.write_text(record, encoding="utf-8")
    click.echo(text)


@click.command(context_settings={"show_default": True})
@click.argument("model", required=False)
@click.option("--members", type=click.IntRange(min=2), default=20, help="Members of each forecast.")
@click.option("--leads", type=click.IntRange(min=1), default=6, help="Steps of each forecast.")
@click.option("--every", type=click.IntRange(min=1), default=1, help="Steps from one start to the next.")
@click.option("--data", type=click.Path(path_type=Path), help="Configuration with other data; default: see evaluate.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def hindcast(
    model: str | None, members: int, leads: int, every: int, data: Path | None, json_path: Path | None
) -> None:
    """Skill of MODEL (a run or a bundle; default: the newest run) started from each month of the evaluation years.

    CRPS, spread and rank histograms at each lead, beside climatology, persistence and an autoregression.
    """
    from fsae.training.fitting.progress import steps_bar
    from fsae.training.studies.hindcast import hindcast_model

    with steps_bar("hindcast", sys.stderr.isatty()) as moved:
        write_figures(
            json_path,
            lambda: hindcast_model(model, data=data, members=members, leads=leads, every=every, progress=moved),
        )


@click.command(context_settings={"show_default": True})
@click.argument("model", required=False)
@click.option("--members", type=click.IntRange(min=2), default=10, help="Members that follow the calendar year.")
@click.option("--stability-members", type=click.IntRange(min=2), default=20, help="Members under constant forcing.")
@click.option("--years", type=click.IntRange(min=20), default=30, help="Years under constant forcing.")
@click.option("--data", type=click.Path(path_type=Path), help="Configuration with other data; default: see evaluate.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def decades(
    model: str | None, members: int, stability_members: int, years: int, data: Path | None, json_path: Path | None
) -> None:
    """Response of MODEL (a run or a bundle; default: the newest run) to the calendar year, and its stability.

    Decadal means and trends beside the data's, the evaluation years as extrapolation, then decades without forcing.
    """
    from fsae.training.fitting.progress import steps_bar
    from fsae.training.studies.decades import decades_of_model

    with steps_bar("decades", sys.stderr.isatty()) as moved:
        write_figures(
            json_path,
            lambda: decades_of_model(
                model, data=data, members=members, stability_members=stability_members, years=years, progress=moved
            ),
        )


@click.command(context_settings={"show_default": True})
@click.argument("model", required=False)
@click.option("--members", type=click.IntRange(min=2), default=10, help="Members that every row draws.")
@click.option("--steps", default="4,6,8,12,18,32", metavar="N,...", help="Numbers of steps to try.")
@click.option("--years", metavar="A-B", help="Years to draw, not of evaluation; default: the last ten of training.")
@click.option("--data", type=click.Path(path_type=Path), help="Configuration with other data; default: see evaluate.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def samplers(
    model: str | None, members: int, steps: str, years: str | None, data: Path | None, json_path: Path | None
) -> None:
    """Cost and quality of the samplers of MODEL (a run or a bundle; default: the newest run) by number of steps.

    Recommended: the fewest denoiser calls whose energy scores are within 2 % of the best.
    """
    from fsae.training.studies.samplers import samplers_of_model, step_counts, year_range

    counts = step_counts(steps)
    chosen = None if years is None else year_range(years)
    write_figures(json_path, lambda: samplers_of_model(model, members=members, steps=counts, years=chosen, data=data))


@click.command(context_settings={"show_default": True})
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--members", type=click.IntRange(min=2), default=20, help="Members that every run draws.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def sources(runs: tuple[Path, ...], members: int, json_path: Path | None) -> None:
    """What each source adds: ensembles of several RUNs on the evaluation years, side by side.

    The runs share data and autoencoder; their diffusion models learned from other sources (table [sources]).
    """
    from fsae.training.studies.sources import sources_of_runs

    write_figures(json_path, lambda: sources_of_runs(runs, members))


def write_figures(json_path: Path | None, make: Callable[[], tuple[str, str]]) -> None:
    """Print the text that `make` gives and write its JSON, whose folder must be there before the work begins."""
    if json_path is not None and not json_path.parent.is_dir():
        raise OutputError(f"found no folder {json_path.parent} for --json: make it first")
    log_to(None)
    text, record = make()
    if json_path is not None:
        json_path.write_text(record, encoding="utf-8")
    click.echo(text)


@click.command(context_settings={"show_default": True})
@click.argument("model")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE...")
@click.option("--from-zoom", "coarse_zoom", type=int, default=3, help="Zoom the sources are averaged to.")
@click.option("--name", "names", metavar="TAS=TS", multiple=True, help="What the sources call a variable.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def superres(
    model: str, sources: tuple[Path, ...], coarse_zoom: int, names: tuple[str, ...], json_path: Path | None
) -> None:
    """Zero-shot super-resolution by MODEL (a run or a bundle) of other models' output, beside interpolation.

    Every SOURCE is averaged to a coarse zoom, super-resolved through its own climatology, and compared with itself.
    """
    if json_path is not None and not json_path.parent.is_dir():
        raise OutputError(f"found no folder {json_path.parent} for --json: make it first")
    import json

    from fsae.runtime.input.variables import name_pairs
    from fsae.training.evaluation.model import candidate_of
    from fsae.training.studies.superres import format_transfer, rows_json, transfer

    log_to(None)
    candidate, called = candidate_of(model), name_pairs(names)
    rows = [
        row
        for source in sources
        for row in transfer(candidate.subject, candidate.variables, source, coarse_zoom, called)
    ]
    if json_path is not None:
        json_path.write_text(json.dumps(rows_json(rows), indent=2), encoding="utf-8")
    click.echo(format_transfer(rows))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--static",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File with orography (orog, m) or land mask (lsm), for errors on steep slopes and coasts (repeatable).",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def compare(runs: tuple[Path, ...], static: tuple[Path, ...], json_path: Path | None) -> None:
    """Figures of finished runs on the same data, at several ratios, beside their CNN-VAEs, EOFs and block means."""
    if json_path is not None and not json_path.parent.is_dir():
        raise OutputError(f"found no folder {json_path.parent} for --json: make it first")
    from fsae.training.studies.compare import compare_runs
    from fsae.training.studies.compare_tables import comparison_json, format_comparison

    log_to(None)
    found = compare_runs(runs, static)
    if json_path is not None:
        json_path.write_text(comparison_json(found), encoding="utf-8")
    click.echo(format_comparison(found))


@click.command(context_settings={"show_default": True})
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the pictures; default: RUN/analysis.")
@click.option("--seed", type=int, default=0, help="Seed of t-SNE; it starts from PCA: little changes.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def analyse(run: Path | None, out: Path | None, seed: int, quiet: bool) -> None:
    """Season, warming and eruptions in the compressed space of RUN (default: the newest), as tables and pictures."""
    from fsae.training.latent_space.analyse import analyse_run

    log_to(None)
    click.echo(analyse_run(run, out, seed=seed, progress=not quiet and sys.stderr.isatty()))


STUDIES = (evaluate, hindcast, decades, samplers, sources, superres, compare, analyse)
