"""The manifest: an exact round trip, and every way of being wrong refused with one sentence."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_bundle import tiny_manifest

from fsae.runtime.bundle.manifest import Difference, Manifest, is_safe_path, worst_of
from fsae.runtime.errors import BundleError


def test_round_trip_is_identical() -> None:  # oracle: identity, both as records and as text
    manifest = tiny_manifest()
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert Manifest.from_json(text).to_json() == text


def test_numpy_numbers_and_whole_floats_are_written_as_json_reads_them() -> None:  # oracle: identity of the text
    manifest = tiny_manifest()
    variable = dataclasses.replace(manifest.variables[0], valid_range=(np.float32(150), 350))
    manifest = dataclasses.replace(manifest, variables=(variable, manifest.variables[1]))
    assert json.loads(manifest.to_json())["variables"][0]["valid_range"] == [150.0, 350.0]
    assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()


def test_certificates_survive_the_round_trip() -> None:  # oracle: the JSON that went in
    assert json.loads(Manifest.from_json(json.dumps(certified())).to_json()) == certified()
    raw = certified()
    raw["certificates"]["fp32"] |= {"members": 0, "ensemble_steps": 0, "ensembles": []}  # where none were drawn
    assert json.loads(Manifest.from_json(json.dumps(raw)).to_json()) == raw


def test_the_worst_difference_is_the_one_nearest_its_tolerance() -> None:  # oracle: ratios by hand
    near, far, broken = (
        Difference(variable="tas", zoom=1, max_abs_error=error, rmse=None, tolerance=tolerance, units="K")
        for error, tolerance in ((0.9, 1.0), (5.0, 10.0), (math.nan, 1.0))
    )
    assert worst_of([far, near]) is worst_of([near, far]) is near
    assert worst_of([far, broken, near]) is worst_of([broken, far]) is broken
    assert [near.good, broken.good, dataclasses.replace(near, max_abs_error=1.0).good] == [True, False, True]
    assert str(near) == "0.9 K in tas at zoom 1, allowed 1"
    assert str(dataclasses.replace(near, units="1")) == "0.9 in tas at zoom 1, allowed 1"


def test_a_bundle_without_a_denoiser_is_whole() -> None:
    manifest = dataclasses.replace(tiny_manifest(), denoiser=None, sampler=None)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.graphs == ("encoder", "decoder")


def _set(*path: str | int) -> Callable[[dict[str, Any], Any], None]:
    def change(raw: dict[str, Any], value: Any) -> None:
        for key in path[:-1]:
            raw = raw[key]  # type: ignore[index]
        raw[path[-1]] = value  # type: ignore[index]

    return change


def row(**changes: Any) -> dict[str, Any]:
    """A difference of an encoder, as JSON."""
    good = {"variable": "tas", "zoom": 1, "max_abs_error": 1.0, "rmse": 0.5, "tolerance": 2.0, "units": "K"}
    return good | changes


def ensemble(variable: str) -> dict[str, Any]:
    """What a certificate says of a variable's ensembles, as JSON."""
    spectra = {"spectrum": 1e-6, "spectrum_tolerance": 1e-3}
    return {"variable": variable, "rmse": 0.1, **spectra, "crps": 0.5, "crps_fp32": 0.5, "crps_tolerance": 0.01}


def certified() -> dict[str, Any]:
    """The tiny manifest with a certificate, as JSON."""
    raw: dict[str, Any] = json.loads(tiny_manifest().to_json())
    raw["certificates"]["fp32"] = {
        "date": "2026-11-23",
        "reference": "the trained model, torch 2.13.0",
        "data": [{"name": "tas.nc", "sha256": "ab" * 32}],
        "period": ["2005-01-01", "2014-12-31"],
        "steps": 120,
        "members": 4,
        "ensemble_steps": 12,
        "ensembles": [ensemble("tas"), ensemble("uas")],
        "versions": {"numpy": "2.3.5"},
    }
    return raw


