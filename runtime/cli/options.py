"""Options of several commands of `fsae-run`, in groups: the values of a group reach a command as one record."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fsae.runtime.backends.devices import DEVICES, MOST_THREADS, MOST_WORKERS, PRECISIONS
from fsae.runtime.errors import UsageError
from fsae.runtime.input.sources import Source
from fsae.runtime.input.variables import pairs_of

if TYPE_CHECKING:
    from fsae.runtime.archive.quality import Quality
    from fsae.runtime.codec.encoder_input import Reading
    from fsae.runtime.jobs.cluster import Cluster
    from fsae.runtime.jobs.job import Writing
    from fsae.runtime.jobs.shards import Shard
    from fsae.runtime.output.selection import Selection


Command = TypeVar("Command", bound=Callable[..., Any])
Values = dict[str, Any]  # of options, by their names


def packed(
    name: str, make: Callable[[Values], object], *options: Callable[[Command], Command]
) -> Callable[[Command], Command]:
    """A decorator that adds options to a command and packs their values into its argument `name` by `make`."""

    def decorate(command: Command) -> Command:
        known = len(getattr(command, "__click_params__", ()))

        @functools.wraps(command)
        def run(**given: Any) -> Any:
            values = {str(parameter.name): given.pop(str(parameter.name)) for parameter in own}
            return command(**given, **{name: make(values)})

        for option in reversed(options):
            option(run)
        own: list[click.Parameter] = run.__click_params__[known:]  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorate


@dataclass(frozen=True, kw_only=True)
class Session:
    """A bundle and what runs it, as given before and after the command."""

    model: str | None = None
    device: str | None = None
    precision: str | None = None
    threads: int | None = None


def make_session(values: Values) -> Session:
    """The options given before and after the command as one set; UsageError if they contradict each other."""
    before: Session = click.get_current_context().obj or Session()
    merged: Values = {}
    for field in fields(Session):
        first, second = getattr(before, field.name), values.get(field.name)
        if first is not None and second is not None and first != second:
            raise UsageError(f"found --{field.name} twice, {first} and {second}", advice="give it once")
        merged[field.name] = first if second is None else second
    return Session(**merged)


def make_model(values: Values) -> str | None:
    """The bundle of a command that takes no other option of a session; UsageError if there is one before it."""
    session = make_session(values)
    if session != Session(model=session.model):
        command = click.get_current_context().info_name
        raise UsageError(f"{command} takes no --device, --precision or --threads", advice="leave them out")
    return session.model


def refuse_session() -> None:
    """Raise UsageError if there are options of a session before a command that opens no bundle."""
    if make_session({}) != Session():
        command = click.get_current_context().info_name
        raise UsageError(f"{command} takes no --model, --device, --precision or --threads", advice="leave them out")


MODEL = click.option(
    "--model", metavar="PATH|NAME", help="Bundle: a folder, or the name of a shipped or fetched one.  [default: the "
    "newest that you exported to ./engines, else the shipped one named default]",
)  # fmt: skip

with_model = packed("model", make_model, MODEL)

with_session = packed(
    "session",
    make_session,
    MODEL,
    click.option(
        "--device",
        type=click.Choice(DEVICES),
        help="Device to run on.  [default: auto, the first that works of a TensorRT engine, CUDA and the CPU]",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="Precision of the graphs, one that the bundle has.  [default: fp32, else its first]",
    ),
    click.option(
        "--threads", type=click.IntRange(1, MOST_THREADS), help="Number of CPU threads.  [default: all cores]"
    ),
)


def from_file_to_file(command: Command) -> Command:
    """The command with its input, IN, and its output, OUT."""
    return click.argument("source", metavar="IN", callback=resolved)(click.argument("out", metavar="OUT")(command))


def resolved(context: click.Context, parameter: click.Parameter, given: str | None) -> Source | None:
    """The input that an argument or option names."""
    return None if given is None else Source.of(given)


with_zoom = click.option(
    "--zoom", type=click.IntRange(0, 12), help="HEALPix zoom to bring IN to.  [default: the finest it supports]"
)


def names_in(source: str, owner: str) -> Callable[[Command], Command]:
    """The option for names in a source of variables of their owner, as the help calls these two."""
    return click.option(
        "--name",
        "names",
        metavar="TAS=TS",
        multiple=True,
        callback=lambda context, parameter, given: pairs_of("--name", given, "tas=ts"),
        help=f"Name in {source} (TS) of a variable of {owner} (TAS). May be repeated.",
    )


with_names = names_in("the input", "the model")


def units_in(source: str, owner: str) -> Callable[[Command], Command]:
    """The option for units in a source of variables of their owner, as the help calls these two."""
    return click.option(
        "--units",
        metavar="TAS=K",
        multiple=True,
        callback=lambda context, parameter, given: pairs_of("--units", given, "tas=K"),
        help=f"Units in {source} (K) of a variable of {owner} (TAS), where it says none or wrong ones. May be "
        "repeated.",
    )


UNITS = units_in("the input", "the model")


def group_of(what: str) -> Callable[[Command], Command]:
    """The option for the group of a file, which the help calls `what`."""
    said = f"Group of {what} that holds the variables.  [default: the file itself]"
    return click.option("--group", metavar="NAME", default="", help=said)


def with_units(command: Command) -> Command:
    """The command with units that the user says its input, IN, has, and the group of it that is read."""

    @functools.wraps(command)
    def run(source: Source, units: dict[str, str], group: str, **given: Any) -> Any:
        return command(source=Source.of(source, units, group), **given)

    return UNITS(group_of("IN")(run))  # type: ignore[return-value]


def make_qualities(values: Values) -> "dict[str, Quality] | None":
    """The quality of each variable, or of all ("*"), empty if none is asked for; None for float32 latents.

    UsageError if two are given for one.
    """
    from fsae.runtime.archive.quality import read_quality

    found: dict[str, Quality] = {}
    for kind in ("rmse", "max_error", "ratio"):
        for text in values[kind]:
            name, _, number = text.rpartition("=")
            if (name or "*") in found or (found and "*" in (name or "*", *found)):
                raise UsageError(f"found a second quality, {text!r}, of the same variable", advice="give one of them")
            found[name or "*"] = read_quality(kind.replace("_", "-"), number)
    if found and values["lossless_latents"]:
        raise UsageError("found --lossless-latents and a quality", advice="give one of them")
    return None if values["lossless_latents"] else found


with_qualities = packed(
    "qualities",
    make_qualities,
    click.option("--rmse", metavar="TAS=0.2", multiple=True, help="Largest root mean square error of a chunk."),
    click.option(
        "--max-error",
        metavar="TAS=0.5",
        multiple=True,
        help="Largest error of any value, in the variable's unit, or with % of the value.",
    ),
    click.option("--ratio", metavar="64", multiple=True, help="Bytes in float32 over bytes of the archive, at least."),
    click.option(
        "--lossless-latents", is_flag=True, help="Write float32 latents of the autoencoder instead of an archive."
    ),
)

with_climatology = click.option(
    "--climatology",
    metavar="FILE|training",
    help="Climatology of the input's own source, made by `fsae-run climatology`; `training` if the source is that of "
    "the training data.",
)

with_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

with_force = click.option("--force", is_flag=True, help="Go on with input that is too far from what real fields are.")

with_strict = click.option(
    "--strict", is_flag=True, help="Refuse input that would give a warning as far from real fields."
)

with_overwrite = click.option("--overwrite", is_flag=True, help="Replace existing output.")


def make_reading(values: Values) -> "Reading":
    """How the input is read."""
    from fsae.runtime.codec.encoder_input import Reading

    return Reading(**values)


with_reading = packed("reading", make_reading, with_zoom, with_names, with_climatology)
with_plain_reading = packed("reading", make_reading, with_zoom, with_names)


def make_plain_writing(values: Values) -> "Writing":
    """How an output is written that is made at once."""
    from fsae.runtime.jobs.job import Writing

    return Writing(**values)


with_plain_writing = packed("writing", make_plain_writing, with_overwrite, with_force)


def make_writing(values: Values) -> "Writing":
    """How the output is written; UsageError if options contradict each other."""
    from fsae.runtime.jobs.job import Writing

    given = {name: values[name] for name in ("shard", "workers", "scheduler") if values[name] is not None}
    if len(given) > 1:
        raise UsageError(f"found {' and '.join(f'--{name}' for name in given)}", advice="give one of them")
    return Writing(
        overwrite=values["overwrite"],
        resume=values["resume"],
        force=values["force"],
        strict=values.get("strict", False),
        zarr_shards=values["shards"],
        scale=_scale(given) if given else None,
    )


def _scale(given: Values) -> "Shard | Cluster":
    if "shard" in given:
        from fsae.runtime.jobs.shards import read_shard

        return read_shard(given["shard"], os.environ)
    from fsae.runtime.jobs.cluster import Cluster
    from fsae.runtime.jobs.workers import import_distributed

    import_distributed()  # refused before a model is opened
    return Cluster(**given)


def steps_in_shards(context: click.Context, parameter: click.Parameter, given: str | None) -> "int | str | None":
    """The value of --shards."""
    if given is None or given == "all":
        return given
    if not given.isascii() or not given.isdigit() or not int(given[:9]) > 0:
        raise UsageError(f"found --shards {given}", "a number of steps, or all", "give it as in --shards 120")
    return int(given[:9])


WRITING = (
    with_overwrite,
    click.option("--resume", is_flag=True, help="Continue an interrupted run of the same command, if there is one."),
    with_force,
    click.option(
        "--shard",
        metavar="I/N|auto",
        help="Do only part I of N, while other processes do the others; auto: the part of this task of a SLURM array. "
        "The last to finish puts OUT in its place.",
    ),
    click.option(
        "--shards",
        metavar="STEPS|all",
        callback=steps_in_shards,
        help="Zarr: steps of a member in one file, rounded up to whole chunks; all: one file for each member and "
        "variable. What is resumed is a file. The members of a --batch are held in memory for so many steps.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, MOST_WORKERS),
        help="Number of dask worker processes to start on this machine.",
    ),
    click.option(
        "--scheduler", metavar="ADDRESS", help="Running dask cluster to use, such as tcp://node1:8786."
    ),
)  # fmt: skip

with_writing = packed("writing", make_writing, *WRITING)
with_checked_writing = packed("writing", make_writing, *WRITING, with_strict)  # of what reads fields


def make_selection(values: Values) -> "Selection":
    """Part and grid of the output."""
    from fsae.runtime.output.selection import Selection, parse_bbox
    from fsae.runtime.output.target_grid import LIKE, grid_like

    grid = values["grid"]
    return Selection(
        grid=grid_like(grid.removeprefix(LIKE)) if grid.startswith(LIKE) else grid,
        regrid=values["regrid"],
        variables=words(values["variables"]),
        bbox=None if values["bbox"] is None else parse_bbox(values["bbox"]),
        times=values["times"],
        centres=values["centres"],
    )


with_selection = packed(
    "select",
    make_selection,
    click.option(
        "--grid",
        metavar="GRID",
        default="native",
        show_default=True,
        help="native: HEALPix, as the model computes; training: lat-lon grid of the training data; like FILE: that of "
        "a file; or a regular lat-lon grid such as 1.5 (degrees) or 120x240 (rows x columns).",
    ),
    click.option(
        "--regrid",
        type=click.Choice(["auto", "bilinear", "conservative"]),
        default="auto",
        show_default=True,
        help="How to interpolate to a lat-lon grid; auto: conservative for coarse grids, bilinear for fine ones.",
    ),
    click.option("--variables", metavar="TAS,PR", help="Variables to write.  [default: all of the model]"),
    click.option(
        "--bbox",
        metavar="W,S,E,N",
        help="Box in degrees, such as -10,35,30,70, or 170,-50,-170,-30 across the date line.",
    ),
    click.option("--times", metavar="FIRST/LAST", help="First and last step, such as 2005-01/2010."),
    click.option(
        "--centres/--no-centres",
        default=True,
        show_default=True,
        help="Latitudes and longitudes of HEALPix cells, for readers that do not know them from the cells' numbers.",
    ),
)


def with_whole_grids(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line, those after --grid as one where they are `like FILE`.

    >>> with_whole_grids(["generate", "--grid", "like", "era5.nc", "--seed", "1"])
    ['generate', '--grid', 'like era5.nc', '--seed', '1']
    """
    found: list[str] = []
    for word in arguments:
        if found[-1:] == ["like"] and found[-2:-1] == ["--grid"]:
            found[-1] = f"like {word}"
        else:
            found.append(word)
    return found


def words(text: str | None) -> tuple[str, ...]:
    """The words between commas.

    >>> words("tas, pr"), words(None)
    (('tas', 'pr'), ())
    """
    return () if text is None else tuple(word.strip() for word in text.split(","))
