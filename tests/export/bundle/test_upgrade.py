"""`fsae-export upgrade`: an older bundle is in the newest schema afterwards, or exactly as it was."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from processes import TRAINING, run_blocked
from trees import tree

import fsae.runtime
from fsae.export.bundle import upgrade as module
from fsae.export.bundle.upgrade import upgrade_bundle
from fsae.export.cli.main import main
from fsae.runtime.backends.engine_index import Engine, Target, find_engine, graph_hash, index_text
from fsae.runtime.bundle.exported import remember
from fsae.runtime.bundle.files import file_entry, find_bundle, fingerprint, open_bundle
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.runtime.errors import BundleError, OutputError, ToleranceError

GOLDEN = Path(__file__).parents[2] / "golden"
OLDER = [f"bundle-schema-{version}" for version in range(1, SCHEMA_VERSION)]
NEWEST = f"bundle-schema-{SCHEMA_VERSION}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the golden bundles in ./engines, all a day old."""
    for name in (*OLDER, NEWEST):
        shutil.copytree(GOLDEN / name, tmp_path / "engines" / name)
        path = tmp_path / "engines" / name / "manifest.json"
        os.utime(path, (path.stat().st_mtime - 86400, path.stat().st_mtime - 86400))
        remember(fingerprint(path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def old(here: Path) -> Path:
    """A bundle of schema 1 in that folder."""
    return Path("engines/bundle-schema-1")


def change_golden(folder: Path, name: str, by: float) -> None:
    """Shift a golden array of the bundle and write its new hash into the manifest, whose schema stays."""
    with np.load(folder / "golden.npz") as found:
        arrays = {key: found[key] + (by if key == name else 0) for key in found.files}
    np.savez_compressed(folder / "golden.npz", **arrays)
    entry = file_entry((folder / "golden.npz").read_bytes())
    change_manifest(folder, lambda raw: raw["files"].update({"golden.npz": msgspec.structs.asdict(entry)}))


def change_manifest(folder: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    raw = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(raw)
    (folder / "manifest.json").write_text(json.dumps(raw), encoding="utf-8")


@pytest.mark.parametrize("name", OLDER)
def test_only_the_manifest_changes(here: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    # oracle: bytes, and what the old one was read as
    folder = Path("engines") / name
    before, read, time = tree(folder), open_bundle(folder).manifest, (folder / "manifest.json").stat().st_mtime_ns
    assert upgrade_bundle(folder) == read
    after = tree(folder)
    assert {path for path in after if after[path] != before.get(path)} == {"manifest.json"}
    assert set(after) == set(before)
    assert after["manifest.json"] == read.to_json().encode()
    assert json.loads(after["manifest.json"])["schema_version"] == SCHEMA_VERSION
    assert (folder / "manifest.json").stat().st_mtime_ns == time
    assert caplog.messages[0] == f"{folder}: 6 files are intact"
    assert [line.split(",")[0] for line in caplog.messages[1:]] == [
        "encoder fp32: pass",
        "decoder fp32: pass",
        "denoiser fp32: pass",
    ]
    assert len(fsae.runtime.load(folder, device="cpu").verify()) == 3


def test_the_newest_schema_is_left_alone(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path("engines") / NEWEST
    (folder / "golden.npz").unlink()  # not looked at
    before = tree(folder)
    assert upgrade_bundle(NEWEST) == open_bundle(folder).manifest
    assert tree(folder) == before
    assert caplog.messages == [f"{folder} has schema {SCHEMA_VERSION}, the newest: nothing to do"]


def test_compiled_engines_stay_valid(old: Path) -> None:  # oracle: the index, asked before and after
    target = Target(flavour="trt", version="10.0", compute_capability="8.9", platform="linux-x86_64")
    sha256 = graph_hash(open_bundle(old).manifest, "decoder", "fp32") or ""
    facts = {"graph": "decoder", "precision": "fp32", "graph_sha256": sha256, "profile": (1, 8, 32)}
    entry = file_entry(b"compiled")
    engine = Engine(**facts, target=target, file="decoder.engine", sha256=entry.sha256, size=entry.size)
    (old / "trt").mkdir()
    (old / "trt" / "decoder.engine").write_bytes(b"compiled")
    (old / "trt" / "index.json").write_text(index_text([engine]), encoding="utf-8")
    assert find_engine(open_bundle(old), "decoder", "fp32", target) == engine
    before = tree(old)
    upgrade_bundle(old)
    assert find_engine(open_bundle(old), "decoder", "fp32", target) == engine
    assert tree(old) | {"manifest.json": b""} == before | {"manifest.json": b""}


def test_a_miss_leaves_the_bundle_as_it_was(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_golden(old, "decoder.field", 0.1)
    before = tree(old)
    with pytest.raises(ToleranceError, match=r"stays as it was: on the CPU it misses .* the decoder in fp32 by 0\.1 "):
        upgrade_bundle(old)
    assert main(["upgrade", str(old)]) == 6
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(",")[0] for line in printed.err.splitlines()[1:-1]] == [
        "encoder fp32: pass",
        "decoder fp32: FAIL",
        "denoiser fp32: pass",
    ]
    assert tree(old) == before


@pytest.mark.parametrize("name", ["denoiser.fp32.onnx", "MODEL_CARD.md"])  # the second is used by nothing
def test_a_damaged_bundle_stays_as_it_was(old: Path, name: str) -> None:
    (old / name).write_bytes((old / name).read_bytes()[:-1])
    before = tree(old)
    with pytest.raises(BundleError, match=rf"{name} is truncated or altered"):
        upgrade_bundle(old)
    assert tree(old) == before


def test_every_precision_that_runs_on_cpus_is_checked(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    # oracle: fp32 graphs under three names pass in each, and miss in each where the golden field is another
    for precision in ("fp16", "bf16", "int8"):
        for graph in ("encoder", "decoder", "denoiser"):
            shutil.copy(old / f"{graph}.fp32.onnx", old / f"{graph}.{precision}.onnx")

    def list_them(raw: dict[str, dict[str, object]]) -> None:
        for path in old.glob("*.onnx"):
            raw["files"][path.name] = msgspec.structs.asdict(file_entry(path.read_bytes()))
        raw["parity"] |= dict.fromkeys(("fp16", "bf16", "int8"), raw["parity"]["fp32"])

    change_manifest(old, list_them)
    change_golden(old, "encoder.latent", 0.1)
    with pytest.raises(ToleranceError) as caught:
        upgrade_bundle(old)
    assert [p in str(caught.value) for p in ("in fp32", "in fp16", "in bf16", "in int8")] == [True, True, False, True]
    assert "bf16 graphs do not run on CPUs: check them with fsae-run verify on a GPU" in caplog.messages
    change_golden(old, "encoder.latent", -0.1)
    assert upgrade_bundle(old).precisions == ("fp32", "bf16", "fp16", "int8")


def test_a_folder_that_cannot_be_written(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: a place that refuses to be written, one way or the other; a folder's mode means nothing to root
    before = tree(old)
    for name in ("write_bytes", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, _refuse)
            with pytest.raises(
                OutputError, match=r"^cannot write .*/manifest\.json: Read-only .*; the bundle stays as"
            ):
                upgrade_bundle(old)
        assert tree(old) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", _refuse)
        patch.setattr(Path, "unlink", _refuse)  # as on a file system that is mounted read-only
        assert main(["upgrade", str(old)]) == OutputError.exit_code == 7


def _refuse(*arguments: object, **options: object) -> None:
    raise OSError(30, "Read-only file system")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(old: Path) -> None:
    before = tree(old)
    old.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied; the bundle stays as it was"):
            upgrade_bundle(old)
    finally:
        old.chmod(0o700)
    assert tree(old) == before


def test_an_interrupt_leaves_nothing_half_written(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(old)

    def interrupt(path: Path, target: Path) -> None:
        whole = tree(old)  # at the last moment before the rename the bundle is the old one, still whole
        assert whole | before == whole
        assert len(whole) == len(before) + 1
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    assert main(["upgrade", str(old)]) == 130
    assert tree(old) == before


def test_a_bundle_that_was_replaced_meanwhile_is_not_written_over(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = module.check_graphs, sorted(path.name for path in old.iterdir())

    def slow(*arguments: object) -> object:
        (old / "manifest.json").write_bytes((GOLDEN / NEWEST / "manifest.json").read_bytes())
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "check_graphs", slow)
    with pytest.raises(BundleError, match=r"manifest\.json was replaced while it was checked: upgrade it again"):
        upgrade_bundle(old)
    assert (old / "manifest.json").read_bytes() == (GOLDEN / NEWEST / "manifest.json").read_bytes()
    assert sorted(path.name for path in old.iterdir()) == before


# --- the command ---


def test_one_line_for_each_bundle(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = f"{old}: schema 1 is now {SCHEMA_VERSION}, only manifest.json has changed\n"
    nothing = f"{old}: schema {SCHEMA_VERSION}, nothing to do\n"
    assert main(["upgrade", "bundle-schema-1", f"{old}/manifest.json", str(old)]) == 0
    assert capsys.readouterr().out == done + nothing + nothing
    assert find_bundle("bundle-schema-1") == old  # it is still known as exported here


def test_a_failing_bundle_does_not_stop_the_others(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missed, whole = old.with_name("missed"), old.with_name("whole")
    shutil.copytree(old, missed)
    shutil.copytree(old, whole)
    change_golden(missed, "denoiser.denoised", 1.0)
    remember(fingerprint(missed))
    before = tree(missed)
    assert main(["upgrade", str(old), "missed", "nowhere", "whole"]) == ToleranceError.exit_code == 6
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [str(old), str(whole)]
    assert err.count(f"\nmissed: bundle {missed} stays as it was: on the CPU it misses the golden vectors") == 1
    assert err.count("\nnowhere: found no bundle 'nowhere'; known names: ") == 1
    sentence = (
        "fsae-export: 2 of 4 bundles could not be upgraded: missed, nowhere: the lines above say what to do for each"
    )
    assert err.splitlines()[-1] == sentence
    assert tree(missed) == before
    for folder in (old, whole):
        assert (folder / "manifest.json").read_bytes() == open_bundle(folder).manifest.to_json().encode()
    assert main(["upgrade", "nowhere", str(old)]) == BundleError.exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Missing argument 'BUNDLE...'"),
        (("--nonsense",), 2, "No such option"),
        (("nowhere",), 4, "fsae-export: found no bundle 'nowhere'; known names: "),
        (("engines",), 4, "fsae-export: engines is not a bundle (no manifest.json)"),
    ],
)
def test_mistakes_have_one_sentence_and_a_code(
    here: Path, arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upgrade", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err.splitlines()[-1]


def test_a_newer_bundle_is_refused_politely(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_manifest(old, lambda raw: raw.update({"schema_version": SCHEMA_VERSION + 1, "new": {}}))  # type: ignore[dict-item]
    before = tree(old)
    assert main(["upgrade", str(old)]) == 4
    assert capsys.readouterr().err == (
        f"fsae-export: the manifest has schema version {SCHEMA_VERSION + 1}, this fsae reads versions up to "
        f"{SCHEMA_VERSION}: update with `pip install --upgrade fsae`\n"
    )
    assert tree(old) == before


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert main(["upgrade", flag]) == 0
        text = capsys.readouterr().out
        assert text.startswith("Usage: fsae-export upgrade [OPTIONS] BUNDLE...")
        assert "  fsae-export upgrade engines/mine  " in text


def test_it_needs_neither_torch_nor_onnx(old: Path) -> None:  # oracle: an interpreter that cannot import them
    before = tree(old)
    done = run_blocked("upgrade", str(old), blocked=(*TRAINING, "onnxruntime"))
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "fsae-export: device cpu needs onnxruntime, which cannot be imported"
    )
    assert 'pip install "fsae[cpu]"' in done.stderr
    assert tree(old) == before
    done = run_blocked("upgrade", NEWEST, blocked=(*TRAINING, "onnxruntime"))
    assert done.returncode == 0  # there is nothing to compute
    done = run_blocked("upgrade", str(old))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{old}: schema 1 is now {SCHEMA_VERSION}, only manifest.json has changed\n"
