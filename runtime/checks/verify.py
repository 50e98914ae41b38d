"""Check that a bundle is intact (hashes) and that a device computes what the trained model did (golden vectors).

Results for a precision that the exporter could not run on a device are recorded in `verified.json` beside the manifest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from fsae.runtime.atomic import write_aside
from fsae.runtime.backends.graphs import INPUTS, OUTPUTS, Graphs, call_of
from fsae.runtime.bundle.files import VERIFIED, Bundle
from fsae.runtime.bundle.manifest import NOT_RUN, Difference, worst_of
from fsae.runtime.bundle.records import Line, Record, decode_record, read_json, to_json
from fsae.runtime.bundle.schema import ADVICE
from fsae.runtime.bundle.tables import digest
from fsae.runtime.errors import BundleError, ToleranceError
from fsae.runtime.sphere.healpix import coarsen


@dataclass(frozen=True, kw_only=True)
class Check:
    """Difference of a graph's output from the golden one, at the variable and zoom closest to their tolerance."""

    graph: str
    precision: str
    worst: Difference
    first: bool  # of this precision on any device: the bundle's own measurement was "not run on a device"

    @property
    def good(self) -> bool:
        """True if the error is within the tolerance; NaN is not."""
        return self.worst.good

    def __str__(self) -> str:
        outcome = "pass" if self.good else "FAIL"
        first = ", which the exporter could not run on a device" if self.first else ""
        return f"{self.graph} {self.precision}: {outcome}, {self.worst}{first}"


def check_files(bundle: Bundle) -> int:
    """Check the hash of every file and return their number; BundleError at the first that differs.

    The numbers of the tables are also compared with those that the certificates were measured with: hashes in the
    manifest can be made to fit any file. Certificates of older bundles do not know them.
    """
    for name in bundle.manifest.files:
        bundle.check(name)
    known = {certificate.tables for certificate in bundle.manifest.certificates.values()} - {UNSET}
    if known and known != {digest(bundle.arrays("tables.npz"))}:
        raise BundleError(
            f"the tables of bundle {bundle.manifest.name} are not those that its certificate was measured with",
            advice=ADVICE,
        )
    return len(bundle.manifest.files)


def check_graphs(bundle: Bundle, graphs: Graphs) -> list[Check]:
    """Run the golden inputs through every graph on the device and compare with the trained model's outputs."""
    golden = bundle.arrays("golden.npz")
    precision = graphs.precision
    parity = bundle.manifest.parity.get(precision, {})
    checks = []
    for graph in bundle.manifest.graphs:
        names = [f"{graph}.{name}" for name in (*INPUTS[graph], OUTPUTS[graph])]
        missing = [name for name in names if name not in golden]
        if missing or graph not in parity:
            lacking = missing or f"a {precision} tolerance for the {graph}"
            raise BundleError(
                f"bundle {bundle.manifest.name} cannot be verified: it lacks {lacking}", advice="export it again"
            )
        *inputs, expected = (golden[name].astype(np.float32) for name in names)
        found = call_of(graphs, graph)(*inputs)
        if found.shape != expected.shape:
            raise BundleError(
                f"the {graph} gives the shape {found.shape}, expected {expected.shape}", advice="export it again"
            )
        difference = found.astype(np.float64) - expected  # (row, [step,] variable, pixel)
        if graph == "encoder":
            difference *= bundle.tables.scale[:, None]  # latents are dimensionless, parity is in physical units
        places = {variable.name: place for place, variable in enumerate(bundle.manifest.variables)}
        zoom, found_here = bundle.manifest.output_zoom(graph), []
        for limit in parity[graph].differences:  # means over coarser cells too: those of the coarsest are conserved
            means = coarsen(difference[..., places[limit.variable], :], zoom - limit.zoom)
            found_here.append(replace(limit, max_abs_error=float(np.abs(means).max()), rmse=None))
        first = parity[graph].device == NOT_RUN
        checks.append(Check(graph=graph, precision=precision, worst=worst_of(found_here), first=first))
    return checks


def missed(checks: Sequence[Check], device: str) -> ToleranceError | None:
    """The error that the checks which failed on a device amount to; None if all are good."""
    found = "; ".join(f"the {check.graph} by {check.worst}" for check in checks if not check.good)
    if not found:
        return None
    return ToleranceError(
        f"device {device} misses the golden vectors of the trained model: {found}",
        advice="take another --device or --precision, or update the driver and libraries",
    )


RECORDS_SCHEMA = 1


class Verified(Record, frozen=True, kw_only=True):
    """Golden vectors of one precision on one device: for each graph the difference closest to its tolerance."""

    files: Mapping[str, str]  # hashes of graphs, weights and golden vectors
    precision: Line
    device: Line
    backend: Line
    gpus: tuple[Line, ...]  # of the machine
    date: Line
    worst: Mapping[Line, Difference]  # by graph

    def __str__(self) -> str:
        where = ", ".join([f"{self.device} ({self.backend})", *self.gpus])
        worst = "; ".join(f"{graph} {difference}" for graph, difference in self.worst.items())
        return f"{self.precision} verified on {self.date} on {where}: {worst}"


class Records(Record, frozen=True, kw_only=True):
    """The content of verified.json."""

    schema_version: int = RECORDS_SCHEMA
    records: tuple[Verified, ...]


def read_records(bundle: Bundle) -> tuple[Verified, ...]:
    """The records that belong to the bundle's present files, oldest first; none if they cannot be read."""
    return tuple(record for record in _records(bundle) or () if record.files == _files(bundle, record.precision))


def _records(bundle: Bundle) -> tuple[Verified, ...] | None:
    """All records in a bundle, none if it has no verified.json; None if that is a link or no file of ours."""
    path = bundle.folder / VERIFIED
    if path.is_symlink():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        return decode_record(Records, read_json(text, VERIFIED, BundleError), VERIFIED, BundleError).records
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, BundleError):
        return None


def record_checks(bundle: Bundle, graphs: Graphs, checks: Sequence[Check]) -> Path | None:
    """Record the checks in verified.json and return its path, or None.

    Only a precision that the exporter could not run on a device is recorded, and only if all its graphs pass. It
    replaces an older record of the same device and library. A verified.json of somebody else stays as it is.
    """
    if not any(check.first for check in checks) or not all(check.good for check in checks) or _records(bundle) is None:
        return None
    new = Verified(
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
    try:
        with write_aside(path) as aside:
            aside.write_text(to_json(Records(records=(*kept, new))), encoding="utf-8", newline="\n")
    except OSError:  # only an administrator may be able to write beside shipped bundles
        return None
    return path


def _files(bundle: Bundle, precision: str) -> dict[str, str]:
    """Hashes of the files that a check of a precision depends on."""
    parts = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    return {name: found for name, found in parts.items() if name == "golden.npz" or f".{precision}.onnx" in name}


def _gpus() -> tuple[str, ...]:
    """Names of the GPUs of this machine, as far as they can be found out."""
    from .installation import gpu_findings

    try:
        return tuple(finding.value for finding in gpu_findings() if finding.name.startswith("gpu "))
    except Exception:  # a driver can fail anywhere, and the record is useful without it
        return ()
