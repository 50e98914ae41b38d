"""What `compress` and `info` say of archives, and whether `compress` writes one."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsae.runtime.errors import UsageError

from .terminal import size_of

if TYPE_CHECKING:
    from fsae.runtime.archive.quality import Figures
    from fsae.runtime.jobs.job import Writing


def writes_archive(qualities: "Mapping[str, Any] | None", model: str | None) -> bool:
    """True if `compress` writes an archive: of a quality that is asked for, or of the bundle's own if it has one."""
    from fsae.runtime.archive.lookup import FILE
    from fsae.runtime.bundle.files import open_bundle
    from fsae.runtime.log import log

    if qualities:
        return True
    if qualities is None:
        return False
    manifest = open_bundle(model).manifest
    if not manifest.archive_rmse:
        lacks = "codec for archives" if FILE not in manifest.files else "quality that archives have unless one is given"
        log.info(f"bundle {manifest.name} has no {lacks}: writing float32 latents")
    return bool(manifest.archive_rmse)


def check_append(writing: "Writing", append: bool, *, archive: bool = True) -> "Writing":
    """How an archive is written, which steps may be appended to; UsageError where that cannot be."""
    if append and not archive:
        raise UsageError("found --append for latents", "an archive", "leave it out, and compress all steps at once")
    if append and writing.overwrite:
        raise UsageError("found --append and --overwrite", advice="give one of them")
    return dataclasses.replace(writing, overwrite=writing.overwrite or append)


def archive_json(path: str) -> str:
    """The figures of an archive as JSON."""
    from fsae.runtime.archive.xarray_engine import figures
    from fsae.runtime.codec.archive import figure_facts

    found = figures(path)  # refuses what is no archive
    whole = size_of(Path(path))
    return json.dumps({name: {**figure_facts(one), "store_bytes": whole} for name, one in found.items()}, indent=2)


def told_archive(path: str) -> str:
    """The lines on a finished archive; nothing while other shards are missing."""
    return archive_lines(path) + "\n" if os.path.exists(path) else ""


def archive_lines(path: str) -> str:
    """The errors of an archive and its bytes, in words."""
    from fsae.runtime.archive.xarray_engine import figures, open_group

    found, attributes = figures(path), dict(open_group(path).attrs)
    lines = [
        f"{name}: RMSE {one.rmse:.3g}, largest error {one.largest:.3g}; {one.stored_bytes} bytes, "
        f"{one.bits_per_value:.3g} bits per value, {one.ratio:.1f} times smaller than float32"
        for name, one in found.items()
    ]
    whole = size_of(Path(path))
    values = sum(one.values for one in found.values())
    lines.append(f"with coordinates and metadata {whole} bytes, {4 * values / whole:.1f} times smaller than float32")
    if size := attributes.get("fsae_input_bytes"):
        lines[-1] += f", {float(str(size)) / whole:.1f} times smaller than the input's files"
    if size := attributes.get("fsae_bundle_bytes"):
        lines.append(_break_even(found, int(str(size))))
    return "\n".join(lines)


def _break_even(found: "Mapping[str, Figures]", bundle_bytes: int) -> str:
    """From how many fields on an archive and the bundle that decodes it take fewer bytes than float32."""
    fields = sum(round(one.weight) for one in found.values())
    saved = sum(4 * one.values - one.stored_bytes for one in found.values()) / max(fields, 1)
    enough = max(1, -(-bundle_bytes // max(int(saved), 1)))
    return f"the bundle that decodes it has {bundle_bytes} bytes: from {enough} fields on both take fewer than float32"
