"""Command line of `fsae-export`: a run to a bundle, a bundle to TensorRT engines or a Triton model repository.

Nothing here imports torch, onnx or the training code at once: engines are built where none of them is installed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fsae.export.bundle.triton import check_place, write_repository
from fsae.export.engines.build import build_engines, build_target, pick_flavour
from fsae.export.engines.compile import DEFAULT_PROFILE, WORKSPACE_BYTES, BuildOptions, workspace_bytes
from fsae.runtime.backends.devices import PRECISIONS
from fsae.runtime.bundle.files import MANIFEST, Bundle, open_bundle
from fsae.runtime.cli.start import INTERRUPTED
from fsae.runtime.errors import DeviceError, FsaeError, UsageError
from fsae.runtime.signals import termination_as_interrupt

from .show import bundle_summary, engine_summary, show_builds, show_bundle, show_engines

if TYPE_CHECKING:
    from fsae.export.bundle.write import Exported


RUNS, ENGINES = Path("runs"), Path("engines")

EXAMPLES = """\b
Examples:
  fsae-export                               the latest run under ./runs to ./engines/<its name>/
  fsae-export runs/mine --name default      that run to ./engines/default/
  fsae-export --precision fp32,fp16,int8    graphs in several precisions, each compared with the trained model
  fsae-export --trt                         and TensorRT (or TensorRT-RTX) engines for this machine
  fsae-export engines/default --trt         engines for a bundle that is there; needs no torch
  fsae-export engines/default --precision fp16,bf16 --name half
                                            a bundle's graphs in other precisions too, as engines/half
  fsae-export --trt --batch 1,16,64         engines for batches of 1 to 64, best at 16
  fsae-export engines/default --triton DIR  a Triton model repository of a bundle's graphs
  fsae-export upgrade engines/mine          a bundle of an older schema in the newest one
"""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for."""

    source: str | None
    out: Path | None
    name: str | None
    precisions: tuple[str, ...] | None
    opset: int | None
    data: Path | None
    trt: bool
    batch: tuple[int, int, int] | None
    workspace_bytes: int | None
    layers: bool
    triton: Path | None
    overwrite: bool


