"""The manifest: an exact round trip, and every way of being wrong refused with one sentence."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import tiny_manifest

from fsae.runtime.errors import BundleError
from fsae.runtime.manifest import (
    NOT_RUN,
    Certificate,
    Difference,
    EnsembleParity,
    Manifest,
    is_safe_path,
    worst_of,
)


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


ENTRY = {"sha256": "0" * 64, "size": 1}
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
    (_set("parity", "fp32", "encoder", "tolerance"), None, "tolerance is None"),
]


@pytest.mark.parametrize(("change", "value", "message"), WRONG)
def test_wrong_content_is_named(change: Callable[[dict[str, Any], Any], None], value: Any, message: str) -> None:
    raw = json.loads(tiny_manifest().to_json())
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
