"""`fsae-export upgrade`: bundles of an older schema, rewritten in the newest one where they lie.

An older bundle works as it is, because every fsae reads all schemas before its own (schema.py); an upgrade is for hosts
that read manifest.json themselves and know the newest schema alone. Only that file is replaced: graphs, tables and
compiled engines, whose index names graphs by their hash, are the same bytes as before. Needs neither torch nor onnx.
"""

import os
import shutil
from collections.abc import Callable

import click

from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.devices import NOT_ON_CPUS
from fsae.runtime.bundle.files import MANIFEST, Bundle, hash_file, open_bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION, read_json, schema_of
from fsae.runtime.checks.verify import check_files, check_graphs
from fsae.runtime.errors import BundleError, FsaeError, OutputError, ToleranceError

EXAMPLES = """\b
Examples:
  fsae-export upgrade engines/mine            the bundle in that folder
  fsae-export upgrade default ratio-64        bundles by name: in ./engines, else the shipped ones
  fsae-export upgrade engines/*/              every bundle in ./engines; those of the newest schema stay as they are
"""

Say = Callable[[str], None]


def upgrade_bundle(folder: str | os.PathLike[str], *, say: Say = lambda message: None) -> Manifest:
    """The manifest of a bundle (path or name) that now is of the newest schema; `say` is told what is checked.

    The old one is replaced only after every hash was right and every graph has given its golden vectors on the CPU;
    else BundleError or ToleranceError. OutputError where the folder cannot be written. Whenever it stops, the bundle is
    either as it was or done. A bundle of the newest schema is not touched, nor checked.
    """
    bundle = open_bundle(folder)
    if written_schema(bundle) == SCHEMA_VERSION:
        say(f"{bundle.folder} has schema {SCHEMA_VERSION}, the newest: nothing to do")
        return bundle.manifest
    say(f"{bundle.folder}: {check_files(bundle)} files are whole")
    _check_golden(bundle, say)
    _replace_manifest(bundle)
    return bundle.manifest


def written_schema(bundle: Bundle) -> int:
    """The schema that manifest.json has on disk; an opened manifest is always of the newest."""
    return schema_of(read_json((bundle.folder / MANIFEST).read_text(encoding="utf-8")))


def _check_golden(bundle: Bundle, say: Say) -> None:
    """Nothing, or ToleranceError where a graph misses its golden vectors on the CPU."""
    missed = []
    for precision in bundle.manifest.precisions:
        if precision == NOT_ON_CPUS:
            say(f"{precision} graphs run on no CPU: left to fsae-run verify on a GPU")
            continue
        for check in check_graphs(bundle, open_graphs(bundle, "cpu", precision=precision)):
            say(str(check))
            if not check.good:
                missed.append(f"the {check.graph} in {check.precision} by {check.worst}")
    if missed:
        raise ToleranceError(
            f"bundle {bundle.folder} stays as it was: on the CPU it misses the golden vectors of the trained model, "
            f"{'; '.join(missed)}; update onnxruntime, or export it again"
        )


def _replace_manifest(bundle: Bundle) -> None:
    """Nothing; writes the manifest aside and renames it. Its time stays: hosts take by it what is the newest bundle."""
    path = bundle.folder / MANIFEST
    aside = path.with_name(f"{MANIFEST}.partial-{os.getpid()}")
    try:
        try:
            aside.write_bytes(bundle.manifest.to_json().encode())
            shutil.copystat(path, aside)
            if hash_file(path).sha256 != bundle.manifest_sha256:
                raise BundleError(f"{path} was replaced while it was checked: upgrade it again")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; the bundle stays as it was: is it yours, and is there space?"
        ) from None


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
def upgrade(bundles: tuple[str, ...]) -> None:
    """Rewrite bundles of an older schema in the newest one, where they lie.

    BUNDLE is the folder or the name of a bundle. Every hash, and the golden vectors of every graph, are checked on the
    CPU first. Only manifest.json changes, so compiled engines stay valid; a bundle that fails stays as it was.
    """
    failed: list[tuple[str, FsaeError]] = []
    for name in bundles:
        try:
            click.echo(_upgrade_one(name))
        except FsaeError as error:
            if len(bundles) == 1:
                raise
            _say(f"{name}: {error}")
            failed.append((name, error))
    if failed:
        names = ", ".join(name for name, _ in failed)
        raise type(failed[0][1])(f"{len(failed)} of {len(bundles)} bundles could not be upgraded: {names}")


def _upgrade_one(name: str) -> str:
    """The summary line of one bundle, after its upgrade."""
    bundle = open_bundle(name)
    before = written_schema(bundle)
    upgrade_bundle(bundle.folder, say=_say)
    if before == SCHEMA_VERSION:
        return f"{bundle.folder}: schema {before}, nothing to do"
    return f"{bundle.folder}: schema {before} is now {SCHEMA_VERSION}, only {MANIFEST} has changed"


def _say(message: str) -> None:
    """Nothing; a line on stderr."""
    click.echo(message, err=True)
