"""`fsae-train`: prepare data, train the autoencoder and the diffusion model, evaluate on years not seen."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fsae.runtime.cli.failures import Program, exit_code_of
from fsae.runtime.errors import OutputError, Stopped, UsageError
from fsae.runtime.log import in_file, on_stderr
from fsae.runtime.progress import progress_bar

from .studies import STUDIES

if TYPE_CHECKING:
    from fsae.training.config import Config
    from fsae.training.input_files import Files

COMMAND = Program(name="fsae-train", extra="train", memory="set a smaller batch in the configuration, or free some")

EXAMPLES = """\b
Examples:
  fsae-train                                  the default run on the sample data, into runs/
  fsae-train z5-ratio-64                      another shipped configuration: z5-ratio-4, -64, -256, z5-winds, z8-...
  fsae-train my-model.toml                    a configuration of your own
  fsae-train                                  again after an interruption: goes on where it stopped
  fsae-train codec my-model.toml              only the archive codec of your data, and an autoencoder: minutes
  fsae-train evaluate                         figures of the newest run on its evaluation years
  fsae-train report                           a page with its tables and pictures
  fsae-train prepare IN.nc OUT.zarr --zoom 5  only put data on HEALPix

\b
For completion in bash, put this line into ~/.bashrc (zsh and fish have a _source as well):
  eval "$(_FSAE_TRAIN_COMPLETE=bash_source fsae-train)"
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

    Without a command: prepare, statistics, autoencoder, diffusion, each skipped if it is done already; see
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
    """The configuration to train, with its files; UsageError if one is missing."""
    from fsae.training.config import SHIPPED, read_config
    from fsae.training.input_files import Files, find_config, input_files

    source = find_config(config)
    settings = read_config(source, changes if devices is None else (*changes, f"trainer.devices = {devices}"))
    inputs = input_files(settings.data.inputs, source)
    static = input_files(settings.data.static, source)
    cycle = input_files(settings.data.cycle, source)
    coarse = [input_files(part.inputs, source) for part in settings.sources.low_resolution]
    forcing = [] if settings.forcing is None else input_files([settings.forcing.file], source)
    if source.parent == SHIPPED and not all(path.exists() for path in inputs):
        raise UsageError(
            "the sample data is not part of the installed package",
            advice="clone the project's repository and run fsae-train there, or give a configuration of "
            "your own, as fsae-train CONFIG.toml",
        )
    named = {
        "data.inputs": inputs,
        "data.static": static,
        "data.cycle": cycle,
        "sources.low_resolution": [p for part in coarse for p in part],
        "forcing.file": forcing,
    }
    for key, paths in named.items():
        for path in paths:
            if not path.exists():
                raise UsageError(f"{key} names {path}, which does not exist", advice=f"paths are relative to {source}")
    files = Files(inputs=inputs, static=static, low_resolution=coarse, forcing=next(iter(forcing), None), cycle=cycle)
    return settings, files


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[bool]:
    """Log on stderr and into train.log of the folder, and yield True, in the first of a run's processes only.

    OutputError if the folder cannot be made, Stopped if the block is interrupted: what it finished is kept.
    """
    from fsae.training.fitting.processes import is_first
    from fsae.training.fitting.run_folder import LOG, check_run_folder

    with contextlib.ExitStack() as logs:
        first = is_first()
        if first:
            check_run_folder(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if first:
                logs.enter_context(on_stderr())
                logs.enter_context(in_file(folder / LOG))
        except OSError as error:
            found = f"cannot write the run {folder}: {error.strerror}"
            raise OutputError(found, advice="give another --out or --name") from None
        try:
            yield first
        except KeyboardInterrupt:
            raise Stopped("stopped", advice="the same command goes on from what is finished") from None


def shown(quiet: bool) -> bool:
    """True if progress bars are to be shown."""
    return not quiet and sys.stderr.isatty()


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
    from fsae.training.fitting.pipeline import train

    settings, files = find_training(config, devices, changes)
    folder = out / (name or settings.name)
    with logged(folder) as is_first:
        run = train(settings, files, folder, autoencoder=autoencoder, progress=is_first and shown(quiet))
    if is_first:
        click.echo(f"trained {run.path}: next, fsae-train evaluate {run.path} and fsae-export {run.path}")


CODEC_EXAMPLES = """\b
Examples:
  fsae-train codec my-data.toml                           then: fsae-export, fsae-run compress IN.nc OUT.zarr --rmse 0.2
  fsae-train codec z5-uas-vas                             a shipped configuration: monthly winds
  fsae-train codec my-data.toml --set autoencoder_fit.steps=50
                                                          a shorter training of the autoencoder
  fsae-train codec my-data.toml                           again after an interruption: goes on where it stopped
  fsae-train my-data.toml                                 later: the diffusion model as well, if it has a [diffusion]
"""


@cli.command(epilog=CODEC_EXAMPLES)
@training_arguments
def codec(
    config: Path | None, out: Path, name: str | None, devices: int | None, changes: tuple[str, ...], quiet: bool
) -> None:
    """Fit the archive codec of CONFIG, and its autoencoder, but no diffusion model.

    The codec is fitted to data.training_years on the grid of the data: `fsae-run compress` with --rmse, --max-error or
    --ratio uses it once the run is exported. A run that is trained already gets its codec too. Interrupted, the same
    command goes on.
    """
    from fsae.training.fitting.pipeline import train_codec

    settings, files = find_training(config, devices, changes)
    folder = out / (name or settings.name)
    with logged(folder) as is_first:
        train_codec(settings, files, folder, progress=is_first and shown(quiet))
    if is_first:
        click.echo(f"fitted {folder}: next, fsae-export {folder}")


@cli.command("cnn-vae")
@training_arguments
def cnn_vae(
    config: Path | None, out: Path, name: str | None, devices: int | None, changes: tuple[str, ...], quiet: bool
) -> None:
    """Train the CNN-VAE that is the baseline of a trained CONFIG: same data, updates and number of parameters.

    Interrupted, the same command goes on.
    """
    from fsae.training.fitting.cnn_vae import check_autoencoder, train_cnn_vae

    settings, files = find_training(config, devices, changes)
    folder = out / (name or settings.name)
    check_autoencoder(folder)
    with logged(folder) as is_first:
        weights = train_cnn_vae(settings, files.inputs, folder, progress=is_first and shown(quiet))
    if is_first:
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
    from fsae.training.data.prepare import describe_variables
    from fsae.training.data.prepare import prepare as run_prepare

    variables = describe_variables(inputs, names)
    with progress_bar("prepare", "steps") as moved:
        run_prepare(list(inputs), output, variables, zoom=zoom, method=method, overwrite=overwrite, progress=moved)
    click.echo(f"wrote {output}: {', '.join(v.name for v in variables)}")


@cli.command()
def schema() -> None:
    """Print the JSON Schema of a configuration.

    The package holds it as fsae/training/config.schema.json; editors that know TOML check a configuration with it.
    """
    from fsae.runtime.bundle.records import json_schema
    from fsae.training.config import Config

    click.echo(json_schema(Config, "Configuration of fsae-train"), nl=False)


for study in STUDIES:
    cli.add_command(study)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; gives the exit code of `fsae.runtime.errors`."""
    return exit_code_of(COMMAND, lambda: cli.main(args=argv, prog_name=COMMAND.name, standalone_mode=False))


if __name__ == "__main__":
    sys.exit(main())