def parse_batch(text: str) -> tuple[int, int, int]:
    """Smallest, best and largest batch of a text such as "1,8,32"; one number stands for all three.

    >>> parse_batch("1,8,32"), parse_batch("16")
    ((1, 8, 32), (16, 16, 16))
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise UsageError(f"found --batch {text}, expected one size or smallest,best,largest such as 1,8,32")
    return numbers[0], numbers[1], numbers[2]


def parse_precisions(text: str) -> tuple[str, ...]:
    """Precisions of a text such as "fp32,fp16", each once.

    >>> parse_precisions("fp32,int8")
    ('fp32', 'int8')
    """
    found = tuple(part.strip() for part in text.split(","))
    if not set(found) <= set(PRECISIONS) or len(set(found)) != len(found):
        raise UsageError(f"found --precision {text}, expected some of {','.join(PRECISIONS)}, each once")
    return found


def find_source(source: str | None) -> Path | Bundle:
    """The folder of a run, or the opened bundle, that the argument means; None means the latest run."""
    if source is None:
        return _latest()
    path = Path(source)
    if path.name == MANIFEST or (path / MANIFEST).is_file():
        return open_bundle(path)
    if path.is_dir():
        return path
    if path.name == source and (RUNS / path).is_dir():
        return RUNS / path
    return open_bundle(source)  # a name among the bundles, or the error that lists them


def export(request: Request, say: Say) -> str:
    """The summary line, after everything that was asked for is done."""
    source = find_source(request.source)
    options = BuildOptions(
        profile=request.batch or DEFAULT_PROFILE,
        workspace_bytes=request.workspace_bytes or WORKSPACE_BYTES,
        layers=request.layers,
    )
    for name, value in (("batch", request.batch), ("workspace", request.workspace_bytes), ("layers", request.layers)):
        if value and not request.trt:
            raise UsageError(f"--{name} is for engines: give --trt as well")
    if request.overwrite and request.triton is None:
        raise UsageError("--overwrite is for a Triton repository: give --triton as well; bundles are always replaced")
    if request.triton is not None:
        check_place(request.triton, request.overwrite)  # fails now, not after minutes of exporting
    flavour = None
    if request.trt:
        flavour = pick_flavour()
        build_target(flavour)  # fails now, not after minutes of exporting
    summary = []
    if isinstance(source, Bundle) and request.precisions is None:
        _check_as_it_is(source, request)
        bundle = source
    else:
        exported = _export(source, request, say)
        show_bundle(exported.manifest, exported.seconds)
        summary.append(bundle_summary(exported.folder, exported.manifest))
        bundle = open_bundle(exported.folder)
    if flavour is not None:
        with show_builds() as (tell, progress):
            engines = build_engines(bundle, flavour, options, say=tell, progress=progress)
        show_engines(engines)
        summary.append(engine_summary(bundle, engines))
    if request.triton is not None:
        names = write_repository(bundle, request.triton, overwrite=request.overwrite, say=say)
        summary.append(f"Triton repository {request.triton}: {', '.join(names)}")
    return "; ".join(summary)


def _latest() -> Path:
    try:
        from fsae.training.fitting.run_folder import latest_run
    except ImportError as error:
        raise _no_exporter(error) from None
    return latest_run(RUNS)


def _check_as_it_is(bundle: Bundle, request: Request) -> None:
    """Nothing, or UsageError where nothing is asked of a bundle, or what only an export of graphs can do."""
    if any(value is not None for value in (request.out, request.name, request.opset, request.data)):
        raise UsageError("--out, --name, --opset and --data are for exports of graphs: name a run, or give --precision")
    if not request.trt and request.triton is None:
        raise UsageError(
            f"{bundle.folder} is a bundle already: give --precision for more of its graphs, --trt to build engines, "
            "--triton to make a Triton repository, or name a run"
        )


def _export(source: Path | Bundle, request: Request, say: Say) -> "Exported":
    """The bundle that was written, of a run or with more graphs of a bundle."""
    precisions = request.precisions or PRECISIONS[:1]
    try:
        from fsae.export.bundle.write import export_bundle, export_run
        from fsae.export.certificate.certify import date_of_export
        from fsae.export.graphs.trace import OPSET

        date_of_export()  # fails now, not after minutes of exporting
        if isinstance(source, Bundle):
            if request.opset is not None:
                raise UsageError("--opset is for runs: the graphs of a bundle keep theirs")
            say(f"bundle {source.folder}")
            out = request.out or source.folder.parent
            return export_bundle(source, out, request.name, precisions=precisions, data=request.data, say=say)
        if request.data is not None:
            raise UsageError("--data is for bundles: a run is compared on the data it prepared")
        from fsae.training.fitting.run_folder import load_run

        say(f"run {source}")
        opset = OPSET if request.opset is None else request.opset
        return export_run(
            load_run(source), request.out or ENGINES, request.name, precisions=precisions, opset=opset, say=say
        )
    except ImportError as error:  # torch imports some of what the exporter needs only when it exports
        raise _no_exporter(error) from None


def _no_exporter(error: ImportError) -> DeviceError:
    return DeviceError(
        f'exporting graphs needs {error.name or "torch"}, which cannot be imported: pip install "fsae[export]" '
        "(engines of a bundle need no torch: fsae-export BUNDLE --trt)"
    )


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="[RUN_OR_BUNDLE]", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of bundles.  [default: engines, or the bundle's]",
)
@click.option("--name", help="Name of the bundle.  [default: that of the run's folder, or of the bundle]")
@click.option("--precision", metavar="LIST", help="Of fp32, fp16, bf16, int8, with commas.  [default: fp32]")
@click.option("--opset", type=int, metavar="N", help="ONNX operator set of the graphs, 18 to 22.  [default: 18]")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CONFIG",
    help="Configuration whose data a bundle's graphs are compared on.  [default: the sample data's]",
)
@click.option("--trt", is_flag=True, help="Build TensorRT engines, or TensorRT-RTX ones where only that is installed.")
@click.option("--batch", metavar="MIN,BEST,MAX", help="Batch sizes of the engines.  [default: 1,8,32]")
@click.option("--workspace", type=float, metavar="GIB", help="Scratch memory a kernel may use.  [default: 2]")
@click.option("--layers", is_flag=True, help="Write a report of each engine's layers beside it.")
@click.option("--triton", metavar="DIR", type=click.Path(path_type=Path), help="Write a Triton model repository there.")
@click.option("--overwrite", is_flag=True, help="Replace a Triton repository that was written before.")
@click.version_option(package_name="fsae", prog_name="fsae-export")
def command(
    source: str | None,
    out: Path | None,
    name: str | None,
    precision: str | None,
    opset: int | None,
    data: Path | None,
    trt: bool,
    batch: str | None,
    workspace: float | None,
    layers: bool,
    triton: Path | None,
    overwrite: bool,
) -> None:
    """Export a trained run as a bundle of ONNX graphs, and build TensorRT engines from a bundle.

    RUN_OR_BUNDLE is the folder or name of a run, or of a bundle (with --precision, --trt or --triton). Without it the
    latest run under ./runs is taken. The bundle is checked against the trained model and replaces an older one of its
    name as a whole; one that is made of a bundle keeps its float32 graphs.
    """
    request = Request(
        source=source,
        out=out,
        name=name,
        precisions=None if precision is None else parse_precisions(precision),
        opset=opset,
        data=data,
        trt=trt,
        batch=None if batch is None else parse_batch(batch),
        workspace_bytes=None if workspace is None else workspace_bytes(workspace),
        layers=layers,
        triton=triton,
        overwrite=overwrite,
    )
    click.echo(export(request, lambda message: click.echo(message, err=True)))


def main(argv: list[str] | None = None) -> int:
    """Exit code of `fsae-export` with the arguments `argv` (default: those of the process)."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        with termination_as_interrupt():
            if arguments[:1] == ["upgrade"]:  # a run of that name is ./upgrade
                from fsae.export.bundle.upgrade import upgrade

                upgrade.main(args=arguments[1:], prog_name="fsae-export upgrade", standalone_mode=False)
            else:
                command.main(args=arguments, prog_name="fsae-export", standalone_mode=False)
    except FsaeError as error:
        click.echo(f"fsae-export: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("fsae-export: interrupted, nothing was left half-written", err=True)
        return INTERRUPTED
    except MemoryError:
        click.echo("fsae-export: not enough memory: free some, or export fewer precisions at once", err=True)
        return FsaeError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
