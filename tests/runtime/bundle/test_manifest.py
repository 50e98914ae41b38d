"""The manifest: an exact round trip, and every way of being wrong refused with one sentence."""

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
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
    variable = replace(manifest.variables[0], valid_range=(np.float32(150), 350))
    manifest = replace(manifest, variables=(variable, manifest.variables[1]))
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
    assert [near.good, broken.good, replace(near, max_abs_error=1.0).good] == [True, False, True]
    assert str(near) == "0.9 K in tas at zoom 1, allowed 1"
    assert str(replace(near, units="1")) == "0.9 in tas at zoom 1, allowed 1"


def test_a_bundle_without_a_denoiser_is_whole() -> None:
    manifest = replace(tiny_manifest(), denoiser=None, sampler=None)
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
    """The entry of a certificate about a variable's ensembles, as JSON."""
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
    (_set("extra"), 1, "bad manifest: the top level has unknown keys \\['extra'\\], expected"),
    (_set("grid", "extra"), 1, "bad manifest: grid has unknown keys"),
    (_set("variables", 0, "extra"), 1, r"bad manifest: variables\[0\] has unknown keys"),
    (_set("grid", "zoom"), "2", "bad manifest: grid.zoom is '2', expected a whole number from 0 to 12"),
    (_set("grid", "zoom"), True, "grid.zoom is True"),
    (_set("grid", "zoom"), 2.0, "grid.zoom is 2.0"),
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
    (_set("sampler", "rho"), "NaN", "sampler.rho is 'NaN'"),
    (_set("name"), "a/b", "name is 'a/b'"),
    (_set("variables", 0, "name"), "uas", "expected different ones"),
    (_set("provenance", "period"), ["1948", "2004"], r"provenance.period\[0\] is '1948', expected a date such as"),
    (_set("files", "../evil.onnx"), ENTRY, "files has the key '../evil.onnx', expected a plain name inside the bundle"),
    (_set("files", "/etc/passwd"), ENTRY, "expected a plain name"),
    (_set("files", "a\\b"), ENTRY, "expected a plain name"),
    (
        _set("files", "tables.npz"),
        {"sha256": "short", "size": 1},
        "npz.sha256 is 'short', expected a SHA-256",
    ),
    (_set("parity", "fp32", "encoder", "extra"), 1, "parity.fp32.encoder has unknown keys"),
    (
        _set("parity", "fp32", "encoder", "nodes"),
        0,
        "encoder.nodes is 0, expected a whole number from 1",
    ),
    (
        _set("parity", "fp32", "encoder", "differences"),
        [],
        r"differences is \[\], expected a list of 1 or more",
    ),
    (_set("parity", "fp32", "encoder", "differences"), [row(zoom=0)] * 2, "2 differences of tas at zoom 0"),
    (_set("parity", "fp32", "encoder", "differences"), [row()], r"encoder has no difference of \['uas'\] at zoom 1"),
    (_set("parity", "fp32", "encoder", "differences", 0), row(zoom=2), r"at zoom 2, expected one of \[0, 1\]"),
    (
        _set("parity", "fp32", "decoder", "differences", 0),
        row(zoom=-1),
        r"decoder.differences\[0\].zoom is -1",
    ),
    (_set("parity", "fp32", "encoder", "differences", 0), row(variable="ts"), "a difference of 'ts', expected one of"),
    (
        _set("parity", "fp32", "encoder", "differences", 0),
        row(tolerance=0),
        "tolerance is 0, expected a finite number above 0",
    ),
    (_set("parity", "fp32", "encoder", "differences", 0), row(tolerance=None), "tolerance is None"),
    (
        _set("parity", "fp32", "encoder", "differences", 0),
        row(rmse=-1),
        "rmse is -1, expected a finite number from 0",
    ),
    (
        _set("parity", "fp32", "encoder", "differences", 0),
        row(max_abs_error=-1),
        "max_abs_error is -1, expected a",
    ),
    (_set("parity", "fp32", "fast"), PARITY, "parity.fp32.fast is of a graph that files lack"),
    (_set("parity", "fp16"), {"encoder": PARITY}, "parity.fp16.encoder is of a graph that files lack"),
    (_set("parity", "fp32", "classifier"), PARITY, "parity.fp32 has the key 'classifier', expected one of"),
    (_set("certificates", "fp32", "extra"), 1, "certificates.fp32 has unknown keys"),
    (_set("certificates", "fp32", "date"), "yesterday", "certificates.fp32.date is 'yesterday', expected a date"),
    (_set("certificates", "fp32", "data"), [], r"certificates.fp32.data is \[\], expected a list of 1 or more"),
    (
        _set("certificates", "fp32", "data", 0, "sha256"),
        "short",
        r"data\[0\].sha256 is 'short'",
    ),
    (
        _set("certificates", "fp32", "period"),
        ["2014-12-31", "2005-01-01"],
        "fp32: period is .* the first date first",
    ),
    (_set("certificates", "fp32", "steps"), 0, "certificates.fp32.steps is 0"),
    (_set("certificates", "fp32", "members"), 0, r"certificates.fp32: ensembles are of \(0, 12\) members and steps"),
    (_set("certificates", "fp16"), certified()["certificates"]["fp32"], "fp16 is of a precision without its graphs"),
    (_set("certificates", "fp32", "ensembles"), [ensemble("tas")], r"fp32 has ensembles of \['tas'\], expected"),
    (
        _set("certificates", "fp32", "ensembles", 0, "crps_tolerance"),
        0.0,
        "crps_tolerance is 0.0, expected a finite",
    ),
]


