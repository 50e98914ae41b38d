"""`fsae-export upgrade`: rewrite bundles of an older schema in the newest one, in place.

Older bundles work as they are, because every fsae reads all earlier schemas (schema.py); an upgrade is for hosts that
read manifest.json themselves and know only the newest schema. Only that file changes: graphs, tables and compiled
engines, whose index refers to graphs by their hash, keep their bytes. Needs neither torch nor onnx.
"""

import logging
import os
import shutil

import click

from fsae.runtime.atomic import write_aside
from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.devices import NOT_ON_CPUS
from fsae.runtime.bundle.exported import remember, remembered
from fsae.runtime.bundle.files import MANIFEST, Bundle, fingerprint, hash_file, open_bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.runtime.checks.verify import check_files, check_graphs
from fsae.runtime.errors import BundleError, FsaeError, OutputError, ToleranceError

EXAMPLES = """\b
Examples:
  fsae-export upgrade engines/mine            the bundle in that folder
  fsae-export upgrade default ratio-64        bundles by name: in ./engines, else the shipped ones
  fsae-export upgrade engines/*/              every bundle in ./engines; those in the newest schema stay as they are
"""

log = logging.getLogger("fsae.export.bundle")


def upgrade_bundle(folder: str | os.PathLike[str]) -> Manifest:
    """Upgrade a bundle (path or name) to the newest schema; return its manifest.

    The old manifest is replaced only after all hashes match and every graph reproduces its golden vectors on the CPU;
    otherwise raises BundleError or ToleranceError. Raises OutputError if the folder cannot be written. At any time the
    bundle is either unchanged or complete. A bundle in the newest schema is neither changed nor checked.
    """
    bundle = open_bundle(folder)
    if bundle.written_schema == SCHEMA_VERSION:
        log.info("%s has schema %d, the newest: nothing to do", bundle.folder, SCHEMA_VERSION)
        return bundle.manifest
    log.info("%s: %d files are intact", bundle.folder, check_files(bundle))
    _check_golden(bundle)
    exported_here = fingerprint(bundle.folder) in remembered()
    _replace_manifest(bundle)
    if exported_here:
        remember(fingerprint(bundle.folder))
    return bundle.manifest


def _check_golden(bundle: Bundle) -> None:
    """Raise ToleranceError unless every graph reproduces its golden vectors on the CPU."""
    missed = []
    for precision in bundle.manifest.precisions:
        if precision == NOT_ON_CPUS:
            log.info("%s graphs do not run on CPUs: check them with fsae-run verify on a GPU", precision)
            continue
        for check in check_graphs(bundle, open_graphs(bundle, "cpu", precision=precision)):
            log.info("%s", check)
            if not check.good:
                missed.append(f"the {check.graph} in {check.precision} by {check.worst}")
    if missed:
        raise ToleranceError(
            f"bundle {bundle.folder} stays as it was: on the CPU it misses the golden vectors of the trained model, "
            f"{'; '.join(missed)}",
            advice="update onnxruntime, or export it again",
        )


def _replace_manifest(bundle: Bundle) -> None:
    """Write the manifest aside and rename it; it keeps its time, by which the newest bundle is chosen."""
    path = bundle.folder / MANIFEST
    try:
        with write_aside(path) as aside:
            aside.write_bytes(bundle.manifest.to_json().encode())
            shutil.copystat(path, aside)
            if hash_file(path).sha256 != bundle.manifest_sha256:
                raise BundleError(f"{path} was replaced while it was checked: upgrade it again")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; the bundle stays as it was: is it yours, and is there space?"
        ) from None


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
def upgrade(bundles: tuple[str, ...]) -> None:
    """Rewrite bundles of an older schema in the newest one, in place.

    BUNDLE is the folder or name of a bundle. All hashes, and the golden vectors of every graph on the CPU, are checked
    first. Only manifest.json changes, so compiled engines stay valid; a bundle that fails stays as it was.
    """
    failed: list[tuple[str, FsaeError]] = []
    for name in bundles:
        try:
            click.echo(_upgrade_one(name))
        except FsaeError as error:
            if len(bundles) == 1:
                raise
            log.info("%s: %s", name, error)
            failed.append((name, error))
    if failed:
        names = ", ".join(name for name, _ in failed)
        raise type(failed[0][1])(f"{len(failed)} of {len(bundles)} bundles could not be upgraded: {names}")


def _upgrade_one(name: str) -> str:
    """Upgrade one bundle; return its summary line."""
    bundle = open_bundle(name)
    before = bundle.written_schema
    upgrade_bundle(bundle.folder)
    if before == SCHEMA_VERSION:
        return f"{bundle.folder}: schema {before}, nothing to do"
    return f"{bundle.folder}: schema {before} is now {SCHEMA_VERSION}, only {MANIFEST} has changed"
