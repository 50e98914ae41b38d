"""`fsae-train`: prepare data, train the autoencoder and the diffusion model, evaluate on years not seen."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fsae.runtime.errors import DeviceError, FsaeError, OutputError, UsageError

if TYPE_CHECKING:
    from .config import Config, Files

EXAMPLES = """\b
Examples:
  fsae-train                                  the default run on the sample data, into runs/
  fsae-train z5-ratio-64                      another shipped configuration: z5-ratio-4, -64, -256, z5-winds, z8-...
  fsae-train my-model.toml                    a configuration of your own
  fsae-train                                  again after an interruption: it goes on where it stopped
  fsae-train evaluate                         figures of the newest run on its evaluation years
  fsae-train prepare IN.nc OUT.zarr --zoom 5  only put data on HEALPix
"""


class TrainGroup(click.Group):
    """A group whose first word may be a configuration file instead of a subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a subcommand the arguments are those of `fit`."""
        asks = {"--help", "-h", "--version"}
        if not set(self.commands) & set(args) and not asks & set(args):
            args = ["fit", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=TrainGroup,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="[CONFIG.toml] | COMMAND [ARGS]...",
)
@click.version_option(package_name="fsae", prog_name="fsae-train")
def cli() -> None:
    """Train a Field-Space Autoencoder and its latent diffusion model.

    Without a command: prepare, statistics, autoencoder, diffusion, each skipped when it is done already; see
    `fsae-train fit --help` for the options.
    """


def training_arguments(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the arguments of those that train a configuration."""
    arguments = (
        click.argument("config", type=click.Path(path_type=Path), required=False),
        click.option(
            "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Runs folder."
        ),
        click.option("--name", help="Name of the run's folder; default: the configuration's."),
        click.option(
            "--devices", type=click.IntRange(min=1), help="Devices to share the work; default: trainer.devices."
        ),
        click.option(
            "--set",
            "changes",
            metavar="KEY=VALUE",
            multiple=True,
            help="Another value of a key, as --set autoencoder.width=96.",
        ),
        click.option("--quiet", is_flag=True, help="No progress bars."),
    )
    for argument in reversed(arguments):
        command = argument(command)
    return command


def find_training(config: Path | None, devices: int | None, changes: tuple[str, ...]) -> tuple["Config", "Files"]:
    """The configuration that is to be trained, with its files; UsageError where one is missing."""
    from .config import SHIPPED, Files, find_config, input_files, read_config

    source = find_config(config)
    settings = read_config(source, changes)
    if devices is not None:
        settings = replace(settings, trainer=replace(settings.trainer, devices=devices))
    inputs = input_files(settings.data.inputs, source)
    static = input_files(settings.data.static, source)
    coarse = [input_files(part.inputs, source) for part in settings.sources.low_resolution]
    missing = [str(path) for path in inputs if not path.exists()]
    if missing and source.parent == SHIPPED:
        raise UsageError(
            "the sample data is not part of the installed package: clone the project's repository and run fsae-train "
            "there, or give a configuration of your own, as fsae-train CONFIG.toml"
        )
    if missing:
        raise UsageError(f"data.inputs names {missing[0]}, which does not exist (paths are relative to {source})")
    for key, paths in (("data.static", static), ("sources.low_resolution", [p for part in coarse for p in part])):
        missing = [str(path) for path in paths if not path.exists()]
        if missing:
            raise UsageError(f"{key} names {missing[0]}, which does not exist (paths are relative to {source})")
    return settings, Files(inputs=inputs, static=static, low_resolution=coarse)


@cli.command()
@training_arguments
@click.option(
    "--autoencoder",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Take the autoencoder of that run, which has the same data and autoencoder: train the diffusion model only.",
)
def fit(
    config: Path | None,
    out: Path,
    name: str | None,
    devices: int | None,
    changes: tuple[str, ...],
    quiet: bool,
    autoencoder: Path | None,
) -> None:
    """Train CONFIG: a TOML file or a shipped name such as z5-ratio-64 (default: default).

    Interrupted, the same command goes on.
    """
    from .processes import is_first
    from .stages import train

    settings, files = find_training(config, devices, changes)
    folder = out / (name or settings.name)
    folder.mkdir(parents=True, exist_ok=True)
    if is_first():
        log_to(folder / "train.log")
    progress = not quiet and is_first() and sys.stderr.isatty()
    run = train(settings, files, folder, autoencoder=autoencoder, progress=progress)
    if is_first():
        click.echo(f"trained {run.path}: next, fsae-train evaluate {run.path} and fsae-export {run.path}")


@cli.command("cnn-vae")
@training_arguments
def cnn_vae(
    config: Path | None, out: Path, name: str | None, devices: int | None, changes: tuple[str, ...], quiet: bool
) -> None:
    """Train the CNN-VAE that is the baseline of a trained CONFIG: same data, updates and number of parameters.

    Interrupted, the same command goes on.
    """
    from .cnn_stage import check_autoencoder, train_cnn_vae
    from .processes import is_first

    settings, files = find_training(config, devices, changes)
    folder = out / (name or settings.name)
    check_autoencoder(folder)
    if is_first():
        log_to(folder / "train.log")
    weights = train_cnn_vae(settings, files.inputs, folder, progress=not quiet and is_first() and sys.stderr.isatty())
    if is_first():
        click.echo(f"trained {weights}: next, fsae-train compare {folder}")


