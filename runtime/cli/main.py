"""`fsae-run`: info, verify, doctor, fetch, compress, decompress, superres, generate, climatology, plot, score."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fsae.runtime.climate.steps import MOST_HARMONICS
from fsae.runtime.input.sources import Source
from fsae.runtime.log import on_stderr
from fsae.runtime.progress import progress_bar
from fsae.runtime.signals import termination_as_interrupt

from .doctor import doctor
from .failures import Program, exit_code_of
from .generate import generate
from .options import (
    Session,
    from_file_to_file,
    refuse_session,
    with_checked_writing,
    with_json,
    with_model,
    with_overwrite,
    with_plain_reading,
    with_plain_writing,
    with_qualities,
    with_reading,
    with_selection,
    with_session,
    with_units,
    with_whole_grids,
    with_writing,
)
from .plot import plot
from .score import score
from .terminal import PROGRAM, open_emulator, prepare_file, size_of, write_output

if TYPE_CHECKING:
    from fsae.runtime.archive.quality import Quality
    from fsae.runtime.codec.encoder_input import Reading
    from fsae.runtime.jobs.job import Writing
    from fsae.runtime.output.selection import Selection

COMMAND = Program(name=PROGRAM, extra="cpu", memory="give a smaller --batch or --max-memory, or free some")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="fsae", prog_name=PROGRAM)
@with_session
def cli(session: Session) -> None:
    """Run a climate emulator: compress, decompress, super-resolve, generate.

    The options below may also follow the command. For completion in bash, put this line into ~/.bashrc (zsh and fish
    have a _source as well):

    \b
      eval "$(_FSAE_RUN_COMPLETE=bash_source fsae-run)"

    \b
    Examples:
      fsae-run generate --members 100
      fsae-run superres coarse.nc fine.zarr --climatology coarse-climatology.nc
      fsae-run --model engines/default --device cpu verify
    """
    click.get_current_context().obj = session


@cli.command()
@click.argument("store", required=False, metavar="[STORE]")
@with_json
@with_model
def info(store: str | None, as_json: bool, model: str | None) -> None:
    """Describe a bundle, or STORE: an archive, or the folder of a bundle.

    Of a bundle that is its variables, zooms, compression ratio, training period, devices, parity and size; of an
    archive the errors of its values and the bytes they take.

    \b
    Examples:
      fsae-run info
      fsae-run info archive.zarr
      fsae-run info --model engines/default
      fsae-run info --json
    """
    from fsae.runtime.bundle.files import open_bundle

    from .info import describe, info_json

    if store is not None and os.path.exists(os.path.join(store, "manifest.json")):
        model, store = store, None
    if store is not None:
        from .archives import archive_json, archive_lines

        click.echo(archive_json(store) if as_json else archive_lines(store))
        return
    bundle = open_bundle(model)
    click.echo(info_json(bundle) if as_json else describe(bundle))


@cli.command()
@with_json
@with_session
def verify(as_json: bool, session: Session) -> None:
    """Check a bundle on this machine.

    Its files must have the hashes in the manifest, and its graphs must give the golden vectors on the chosen device.
    The exit code is 6 if one of them is outside its tolerance.

    \b
    Examples:
      fsae-run verify
      fsae-run verify --device cuda --precision bf16
      fsae-run verify --json
    """
    from fsae.runtime.checks.verify import missed

    from .info import verify_json

    emulator = open_emulator(session)
    graphs, checks = emulator.graphs, emulator.check()
    failure = missed(checks, graphs.device)
    if as_json:
        click.echo(verify_json(emulator.bundle, graphs, checks, failure))
    if failure is not None:
        raise failure
    if as_json:
        return
    files = len(emulator.bundle.manifest.files)
    click.echo(
        f"verified {emulator.bundle.manifest.name}: {files} files, "
        f"{len(checks)} {graphs.precision} graphs within tolerance on {graphs.device} ({graphs.backend})"
    )


@cli.command()
@click.argument("source", metavar="URL|FOLDER")
@click.option(
    "--sha256", metavar="HEX", help="SHA-256 of manifest.json in the folder, or of the archive; a URL needs it."
)
@click.option("--name", metavar="NAME", help="Name of the bundle here.  [default: its own]")
@with_overwrite
def fetch(source: str, sha256: str | None, name: str | None, overwrite: bool) -> None:
    """Install the bundle at URL or in FOLDER, so that --model finds it by its name.

    Either is a bundle's folder or an archive of one (zip or tar). Every file is checked by its hash before the bundle
    gets its name, in the folder fsae/bundles of $XDG_DATA_HOME (~/.local/share). A URL needs the extra `fsae[fetch]`.

    \b
    Examples:
      fsae-run fetch engines/ratio-64
      fsae-run fetch https://example.org/bundles/mine --sha256 43dda0c36f67...
      fsae-run fetch mine.tar.gz --name mine-2
    """
    from rich.filesize import decimal

    from fsae.runtime.bundle.fetch import fetch_bundle

    refuse_session()
    with progress_bar("fetch", "MB") as progress:
        found = fetch_bundle(source, sha256, progress, name=name, overwrite=overwrite)
    size, files = decimal(sum(entry.size for entry in found.manifest.files.values())), len(found.manifest.files)
    done = "fetched" if found.new else "there already:"
    click.echo(f"{done} {found.folder.name}, {files} files ({size}): {found.folder}")


@cli.command()
@from_file_to_file
@with_units
@with_reading
@with_qualities
@click.option("--append", is_flag=True, help="Append the steps to the archive OUT, if it is there.")
@with_checked_writing
@with_session
def compress(
    source: Source,
    out: str,
    reading: "Reading",
    qualities: "dict[str, Quality] | None",
    append: bool,
    writing: "Writing",
    session: Session,
) -> None:
    """Compress the fields in IN to the archive OUT, or to float32 latents with --lossless-latents.

    An archive is a Zarr store or NetCDF-4 file that holds the fields on their own grid in few bytes, of the quality
    that is asked for by --rmse, --max-error or --ratio, or else of the bundle's own --rmse; a bound given by
    --max-error holds for every value. xr.open_dataset(OUT, engine="fsae") opens it, `fsae-run decompress` restores it,
    and `fsae-run info OUT` tells its errors. Bundles without a codec for archives write latents.

    IN is NetCDF, Zarr or GRIB on a lat-lon grid or HEALPix, or a quoted pattern of files to join along time.

    \b
    Examples:
      fsae-run compress tas-2005-2014.nc archive.zarr
      fsae-run compress tas-2005-2014.nc archive.zarr --max-error tas=0.5
      fsae-run compress tas-2005-2014.nc archive.zarr --ratio 64
      fsae-run compress tas-2015.nc archive.zarr --append
      fsae-run compress tas-2005-2014.nc latents.zarr --lossless-latents --climatology training
      fsae-run compress other-model.nc latents.nc --lossless-latents --climatology other-climatology.nc
      fsae-run compress "tas_*.nc" archive.zarr --workers 8
    """
    from .archives import check_append, told_archive, writes_archive

    if writes_archive(qualities, session.model):
        from fsae.runtime.codec.archive import archive_reading

        reading, asked = archive_reading(reading), qualities and qualities.get("*", qualities)
        writing = check_append(writing, append)
        write_output(
            "compressed",
            {"input": source},
            out,
            session,
            writing,
            lambda emulator, path, how: emulator.archive_file(
                source, out, asked or None, names=reading.names, append=append, writing=how
            ),
        )
        click.echo(told_archive(out), nl=False)
        return
    check_append(writing, append, archive=False)
    write_output(
        "compressed",
        {"input": source, "climatology": reading.climatology},
        out,
        session,
        writing,
        lambda emulator, path, how: emulator.compress_file(
            source, path, zoom=reading.zoom, climatology=reading.climatology, names=reading.names, writing=how
        ),
    )


@cli.command()
@from_file_to_file
@with_selection
@with_writing
@with_session
def decompress(source: Source, out: str, select: "Selection", writing: "Writing", session: Session) -> None:
    """Decompress the latents in IN to fields in OUT.

    \b
    Examples:
      fsae-run decompress latents.zarr fields.zarr
      fsae-run decompress latents.zarr fields.nc --grid training
      fsae-run decompress latents.zarr fields.grib2 --grid training
      fsae-run decompress latents.zarr fields.nc --grid like era5.nc
      fsae-run decompress latents.zarr europe.nc --grid 1.5 --bbox -10,35,30,70 --times 2005/2010
    """
    write_output(
        "decompressed",
        {"input": source},
        out,
        session,
        writing,
        lambda emulator, path, how: emulator.decompress_file(source, path, select=select, writing=how),
    )


@cli.command()
@from_file_to_file
@with_units
@with_reading
@with_selection
@with_checked_writing
@with_session
def superres(
    source: Source, out: str, reading: "Reading", select: "Selection", writing: "Writing", session: Session
) -> None:
    """Super-resolve coarse fields in IN.

    OUT gets the fields at the model's zoom. IN is read as by compress.

    \b
    Examples:
      fsae-run climatology coarse.nc coarse-climatology.nc
      fsae-run superres coarse.nc fine.zarr --climatology coarse-climatology.nc
      fsae-run superres tas-2005-2014.nc fine.nc --zoom 3 --climatology training --grid training
    """
    write_output(
        "super-resolved",
        {"input": source, "climatology": reading.climatology},
        out,
        session,
        writing,
        lambda emulator, path, how: emulator.superres_file(
            source,
            path,
            zoom=reading.zoom,
            climatology=reading.climatology,
            names=reading.names,
            select=select,
            writing=how,
        ),
    )


cli.add_command(generate)

cli.add_command(doctor)

cli.add_command(plot)

cli.add_command(score)


@cli.command()
@from_file_to_file
@with_units
@with_plain_reading
@click.option(
    "--harmonics",
    type=click.IntRange(1, MOST_HARMONICS),
    help="Number of waves in a year.  [default: as many as the model has]",
)
@with_plain_writing
@with_model
def climatology(
    source: Source,
    out: str,
    reading: "Reading",
    harmonics: int | None,
    writing: "Writing",
    model: str | None,
) -> None:
    """Make the climatology of a data source.

    OUT is a file for --climatology of the other commands. IN is read as by compress.

    \b
    Examples:
      fsae-run climatology other-model-1980-2010.nc other-climatology.nc
      fsae-run climatology skin-temperature.nc other-climatology.nc --name tas=ts
    """
    from rich.filesize import decimal

    from fsae.runtime.emulator import climatology_file

    path = prepare_file(out, writing.overwrite, model, {"input": source})
    steps = climatology_file(source, path, model=model, reading=reading, harmonics=harmonics, writing=writing)
    click.echo(f"made the climatology of {steps} steps: {path} ({decimal(size_of(path))})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fsae-run` with these arguments (default: those of the process) and return its exit code."""

    def run() -> object:
        with termination_as_interrupt(whole_process=argv is None):
            arguments = with_whole_grids(sys.argv[1:] if argv is None else argv)
            return cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)

    with on_stderr(PROGRAM):
        return exit_code_of(COMMAND, run)


if __name__ == "__main__":
    sys.exit(main())
