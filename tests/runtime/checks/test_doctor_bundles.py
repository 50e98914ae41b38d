"""`fsae-run doctor` on bundles: damaged, in several places, or none."""

import shutil
from pathlib import Path

import pytest
from damage import damage, flip_last_bit
from doctored import Doctor
from msgspec.structs import replace
from tiny_bundle import make_tiny_bundle, tiny_manifest

from fsae.runtime.bundle import files as bundle_module
from fsae.runtime.bundle.files import write_manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.runtime.cli.main import main

GOLDEN = Path(__file__).parents[2] / "golden"


DAMAGE = {
    "newer schema": (f"has schema version {SCHEMA_VERSION + 1}", "update with `pip install --upgrade fsae`"),
    "truncated manifest": ("not JSON", "get the bundle again"),
    "truncated graph": ("decoder.fp32.onnx is truncated or altered: found ", "get the bundle again"),
    "missing graph": ("cannot read engines/tiny/decoder.fp32.onnx: No such file", "get the bundle again"),
    "altered graph": ("decoder.fp32.onnx is altered: its SHA-256 differs", "get the bundle again"),
    "no graph at all": ("cannot load decoder.fp32.onnx", "update onnxruntime"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_bundle(examined: Doctor, here: Path, what: str) -> None:  # oracle: `verify` refuses it too
    damage(here / "engines" / "tiny", what)
    code, _, problems, err = examined()
    words, todo = DAMAGE[what]
    (problem,) = problems
    assert words in problem
    assert f"; do: {todo}" in problem
    (error,) = err.splitlines()
    assert words in error
    assert code == main(["verify"]) == 4


def test_hashes_are_compared_when_asked(examined: Doctor, here: Path) -> None:  # oracle: a file of the right size
    denoiser = here / "engines" / "tiny" / "denoiser.fp32.onnx"  # which nothing else here reads
    flip_last_bit(denoiser)
    assert examined()[0] == 0
    code, _, problems, _ = examined("--hashes")
    assert code == 4
    assert "denoiser.fp32.onnx is altered: its SHA-256 differs" in problems[0]


def test_a_damaged_bundle_that_is_not_in_use(examined: Doctor, here: Path) -> None:
    damage(make_tiny_bundle(here / "shipped" / "default"), "truncated graph")
    code, found, problems, _ = examined()
    assert (code, len(problems)) == (0, 1)
    assert found["bundles"]["in use"] == "engines/tiny"
    assert examined("--model", "default")[0] == 4


def test_a_bundle_with_two_names_is_there_once(
    examined: Doctor, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: a checkout, where the shipped bundles are those in ./engines
    make_tiny_bundle(here / "engines" / "default")
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: here / "engines")
    found = examined()[1]["bundles"]
    assert {Path(name).name for name in found} == {"in use", "tiny", "default"}
    assert len(found) == 3


def test_no_bundle_at_all(examined: Doctor, here: Path) -> None:
    shutil.rmtree(here / "engines")
    code, _, problems, _ = examined()
    assert code == 4
    assert problems == [
        "problem: bundles: in use: found no bundle in ./engines and none is shipped with this installation; "
        "do: give --model PATH"
    ]
    code, _, problems, _ = examined("--model", "nowhere")
    assert code == 4
    assert problems[0].startswith("problem: bundles: in use: found no bundle 'nowhere'; known names: none; do: ")


def test_a_bundle_that_only_compresses(examined: Doctor, here: Path) -> None:
    folder = here / "engines" / "tiny"
    (folder / "denoiser.fp32.onnx").unlink()
    manifest = tiny_manifest()
    parity = {"fp32": {graph: manifest.parity["fp32"][graph] for graph in ("encoder", "decoder")}}
    files = {name: entry for name, entry in manifest.files.items() if "denoiser" not in name}
    write_manifest(folder, replace(manifest, denoiser=None, sampler=None, parity=parity, files=files))
    code, _, problems, _ = examined()
    assert code == 4
    assert "engines/tiny, has no diffusion model and cannot generate; do: give --model with one that can" in problems[0]
    code, found, problems, _ = examined("--model", "tiny")  # who names it wants what it has
    assert (code, problems) == (0, [])
    assert found["bundles"]["engines/tiny"].endswith("does not generate")


def test_the_schema_is_that_of_the_file(examined: Doctor) -> None:  # oracle: the golden bundles' names
    folder = GOLDEN / "bundle-schema-1"
    code, found, problems, _ = examined("--model", str(folder), "--hashes")
    assert (code, problems) == (0, [])
    assert ", schema 1, fp32, " in found["bundles"][str(folder)]
