"""What `compress` and `info` print of an archive."""

import json
from collections.abc import Mapping
from pathlib import Path

from fsae.runtime.archive.quality import Figures

from .terminal import size_of


def archive_json(path: str, figures: Mapping[str, Figures]) -> str:
    """The figures of an archive as JSON."""
    whole = size_of(Path(path))
    return json.dumps({name: {**_facts(one), "store_bytes": whole} for name, one in figures.items()}, indent=2)


def _facts(figures: Figures) -> dict[str, float]:
    return {
        "rmse": figures.rmse,
        "max_error": figures.largest,
        "ratio": figures.ratio,
        "bits_per_value": figures.bits_per_value,
        "values": figures.values,
        "bytes": figures.stored_bytes,
    }


def archive_lines(path: str, figures: Mapping[str, Figures]) -> str:
    """The errors of an archive and its bytes, in words."""
    lines = [
        f"{name}: RMSE {one.rmse:.3g}, largest error {one.largest:.3g}; {one.stored_bytes} bytes, "
        f"{one.bits_per_value:.3g} bits per value, {one.ratio:.1f} times smaller than float32"
        for name, one in figures.items()
    ]
    values, whole = sum(one.values for one in figures.values()), size_of(Path(path))
    return "\n".join([*lines, f"with coordinates and metadata {whole} bytes, {4 * values / whole:.1f} times smaller"])
