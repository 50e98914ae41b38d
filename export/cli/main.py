"""Command line of `fsae-export`: a run to a bundle, a bundle to TensorRT engines, a Triton repository or a page.

Importing this module imports neither torch nor onnx nor the training code: engines are built without them.
"""

import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsae.export.bundle.web import check_page, write_page
from fsae.export.engines.build import build_engines, build_target, pick_flavour
from fsae.export.engines.compile import DEFAULT_PROFILE, WORKSPACE_BYTES, BuildOptions, workspace_bytes
from fsae.export.triton.repository import check_place, write_repository
from fsae.runtime.backends.devices import PRECISIONS
from fsae.runtime.bundle.files import MANIFEST, Bundle, open_bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.bundle.records import json_schema
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.runtime.cli.failures import Program, exit_code_of
from fsae.runtime.errors import DeviceError, UsageError
from fsae.runtime.log import on_stderr
from fsae.runtime.signals import termination_as_interrupt

from .show import bundle_summary, engine_summary, page_summary, show_builds, show_bundle, show_engines

if TYPE_CHECKING:
    from fsae.export.bundle.write import Exported

log = logging.getLogger("fsae.export.cli")
RUNS, ENGINES = Path("runs"), Path("engines")
COMMAND = Program(
    name="fsae-export",
    mark="",
    extra="export",
    memory="free some, or export fewer precisions at once",
    interrupted="interrupted, nothing was left half-written",
)

EXAMPLES = """\b
Examples:
  fsae-export                               the latest run in ./runs, to ./engines/<its name>/
  fsae-export runs/mine --name default      that run, to ./engines/default/
  fsae-export --precision fp32,fp16,int8    graphs in several precisions, each compared with the trained model
  fsae-export --trt                         TensorRT (or TensorRT-RTX) engines for this machine as well
  fsae-export engines/default --trt         engines for an existing bundle; needs no torch
  fsae-export engines/default --precision fp16,bf16 --name half
                                            a bundle with graphs in other precisions as well, as engines/half
  fsae-export --trt --batch 1,16,64         engines for batches of 1 to 64, best at 16
  fsae-export engines/default --triton DIR  a Triton model repository: a bundle's graphs, and its ensembles
  fsae-export engines/default --web DIR --ort-web node_modules/onnxruntime-web/dist
                                            a page that draws members in a browser
  fsae-export upgrade engines/mine          a bundle of an older schema, rewritten in the newest one
  fsae-export schema                        the JSON Schema of manifest.json

\b
For completion in bash, put this line into ~/.bashrc (zsh and fish have a _source as well):
  eval "$(_FSAE_EXPORT_COMPLETE=bash_source fsae-export)"
"""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The options of the command line."""

    source: str | None
    out: Path | None
    name: str | None
    precisions: tuple[str, ...] | None
    opset: int | None
    data: Path | None
    trt: bool
    batch: tuple[int, int, int] | None
    workspace: int | None  # bytes
    layers: bool
    triton: Path | None
    web: Path | None
    ort_web: Path | None
    overwrite: bool


def parse_batch(text: str) -> tuple[int, int, int]:
    """Smallest, best and largest batch in a text such as "1,8,32"; one number stands for all three.

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
        raise UsageError(
            f"found --batch {text}", "one size or smallest,best,largest such as 1,8,32", "give such as --batch 1,8,32"
        )
    return numbers[0], numbers[1], numbers[2]


def parse_precisions(text: str) -> tuple[str, ...]:
    """Precisions in a text such as "fp32,fp16", each once.

    >>> parse_precisions("fp32,int8")
    ('fp32', 'int8')
    """
    found = tuple(part.strip() for part in text.split(","))
    if not set(found) <= set(PRECISIONS) or len(set(found)) != len(found):
        raise UsageError(
            f"found --precision {text}",
            f"some of {','.join(PRECISIONS)}, each once",
            "give such as --precision fp16,int8",
        )
    return found


def find_source(source: str | None) -> Path | Bundle:
    """The folder of a run, or the opened bundle, that the argument names; by default the latest run."""
    if source is None:
        return _latest()
    path = Path(source)
    if path.name == MANIFEST or (path / MANIFEST).is_file():
        return open_bundle(path)
    if path.is_dir():
        return path
    if path.name == source and (RUNS / path).is_dir():
        return RUNS / path
    return open_bundle(source)  # the name of a bundle, or the error that lists them


