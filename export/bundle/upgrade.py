"""`fsae-export upgrade`: rewrite bundles of an older schema in the newest one, in place.

Older bundles work as they are, because every fsae reads all earlier schemas (schema.py); an upgrade is for hosts that
read manifest.json themselves and know only the newest schema. Only that file changes: graphs, tables and compiled
engines, whose index refers to graphs by their hash, keep their bytes. Needs neither torch nor onnx.

With the training data at hand, an upgrade also adds what an older export has not recorded: how far the training fields
are from the climatology, how they come back from encoder and decoder, and the digest of the tables.
"""

import logging
import os
import shutil
from pathlib import Path

import click
from msgspec.structs import replace

from fsae.runtime.atomic import write_aside
from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.devices import NOT_ON_CPUS
from fsae.runtime.bundle.exported import remember, remembered
from fsae.runtime.bundle.files import MANIFEST, Bundle, fingerprint, hash_file, open_bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.runtime.checks.verify import check_files, check_graphs
from fsae.runtime.codec.latents import latent_key
from fsae.runtime.errors import BundleError, DataError, DeviceError, FsaeError, OutputError, ToleranceError

EXAMPLES = """\b
Examples:
  fsae-export upgrade engines/mine            the bundle in that folder
  fsae-export upgrade default ratio-64        bundles by name: in ./engines, else shipped or fetched ones
  fsae-export upgrade engines/*/              every bundle in ./engines; those in the newest schema stay as they are
  fsae-export upgrade engines/mine --data training/configs/mine.toml
                                              also add what only the data it was trained on tells
"""

log = logging.getLogger("fsae.export.bundle")


def upgrade_bundle(folder: str | os.PathLike[str], data: Path | None = None) -> Manifest:
    """Upgrade a bundle (path or name) to the newest schema; return its manifest.

    With `data`, the configuration it was trained with, the distances of its training fields and the digest of its
    tables are added; DataError if that has other inputs or years.

    The old manifest is replaced only after all hashes match and every graph reproduces its golden vectors on the CPU;
    otherwise raises BundleError or ToleranceError. Raises OutputError if the folder cannot be written. At any time the
    bundle is either unchanged or complete. A bundle in the newest schema is neither changed nor checked without `data`.
    """
    bundle = open_bundle(folder)
    if bundle.written_schema == SCHEMA_VERSION and data is None:
        log.info("%s has schema %d, the newest: nothing to do", bundle.folder, SCHEMA_VERSION)
        return bundle.manifest
    log.info("%s: %d files are intact", bundle.folder, check_files(bundle))
    _check_golden(bundle)
    manifest = bundle.manifest if data is None else _with_facts(bundle, data)
    exported_here = fingerprint(bundle.folder) in remembered()
    _replace_manifest(bundle, manifest)
    if exported_here:
        remember(fingerprint(bundle.folder))
    return manifest


def _with_facts(bundle: Bundle, data: Path) -> Manifest:
    """The manifest with what the training data tells."""
    try:
        from fsae.export.certificate.originals import original_bundle
        from fsae.export.certificate.plausibility import learn_distances

        from .contents import with_distances, with_tables
    except ImportError as error:
        found = f"reading training data needs {error.name or 'torch'}, which cannot be imported"
        raise DeviceError(found, advice='pip install "fsae[export]"') from None
    trained = bundle.manifest.provenance
    with original_bundle(bundle, data) as original:
        given = original.data.training_years
        years = tuple(d if isinstance(g, str) else int(d[:4]) for g, d in zip(given, trained.period, strict=True))
        if {one.sha256 for one in original.sources} != {one.sha256 for one in trained.data}:
            names = ", ".join(one.name for one in trained.data)
            raise DataError(
                f"the inputs of {data} are not the files {names} that the bundle was trained on",
                advice="give the configuration and data of the bundle's own training",
            )
        if given != years:
            raise DataError(
                f"{data} has the training years {list(given)}",
                f"{list(years)}",
                "give the configuration that the bundle was trained with",
            )
        manifest = with_distances(bundle.manifest, learn_distances(original))
    manifest = replace(manifest, latent=replace(manifest.latent, key=latent_key(bundle)))
    return with_tables(manifest, bundle.arrays("tables.npz"))


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


def _replace_manifest(bundle: Bundle, manifest: Manifest) -> None:
    """Write the manifest aside and rename it; it keeps its time, by which the newest bundle is chosen."""
    path = bundle.folder / MANIFEST
    try:
        with write_aside(path) as aside:
            aside.write_bytes(manifest.to_json().encode())
            shutil.copystat(path, aside)
            if hash_file(path).sha256 != bundle.manifest_sha256:
                raise BundleError(f"{path} was replaced while it was checked", advice="upgrade it again")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; the bundle stays as it was",
            advice="check that it is yours and has space",
        ) from None


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CONFIG",
    help="Configuration of the training, with the inputs it names: adds how far training fields are from the "
    "climatology and how they come back from the model, which input is then held against, and a digest of the tables.",
)
def upgrade(bundles: tuple[str, ...], data: Path | None) -> None:
    """Rewrite bundles of an older schema in the newest one, in place.

    BUNDLE is the folder or name of a bundle. All hashes, and the golden vectors of every graph on the CPU, are checked
    first. Only manifest.json changes, so compiled engines stay valid; a bundle that fails stays as it was.
    """
    failed: list[tuple[str, FsaeError]] = []
    for name in bundles:
        try:
            click.echo(_upgrade_one(name, data))
        except FsaeError as error:
            if len(bundles) == 1:
                raise
            log.info("%s: %s", name, error)
            failed.append((name, error))
    if failed:
        names = ", ".join(name for name, _ in failed)
        found = f"{len(failed)} of {len(bundles)} bundles could not be upgraded: {names}"
        raise type(failed[0][1])(found, advice="the lines above say what to do for each")


def _upgrade_one(name: str, data: Path | None) -> str:
    """Upgrade one bundle; return its summary line."""
    bundle = open_bundle(name)
    before = bundle.written_schema
    upgrade_bundle(bundle.folder, data)
    if before == SCHEMA_VERSION and data is not None:
        return f"{bundle.folder}: distances of training fields and the digest of the tables are in {MANIFEST}"
    if before == SCHEMA_VERSION:
        return f"{bundle.folder}: schema {before}, nothing to do"
    return f"{bundle.folder}: schema {before} is now {SCHEMA_VERSION}, only {MANIFEST} has changed"
