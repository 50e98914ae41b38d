"""`fsae-run generate`: an ensemble to a file."""

import time
from typing import Literal

import click

from fsae.runtime.errors import UsageError
from fsae.runtime.input.sources import Source
from fsae.runtime.input.variables import name_pairs
from fsae.runtime.progress import progress_bar

from .options import (
    common,
    merged,
    resolved,
    scale_of,
    selected,
    with_climatology,
    with_names,
    with_overwrite,
    with_resume,
    with_scale_out,
    with_selection,
)
from .options import names as words
from .terminal import open_emulator, prepare_output, summary


@click.command()
@click.option("--members", type=click.IntRange(min=1), help="Number of members; default 100.")
@click.option(
    "--member-ids", "ids", metavar="A-B,C", help="Numbers of the members instead; a member is the same in any set."
)
@click.option(
    "--start",
    metavar="DATE",
    help="Date in the first step; default January of the last training year, or the step after those of --initial.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Time steps; default 12. Or give --times.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--forcing",
    metavar="FILE|CONSTANT",
    help="Slow condition, such as 2000.5, or a series over time: NetCDF, Zarr, or CSV with lines date,value (such as "
    "2005-01-16,2005.04). Default the calendar year of the steps.",
)
@click.option(
    "--initial",
    callback=resolved,
    metavar="FILE",
    help="Fields to go on from, as IN of compress, such as tas-2004.nc: their last steps, or those before --start. "
    "Of several members each is gone on from in turn.",
)
@with_names
@with_climatology
@click.option(
    "--sampler",
    type=click.Choice(["default", "fast"]),
    default="default",
    show_default=True,
    help="fast: the distilled denoiser, cheaper and a little worse.",
)
@click.option("--out", metavar="OUT", default="ensemble.zarr", show_default=True, help="Output; .nc for NetCDF-4.")
@with_selection
@click.option(
    "--statistics",
    metavar="MEAN,Q95",
    help="In place of the members, some of mean, std, min, max, q05 and the like over them; quantiles stands for q05, "
    "q25, q50, q75, q95.",
)
@click.option(
    "--batch",
    metavar="N|auto",
    default="auto",
    show_default=True,
    help="Members at once, which shows in no result; auto: measured once on a device, see --max-memory.",
)
@click.option(
    "--max-memory", metavar="GIB", type=float, help="For this process; default half of what is available beside it."
)
@with_overwrite
@with_resume
@with_scale_out
@common
@click.pass_context
def generate(
    context: click.Context,
    *,
    members: int | None,
    ids: str | None,
    start: str | None,
    steps: int | None,
    seed: int,
    forcing: str | None,
    initial: Source | None,
    names: tuple[str, ...],
    climatology: str | None,
    sampler: str,
    out: str,
    statistics: str | None,
    batch: str,
    max_memory: float | None,
    overwrite: bool,
    resume: bool,
    model: str | None,
    device: str | None,
    precision: str | None,
    threads: int | None,
) -> None:
    """Generate an ensemble: of the climate, or from known steps on; --name and --climatology are for those.

    \b
    Examples:
      fsae-run generate --members 100
      fsae-run generate --members 20 --start 2005-01 --steps 120 --seed 7 --out decade.zarr
      fsae-run generate --member-ids 37,90-99 --out some.nc --grid source
      fsae-run generate --members 1000 --times 2005/2014 --statistics mean,std,q05,q95 --out climate.nc
      fsae-run generate --grid 1.5 --bbox -10,35,30,70 --variables tas --out europe.nc
      fsae-run generate --members 1000 --sampler fast --out many.zarr
      fsae-run generate --members 1000 --shard 3/8 --out many.zarr
      fsae-run generate --members 20 --forcing 1950.5 --out as-in-1950.zarr
      fsae-run generate --members 50 --initial tas-2004.nc --climatology training --steps 6 --out forecast.nc
    """
    from fsae.runtime.ensemble.request import Request, member_ids

    options = merged(context, model, device, precision, threads)
    if members is not None and ids is not None:
        raise UsageError("found --members and --member-ids: give one of them")
    request = Request(
        members=member_ids(ids) if ids is not None else members or 100,
        start=start,
        steps=steps,
        seed=seed,
        forcing=forcing,
        initial=initial,
        climatology=climatology,
        names=name_pairs(names),
        sampler=sampler,
        select=selected(context),
        statistics=words(statistics) if statistics is not None else (),
    )
    at_once = batch_size(batch)
    prepare_output(out, overwrite or resume, Source.of(forcing) if forcing is not None else None)
    path, began = prepare_output(out, overwrite or resume, initial), time.monotonic()
    scale = scale_of(context, options.threads)
    emulator = open_emulator(options)
    with progress_bar("generate") as progress:
        job = emulator.generate_file(
            path,
            request,
            batch=at_once,
            max_memory_gib=max_memory,
            overwrite=overwrite,
            resume=resume,
            scale=scale,
            progress=progress,
        )
    click.echo(summary("generated", job, path, emulator.graphs.device, began, scale))


def batch_size(text: str) -> int | Literal["auto"]:
    """The batch that a text means.

    >>> batch_size("16"), batch_size("auto")
    (16, 'auto')
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"found --batch {text}, expected a number of members, or auto")
    return int(text)
