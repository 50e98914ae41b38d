"""Options that several verbs of `fsae-run` have, each written once."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

with_climatology = click.option(
    "--climatology", metavar="FILE|training", help="Climatology of the input's own source, or the word `training`."
)
with_names = click.option(
    "--name",
    "names",
    metavar="TAS=TS",
    multiple=True,
    help="What the input calls a variable of the model; may be given for each.",
)
with_overwrite = click.option("--overwrite", is_flag=True, help="Replace existing output.")
with_resume = click.option(
    "--resume", is_flag=True, help="Go on with the unfinished run of the same command, where there is one."
)
with_zoom = click.option(
    "--zoom", type=click.IntRange(min=0), help="HEALPix zoom of the input; default the finest it supports."
)


def from_file_to_file(command: Command) -> Command:
    """The command with its input, IN, and its output, OUT."""
    return click.argument("source", metavar="IN")(click.argument("out", metavar="OUT")(command))