ENTRY = {"sha256": "0" * 64, "size": 1}
PARITY = {"device": "cpu", "backend": "closed form", "nodes": 7, "differences": [row(), row(variable="uas")]}
WRONG = [
    (_set("extra"), 1, "manifest has unknown keys \\['extra'\\]"),
    (_set("grid", "extra"), 1, "manifest.grid has unknown keys"),
    (_set("variables", 0, "extra"), 1, r"manifest.variables\[0\] has unknown keys"),
    (_set("grid", "zoom"), "2", "manifest.grid.zoom is '2', expected a value of type int"),
    (_set("grid", "zoom"), True, "manifest.grid.zoom is True"),
    (_set("grid", "zoom"), 2.0, "manifest.grid.zoom is 2.0"),
    (_set("grid", "order"), "ring", "grid.order is 'ring'"),
    (_set("zooms"), [0, 2, 1], "expected rising ones"),
    (_set("zooms"), [0, 1], "is not grid.zoom"),
    (_set("latent", "ratio"), 16, "latent.ratio is 16"),
    (_set("latent", "shape"), [2, 47], "latent.shape is"),
    (_set("latent", "dtype"), "float16", "latent.dtype"),
    (_set("time", "calendar"), "mayan", "time.calendar is 'mayan'"),
    (_set("time", "step"), "fortnight", "time.step is 'fortnight'"),
    (_set("sampler"), None, "denoiser and sampler go together"),
    (_set("sampler", "name"), "rk4", "sampler.name is 'rk4'"),
    (_set("sampler", "rho"), "NaN", "manifest.sampler.rho is 'NaN'"),
    (_set("name"), "a/b", "name is 'a/b'"),
    (_set("variables", 0, "name"), "uas", "expected different ones"),
    (_set("provenance", "period"), ["1948", "2004"], "provenance.period holds '1948'"),
    (_set("files", "../evil.onnx"), ENTRY, "'../evil.onnx' is not a plain name"),
    (_set("files", "/etc/passwd"), ENTRY, "is not a plain name"),
    (_set("files", "a\\b"), ENTRY, "is not a plain name"),
    (_set("files", "tables.npz"), {"sha256": "short", "size": 1}, "is no SHA-256"),
    (_set("parity", "fp32", "encoder", "extra"), 1, "manifest.parity.fp32.encoder has unknown keys"),
    (_set("parity", "fp32", "encoder", "nodes"), 0, "a graph of parity has 0 nodes"),
    (_set("parity", "fp32", "encoder", "differences"), [], "an entry of parity has no differences"),
    (_set("parity", "fp32", "encoder", "differences"), [row(zoom=0)] * 2, "two differences of tas at zoom 0"),
    (_set("parity", "fp32", "encoder", "differences"), [row()], r"encoder has no difference of \['uas'\] at zoom 1"),
    (_set("parity", "fp32", "encoder", "differences", 0), row(zoom=2), r"at zoom 2, expected one of \[0, 1\]"),
    (_set("parity", "fp32", "decoder", "differences", 0), row(zoom=-1), "a difference of tas is at zoom -1"),
    (_set("parity", "fp32", "encoder", "differences", 0), row(variable="ts"), "a difference of 'ts', expected one of"),
    (_set("parity", "fp32", "encoder", "differences", 0), row(tolerance=0), "the tolerance of tas at zoom 1 is 0.0"),
    (_set("parity", "fp32", "encoder", "differences", 0), row(tolerance=None), "tolerance is None"),
    (_set("parity", "fp32", "encoder", "differences", 0), row(rmse=-1), "a difference of tas is below 0"),
    (_set("parity", "fp32", "encoder", "differences", 0), row(max_abs_error=-1), "a difference of tas is below 0"),
    (_set("parity", "fp32", "fast"), PARITY, "parity.fp32.fast is of a graph that files lack"),
    (_set("parity", "fp16"), {"encoder": PARITY}, "parity.fp16.encoder is of a graph that files lack"),
    (_set("parity", "fp32", "classifier"), PARITY, "parity.fp32.classifier is of a graph that files lack"),
    (_set("certificates", "fp32", "extra"), 1, "manifest.certificates.fp32 has unknown keys"),
    (_set("certificates", "fp32", "date"), "yesterday", "certificate holds 'yesterday', expected a date"),
    (_set("certificates", "fp32", "data"), [], "a certificate names no data"),
    (_set("certificates", "fp32", "data", 0, "sha256"), "short", "'short' is no SHA-256"),
    (_set("certificates", "fp32", "period"), ["2014-12-31", "2005-01-01"], "expected the first date first"),
    (_set("certificates", "fp32", "steps"), 0, "certificate.steps is 0"),
    (_set("certificates", "fp32", "members"), 0, r"certificate counts \(0, 12\) members and steps"),
    (_set("certificates", "fp16"), certified()["certificates"]["fp32"], "fp16 is of a precision without its graphs"),
    (_set("certificates", "fp32", "ensembles"), [ensemble("tas")], r"fp32 has ensembles of \['tas'\], expected"),
    (_set("certificates", "fp32", "ensembles", 0, "crps_tolerance"), 0.0, "the ensembles of tas is not above 0"),
]


@pytest.mark.parametrize(("change", "value", "message"), WRONG)
def test_wrong_content_is_named(change: Callable[[dict[str, Any], Any], None], value: Any, message: str) -> None:
    raw = certified()
    change(raw, value)
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "schema_version is None"),
        ('{"schema_version": 1}', "lacks the keys"),
        ('{"schema_version": 1, "schema_version": 1}', "a key stands twice"),
        ('{"schema_version": NaN}', "finite numbers only"),
        ('{"schema_version": true}', "schema_version is True"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_text_is_named(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(text)


def test_missing_graphs_are_named() -> None:
    manifest = tiny_manifest()
    files = {name: entry for name, entry in manifest.files.items() if name != "denoiser.fp32.onnx"}
    with pytest.raises(BundleError, match=r"files lack encoder\.fp32\.onnx and decoder\.fp32\.onnx and denoiser"):
        dataclasses.replace(manifest, files=files)


@pytest.mark.parametrize(
    "path", ["..", ".", "", "trt/..", "trt/", "trt//x", "x/y", "\\\\host\\x", "C:", "a\n", "~/x", ".x"]
)
def test_paths_that_could_leave_the_bundle_are_unsafe(path: str) -> None:
    assert not is_safe_path(path)
