"""Codecs beside each other at equal true bytes: monthly temperature, in K and as anomalies, on two grids.

A ratio is bytes of float32 over all bytes that a codec writes, and each codec's knob is searched until it is met within
2 %. Anomalies are about the climatology of the bundle, or of the source for other models: side information that is not
counted, nor are tables fitted to the training years 1948-2004, which have a column. One process, one thread, CPU time.

    python tests/bench/codecs.py [--quick] [--data FOLDER] [--codec SPERR] [--ratio 64] [--json codecs.json]
"""

import time
from pathlib import Path
from typing import Any

import click
from codec_kinds import Codec, Unsuitable
from codec_list import CODECS
from codec_subjects import GRIDS, KINDS, SAMPLE, SOURCES, Subject, subjects
from codec_trials import Result, Trials, best_result, power_of
from threadpoolctl import threadpool_limits
from timing import report

from fsae.runtime.bundle.files import open_bundle

RATIOS = (16, 64, 256, 1024)
CHUNKS = (1, 12, 60, 120)  # steps
QUICK_RATIOS = (64, 256)
QUICK_CHUNKS = (12, 120)


def in_words(result: Result) -> str:
    """The error of a result, and its ratio if that is not the one asked for."""
    error, ratio = f"{result.rmse:.3f}", result.point.ratio
    return error if result.hit else f"{error} at {ratio:.3g}x"


def detailed(name: str, subject: Subject, wanted: int, result: Result, codec: Codec) -> dict[str, Any]:
    """One row with all figures."""
    return {
        "source": subject.source,
        "grid": subject.grid.name,
        "codec": name,
        "fields": subject.kind,
        "climatology": subject.removed,
        "asked": wanted,
        "ratio": result.point.ratio,
        "steps in a chunk": result.chunk,
        "RMSE [K]": result.rmse,
        "largest [K]": result.largest,
        **{f"power kept, l {band}": share for band, share in result.kept.items()},
        "encode MB/s": result.encode_mb_s,
        "decode MB/s": result.decode_mb_s,
        "tables MB": codec.tables / 1e6,
    }


def compare(
    subject: Subject, names: tuple[str, ...], ratios: tuple[int, ...], lengths: tuple[int, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of errors by ratio, and detailed ones, of the codecs that take the subject."""
    errors, details = [], []
    power = power_of(subject, subject.values)
    for name in names:
        began = time.monotonic()
        try:
            codec = CODECS[name](subject)
        except Unsuitable as reason:
            click.echo(f"{subject.source}, {subject.grid.name}: {name} is left out, it {reason}", err=True)
            continue
        tried: dict[int, Trials] = {}
        row: dict[str, Any] = {"codec": name, "fields": subject.kind}
        for wanted in ratios:
            result = best_result(codec, subject, wanted, tried, lengths, power)
            row[f"{wanted}x"] = in_words(result)
            details.append(detailed(name, subject, wanted, result, codec))
        errors.append(row | {"tables MB": codec.tables / 1e6})
        seconds = time.monotonic() - began
        click.echo(f"{subject.source}, {subject.grid.name}, {subject.kind}: {name} {seconds:.0f} s", err=True)
    return errors, details


@click.command(epilog="Example: python tests/bench/codecs.py --data ../models --codec SPERR --codec EOF --ratio 64")
@click.option("--codec", "names", type=click.Choice(list(CODECS)), multiple=True, help="Codecs, by default all.")
@click.option("--ratio", "ratios", type=click.IntRange(min=2), multiple=True, help="Ratios, by default 16 to 1024.")
@click.option("--source", "sources", type=click.Choice(list(SOURCES)), multiple=True, help="Sources, by default all.")
@click.option("--grid", "grids", type=click.Choice(GRIDS), multiple=True, help="HEALPix, or the source's own: both.")
@click.option("--fields", "kinds", type=click.Choice(KINDS), multiple=True, help="In K or as anomalies: both.")
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="Folder with files of sources not in training/sample."
)
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="A bundle, by default the shipped one.")
@click.option("--quick", is_flag=True, help="NCEP anomalies on HEALPix at 64 and 256, unless given: a minute.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the tables there too.")
def main(
    names: tuple[str, ...],
    ratios: tuple[int, ...],
    sources: tuple[str, ...],
    grids: tuple[str, ...],
    kinds: tuple[str, ...],
    data: Path | None,
    model: Path | None,
    quick: bool,
    json_path: Path | None,
) -> None:
    """Print tables of errors at equal bytes, and of all figures."""
    threadpool_limits(1)
    bundle = open_bundle(model)
    tables: dict[str, list[dict[str, Any]]] = {}
    details: list[dict[str, Any]] = []
    for key in sources or (("ncep",) if quick else SOURCES):
        source = SOURCES[key]
        path = next((f / source.file for f in (SAMPLE, data) if f and (f / source.file).exists()), None)
        if path is None:
            click.echo(f"{source.title} is left out: no {source.file} in {data or 'training/sample'}", err=True)
            continue
        chosen_grids, chosen_kinds = grids or (GRIDS[:1] if quick else GRIDS), kinds or (KINDS[1:] if quick else KINDS)
        for subject in subjects(bundle, source, path, chosen_grids, chosen_kinds):
            title = f"RMSE [K] at ratios of true bytes: {subject.source}, {subject.grid.name}"
            rows, more = compare(
                subject,
                names or tuple(CODECS),
                ratios or (QUICK_RATIOS if quick else RATIOS),
                QUICK_CHUNKS if quick else CHUNKS,
            )
            tables.setdefault(title, []).extend(rows)
            details += more
    report({**{title: rows for title, rows in tables.items() if rows}, "All figures": details}, json_path)


if __name__ == "__main__":
    main()
