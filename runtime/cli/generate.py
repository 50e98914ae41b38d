"""`fsae-run generate`: write an ensemble to a file."""

import dataclasses
import re
import string
from typing import TYPE_CHECKING

import click

from fsae.runtime.errors import UsageError
from fsae.runtime.input.sources import Source

from .options import (
    UNITS,
    Session,
    Values,
    group_of,
    packed,
    resolved,
    with_checked_writing,
    with_climatology,
    with_names,
    with_selection,
    with_session,
    words,
)
from .terminal import write_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from fsae.runtime.emulator import Emulator
    from fsae.runtime.ensemble.batch import Batch
    from fsae.runtime.ensemble.request import Request
    from fsae.runtime.jobs.job import Job, Writing
    from fsae.runtime.output.selection import Selection
    from fsae.runtime.stores.destination import Destination


def make_request(values: Values) -> "Request":
    """The ensemble that is asked for, but for its selection."""
    from fsae.runtime.ensemble.request import DEFAULT_MEMBERS, Request, member_ids

    members, ids, statistics = values.pop("members"), values.pop("member_ids"), values.pop("statistics")
    if members is not None and ids is not None:
        raise UsageError("found --members and --member-ids", advice="give one of them")
    units, group, initial = values.pop("units"), values.pop("group"), values.pop("initial")
    if (units or group) and initial is None:
        option = "--units" if units else "--group"
        raise UsageError(f"found {option} without the file that it is of", advice="give --initial too")
    values["initial"] = initial and Source.of(initial, units, group)
    numbers = members or DEFAULT_MEMBERS if ids is None else member_ids(ids)
    return Request(members=numbers, statistics=words(statistics), **values)


def batch_size(context: click.Context, parameter: click.Parameter, text: str) -> "Batch":
    """The batch that a text stands for."""
    if text == "auto":
        return "auto"
    if not re.fullmatch("[0-9]{1,8}", text) or int(text) < 1:
        raise UsageError(f"found --batch {text}", "a number of members, or auto", "leave --batch out")
    return int(text)


with_request = packed(
    "request",
    make_request,
    click.option("--members", type=click.IntRange(min=1), help="Number of members.  [default: 100]"),
    click.option(
        "--member-ids",
        metavar="A-B,C",
        help="Numbers of the members instead. A member is the same whichever others are generated with it.",
    ),
    click.option(
        "--start",
        metavar="DATE",
        help="Date within the first step.  [default: January of the last training year, or the step after those of "
        "--initial]",
    ),
    click.option(
        "--steps", type=click.IntRange(min=1), help="Number of time steps; --times is another way.  [default: 12]"
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise."),
    click.option(
        "--forcing",
        metavar="NAME|FILE|NUMBER",
        help="Slow condition: a scenario of the bundle such as ssp245 (info names them), a constant in its units, a "
        "year such as 1985, or a series over time in NetCDF, Zarr, or CSV with lines date,value (such as "
        "2005-01-16,1.75).  [default: the past of the steps]",
    ),
    click.option(
        "--initial",
        callback=resolved,
        metavar="FILE",
        help="Fields to continue from, read as IN of compress: the last steps in FILE, or those before --start. "
        "Several members in FILE take turns.",
    ),
    with_names,
    UNITS,
    group_of("FILE"),
    with_climatology,
    click.option(
        "--sampler",
        type=click.Choice(["default", "fast"]),
        default="default",
        show_default=True,
        help="fast: the distilled denoiser, cheaper and slightly worse.",
    ),
    click.option(
        "--statistics",
        metavar="MEAN,Q95",
        help="Write statistics over the members instead of them: some of mean, std, min, max, and quantiles such as "
        "q05; `quantiles` stands for q05,q25,q50,q75,q95.",
    ),
)


OUT = "Output; .nc for NetCDF-4, .grib2 for GRIB. With {realization:03d} in its name, a file for each member."


@click.command()
@with_request
@click.option("--out", metavar="OUT", default="ensemble.zarr", show_default=True, help=OUT)
@with_selection
@click.option(
    "--batch",
    metavar="N|auto",
    default="auto",
    show_default=True,
    callback=batch_size,
    help="Members to draw at once, which does not change the result; auto: as many as are useful and fit into "
    "--max-memory.",
)
@click.option(
    "--max-memory", metavar="GIB", type=float, help="Memory for this process.  [default: half of what is available]"
)
@with_checked_writing
@with_session
def generate(
    request: "Request",
    out: str,
    select: "Selection",
    batch: "Batch",
    max_memory: float | None,
    writing: "Writing",
    session: Session,
) -> None:
    """Generate an ensemble.

    Members are drawn from the climate, or with --initial they continue from known fields, which --name and
    --climatology then describe.

    \b
    Examples:
      fsae-run generate --members 100
      fsae-run generate --members 20 --start 2005-01 --steps 120 --seed 7 --out decade.zarr
      fsae-run generate --member-ids 37,90-99 --out some.nc --grid training
      fsae-run generate --members 1000 --times 2005/2014 --statistics mean,std,q05,q95 --out climate.nc
      fsae-run generate --grid 1.5 --bbox -10,35,30,70 --variables tas --out europe.nc
      fsae-run generate --members 5 --steps 120 --grid 2 --out "tas_{realization:03d}.nc"
      fsae-run generate --members 20 --grid 1.5 --out ensemble.grib2
      fsae-run generate --members 1000 --sampler fast --out many.zarr
      fsae-run generate --members 1000 --shard 3/8 --out many.zarr
      fsae-run generate --members 1000 --steps 1200 --shards all --out century.zarr
      fsae-run generate --members 20 --start 2030 --forcing ssp245 --out scenario.zarr
      fsae-run generate --members 50 --initial tas-2004.nc --climatology training --steps 6 --out forecast.nc
    """
    request = dataclasses.replace(request, select=select)

    def writer(own: "Request") -> "Callable[[Emulator, Destination, Writing], Job]":
        def write(emulator: "Emulator", path: "Destination", how: "Writing") -> "Job":
            return emulator.generate_file(path, own, batch=batch, max_memory_gib=max_memory, writing=how)

        return write

    requests = member_files(out, request) or {out: request}
    write_outputs(
        "generated",
        {"forcing": request.forcing, "initial file": request.initial, "climatology": request.climatology},
        {path: writer(own) for path, own in requests.items()},
        session,
        writing,
    )


def member_files(out: str, request: "Request") -> "dict[str, Request]":
    """The request of each member by its path, if `out` has the field realization; else empty.

    UsageError for other fields, a wrong format, statistics, or paths that several members share.
    """
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(out) if name is not None]
    except ValueError:
        return {}
    if "realization" not in fields:
        return {}
    advice = "give such as --out 'tas_{realization:03d}.nc'"
    if set(fields) != {"realization"}:
        raise UsageError(f"found --out {out}", "the field realization alone in braces", advice)
    if request.statistics:
        found = f"found --out {out} and statistics over the members"
        raise UsageError(found, "a single output", "leave the braces out")
    try:
        paths = {out.format(realization=member): member for member in request.member_numbers}
    except (ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        raise UsageError(f"found --out {out} ({error})", "a format of whole numbers", advice) from None
    if len(paths) < len(request.member_numbers):
        raise UsageError(f"found --out {out}", "another path for each member", advice)
    return {path: dataclasses.replace(request, members=[member], alone=True) for path, member in paths.items()}