@pytest.mark.parametrize(("change", "value", "message"), WRONG)
def test_wrong_content_is_named(change: Callable[[dict[str, Any], Any], None], value: Any, message: str) -> None:
    raw = certified()
    change(raw, value)
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(json.dumps(raw))


HUGE = -(10**400)
DAMAGED = [
    (_set("files", "tables.npz", "size"), HUGE, "files.tables.npz.size is -1000"),
    (_set("parity", "fp32", "encoder", "differences", 0, "rmse"), HUGE, r"differences\[0\].rmse is -1000"),
    (_set("provenance", "seeds", "autoencoder"), 2**64, "seeds.autoencoder is 18446744073709551616, expected a whole"),
    (_set("sampler", "rho"), 1e-4, "sampler.rho is 0.0001, expected a finite number from 0.1"),
    (_set("sampler", "rho"), 2**64, "sampler.rho is 18446744073709551616"),
    (_set("sampler", "steps"), 10**9, "sampler.steps is 1000000000, expected a whole number from 1 to 10000"),
    (_set("sampler", "sigma_min"), 1e-300, "sampler.sigma_min is 1e-300"),
    (_set("sampler", "sigma_min"), 20.0, "sampler: sigma_min is 20.0 and sigma_max 20.0, expected a larger sigma_max"),
    (_set("sampler", "sigma_min"), 20 - 4e-15, "sampler: 8 noise levels from 20.0 to .* are not all different"),
    (_set("denoiser", "sources"), ["x" * 5000], r"denoiser.sources\[0\] is 'xxx.*, expected one of \['hr', 'lr'\]"),
    (_set("denoiser", "sources"), [], "denoiser.sources is .*, expected a list of 1 or more"),
    (_set("grid", "zoom"), "x" * 5000, "grid.zoom is 'xxx.*xxx', expected a whole number"),
    (_set("latent", "zoom"), {str(key): {} for key in range(1000)}, "latent.zoom is {.*}, expected a whole number"),
    (_set("parity", "\x1b[2J"), {}, r"parity has the key '\\x1b\[2J', expected a precision"),
    (_set("parity", "fp32", "\x1b[2J"), PARITY, r"parity.fp32 has the key '\\x1b\[2J', expected one of"),
    (_set("files", "MO" + "9" * 5000), ENTRY, "files has the key 'MO999.*999', expected a plain name"),
    (_set("name"), "tiny\n", r"name is 'tiny\\n', expected a plain name"),
    (_set("variables", 0, "units"), "K\x1b[2J", r"variables\[0\].units is 'K\\x1b\[2J', expected one line of text"),
    (_set("licence"), "\x07", r"licence is '\\x07', expected text without control characters"),
    (_set("licence"), "\ud800", "not JSON .*surrogates not allowed"),
    (_set("time", "step"), "9999999 months", "time.step is '9999999 months'"),
    (_set("variables", 0, "missing"), True, r"variables\[0\]: missing of tas is true, expected false"),
    (_set("\x1b[2J" * 100), 1, r"unknown keys \['\\x1b\[2J.*'\], expected"),
]


@pytest.mark.parametrize(("change", "value", "message"), DAMAGED)
def test_damage_gives_one_short_sentence(
    change: Callable[[dict[str, Any], Any], None], value: Any, message: str
) -> None:  # oracle: what a terminal can show: one line, printable, not longer than a few of its lines
    raw = certified()
    change(raw, value)
    with pytest.raises(BundleError, match=message) as caught:
        Manifest.from_json(json.dumps(raw))
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 500


def test_numbers_beyond_the_floats_are_refused() -> None:
    text = tiny_manifest().to_json().replace('"sigma_max": 20.0', '"sigma_max": 1e999')
    with pytest.raises(BundleError, match=r"sampler.sigma_max is inf, expected a finite number"):
        Manifest.from_json(text)


def test_what_could_not_be_read_is_not_written() -> None:
    manifest = replace(tiny_manifest(), licence="\x1b[2J")
    with pytest.raises(msgspec.ValidationError, match="licence"):
        manifest.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "schema_version is None"),
        ('{"schema_version": 1}', "lacks the keys"),
        ('{"schema_version": 1, "schema_version": 1}', "the key 'schema_version' is given twice"),
        ('{"schema_version": NaN}', "finite numbers only"),
        ('{"schema_version": true}', "schema_version is True"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_text_is_named(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(text)


def test_missing_graphs_are_named() -> None:
    raw = json.loads(tiny_manifest().to_json())
    del raw["files"]["denoiser.fp32.onnx"]
    with pytest.raises(BundleError, match=r"files lack encoder\.fp32\.onnx and decoder\.fp32\.onnx and denoiser"):
        Manifest.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    "path", ["..", ".", "", "trt/..", "trt/", "trt//x", "x/y", "\\\\host\\x", "C:", "a\n", "~/x", ".x"]
)
def test_paths_that_could_leave_the_bundle_are_unsafe(path: str) -> None:
    assert not is_safe_path(path)
