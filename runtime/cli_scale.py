"""Options of `fsae-run` that divide the work among processes, and what they say."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .errors import UsageError

if TYPE_CHECKING:
    from .cluster import Cluster
    from .parts import Shard

Command = TypeVar("Command", bound=Callable[..., Any])

KEY = "fsae.scale"


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Nothing; the value waits for `scale_of`, so that no command has to pass it on."""
    if value is not None:
        context.meta.setdefault(KEY, {})[parameter.name] = value


OPTIONS = (
    click.option(
        "--shard",
        metavar="I/N|auto",
        help="Do the I-th of N parts only, as other processes do the others; auto: this task of a SLURM array. The "
        "last to finish puts OUT in its place.",
        expose_value=False,
        callback=_keep,
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Work is done by so many processes on this machine, through dask.",
        expose_value=False,
        callback=_keep,
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Work is done by this dask cluster, such as tcp://node1:8786.",
        expose_value=False,
        callback=_keep,
    ),
)


def with_scale_out(command: Command) -> Command:
    """The command with these options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def scale_of(context: click.Context, threads: int | None) -> "Shard | Cluster | None":
    """How the work is divided; None where it is not. UsageError where options contradict each other.

    `threads` are those of the session of each worker of a cluster.
    """
    given: dict[str, Any] = context.meta.get(KEY, {})
    if len(given) > 1:
        found = [f"--{name}" for name in ("shard", "workers", "scheduler") if name in given]
        raise UsageError(f"found {' and '.join(found)}: give one of them")
    if not given:
        return None
    if "shard" in given:
        from .parts import read_shard

        return read_shard(given["shard"], os.environ)
    from .cluster import Cluster
    from .workers import import_distributed

    import_distributed()  # refused before a model is opened
    return Cluster(workers=given.get("workers"), scheduler=given.get("scheduler"), threads=threads)
