"""Options of `fsae-run` for the part and the grid that are wanted, and what they say as one selection."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from .selection import Selection

Command = TypeVar("Command", bound=Callable[..., Any])

KEY = "fsae.selection"


def _keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Nothing; the value waits for `selected`, so that no command has to pass it on."""
    if value is not None:
        context.meta.setdefault(KEY, {})[parameter.name] = value


OPTIONS = (
    click.option(
        "--grid",
        metavar="GRID",
        help="native (default): HEALPix as the model computes; source: the lat-lon grid of its training data; or a "
        "regular lat-lon grid such as 1.5 (degrees) or 120x240 (rows x columns).",
        expose_value=False,
        callback=_keep,
    ),
    click.option(
        "--regrid",
        type=click.Choice(["auto", "bilinear", "conservative"]),
        help="How a lat-lon grid is reached; auto: conservative where it is coarse, else bilinear.",
        expose_value=False,
        callback=_keep,
    ),
    click.option("--variables", metavar="TAS,PR", help="Some of the model's.", expose_value=False, callback=_keep),
    click.option(
        "--bbox",
        metavar="W,S,E,N",
        help="Box in degrees, such as -10,35,30,70; across the date line 170,-50,-170,-30.",
        expose_value=False,
        callback=_keep,
    ),
    click.option(
        "--times", metavar="FIRST/LAST", help="Steps, such as 2005-01/2010.", expose_value=False, callback=_keep
    ),
)


def with_selection(command: Command) -> Command:
    """The command with the options for a selection."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def selected(context: click.Context) -> "Selection":
    """What these options say."""
    from .selection import Selection, parse_bbox

    given: dict[str, str] = context.meta.get(KEY, {})
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
