"""What `verify` found of graphs that the exporter could not run on a device: `verified.json` beside the manifest.

Exporters have no device for some precisions (ONNX Runtime has no bf16 on CPUs), so the manifest says "not run on a
device" of them. A manifest is what a bundle is known by and never changes; like engines, these records are the
machine's own, and one counts only for the very graphs and golden vectors that it names.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from .bundle import Bundle
from .errors import BundleError
from .manifest import Difference
from .records import decode_record, encode
from .session import Graphs
from .verify import Check

VERIFIED = "verified.json"
RECORDS_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """Golden vectors of one precision on one device; of each graph the difference closest to its tolerance."""

    files: Mapping[str, str]  # hashes of graphs, weights and golden vectors
    precision: str
    device: str
    backend: str
    gpus: tuple[str, ...]  # of the machine
    date: str
    worst: Mapping[str, Difference]  # by graph

    def __str__(self) -> str:
        where = ", ".join([f"{self.device} ({self.backend})", *self.gpus])
        worst = "; ".join(f"{graph} {difference}" for graph, difference in self.worst.items())
        return f"{self.precision} verified on {self.date} on {where}: {worst}"


@dataclass(frozen=True, kw_only=True)
class Records:
    """What verified.json holds."""

    schema_version: int = RECORDS_SCHEMA
    records: tuple[Record, ...]


def read_records(bundle: Bundle) -> tuple[Record, ...]:
    """The records of files as the bundle has them, oldest first; none where it has no record that can be understood."""
    with contextlib.suppress(OSError, ValueError, BundleError):
        raw = json.loads((bundle.folder / VERIFIED).read_text(encoding="utf-8"))
        found: Records = decode_record(Records, raw, VERIFIED, BundleError)
        return tuple(record for record in found.records if record.files == _files(bundle, record.precision))
    return ()


def record_checks(bundle: Bundle, graphs: Graphs, checks: Sequence[Check]) -> Path | None:
    """The file after the checks were recorded there; None where there was nothing to record or it cannot be written.

    Only a precision that the exporter ran on no device is recorded, and only where all its graphs passed. An older
    record of the same device and library is replaced.
    """
    if not any(check.first for check in checks) or not all(check.good for check in checks):
        return None
    new = Record(
        files=_files(bundle, graphs.precision),
        precision=graphs.precision,
        device=graphs.device,
        backend=graphs.backend,
        gpus=_gpus() if graphs.device != "cpu" else (),
        date=datetime.now(UTC).date().isoformat(),
        worst={check.graph: check.worst for check in checks},
    )
    kept = [old for old in read_records(bundle) if replace(old, date=new.date, worst=new.worst) != new]
    path = bundle.folder / VERIFIED
    aside = path.with_name(f"{VERIFIED}.partial-{os.getpid()}")
    text = json.dumps(encode(Records, Records(records=(*kept, new))), indent=2) + "\n"
    try:
        aside.write_text(text, encoding="utf-8", newline="\n")
        aside.replace(path)
    except OSError:  # shipped bundles may lie where only an administrator writes
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        return None
    return path


def _files(bundle: Bundle, precision: str) -> dict[str, str]:
    """Hashes of what a check of a precision depends on."""
    parts = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    return {name: found for name, found in parts.items() if name == "golden.npz" or f".{precision}.onnx" in name}


def _gpus() -> tuple[str, ...]:
    """The GPUs of this machine by name, as far as they can be asked."""
    from .installation import gpu_findings

    try:
        return tuple(finding.value for finding in gpu_findings() if finding.name.startswith("gpu "))
    except Exception:  # a driver can fail anywhere, and the record is right without
        return ()
