"""The commands info and verify: what they report, precisions, and golden vectors that are missed."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from commands import Run, one_sentence
from tiny_bundle import (
    SCALE,
    make_tiny_bundle,
    tiny_manifest,
)

import fsae.runtime
import fsae.runtime.backends.tensorrt
from fsae.runtime.bundle.files import VERIFIED, Bundle, hash_files, open_bundle, write_manifest
from fsae.runtime.bundle.manifest import NOT_RUN
from fsae.runtime.checks.verify import read_records


def test_info_and_verify_report(run: Run, tiny_bundle: Bundle) -> None:
    code, out, _ = run("info")
    assert code == 0
    facts = ("tas [K]", "uas [m s-1]", "zooms 0, 1, 2", "4x, latents at zoom 1", "1948-01-01 to 2004-12-31")
    facts += (
        "cpu     onnxruntime",
        "decoder fp32: 0.0001 K in tas at zoom 2, allowed 0.001",
        "1 month, calendar standard",
    )
    facts += ("denoiser fp32: 1e-05 in tas at zoom 1, allowed 0.0001", "precision     fp32\n")
    for fact in facts:
        assert fact in out
    assert f"{tiny_bundle.size / 1e3:.1f} kB in 6 files" in out
    code, out, err = run("verify")
    assert code == 0
    assert (
        out
        == f"verified tiny: 6 files, 3 fp32 graphs within tolerance on cpu (onnxruntime {onnxruntime.__version__})\n"
    )
    lines = [line for line in err.splitlines() if "pass" in line]
    assert [line.split(",")[0] for line in lines] == [
        f"fsae-run: {graph} fp32: pass" for graph in ("encoder", "decoder", "denoiser")
    ]
    assert [line.split(", allowed ")[1] for line in lines] == ["0.0001", "0.001", "0.0001"]


def with_precisions(folder: Path, precisions: Sequence[str], device: str = "cpu") -> Path:
    """The tiny bundle with the same graphs under other precisions, their parity measured on `device`."""
    bundle, manifest = make_tiny_bundle(folder), tiny_manifest()
    for graph in manifest.graphs:
        data = (bundle / f"{graph}.fp32.onnx").read_bytes()
        (bundle / f"{graph}.fp32.onnx").unlink()
        for precision in precisions:
            (bundle / f"{graph}.{precision}.onnx").write_bytes(data)
    parity = {
        graph: msgspec.structs.replace(entry, device=device) for graph, entry in dict(manifest.parity["fp32"]).items()
    }
    files = hash_files(bundle)
    write_manifest(bundle, msgspec.structs.replace(manifest, files=files, parity=dict.fromkeys(precisions, parity)))
    return bundle


def test_the_precision_is_the_one_asked_for_else_fp32_else_the_first(run: Run, tmp_path: Path) -> None:
    # oracle: the golden fields of one precision's own graphs, which lie under its name
    both = with_precisions(tmp_path / "both", ("fp16", "fp32", "int8"))
    other = with_precisions(tmp_path / "other", ("int8", "fp16"))
    for bundle, words, expected in ((both, [], "fp32"), (both, ["--precision", "int8"], "int8"), (other, [], "fp16")):
        code, out, err = run("verify", *words, model=bundle)
        assert code == 0
        assert out.startswith("verified tiny: ")
        assert err.count(f" {expected}: pass") == 3
    assert fsae.runtime.load(both, "cpu", precision="fp16").graphs.precision == "fp16"
    code, _, err = run("verify", "--precision", "fp32", model=other)
    assert code == 4
    assert "bundle tiny has no precision fp32, it has fp16, int8" in one_sentence(err)
    assert run("verify", "--precision", "fp8", model=other, common=())[0] == 2


def test_only_the_graphs_of_the_precision_are_run(run: Run, tmp_path: Path) -> None:
    # oracle: a file that is no graph fails where it is opened, and nowhere else
    bundle = with_precisions(tmp_path / "bundle", ("fp16", "fp32"))
    (bundle / "decoder.fp16.onnx").write_bytes(b"not a graph")
    write_manifest(bundle, open_bundle(bundle).manifest)
    assert run("--precision", "fp32", "verify", model=bundle)[0] == 0
    code, _, err = run("--precision", "fp16", "verify", model=bundle)
    assert code == 4
    assert "decoder.fp16.onnx" in err.splitlines()[-1]


def test_bf16_is_not_run_on_a_cpu(run: Run, tmp_path: Path) -> None:
    bundle = with_precisions(tmp_path / "bundle", ("bf16", "fp32"))
    for words in (["verify"], ["generate", "--out", tmp_path / "out.zarr"]):
        code, _, err = run("--precision", "bf16", *words, model=bundle)
        assert code == 3
        assert "device cpu cannot run bf16: ONNX Runtime has no kernels for it there" in one_sentence(err)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("which", ["file", "link"])
def test_verify_leaves_a_record_of_somebody_else(run: Run, tmp_path: Path, which: str) -> None:
    # oracle: the bytes of before
    bundle, mine = with_precisions(tmp_path / "bundle", ("fp16",), device=NOT_RUN), tmp_path / "mine.json"
    mine.write_text('{"years": "of work"}')
    found = bundle / VERIFIED
    found.symlink_to(mine) if which == "link" else found.write_bytes(mine.read_bytes())
    code, _, err = run("verify", model=bundle)
    assert code == 0
    assert "recorded in" not in err
    assert found.is_symlink() == (which == "link")
    assert found.read_text() == '{"years": "of work"}'


def test_verify_completes_what_the_exporter_could_not_run(run: Run, tmp_path: Path) -> None:
    bundle = with_precisions(tmp_path / "bundle", ("fp16",), device=NOT_RUN)
    differences = "decoder fp16: 0.0001 K in tas at zoom 2, allowed 0.001 (not run on a device)"
    assert differences in run("info", model=bundle)[1]
    code, _, err = run("verify", model=bundle)
    assert code == 0
    assert err.count(", which the exporter could not run on a device\n") == 3
    assert f"recorded in {bundle / VERIFIED}" in err
    raw = json.loads((bundle / VERIFIED).read_text())
    assert [(r["precision"], r["device"], sorted(r["worst"])) for r in raw["records"]] == [
        ("fp16", "cpu", ["decoder", "denoiser", "encoder"])
    ]
    assert run("verify", model=bundle)[0] == 0  # replaces its own record
    assert len(json.loads((bundle / VERIFIED).read_text())["records"]) == 1
    assert f"fp16 verified on {raw['records'][0]['date']} on cpu (onnxruntime " in run("info", model=bundle)[1]
    assert [record.precision for record in read_records(open_bundle(bundle))] == ["fp16"]
    graph = bundle / "decoder.fp16.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")  # what was found of another graph says nothing
    write_manifest(bundle, open_bundle(bundle).manifest)
    code, out, _ = run("info", model=bundle)
    assert code == 0
    assert "verified on" not in out


def shifted_golden(bundle: Path, **shifts: tuple[int, float]) -> None:
    """Move golden values of a variable in a bundle, as if the device computed otherwise."""
    golden = dict(np.load(bundle / "golden.npz"))
    for name, (variable, shift) in shifts.items():
        golden[name.replace("_", ".")][0, ..., variable, 5] += shift
    np.savez(bundle / "golden.npz", **golden)
    write_manifest(bundle, open_bundle(bundle).manifest)


def verified_wrong(run: Run, bundle: Path) -> str:
    """The errors of `verify` on a bundle whose golden vectors the device misses."""
    code, out, err = run("verify", model=bundle)
    assert (code, out) == (6, "")
    return err


def test_a_device_that_computes_otherwise_is_exit_code_6(run: Run, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    shifted_golden(bundle, decoder_field=(1, 0.1))
    lines = verified_wrong(run, bundle).splitlines()
    sentence = "device cpu misses the golden vectors of the trained model: the decoder by 0.1 m s-1 in uas at zoom 2,"
    assert f"{sentence} allowed 0.001: take another" in lines[-1]
    verdicts = [line.split(",")[0] for line in lines if " fp32: " in line]  # all of them, and then the error
    assert verdicts == [
        "fsae-run: encoder fp32: pass",
        "fsae-run: decoder fp32: FAIL",
        "fsae-run: denoiser fp32: pass",
    ]


def test_what_is_not_a_number_is_a_failure(run: Run, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    shifted_golden(bundle, decoder_field=(0, np.nan))
    assert "fsae-run: decoder fp32: FAIL, nan K in tas at zoom 2, allowed 0.001\n" in verified_wrong(run, bundle)


@pytest.mark.parametrize(("name", "variable", "units"), [("tas", 0, "K"), ("uas", 1, "m s-1")])
def test_latents_are_compared_in_physical_units(run: Run, tmp_path: Path, name: str, variable: int, units: str) -> None:
    # oracle: the tiny scale of each variable, 2 K and 0.5 m s-1
    bundle = make_tiny_bundle(tmp_path / "bundle")
    shifted_golden(bundle, encoder_latent=(variable, 1.0), denoiser_denoised=(variable, 1.0))
    sentence = verified_wrong(run, bundle).splitlines()[-1]
    assert f"the encoder by {float(SCALE[variable]):.2g} {units} in {name} at zoom 1, allowed 0.0001" in sentence
    assert f"the denoiser by 1 in {name} at zoom 1, allowed 0.0001" in sentence


def test_the_variable_nearest_to_its_own_tolerance_is_named(run: Run, tmp_path: Path) -> None:
    # oracle: 0.5 K of 1 K is good and 0.1 m s-1 of 0.001 m s-1 is not, though it is less
    bundle = make_tiny_bundle(tmp_path / "bundle")
    shifted_golden(bundle, decoder_field=(0, 0.5))
    shifted_golden(bundle, decoder_field=(1, 0.1))
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["parity"]["fp32"]["decoder"]["differences"][0]["tolerance"] = 1.0
    (bundle / "manifest.json").write_text(json.dumps(raw))
    sentence = verified_wrong(run, bundle).splitlines()[-1]
    assert "the decoder by 0.1 m s-1 in uas at zoom 2, allowed 0.001" in sentence


def test_means_over_coarse_cells_are_verified_too(run: Run, tmp_path: Path) -> None:
    # oracle: a bias that every pixel may have and a mean may not
    bundle = make_tiny_bundle(tmp_path / "bundle")
    golden = dict(np.load(bundle / "golden.npz"))
    golden["decoder.field"][:, 0] += 0.5
    np.savez(bundle / "golden.npz", **golden)
    manifest = open_bundle(bundle).manifest
    decoder = manifest.parity["fp32"]["decoder"]
    fine = [msgspec.structs.replace(each, tolerance=1.0) for each in decoder.differences]
    base = msgspec.structs.replace(fine[0], variable="tas", zoom=0, tolerance=1e-3)
    changed = msgspec.structs.replace(decoder, differences=(base, *fine))
    parity = {"fp32": {**manifest.parity["fp32"], "decoder": changed}}
    write_manifest(bundle, msgspec.structs.replace(manifest, parity=parity))
    sentence = verified_wrong(run, bundle).splitlines()[-1]
    assert "the decoder by 0.5 K in tas at zoom 0, allowed 0.001" in sentence


def test_json_for_programs(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    # oracle: the manifest itself, and the exit codes of the command without --json
    code, out, _ = run("info", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["manifest"] == json.loads((tiny_bundle.folder / "manifest.json").read_text())
    assert (found["manifest_sha256"], found["size_bytes"]) == (tiny_bundle.manifest_sha256, tiny_bundle.size)
    assert found["devices"]["cpu"] == f"onnxruntime {onnxruntime.__version__}"
    code, out, _ = run("verify", "--json")
    found = json.loads(out)
    assert (code, found["exit_code"], found["failure"], found["files"]) == (0, 0, None, 6)
    assert [(graph["graph"], graph["good"]) for graph in found["graphs"]] == [
        ("encoder", True), ("decoder", True), ("denoiser", True)
    ]  # fmt: skip
    bundle = make_tiny_bundle(tmp_path / "missed")
    golden = dict(np.load(bundle / "golden.npz"))
    np.savez(bundle / "golden.npz", **golden | {"decoder.field": golden["decoder.field"] + 1})
    write_manifest(bundle, tiny_manifest())
    code, out, err = run("verify", "--json", model=bundle)
    found = json.loads(out)
    assert code == found["exit_code"] == 6
    assert [graph["good"] for graph in found["graphs"]] == [True, False, True]
    assert err.splitlines()[-1].endswith(found["failure"])
