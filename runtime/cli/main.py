"""`fsae-run`: info, verify, doctor, compress, decompress, superres, generate, climatology."""

import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Sequence

import click

from fsae.runtime.errors import FsaeError, Stopped
from fsae.runtime.input.sources import Source
from fsae.runtime.input.variables import name_pairs
from fsae.runtime.log import log, on_stderr
from fsae.runtime.progress import progress_bar
from fsae.runtime.signals import termination_as_interrupt

from .doctor import doctor
from .generate import generate
from .options import (
    Options,
    common,
    from_file_to_file,
    merged,
    model_alone,
    scale_of,
    selected,
    with_climatology,
    with_model,
    with_names,
    with_overwrite,
    with_resume,
    with_scale_out,
    with_selection,
    with_zoom,
)
from .start import INTERRUPTED
from .terminal import PROGRAM, open_emulator, prepare_output, size_of, summary


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(importlib.metadata.version("fsae"), prog_name=PROGRAM)
@common
@click.pass_context
def cli(
    context: click.Context, model: str | None, device: str | None, precision: str | None, threads: int | None
) -> None:
    """Run a climate emulator: compress, decompress, super-resolve, generate.

    \b
    Examples:
      fsae-run generate --members 100
      fsae-run superres coarse.nc fine.zarr --climatology coarse-climatology.nc
      fsae-run --model engines/default --device cpu verify
    """
    context.obj = Options(model=model, device=device, precision=precision, threads=threads)


@cli.command()
@with_model
@click.pass_context
def info(context: click.Context, model: str | None) -> None:
    """Print what a bundle holds: variables, zooms, ratio, period, devices, parity, size.

    \b
    Examples:
      fsae-run info
      fsae-run info --model engines/default
    """
    from fsae.runtime.bundle.files import open_bundle

    from .info import describe

    click.echo(describe(open_bundle(model_alone(context, model))))


@cli.command()
@common
@click.pass_context
def verify(
    context: click.Context, model: str | None, device: str | None, precision: str | None, threads: int | None
) -> None:
    """Check every hash of a bundle, and its golden vectors on the chosen device; exit code 6 on a miss.

    \b
    Examples:
      fsae-run verify
      fsae-run verify --device cuda --precision bf16
    """
    emulator = open_emulator(merged(context, model, device, precision, threads))
    checks = emulator.verify()
    files = len(emulator.bundle.manifest.files)
    graphs = emulator.graphs
    click.echo(
        f"verified {emulator.bundle.manifest.name}: {files} files, "
        f"{len(checks)} {graphs.precision} graphs within tolerance on {graphs.device} ({graphs.backend})"
    )


@cli.command()
@from_file_to_file
@with_zoom
@with_names
@with_climatology
@with_overwrite
@with_resume
@with_scale_out
@common
@click.pass_context
def compress(
    context: click.Context,
    source: Source,
    out: str,
    *,
    zoom: int | None,
    names: tuple[str, ...],
    climatology: str | None,
    overwrite: bool,
    resume: bool,
    model: str | None,
    device: str | None,
    precision: str | None,
    threads: int | None,
) -> None:
    """Compress the fields of IN (NetCDF, Zarr or GRIB; lat-lon or HEALPix) to float32 latents in OUT.

    IN may be a pattern in quotes, whose files are joined along time.

    \b
    Examples:
      fsae-run compress tas-2005-2014.nc latents.zarr --climatology training
      fsae-run compress other-model.nc latents.nc --climatology other-climatology.nc
      fsae-run compress tas-hourly.zarr latents.zarr --climatology training --workers 8
      fsae-run compress "tas_*.nc" latents.zarr --climatology training
    """
    options = merged(context, model, device, precision, threads)
    path, began = prepare_output(out, overwrite or resume, source), time.monotonic()
    scale = scale_of(context, options.threads)
    emulator = open_emulator(options)
    with progress_bar("compress") as progress:
        job = emulator.compress_file(
            source,
            path,
            zoom=zoom,
            climatology=climatology,
            names=name_pairs(names),
            overwrite=overwrite,
            resume=resume,
            scale=scale,
            progress=progress,
        )
    click.echo(summary("compressed", job, path, emulator.graphs.device, began, scale))


