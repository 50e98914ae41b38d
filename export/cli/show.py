"""What `fsae-export` prints when it is done: tables on stderr, and the line for stdout."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from fsae.runtime.bundle import Bundle
from fsae.runtime.describe import human
from fsae.runtime.engines import Engine, engine_folder
from fsae.runtime.manifest import NOT_RUN, Manifest


def bundle_summary(folder: Path, manifest: Manifest) -> str:
    """The line that says what was exported."""
    size = sum(entry.size for entry in manifest.files.values())
    graphs = ", ".join(manifest.graphs)
    return f"exported {folder}: {graphs}; {human(size)}"


def engine_summary(bundle: Bundle, engines: Sequence[Engine]) -> str:
    """The line that says which engines there are now."""
    target = engines[0].target
    return (
        f"{len(engines)} engines in {engine_folder(bundle)} for {target.flavour} {target.version}, "
        f"compute capability {target.compute_capability}; {human(sum(engine.size for engine in engines))}"
    )


def show_bundle(manifest: Manifest, seconds: Mapping[str, float]) -> None:
    """Print the files of a bundle on stderr: size, nodes, time, and how far each graph is from the trained model."""
    files = []
    for name, entry in manifest.files.items():
        graph, _, rest = name.partition(".")
        parity = manifest.parity.get(rest.removesuffix(".onnx"), {}).get(graph)
        if parity is None:
            files.append((name, human(entry.size), *[""] * 7))
            continue
        took = f"{seconds[name]:.1f} s" if name in seconds else ""
        facts = (name, human(entry.size), str(parity.nodes or ""), took)
        for number, row in enumerate(parity.differences):
            unit = "" if row.units == "1" else f" {row.units}"
            rms = "" if row.rmse is None else f"{row.rmse:.1e}{unit}"
            where = (row.variable, str(row.zoom), f"{row.max_abs_error:.1e}{unit}", rms, f"{row.tolerance:.1e}{unit}")
            files.append((*(facts if number == 0 else [""] * 4), *where))
    _show(("file", "size", "nodes", "time", "variable", "zoom", "largest", "rms", "tolerance"), files)
    waiting = sorted({p for p, own in manifest.parity.items() for parity in own.values() if parity.device == NOT_RUN})
    for precision in waiting:
        click.echo(
            f"{precision}: {NOT_RUN}; fsae-run verify --precision {precision} on a GPU measures and records it",
            err=True,
        )
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
    """Print engines, their sizes and batches on stderr."""
    rows = [(e.file, human(e.size), ", ".join(map(str, e.profile))) for e in engines]
    _show(("engine", "size", "batch"), rows)


def _show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stderr, as plain lines so that logs can hold it."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), err=True)
