"""What `fsae-run info` and `verify` print: lines for people, and JSON for programs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from fsae.runtime.backends.devices import LIBRARIES
from fsae.runtime.bundle.files import COMPILED, VERIFIED, Bundle
from fsae.runtime.bundle.manifest import NOT_RUN
from fsae.runtime.bundle.records import to_json
from fsae.runtime.errors import FsaeError

if TYPE_CHECKING:
    from fsae.runtime.backends.graphs import Graphs
    from fsae.runtime.checks.verify import Check


def installed(names: tuple[str, ...]) -> str | None:
    """Name and version of the first of these distributions that is installed; none of them is imported.

    Read from the names of their folders: importing importlib.metadata takes longer than all the rest of `info`.
    """
    for name in names:
        for folder in sys.path:
            for found in Path(folder).glob(f"{name.replace('-', '_')}-*.dist-info"):
                return f"{name} {found.name.removesuffix('.dist-info').rpartition('-')[2]}"
    return None


def devices(bundle: Bundle) -> str:
    """For each device the library that is installed for it, or the extra that brings it."""
    found = []
    for device, needed in LIBRARIES.items():
        library = installed(needed.distributions)
        note = library if library is not None else f'not installed (pip install "fsae[{needed.extra}]")'
        if device.startswith("trt") and library is not None and not (bundle.folder / COMPILED).is_dir():
            note += ", no engine built (fsae-export BUNDLE --trt)"
        found.append(f"{device:8}{note}")
    return f"\n{'':14}".join(found)


def describe(bundle: Bundle) -> str:
    """Name, variables, zooms, ratio, period, devices, parity and size, one fact a line."""
    from rich.filesize import decimal

    manifest = bundle.manifest
    indent = f"\n{'':14}"
    units = {v.name: v.units for v in manifest.variables}
    variables = [f"{v.name} [{v.units}] {v.long_name} ({v.standard_name})" for v in manifest.variables]
    parity = [
        f"{graph} {precision}: {entry.worst}" + (f" ({NOT_RUN})" if entry.device == NOT_RUN else "")
        for precision, graphs in manifest.parity.items()
        for graph, entry in graphs.items()
    ]
    for precision, certificate in manifest.certificates.items():
        first, last = certificate.period
        parity.append(
            f"{precision} measured on {certificate.date} against {certificate.reference}, "
            f"{certificate.steps} fields of {first} to {last}"
        )
        parity += [
            f"{precision} ensembles: {entry.variable} {entry.rmse:.2g} {units[entry.variable]} RMS from the same "
            f"members in fp32, spectrum {entry.spectrum:.2%}, CRPS {entry.crps:.5g} {units[entry.variable]} "
            f"(fp32 {entry.crps_fp32:.5g})"
            for entry in certificate.ensembles
        ]
    if (bundle.folder / VERIFIED).is_file():
        from fsae.runtime.checks.verify import read_records  # which needs NumPy

        parity += [str(record) for record in read_records(bundle)]
    generates = "no: it has no diffusion model"
    if manifest.denoiser is not None and manifest.sampler is not None:
        forcing = manifest.denoiser.forcing
        forced_in = "" if forcing.units in forcing.name else f" {forcing.units}"
        generates = (
            f"windows of {manifest.denoiser.window} steps, {manifest.sampler.steps} steps of {manifest.sampler.name}, "
            f"{forcing.name} {forcing.range[0]:g} to {forcing.range[1]:g}{forced_in}"
            + (f" ({', '.join(forcing.scenarios or ())})" if forcing.scenarios else "")
        )
    latent = manifest.latent
    rows = {
        "bundle": f"{manifest.name} ({bundle.folder})",
        "variables": indent.join(variables),
        "grid": f"HEALPix nested, zooms {', '.join(map(str, manifest.zooms))}",
        "compression": f"{latent.ratio}x, latents at zoom {latent.zoom}: {latent.shape[0]} x {latent.shape[1]} numbers",
        "generation": generates,
        "time": f"{manifest.time.step}, calendar {manifest.time.calendar}",
        "trained on": f"{manifest.provenance.period[0]} to {manifest.provenance.period[1]}, "
        + ", ".join(source.name for source in manifest.provenance.data),
        "devices": devices(bundle),
        "precision": ", ".join(manifest.precisions),
        "parity": indent.join(parity),
        "size": f"{decimal(bundle.size)} in {len(manifest.files)} files",
        "licence": manifest.licence,
        "manifest": f"sha256 {bundle.manifest_sha256}",
    }
    return "\n".join(f"{name:14}{text}" for name, text in rows.items())


def info_json(bundle: Bundle) -> str:
    """The bundle's folder, its size, the libraries of the devices (null: not installed) and its manifest, as JSON."""
    return to_json(
        {
            "folder": str(bundle.folder),
            "manifest_sha256": bundle.manifest_sha256,
            "size_bytes": bundle.size,
            "devices": {device: installed(needed.distributions) for device, needed in LIBRARIES.items()},
            "compiled_engines": (bundle.folder / COMPILED).is_dir(),
            "manifest": bundle.manifest,
        }
    )


def verify_json(bundle: Bundle, graphs: "Graphs", checks: "Sequence[Check]", failure: FsaeError | None) -> str:
    """The checks of a bundle on a device as JSON, with the `exit_code` and the `failure` behind it or null."""
    found: dict[str, Any] = {
        "bundle": bundle.manifest.name,
        "folder": str(bundle.folder),
        "manifest_sha256": bundle.manifest_sha256,
        "files": len(bundle.manifest.files),
        "device": graphs.device,
        "backend": graphs.backend,
        "precision": graphs.precision,
        "graphs": [{"graph": check.graph, "good": check.good, **asdict(check.worst)} for check in checks],
        "exit_code": 0 if failure is None else failure.exit_code,
        "failure": None if failure is None else str(failure),
    }
    return to_json(found)