def export(request: ExportRequest) -> str:
    """Do everything that is asked for; return the summary line."""
    source = find_source(request.source)
    options = BuildOptions(
        profile=request.batch or DEFAULT_PROFILE,
        workspace_bytes=request.workspace or WORKSPACE_BYTES,
        layers=request.layers,
    )
    _check_options(request)
    flavour = pick_flavour() if request.trt else None
    if flavour is not None:
        build_target(flavour)  # fails now, not after minutes of exporting
    summary = []
    if isinstance(source, Bundle) and request.precisions is None:
        _check_as_it_is(source, request)
        bundle = source
    else:
        exported = _export(source, request)
        show_bundle(exported.manifest, exported.seconds)
        summary.append(bundle_summary(exported.folder, exported.manifest))
        bundle = open_bundle(exported.folder)
    if flavour is not None:
        with show_builds() as progress:
            engines = build_engines(bundle, flavour, options, progress=progress)
        show_engines(engines)
        summary.append(engine_summary(bundle, engines))
    if request.triton is not None:
        names = write_repository(bundle, request.triton, overwrite=request.overwrite)
        summary.append(f"Triton repository {request.triton}: {', '.join(names)}")
    if request.web is not None:
        size = write_page(bundle, request.web, request.ort_web, overwrite=request.overwrite)
        summary.append(page_summary(request.web, size))
    return "; ".join(summary)


def _latest() -> Path:
    """The folder of the latest finished run."""
    try:
        from fsae.training.fitting.run_folder import latest_run
    except ImportError as error:
        raise _no_exporter(error) from None
    return latest_run(RUNS)


def _check_options(request: ExportRequest) -> None:
    """Raise UsageError for options without effect, and OutputError if Triton repository or page cannot be written."""
    for name, value in (("batch", request.batch), ("workspace", request.workspace), ("layers", request.layers)):
        if value and not request.trt:
            raise UsageError(f"--{name} is for engines", advice="give --trt as well")
    if request.triton is not None:
        check_place(request.triton, request.overwrite)
    if request.web is not None:
        check_page(request.web, request.ort_web, request.overwrite)
    elif request.ort_web is not None:
        raise UsageError("--ort-web is for a page", advice="give --web as well")
    if request.overwrite and request.triton is None and request.web is None:
        raise UsageError(
            "--overwrite is for a Triton repository or a page",
            advice="give --triton or --web as well; bundles are always replaced",
        )


def _check_as_it_is(bundle: Bundle, request: ExportRequest) -> None:
    """Raise UsageError if there is nothing to do for a bundle, or if an option needs an export of graphs."""
    if any(value is not None for value in (request.out, request.name, request.opset, request.data)):
        raise UsageError(
            "--out, --name, --opset and --data are for exports of graphs", advice="name a run, or give --precision"
        )
    if not request.trt and request.triton is None and request.web is None:
        raise UsageError(
            f"{bundle.folder} is a bundle already",
            advice="give --precision for more of its graphs, --trt to build engines, --triton to make a "
            "Triton repository, --web to make a page, or name a run",
        )


def _export(source: Path | Bundle, request: ExportRequest) -> "Exported":
    """Write the bundle of a run, or a bundle with more graphs."""
    precisions = request.precisions or PRECISIONS[:1]
    try:
        from fsae.export.bundle.write import export_bundle, export_run
        from fsae.export.certificate.certify import date_of_export
        from fsae.export.graphs.trace import OPSET

        date_of_export()  # fails now, not after minutes of exporting
        if isinstance(source, Bundle):
            if request.opset is not None:
                raise UsageError("--opset is for runs", advice="leave it out, as the graphs of a bundle keep theirs")
            log.info("bundle %s", source.folder)
            out = request.out or source.folder.parent
            return export_bundle(source, out, request.name, precisions=precisions, data=request.data)
        if request.data is not None:
            raise UsageError(
                "--data is for bundles", advice="leave it out, as a run is compared on the data it was prepared with"
            )
        from fsae.training.fitting.run_folder import load_run

        log.info("run %s", source)
        opset = OPSET if request.opset is None else request.opset
        return export_run(load_run(source), request.out or ENGINES, request.name, precisions=precisions, opset=opset)
    except ImportError as error:  # torch imports some of what the exporter needs only when it exports
        raise _no_exporter(error) from None


