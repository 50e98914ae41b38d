"""Subcommands of `fsae-train` that evaluate, compare and analyse trained models."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from fsae.runtime.errors import OutputError
from fsae.runtime.log import on_stderr
from fsae.runtime.progress import progress_bar

PATH = click.Path(path_type=Path)
MEMBERS = click.IntRange(min=2)
COUNT = click.IntRange(min=1)


class Study(click.Command):
    """A command whose function returns its report as text, which is printed, and as JSON for the option --json."""

    def invoke(self, ctx: click.Context) -> None:
        """Check where the JSON goes before the work begins, then print and write the report."""
        path: Path | None = ctx.params.pop("json_path")
        if path is not None and not path.parent.is_dir():
            raise OutputError(f"found no folder {path.parent} for --json", advice="make it first")
        if path is not None and os.path.lexists(path):
            raise OutputError(f"{path} exists", advice="give another path to --json, or move it away")
        with on_stderr():
            text, record = super().invoke(ctx)
        click.echo(text)
        if path is not None:
            from fsae.runtime.output.files import check_name, write_file

            write_file(path, record.encode(), overwrite=False, check=check_name)


def study(function: Callable[..., tuple[str, str]]) -> Study:
    """Make a command of a function that returns a report as text and as JSON."""
    command = click.command(cls=Study, context_settings={"show_default": True})(function)
    command.params.append(click.Option(["--json", "json_path"], type=PATH, help="Write the figures there too."))
    return command


model_argument = click.argument("model", required=False)
runs_argument = click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN...")

data_option = click.option(
    "--data", type=PATH, help="Configuration with other data; default: a run's own, for a bundle the sample data."
)


@study
@model_argument
@click.option("--members", type=MEMBERS, default=20, help="Members of the generated ensemble.")
@click.option("--sample-steps", type=COUNT, help="Noise levels; default: the model's own.")
@data_option
@click.option(
    "--static",
    multiple=True,
    type=PATH,
    help="File with a land mask (lsm, 0 to 1), for figures of land and ocean (repeatable).",
)
def evaluate(
    model: str | None, members: int, sample_steps: int | None, data: Path | None, static: tuple[Path, ...]
) -> tuple[str, str]:
    """Figures of MODEL (a run or a bundle; default: the newest run) on its evaluation years, beside baselines."""
    from fsae.training.studies.evaluate import evaluate_model

    return evaluate_model(model, data, members=members, sample_steps=sample_steps, static=static)


@study
@model_argument
@click.option("--members", type=MEMBERS, default=20, help="Members of each forecast.")
@click.option("--leads", type=COUNT, default=6, help="Steps of each forecast.")
@click.option("--every", type=COUNT, default=1, help="Steps from one start to the next.")
@data_option
def hindcast(model: str | None, members: int, leads: int, every: int, data: Path | None) -> tuple[str, str]:
    """Skill of MODEL (a run or a bundle; default: the newest run) started from each month of the evaluation years.

    CRPS, spread and rank histograms at each lead, beside climatology, persistence and an autoregression.
    """
    from fsae.training.studies.hindcast import hindcast_model

    with progress_bar("hindcast", "steps") as moved:
        return hindcast_model(model, data, members=members, leads=leads, every=every, progress=moved)


@study
@model_argument
@click.option("--members", type=MEMBERS, default=10, help="Members that follow the forcing of the past.")
@click.option("--stability-members", type=MEMBERS, default=20, help="Members under constant forcing.")
@click.option("--years", type=click.IntRange(min=20), default=30, help="Years under constant forcing.")
@data_option
def decades(model: str | None, members: int, stability_members: int, years: int, data: Path | None) -> tuple[str, str]:
    """Response of MODEL (a run or a bundle; default: the newest run) to the forcing of the past, and its stability.

    Decadal means and trends beside the data's, the evaluation years as extrapolation, then decades without forcing.
    """
    from fsae.training.studies.decades import Ensembles, decades_of_model

    ensembles = Ensembles(members=members, stability_members=stability_members, years=years)
    with progress_bar("decades", "steps") as moved:
        return decades_of_model(model, data, ensembles, moved)


@study
@model_argument
@click.option("--members", type=MEMBERS, default=10, help="Members that every row draws.")
@click.option("--steps", default="4,6,8,12,18,32", metavar="N,...", help="Numbers of steps to try.")
@click.option("--years", metavar="A-B", help="Years to draw, outside of evaluation; default: the last ten of training.")
@data_option
def samplers(model: str | None, members: int, steps: str, years: str | None, data: Path | None) -> tuple[str, str]:
    """Cost and quality of the samplers of MODEL (a run or a bundle; default: the newest run) by number of steps.

    Recommended: the fewest denoiser calls whose energy scores are within 2 % of the best.
    """
    from fsae.training.studies.samplers import samplers_of_model, step_counts, year_range

    counts, chosen = step_counts(steps), None if years is None else year_range(years)
    return samplers_of_model(model, data, members=members, steps=counts, years=chosen)


@study
@runs_argument
@click.option("--members", type=MEMBERS, default=20, help="Members that every run draws.")
def sources(runs: tuple[Path, ...], members: int) -> tuple[str, str]:
    """Compare what each source adds: ensembles of several RUNs on the evaluation years, side by side.

    The runs share data and autoencoder; their diffusion models learned from other sources (table [sources]).
    """
    from fsae.training.studies.sources import sources_of_runs

    return sources_of_runs(runs, members)


@study
@runs_argument
@click.option("--members", type=MEMBERS, default=10, help="Members of the free ensemble of each run.")
@click.option("--forecast-members", type=MEMBERS, default=10, help="Members of each forecast.")
@click.option("--leads", type=COUNT, default=10, help="Days of each forecast.")
@click.option("--every", type=COUNT, default=3, help="Days from one start to the next.")
def daily(runs: tuple[Path, ...], members: int, forecast_members: int, leads: int, every: int) -> tuple[str, str]:
    """Weather of RUNs of daily data on their evaluation days: variability, storm tracks, rain, and forecasts.

    The runs share data and autoencoder, which is compared with a linear code of as many numbers.
    """
    from fsae.training.daily.study import daily_of_runs

    with progress_bar("forecasts", "starts") as moved:
        return daily_of_runs(
            runs, members=members, forecast_members=forecast_members, leads=leads, every=every, progress=moved
        )


@study
@click.argument("model")
@click.argument("sources", nargs=-1, required=True, type=PATH, metavar="SOURCE...")
@click.option("--from-zoom", "coarse_zoom", type=int, default=3, help="Zoom the sources are averaged to.")
@click.option("--name", "names", metavar="TAS=TS", multiple=True, help="What the sources call a variable.")
def superres(model: str, sources: tuple[Path, ...], coarse_zoom: int, names: tuple[str, ...]) -> tuple[str, str]:
    """Zero-shot super-resolution by MODEL (a run or a bundle) of other models' output, beside interpolation.

    Every SOURCE is averaged to a coarse zoom, super-resolved through its own climatology, and compared with itself.
    """
    from fsae.runtime.input.variables import pairs_of
    from fsae.training.studies.superres import superres_of_sources

    return superres_of_sources(model, sources, coarse_zoom, pairs_of("--name", names, "tas=ts"))


@study
@runs_argument
@click.option(
    "--static",
    multiple=True,
    type=PATH,
    help="File with orography (orog, m) or land mask (lsm), for errors on steep slopes and coasts (repeatable).",
)
def compare(runs: tuple[Path, ...], static: tuple[Path, ...]) -> tuple[str, str]:
    """Figures of finished runs on the same data, at several ratios, beside their CNN-VAEs, EOFs and block means."""
    from fsae.training.studies.compare import comparison_of_runs

    return comparison_of_runs(runs, static)


@click.command(context_settings={"show_default": True})
@click.argument("run", required=False, type=PATH)
@click.option("--out", type=PATH, help="Folder of the pictures; default: RUN/analysis.")
@click.option("--seed", type=int, default=0, help="Seed of t-SNE, which changes little because it starts from PCA.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def analyse(run: Path | None, out: Path | None, seed: int, quiet: bool) -> None:
    """Season, warming and eruptions in the compressed space of RUN (default: the newest), as tables and pictures."""
    from fsae.training.latent_space.analyse import analyse_run

    with on_stderr():
        text = analyse_run(run, out, seed=seed, progress=not quiet and sys.stderr.isatty())
    click.echo(text)


REPORT_EXAMPLES = """\b
Examples:
  fsae-train report                                       the newest run, as report.html in its folder
  fsae-train report runs/mine --out mine.html
  fsae-train report runs/mine --picture overview --out mine.png    one of its pictures
"""


@click.command(epilog=REPORT_EXAMPLES)
@click.argument("run", required=False, type=PATH)
@click.option("--out", type=PATH, help="Page, .html.  [default: RUN/report.html]  With --picture: .png or .svg.")
@click.option(
    "--picture", metavar="NAME", help="Write one picture in place of the page: overview, climate, spectrum, rate, ..."
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def report(run: Path | None, out: Path | None, picture: str | None, quiet: bool) -> None:
    """Write a page of RUN (default: the newest run): tables and pictures in one HTML file, which needs no network.

    The page shows what `fsae-train evaluate RUN` and `fsae-train hindcast RUN` have kept in the folder of the run, and
    says which of them makes what is missing. An earlier page is replaced unless somebody changed it. Needs the extra
    `fsae[plot]`.
    """
    from fsae.training.report.page import report_run

    with progress_bar("report", "sections", shown=False if quiet else None) as moved:
        path = report_run(run, out, picture, moved)
    click.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


STUDIES = (evaluate, hindcast, decades, samplers, sources, superres, daily, compare, analyse, report)