@cli.command(context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--variable", "names", multiple=True, help="Variable to take (repeatable); default: all on the first grid."
)
@click.option("--zoom", type=int, help="HEALPix zoom; default: the finest the grid supports.")
@click.option("--method", type=click.Choice(["auto", "bilinear", "conservative"]), default="auto", help="Regridding.")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT.")
def prepare(
    inputs: tuple[Path, ...], output: Path, names: tuple[str, ...], zoom: int | None, method: str, overwrite: bool
) -> None:
    """Put INPUTS (CF NetCDF or Zarr, lat-lon or HEALPix) on nested HEALPix, into the Zarr store OUTPUT."""
    from .prepare import describe_variables
    from .prepare import prepare as run_prepare
    from .progress import steps_bar

    variables = describe_variables(inputs, names)
    with steps_bar("prepare", sys.stderr.isatty()) as moved:
        run_prepare(list(inputs), output, variables, zoom=zoom, method=method, overwrite=overwrite, progress=moved)
    click.echo(f"wrote {output}: {', '.join(v.name for v in variables)}")


@cli.command(context_settings={"show_default": True})
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
    from .evaluation import evaluate_model

    log_to(None)

    text, record = evaluate_model(model, members=members, sample_steps=sample_steps, data=data, static=static)
    if json_path is not None:
        json_path.write_text(record, encoding="utf-8")
    click.echo(text)


@cli.command(context_settings={"show_default": True})
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
    from .hindcast import hindcast_model
    from .progress import steps_bar

    with steps_bar("hindcast", sys.stderr.isatty()) as moved:
        write_figures(
            json_path,
            lambda: hindcast_model(model, data=data, members=members, leads=leads, every=every, progress=moved),
        )


@cli.command(context_settings={"show_default": True})
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
    from .decades import decades_of_model
    from .progress import steps_bar

    with steps_bar("decades", sys.stderr.isatty()) as moved:
        write_figures(
            json_path,
            lambda: decades_of_model(
                model, data=data, members=members, stability_members=stability_members, years=years, progress=moved
            ),
        )


@cli.command(context_settings={"show_default": True})
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
    from .sampler_table import samplers_of_model, step_counts, year_range

    counts = step_counts(steps)
    chosen = None if years is None else year_range(years)
    write_figures(json_path, lambda: samplers_of_model(model, members=members, steps=counts, years=chosen, data=data))


@cli.command(context_settings={"show_default": True})
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--members", type=click.IntRange(min=2), default=20, help="Members that every run draws.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def sources(runs: tuple[Path, ...], members: int, json_path: Path | None) -> None:
    """What each source adds: ensembles of several RUNs on the evaluation years, side by side.

    The runs share data and autoencoder; their diffusion models learned from other sources (table [sources]).
    """
    from .source_table import sources_of_runs

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


@cli.command(context_settings={"show_default": True})
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

    from fsae.runtime.terminal import name_pairs

    from .evaluation import candidate_of
    from .transfer import format_transfer, rows_json, transfer

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


@cli.command()
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
    from .compare import compare_runs
    from .comparison import comparison_json, format_comparison

    log_to(None)
    found = compare_runs(runs, static)
    if json_path is not None:
        json_path.write_text(comparison_json(found), encoding="utf-8")
    click.echo(format_comparison(found))


@cli.command(context_settings={"show_default": True})
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the pictures; default: RUN/analysis.")
@click.option("--seed", type=int, default=0, help="Seed of t-SNE; it starts from PCA: little changes.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def analyse(run: Path | None, out: Path | None, seed: int, quiet: bool) -> None:
    """Season, warming and eruptions in the compressed space of RUN (default: the newest), as tables and pictures."""
    from .analyse import analyse_run

    log_to(None)
    click.echo(analyse_run(run, out, seed=seed, progress=not quiet and sys.stderr.isatty()))


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


def main(argv: list[str] | None = None) -> int:
    """Run the command line; gives the exit code of `fsae.runtime.errors`."""
    try:
        cli.main(args=argv, prog_name="fsae-train", standalone_mode=False)
    except FsaeError as error:
        click.echo(f"fsae-train: error: {error}", err=True)
        return error.exit_code
    except ModuleNotFoundError as error:
        click.echo(f'fsae-train: error: {error.name} is not installed: pip install "fsae[train]"', err=True)
        return DeviceError.exit_code
    except OSError as error:
        click.echo(f"fsae-train: error: {error.filename or 'output'}: {error.strerror or error}", err=True)
        return OutputError.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("fsae-train: stopped; the same command goes on from the last checkpoint", err=True)
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main())