def _no_exporter(error: ImportError) -> DeviceError:
    return DeviceError(
        f"exporting graphs needs {error.name or 'torch'}, which cannot be imported",
        advice='pip install "fsae[export]" (building engines of a bundle needs no torch: fsae-export BUNDLE --trt)',
    )


def _by(parse: Callable[[Any], object]) -> Callable[[click.Context, click.Parameter, Any], object]:
    """A callback of an option that converts a given value."""
    return lambda context, parameter, value: None if value is None else parse(value)


def _takes_request(run: Callable[[ExportRequest], None]) -> Callable[..., None]:
    """A command that gets its options as one record."""

    @functools.wraps(run)
    def command(**options: Any) -> None:
        run(ExportRequest(**options))

    return command


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="[RUN_OR_BUNDLE]", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the bundle.  [default: engines, or where the bundle is]",
)
@click.option("--name", help="Name of the bundle.  [default: that of the run's folder, or of the bundle]")
@click.option(
    "--precision",
    "precisions",
    metavar="LIST",
    callback=_by(parse_precisions),
    help="Of fp32, fp16, bf16, int8, separated by commas.  [default: fp32]",
)
@click.option("--opset", type=int, metavar="N", help="ONNX operator set of the graphs, 18 to 22.  [default: 18]")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CONFIG",
    help="Configuration with the data to compare a bundle's graphs on.  [default: the sample data]",
)
@click.option("--trt", is_flag=True, help="Build TensorRT engines, or TensorRT-RTX ones if only that is installed.")
@click.option(
    "--batch",
    metavar="MIN,BEST,MAX",
    callback=_by(parse_batch),
    help="Batch sizes of the engines.  [default: 1,8,32]",
)
@click.option(
    "--workspace",
    type=float,
    metavar="GIB",
    callback=_by(workspace_bytes),
    help="Scratch memory a kernel may use.  [default: 2]",
)
@click.option("--layers", is_flag=True, help="Write a report of each engine's layers beside it.")
@click.option("--triton", metavar="DIR", type=click.Path(path_type=Path), help="Write a Triton model repository there.")
@click.option(
    "--web", metavar="DIR", type=click.Path(path_type=Path), help="Write a page that draws members in a browser there."
)
@click.option(
    "--ort-web",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Files of ONNX Runtime Web for the page: the folder dist of the npm package onnxruntime-web.",
)
@click.option("--overwrite", is_flag=True, help="Replace a Triton repository or page written before.")
@click.version_option(package_name="fsae", prog_name="fsae-export")
@_takes_request
def command(request: ExportRequest) -> None:
    """Export a trained run as a bundle of ONNX graphs, and build TensorRT engines from a bundle.

    RUN_OR_BUNDLE is the folder or name of a run, or of a bundle (with --precision, --trt, --triton or --web); by
    default the latest run in ./runs. The graphs are checked against the trained model, and the bundle replaces an older
    one of its name as a whole; one made from another bundle keeps its float32 graphs.
    """
    click.echo(export(request))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def schema() -> None:
    """Print the JSON Schema of a bundle's manifest.json.

    The package holds it as fsae/export/manifest.schema.json. It describes the newest schema, which this fsae writes.
    """
    click.echo(json_schema(Manifest, f"manifest.json of an fsae bundle, schema {SCHEMA_VERSION}"), nl=False)


def main(argv: list[str] | None = None) -> int:
    """Run `fsae-export` with the arguments `argv` (default: those of the process); return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv

    def run() -> object:
        with termination_as_interrupt():
            if arguments[:1] == ["upgrade"]:  # a run of that name is ./upgrade
                from fsae.export.bundle.upgrade import upgrade

                return upgrade.main(args=arguments[1:], prog_name="fsae-export upgrade", standalone_mode=False)
            if arguments[:1] == ["schema"]:
                return schema.main(args=arguments[1:], prog_name="fsae-export schema", standalone_mode=False)
            return command.main(args=arguments, prog_name="fsae-export", standalone_mode=False)

    with on_stderr():
        return exit_code_of(COMMAND, run)


if __name__ == "__main__":
    sys.exit(main())
