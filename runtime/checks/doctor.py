"""The report of `fsae-run doctor`: which devices can run a bundle here, and why the others cannot.

Nothing here may fail: modules of the runtime that need a library are imported inside functions, and whatever an import
raises is a finding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fsae.runtime.errors import BundleError, DeviceError, FsaeError

from .installation import (
    Finding,
    cache_findings,
    driver_version,
    gpu_findings,
    library_findings,
    platform_findings,
    problem,
)

if TYPE_CHECKING:
    from fsae.runtime.backends.engine_index import Target
    from fsae.runtime.bundle.files import Bundle


AGAIN = "get the bundle again"
REINSTALL = "pip install --force-reinstall fsae"
USE_GPU = 'pip install "fsae[trt]" beside fsae[cpu], or "fsae[gpu]" in place of it'


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings, and the error that keeps ensembles from being generated here, or None."""

    findings: tuple[Finding, ...]
    failure: FsaeError | None


def guarded(section: str, make: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings that `make` returns; if it fails, its failure is the only one."""
    try:
        return make()
    except Exception as error:  # a broken installation can fail anywhere: reporting that is the purpose
        value = " ".join(f"cannot be examined ({type(error).__name__}: {error})".split())
        return [Finding(section=section, name=section, value=value, advice=REINSTALL)]


# --- bundles and their engines ---


def open_whole(folder: Path, hashes: bool) -> "Bundle":
    """The bundle in a folder; BundleError if a file of its manifest is missing or has another size (or hash)."""
    from fsae.runtime.bundle.files import open_bundle

    from .verify import check_files

    bundle = open_bundle(folder)
    if hashes:
        check_files(bundle)
        return bundle
    for name, entry in bundle.manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise BundleError(f"cannot read {folder / name}: {error.strerror}", advice=AGAIN) from None
        if size != entry.size:
            raise BundleError(
                f"{folder / name} is truncated or altered: found {size} bytes, expected {entry.size}", advice=AGAIN
            )
    return bundle


def folder_in_use(model: str | None) -> "Path | BundleError":
    """Folder of the bundle that the commands use with this --model, or why there is none."""
    from fsae.runtime.bundle.files import find_bundle

    try:
        return find_bundle(model)
    except BundleError as error:
        return error


def read_bundles(used: "Path | BundleError", hashes: bool) -> "dict[Path, Bundle | BundleError]":
    """The bundle in use, those in ./engines, the shipped and the fetched ones; for a damaged one its error."""
    from fsae.runtime.bundle.files import named_bundles

    folders = named_bundles()
    if isinstance(used, Path):
        folders.insert(0, used)
    once: dict[Path, Path] = {}
    for folder in folders:
        once.setdefault(folder.resolve(), folder)
    found: dict[Path, Bundle | BundleError] = {}
    for folder in once.values():
        try:
            found[folder] = open_whole(folder, hashes)
        except BundleError as error:
            found[folder] = error
    return found


def bundle_in_use(used: "Path | BundleError", bundles: "dict[Path, Bundle | BundleError]", named: bool) -> "Bundle":
    """The bundle in use; BundleError if there is none or it is damaged.

    If it was not named also if it cannot generate; a bundle without a denoiser that is named is wanted for compression.
    """
    bundle = bundles[used] if isinstance(used, Path) else used
    if isinstance(bundle, BundleError):
        raise bundle
    if not named and bundle.manifest.denoiser is None:
        raise BundleError(
            f"the newest bundle exported to ./engines, {bundle.folder}, has no diffusion model and cannot generate",
            advice="give --model with one that can, such as default",
        )
    return bundle


def bundle_finding(folder: Path, bundle: "Bundle | BundleError", hashes: bool) -> Finding:
    """Name, schema, precisions and size of a bundle, or the error that it gave."""
    from rich.filesize import decimal

    if isinstance(bundle, BundleError):
        return problem("bundles", str(folder), bundle)
    manifest = bundle.manifest
    value = (
        f"{manifest.name}, schema {bundle.written_schema}, {', '.join(manifest.precisions)}, {decimal(bundle.size)} in "
        f"{len(manifest.files)} files of the right {'hash' if hashes else 'size'}, "
        f"{'generates' if manifest.denoiser is not None else 'does not generate'}"
    )
    return Finding(section="bundles", name=str(folder), value=value)


def targets_here() -> "dict[str, Target | str]":
    """For each TensorRT flavour the target that an engine must be built for to be loaded here, or why none can be."""
    from fsae.runtime.backends.cuda import find_gpu
    from fsae.runtime.backends.devices import FLAVOURS
    from fsae.runtime.backends.tensorrt import import_tensorrt, this_target

    found: dict[str, Target | str] = {}
    for flavour in FLAVOURS:
        try:
            library = import_tensorrt(flavour)
            found[flavour] = this_target(flavour, library, find_gpu(flavour))
        except DeviceError as error:
            found[flavour] = error.reason
    return found


def check_engines(bundle: "Bundle", precision: str, target: "Target", hashes: bool) -> str:
    """A sentence about the engines of all graphs; FsaeError if one is missing or cannot be loaded here."""
    from fsae.runtime.backends.engine_index import engine_folder, find_engine, read_engine

    for graph in bundle.manifest.graphs:
        engine = find_engine(bundle, graph, precision, target)
        path = engine_folder(bundle) / engine.file
        if hashes:
            read_engine(bundle, engine)
        elif not path.is_file() or path.stat().st_size != engine.size:
            raise BundleError(f"{path} is missing or truncated", advice=f"run fsae-export {bundle.folder} --trt again")
    return f"engines of {', '.join(bundle.manifest.graphs)} in {precision}, valid here"


def engine_findings(bundle: "Bundle", here: "dict[str, Target | str]", hashes: bool) -> list[Finding]:
    """For each flavour and precision in the index of a bundle: its engines are valid here, or why not."""
    from fsae.runtime.backends.engine_index import engine_folder, read_index

    try:
        listed = read_index(engine_folder(bundle))
    except BundleError as error:
        return [problem("engines", str(bundle.folder), error)]
    findings = []
    for flavour, precision in sorted({(e.target.flavour, e.precision) for e in listed}):
        name, target = f"{bundle.folder} {flavour} {precision}", here.get(flavour, "is unknown to this fsae")
        if isinstance(target, str):
            findings.append(Finding(section="engines", name=name, value=f"of no use here: {flavour} {target}"))
            continue
        try:
            value = check_engines(bundle, precision, target, hashes)
        except FsaeError as error:
            findings.append(problem("engines", name, error))
        else:
            findings.append(Finding(section="engines", name=name, value=value))
    return findings


# --- devices ---


def try_device(bundle: "Bundle", device: str, here: "dict[str, Target | str]", hashes: bool) -> str:
    """Evidence that a device can run the bundle; FsaeError if it cannot.

    ONNX Runtime runs the decoder once, on zeros. Engines are inspected but not loaded, which can take minutes.
    """
    import numpy as np

    from fsae.runtime.backends.onnx import PROVIDERS, OnnxGraphs

    manifest = bundle.manifest
    precision = manifest.precisions[0]
    if device in PROVIDERS:
        graphs = OnnxGraphs(bundle, device, precision)
        latent = np.zeros((1, *manifest.latent.shape), np.float32)
        graphs.decode(latent, np.zeros((1, 2 * manifest.time.harmonics), np.float32))
        return f"works: {graphs.backend} ran the decoder of {manifest.name} in {precision}"
    target = here[device]
    if isinstance(target, str):
        raise DeviceError(target, advice="see what is said of libraries and GPUs", device=device)
    return f"works: {check_engines(bundle, precision, target, hashes)}"


def device_findings(
    bundle: "Bundle", here: "dict[str, Target | str]", known: list[Finding], hashes: bool
) -> tuple[list[Finding], FsaeError | None]:
    """Report which devices can run the bundle and which one `auto` takes; also the error if there is none.

    A device that does not work is a problem only if its hardware and its library are there. `known` holds the findings
    so far: a problem among them is not reported twice.
    """
    from fsae.runtime.backends.choose import AUTO
    from fsae.runtime.backends.onnx import PROVIDERS

    works: dict[str, str] = {}
    errors: dict[str, FsaeError] = {}
    for device in AUTO:
        try:
            works[device] = try_device(bundle, device, here, hashes)
        except FsaeError as error:
            errors[device] = error
        except Exception as error:  # see `guarded`
            errors[device] = DeviceError(f"fails ({type(error).__name__}: {error})", advice=REINSTALL, device=device)
    chosen = next(iter(works), None)
    gpu = driver_version() is not None or any(f.section == "gpu" and f.name.startswith("gpu ") for f in known)
    findings = [Finding(section="devices", name=device, value=value) for device, value in works.items()]
    for device, reason in errors.items():
        found = problem("devices", device, reason)
        reported = any(finding.value == found.value and finding.advice is not None for finding in [*known, *findings])
        if device == "cpu":
            matters = chosen is None
        elif device in PROVIDERS:
            matters = gpu and _provided(device)
        else:  # library and GPU are there, and no engine of any flavour
            matters = not isinstance(here[device], str) and chosen not in here
        findings.append(found if matters and not reported else replace(found, advice=None))
    findings.sort(key=lambda finding: AUTO.index(finding.name))
    if chosen is None:
        failure = errors["cpu"]
        if not isinstance(failure, BundleError):
            failure = DeviceError(f"no device runs {bundle.folder}: device cpu {failure.reason}", advice=failure.advice)
        return [*findings, Finding(section="devices", name="auto", value="finds no device")], failure
    idle = gpu and chosen == "cpu" and all(f.advice is None for f in [*known, *findings] if f.section != "bundles")
    value = f"takes {chosen}, the first of {', '.join(AUTO)} that works"
    if idle:
        value += "; nothing that is installed uses the GPU"
    return [*findings, Finding(section="devices", name="auto", value=value, advice=USE_GPU if idle else None)], None


def _provided(device: str) -> bool:
    from fsae.runtime.backends.onnx import check_provider

    try:
        check_provider(device)
    except DeviceError:
        return False
    return True


def examine(model: str | None = None, hashes: bool = False) -> Report:
    """Examine this machine and its bundles; `hashes` reads all their files."""
    findings = guarded("platform", platform_findings)
    findings += guarded("libraries", library_findings)
    findings += guarded("cache", cache_findings)
    findings += guarded("gpu", gpu_findings)
    try:
        failure = _examine_bundles(model, hashes, findings)
    except Exception as error:  # see `guarded`
        failure = DeviceError(f"the runtime does not work here ({type(error).__name__}: {error})", advice=REINSTALL)
        findings.append(problem("bundles", "runtime", failure))
    return Report(findings=tuple(findings), failure=failure)


def _examine_bundles(model: str | None, hashes: bool, findings: list[Finding]) -> FsaeError | None:
    """Add what bundles, engines and devices give to `findings`; return the error that stops every device, or None."""
    used = folder_in_use(model)
    bundles, here = read_bundles(used, hashes), targets_here()
    listed = [bundle_finding(folder, bundle, hashes) for folder, bundle in bundles.items()]
    whole = [bundle for bundle in bundles.values() if not isinstance(bundle, BundleError)]
    engines = [finding for bundle in whole for finding in engine_findings(bundle, here, hashes)]
    try:
        bundle = bundle_in_use(used, bundles, named=model is not None)
    except BundleError as error:
        reported = error.reason in {finding.value for finding in listed}
        if not reported:
            findings.append(problem("bundles", "in use", error))
        findings += [*listed, *engines, Finding(section="devices", name="auto", value="not tried without a bundle")]
        return error
    findings += [Finding(section="bundles", name="in use", value=str(bundle.folder)), *listed, *engines]
    devices, failure = device_findings(bundle, here, findings, hashes)
    findings += devices
    return failure
