"""Output of `fsae-export`: tables and the progress of builds on stderr, and the summary line for stdout."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from rich.filesize import decimal

from fsae.export.engines.compile import Progress
from fsae.runtime.backends.engine_index import Engine, engine_folder
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import NOT_RUN, Manifest
from fsae.runtime.progress import progress_bar

LINE_EVERY_S = 10.0  # TensorRT builds for minutes, TensorRT-RTX for seconds: most of its builds print no line


def bundle_summary(folder: Path, manifest: Manifest) -> str:
    """The summary of an exported bundle."""
    size = sum(entry.size for entry in manifest.files.values())
    graphs = ", ".join(manifest.graphs)
    return f"exported {folder}: {graphs}; {decimal(size)}"


def engine_summary(bundle: Bundle, engines: Sequence[Engine]) -> str:
    """The summary of built engines."""
    target = engines[0].target
    return (
        f"{len(engines)} engines in {engine_folder(bundle)} for {target.flavour} {target.version}, "
        f"compute capability {target.compute_capability}; {decimal(sum(engine.size for engine in engines))}"
    )


def page_summary(folder: Path, size: int) -> str:
    """The summary of a page of so many bytes."""
    return f"page {folder}: {decimal(size)}, to be served by such as python3 -m http.server -d {folder}"


def show_bundle(manifest: Manifest, seconds: Mapping[str, float]) -> None:
    """Print the files of a bundle: size, nodes, time, and how far each graph is from the trained model."""
    files = []
    for name, entry in manifest.files.items():
        graph, _, rest = name.partition(".")
        parity = manifest.parity.get(rest.removesuffix(".onnx"), {}).get(graph)
        if parity is None:
            files.append((name, decimal(entry.size), *[""] * 7))
            continue
        took = f"{seconds[name]:.1f} s" if name in seconds else ""
        facts = (name, decimal(entry.size), str(parity.nodes or ""), took)
        for number, row in enumerate(parity.differences):
            unit = "" if row.units == "1" else f" {row.units}"
            rms = "" if row.rmse is None else f"{row.rmse:.1e}{unit}"
            where = (row.variable, str(row.zoom), f"{row.max_abs_error:.1e}{unit}", rms, f"{row.tolerance:.1e}{unit}")
            files.append((*(facts if number == 0 else [""] * 4), *where))
    _show(("file", "size", "nodes", "time", "variable", "zoom", "largest", "rms", "tolerance"), files)
    for precision in sorted(manifest.parity):
        if any(parity.device == NOT_RUN for parity in manifest.parity[precision].values()):
            advice = f"fsae-run verify --precision {precision} on a GPU measures and records it"
            click.echo(f"{precision}: {NOT_RUN}; {advice}", err=True)
    units = {variable.name: variable.units for variable in manifest.variables}
    rows = [
        (
            precision,
            e.variable,
            f"{e.rmse:.1e} {units[e.variable]}",
            f"{e.spectrum:.2%}",
            f"{e.spectrum_tolerance:.2%}",
            f"{e.crps:.5g} {units[e.variable]}",
            f"{e.crps_fp32:.5g} {units[e.variable]}",
            f"{e.crps_tolerance:.1e} {units[e.variable]}",
        )
        for precision, certificate in manifest.certificates.items()
        for e in certificate.ensembles
    ]
    if rows:
        _show(("ensembles", "variable", "rms", "spectrum", "tolerance", "crps", "fp32", "tolerance"), rows)


def show_engines(engines: Sequence[Engine]) -> None:
    """Print engines, their sizes and batch sizes."""
    rows = [(e.file, decimal(e.size), ", ".join(map(str, e.profile))) for e in engines]
    _show(("engine", "size", "batch"), rows)


def _show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as plain lines, which logs can hold."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), err=True)


@contextlib.contextmanager
def show_builds(line_every_s: float = LINE_EVERY_S) -> Iterator[Progress]:
    """A function that shows the phase of a build, for `build_engines`.

    A terminal shows a bar, below the lines of the log. Otherwise a line is printed at most every `line_every_s`
    seconds, the first one after that time.
    """
    if not sys.stderr.isatty():
        yield _some_lines(line_every_s)
        return
    with progress_bar("build", unit="") as move:
        yield lambda phase, done, total: move(done, total, phase)


def _some_lines(every_s: float) -> Progress:
    """A function that prints the phase and its steps if the last such line is `every_s` old."""
    last = time.monotonic()

    def show(phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            click.echo(f"{phase}, {done} of {total}", err=True)

    return show