@cli.command()
@from_file_to_file
@with_selection
@with_overwrite
@with_resume
@with_scale_out
@common
@click.pass_context
def decompress(
    context: click.Context,
    source: Source,
    out: str,
    *,
    overwrite: bool,
    resume: bool,
    model: str | None,
    device: str | None,
    precision: str | None,
    threads: int | None,
) -> None:
    """Decompress the latents in IN to fields in OUT.

    \b
    Examples:
      fsae-run decompress latents.zarr fields.zarr
      fsae-run decompress latents.zarr fields.nc --grid source
      fsae-run decompress latents.zarr europe.nc --grid 1.5 --bbox -10,35,30,70 --times 2005/2010
    """
    options = merged(context, model, device, precision, threads)
    path, began = prepare_output(out, overwrite or resume, source), time.monotonic()
    scale = scale_of(context, options.threads)
    emulator = open_emulator(options)
    with progress_bar("decompress") as progress:
        job = emulator.decompress_file(
            source, path, select=selected(context), overwrite=overwrite, resume=resume, scale=scale, progress=progress
        )
    click.echo(summary("decompressed", job, path, emulator.graphs.device, began, scale))


@cli.command()
@from_file_to_file
@with_zoom
@with_names
@with_climatology
@with_selection
@with_overwrite
@with_resume
@with_scale_out
@common
@click.pass_context
def superres(
    context: click.Context,
    source: Source,
    out: str,
    *,
    zoom: int | None,
    names: tuple[str, ...],
    climatology: str | None,
    overwrite: bool,
    resume: bool,
    model: str | None,
    device: str | None,
    precision: str | None,
    threads: int | None,
) -> None:
    """Super-resolve the coarse fields of IN, read as by compress, to the model's zoom in OUT.

    \b
    Examples:
      fsae-run climatology coarse.nc coarse-climatology.nc
      fsae-run superres coarse.nc fine.zarr --climatology coarse-climatology.nc
      fsae-run superres tas-2005-2014.nc fine.nc --zoom 3 --climatology training --grid source
    """
    options = merged(context, model, device, precision, threads)
    path, began = prepare_output(out, overwrite or resume, source), time.monotonic()
    scale = scale_of(context, options.threads)
    emulator = open_emulator(options)
    with progress_bar("superres") as progress:
        job = emulator.superres_file(
            source,
            path,
            zoom=zoom,
            climatology=climatology,
            names=name_pairs(names),
            select=selected(context),
            overwrite=overwrite,
            resume=resume,
            scale=scale,
            progress=progress,
        )
    click.echo(summary("super-resolved", job, path, emulator.graphs.device, began, scale))


cli.add_command(generate)

cli.add_command(doctor)


@cli.command()
@from_file_to_file
@with_zoom
@with_names
@click.option("--harmonics", type=click.IntRange(min=1), help="Waves of the year; default as many as the model has.")
@with_overwrite
@with_model
@click.pass_context
def climatology(
    context: click.Context,
    source: Source,
    out: str,
    *,
    zoom: int | None,
    names: tuple[str, ...],
    harmonics: int | None,
    overwrite: bool,
    model: str | None,
) -> None:
    """Make the climatology of IN's own source, read as by compress, for --climatology of compress and superres.

    \b
    Examples:
      fsae-run climatology other-model-1980-2010.nc other-climatology.nc
      fsae-run climatology skin-temperature.nc other-climatology.nc --name tas=ts
    """
    from rich.filesize import decimal

    from fsae.runtime.emulator import write_climatology

    model = model_alone(context, model)
    path = prepare_output(out, overwrite, source)
    steps = write_climatology(
        source,
        path,
        model=model,
        zoom=zoom,
        names=name_pairs(names),
        harmonics=harmonics,
        overwrite=overwrite,
    )
    click.echo(f"made the climatology of {steps} steps: {path} ({decimal(size_of(path))})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fsae-run` with these arguments (default: those of the process) and return its exit code."""
    with on_stderr(PROGRAM):
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    """The exit code of `main`, its errors logged."""
    try:
        with termination_as_interrupt(whole_process=argv is None):
            code = cli.main(args=None if argv is None else list(argv), prog_name=PROGRAM, standalone_mode=False)
            return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FsaeError as error:
        log.log(logging.INFO if isinstance(error, Stopped) else logging.ERROR, "%s", error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        log.info("interrupted; nothing was finished")
        return INTERRUPTED
    except MemoryError as error:
        notes = "; ".join(["", *getattr(error, "__notes__", ())])
        log.error(f"not enough memory: give a smaller --batch or --max-memory, or free some{notes}")
        return FsaeError.exit_code
    except BrokenPipeError:  # the reader of stdout has gone, as in `fsae-run info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FsaeError.exit_code


if __name__ == "__main__":
    sys.exit(main())
