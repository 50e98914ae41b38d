"""Options that several verbs of `fsae-run` have, each written once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fsae.runtime.backends.devices import DEVICES, PRECISIONS
from fsae.runtime.errors import UsageError
from fsae.runtime.input.sources import Source

if TYPE_CHECKING:
    from fsae.runtime.jobs.cluster import Cluster
    from fsae.runtime.jobs.shards import Shard
    from fsae.runtime.output.selection import Selection


Value = TypeVar("Value")

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(kw_only=True)
class Options:
    """Options that may stand before or after the verb."""

    model: str | None = None
    device: str | None = None
    precision: str | None = None
    threads: int | None = None


def with_model(command: Command) -> Command:
    """The command with the option for its bundle."""
    return click.option(
        "--model", metavar="PATH|NAME", help="Bundle; default the newest in ./engines, else the shipped one."
    )(command)


def common(command: Command) -> Command:
    """The command with the options that may stand before or after a verb that computes."""
    threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default all.")(command)
    device = click.option(
        "--device", type=click.Choice(DEVICES), help="Default auto: TensorRT engine, then CUDA, then CPU."
    )(threads)
    precision = click.option(
        "--precision", type=click.Choice(PRECISIONS), help="One the bundle has; default fp32, else its first."
    )(device)
    return with_model(precision)


def one(name: str, before: Value | None, after: Value | None) -> Value | None:
    """The value of an option that may stand in two places."""
    if before is not None and after is not None and before != after:
        raise UsageError(f"found --{name} twice, {before} and {after}: give it once")
    return before if after is None else after


def merged(
    context: click.Context, model: str | None, device: str | None, precision: str | None, threads: int | None
) -> Options:
    """Options given before and after the verb as one set; UsageError where they contradict each other."""
    before: Options = context.obj
    return Options(
        model=one("model", before.model, model),
        device=one("device", before.device, device),
        precision=one("precision", before.precision, precision),
        threads=one("threads", before.threads, threads),
    )


def model_alone(context: click.Context, model: str | None) -> str | None:
    """The bundle given before or after a verb that runs no graph; UsageError where a device or threads were given."""
    before: Options = context.obj
    if any(value is not None for value in (before.device, before.precision, before.threads)):
        raise UsageError(f"{context.info_name} runs nothing on a device: leave out --device, --precision and --threads")
    return one("model", before.model, model)


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
    return click.argument("source", metavar="IN", callback=resolved)(click.argument("out", metavar="OUT")(command))


def resolved(context: click.Context, parameter: click.Parameter, given: str | None) -> Source | None:
    """The input that an argument or option names."""
    return None if given is None else Source.of(given)


SCALE_KEY = "fsae.scale"


def _keep_scale(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Nothing; the value waits for `scale_of`, so that no command has to pass it on."""
    if value is not None:
        context.meta.setdefault(SCALE_KEY, {})[parameter.name] = value


SCALE_OPTIONS = (
    click.option(
        "--shard",
        metavar="I/N|auto",
        help="Do the I-th of N parts only, as other processes do the others; auto: this task of a SLURM array. The "
        "last to finish puts OUT in its place.",
        expose_value=False,
        callback=_keep_scale,
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Work is done by so many processes on this machine, through dask.",
        expose_value=False,
        callback=_keep_scale,
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Work is done by this dask cluster, such as tcp://node1:8786.",
        expose_value=False,
        callback=_keep_scale,
    ),
)


def with_scale_out(command: Command) -> Command:
    """The command with these options."""
    for option in reversed(SCALE_OPTIONS):
        command = option(command)
    return command


def scale_of(context: click.Context, threads: int | None) -> "Shard | Cluster | None":
    """How the work is divided; None where it is not. UsageError where options contradict each other.

    `threads` are those of the session of each worker of a cluster.
    """
    given: dict[str, Any] = context.meta.get(SCALE_KEY, {})
    if len(given) > 1:
        found = [f"--{name}" for name in ("shard", "workers", "scheduler") if name in given]
        raise UsageError(f"found {' and '.join(found)}: give one of them")
    if not given:
        return None
    if "shard" in given:
        from fsae.runtime.jobs.shards import read_shard

        return read_shard(given["shard"], os.environ)
    from fsae.runtime.jobs.cluster import Cluster
    from fsae.runtime.jobs.workers import import_distributed

    import_distributed()  # refused before a model is opened
    return Cluster(workers=given.get("workers"), scheduler=given.get("scheduler"), threads=threads)


SELECTION_KEY = "fsae.selection"


def _keep_selection(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Nothing; the value waits for `selected`, so that no command has to pass it on."""
    if value is not None:
        context.meta.setdefault(SELECTION_KEY, {})[parameter.name] = value


SELECTION_OPTIONS = (
    click.option(
        "--grid",
        metavar="GRID",
        help="native (default): HEALPix as the model computes; source: the lat-lon grid of its training data; or a "
        "regular lat-lon grid such as 1.5 (degrees) or 120x240 (rows x columns).",
        expose_value=False,
        callback=_keep_selection,
    ),
    click.option(
        "--regrid",
        type=click.Choice(["auto", "bilinear", "conservative"]),
        help="How a lat-lon grid is reached; auto: conservative where it is coarse, else bilinear.",
        expose_value=False,
        callback=_keep_selection,
    ),
    click.option(
        "--variables", metavar="TAS,PR", help="Some of the model's.", expose_value=False, callback=_keep_selection
    ),
    click.option(
        "--bbox",
        metavar="W,S,E,N",
        help="Box in degrees, such as -10,35,30,70; across the date line 170,-50,-170,-30.",
        expose_value=False,
        callback=_keep_selection,
    ),
    click.option(
        "--times",
        metavar="FIRST/LAST",
        help="Steps, such as 2005-01/2010.",
        expose_value=False,
        callback=_keep_selection,
    ),
)


def with_selection(command: Command) -> Command:
    """The command with the options for a selection."""
    for option in reversed(SELECTION_OPTIONS):
        command = option(command)
    return command


def selected(context: click.Context) -> "Selection":
    """What these options say."""
    from fsae.runtime.output.selection import Selection, parse_bbox

    given: dict[str, str] = context.meta.get(SELECTION_KEY, {})
    return Selection(
        grid=given.get("grid", "native"),
        regrid=given.get("regrid", "auto"),
        variables=names(given["variables"]) if "variables" in given else (),
        bbox=parse_bbox(given["bbox"]) if "bbox" in given else None,
        times=given.get("times"),
    )


def names(text: str) -> tuple[str, ...]:
    """The words between commas.

    >>> names("tas, pr")
    ('tas', 'pr')
    """
    return tuple(word.strip() for word in text.split(","))
