"""Schemas of bundles: a golden bundle of each opens and computes what it did when it was written, for ever.

The graphs in them are the closed forms of `tiny_bundle.py`; what they hold else is written down here once more, so that
neither a change of the reader nor one of `tiny_bundle.py` passes unseen.
"""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tiny_bundle import LATENT_PIXELS, PIXELS, PREVIOUS, VARIABLES, WINDOW, tiny_decode, tiny_denoise, tiny_encode

import fsae.runtime
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION, STEPS, migrate
from fsae.runtime.checks.verify import check_files
from fsae.runtime.climate.climatology import season as season_of
from fsae.runtime.diffusion.noise import member_integers, standard_normal
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import BundleError
from fsae.runtime.sphere.healpix import coarsen, refine

GOLDEN = Path(__file__).parents[2] / "golden"
FOLDERS = sorted(GOLDEN.glob("bundle-schema-*"))
FILES = ["MODEL_CARD.md", "decoder.fp32.onnx", "denoiser.fp32.onnx", "encoder.fp32.onnx", "golden.npz", "tables.npz"]
HALF = ["decoder.fp16.onnx", "denoiser.fp16.onnx", "encoder.fp16.onnx"]
MORE = {"bundle-schema-1": [], "bundle-schema-2": HALF}
SAMPLER = (8, 0.01, 20.0, 7.0)  # steps, sigma_min, sigma_max, rho
MONTHS = np.array([31, 28, 31, 30])  # days of the first steps of 2001, whose middles are the times
SEASONLESS = ["bundle-schema-1"]  # deviations that do not vary with the season


@pytest.fixture(params=FOLDERS, ids=[folder.name for folder in FOLDERS])
def golden(request: pytest.FixtureRequest) -> Bundle:
    """A golden bundle of each schema, opened."""
    return open_bundle(request.param)


def text_of(version: int) -> str:
    return (GOLDEN / f"bundle-schema-{version}" / "manifest.json").read_text(encoding="utf-8")


def raw_of(version: int) -> Any:
    return json.loads(text_of(version))


def middles() -> np.ndarray:
    """Fraction of the year at the middle of each step."""
    return (np.cumsum(MONTHS) - MONTHS / 2) / 365


# --- golden bundles ---


def test_every_schema_has_its_golden_bundle_and_its_step() -> None:  # oracle: the policy
    assert [folder.name for folder in FOLDERS] == [f"bundle-schema-{n}" for n in range(1, SCHEMA_VERSION + 1)], (
        "run tests/golden/make_bundle.py"
    )
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))
    for version in range(1, SCHEMA_VERSION + 1):
        assert raw_of(version)["schema_version"] == version


def test_golden_bundles_are_whole_and_give_their_golden_vectors(golden: Bundle) -> None:
    # oracle: hashes, and outputs that were written with the bundle
    files = sorted(FILES + MORE[golden.folder.name])
    assert check_files(golden) == len(golden.manifest.files) == len(files)
    assert sorted(golden.manifest.files) == files
    assert golden.manifest.schema_version == SCHEMA_VERSION
    checks = fsae.runtime.load(golden.folder, device="cpu").verify()
    assert [(check.graph, check.precision, check.good) for check in checks] == [
        ("encoder", "fp32", True),
        ("decoder", "fp32", True),
        ("denoiser", "fp32", True),
    ]


def test_golden_bundles_hold_what_they_did(golden: Bundle) -> None:  # oracle: written down by hand
    manifest = golden.manifest
    assert [(v.name, v.units, v.valid_range) for v in manifest.variables] == [
        ("tas", "K", (150.0, 350.0)),
        ("uas", "m s-1", (-100.0, 100.0)),
    ]
    assert (manifest.zooms, manifest.latent.zoom, manifest.latent.ratio) == ((0, 1, 2), 1, 4)
    assert manifest.denoiser is not None
    assert (manifest.denoiser.window, manifest.denoiser.previous) == (3, 2)
    sampler = manifest.sampler
    assert sampler is not None
    assert (sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho) == SAMPLER
    assert (sampler.name, manifest.fast) == ("dpm2m", None)
    assert {graph: parity.worst.tolerance for graph, parity in manifest.parity["fp32"].items()} == {
        "encoder": 1e-4,
        "decoder": 1e-3,
        "denoiser": 1e-4,
    }


def test_golden_bundles_compress_and_decompress(golden: Bundle) -> None:
    # oracle: the closed forms of the tiny graphs
    season = season_of(middles(), 2)
    noise = np.random.default_rng(1).normal(size=(len(MONTHS), VARIABLES, PIXELS))
    values = (tiny_decode(np.zeros((len(MONTHS), VARIABLES, LATENT_PIXELS)), season) + noise).astype(np.float32)
    emulator = fsae.runtime.load(golden.folder, device="cpu")
    fields = emulator.generate(Request(members=1, start="2001-01", steps=len(MONTHS)))  # a dataset of the right layout
    fields = fields.isel(realization=0, drop=True)
    for number, name in enumerate(("tas", "uas")):
        fields[name][:] = values[:, number]
    latents = emulator.compress(fields, climatology="training")
    expected = tiny_encode(values, season)
    np.testing.assert_allclose(stacked(latents), expected, atol=1e-4)  # float32 at 300 K over a scale of 2 K
    back = emulator.decompress(latents)
    np.testing.assert_allclose(stacked(back), tiny_decode(expected, season), atol=2e-4)


def stacked(data: xr.Dataset) -> np.ndarray:
    """(..., time, variable, pixel) of a dataset."""
    return np.stack([data["tas"].values, data["uas"].values], axis=-2)


def test_golden_bundles_generate(golden: Bundle) -> None:
    # oracle: the sampler written once more in float64, over the closed forms and the file's own deviations
    found = fsae.runtime.load(golden.folder, device="cpu").generate(
        Request(members=2, start="2001-01", steps=len(MONTHS), seed=5)
    )
    with np.load(golden.folder / "tables.npz") as tables:
        arrays = {name: tables[name].astype(np.float64) for name in tables.files if name.startswith("latent")}
    assert ("latent_season_std" in arrays) == (golden.folder.name not in SEASONLESS)
    expected = np.stack([drawn(member, arrays) for member in range(2)])
    np.testing.assert_allclose(stacked(found), expected, atol=1e-3)  # float32 at 300 K, through eight steps
    assert np.abs(expected[0] - expected[1]).max() > 1  # members differ by more than that


def drawn(member: int, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Fields (time, variable, pixel) of a member of seed 5 from January 2001 on, two windows of three steps."""
    days = np.array([31, 28, 31, 30, 31, 30])
    phase = (np.cumsum(days) - days / 2) / 365
    season = season_of(phase, 2)
    previous, valid = np.zeros((1, PREVIOUS, VARIABLES, LATENT_PIXELS)), np.zeros((1, PREVIOUS))
    windows = []
    for first in (0, WINDOW):
        part = slice(first, first + WINDOW)
        raw = [member_integers(5, member, 12 * 2001 + month, 0, VARIABLES * LATENT_PIXELS) for month in range(6)[part]]
        noise = standard_normal(np.stack(raw))
        known = (np.zeros((1, 16)), season[None, part], 2001 + phase[None, part], np.zeros(1), previous, valid)
        windows.append(sampled(np.reshape(noise, (1, WINDOW, VARIABLES, LATENT_PIXELS)), known))
        previous, valid = windows[-1][:, -PREVIOUS:], np.ones((1, PREVIOUS))
    white = np.concatenate(windows, axis=1)[0, : len(MONTHS)]
    season = season[: len(MONTHS)]
    level = arrays["latent_level_std"]
    mean = coarsen(white, 1)
    latent = 2 * level[:, :1] * refine(mean, 1) + level[:, 1:] * (white - refine(mean, 1))
    swing = arrays.get("latent_season_std", np.zeros((VARIABLES, 0, LATENT_PIXELS)))
    logarithm = np.einsum("tk,vkp->tvp", season[:, : swing.shape[1]], swing)
    return tiny_decode(latent * arrays["latent_cell_std"] * np.exp(logarithm), season)


def sampled(noise: np.ndarray, known: tuple[np.ndarray, ...]) -> np.ndarray:
    """A window by DPM-Solver++(2M), as in Lu et al. 2022, algorithm 2."""
    steps, low, high, rho = SAMPLER
    levels = (high ** (1 / rho) + np.linspace(0, 1, steps) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    state, before = high * noise, None
    for place, (now, after) in enumerate(pairwise(levels)):
        clean = tiny_denoise(state, np.array([now]), *known)
        ratio = 0.0 if before is None else np.log(now / after) / np.log(levels[place - 1] / now)
        target = clean if before is None else clean + ratio / 2 * (clean - before)
        state, before = after / now * state + (1 - after / now) * target, clean
    return tiny_denoise(state, levels[-1:], *known)


# --- manifests ---


def test_the_golden_manifest_of_the_current_schema_round_trips() -> None:  # oracle: identity of the text
    text = text_of(SCHEMA_VERSION)
    assert Manifest.from_json(text).to_json() == text


def test_older_manifests_are_read_as_the_newest(golden: Bundle) -> None:  # oracle: identity once it is of the newest
    text = golden.manifest.to_json()
    assert json.loads(text)["schema_version"] == SCHEMA_VERSION
    assert Manifest.from_json(text) == golden.manifest


def test_parity_of_schema_1_in_schema_2() -> None:  # oracle: written down by hand
    def row(variable: str, zoom: int, error: float, units: str) -> dict[str, Any]:
        limits = {"max_abs_error": error, "rmse": None, "tolerance": 10 * error, "units": units}
        return {"variable": variable, "zoom": zoom, **limits}

    def entry(backend: str, *rows: dict[str, Any]) -> dict[str, Any]:
        return {"device": "cpu", "backend": backend, "nodes": None, "differences": list(rows)}

    raw = raw_of(1)
    found = STEPS[1](raw)
    assert raw == raw_of(1)  # what was read stays as it is
    assert {key for key in found if found[key] != raw.get(key)} == {"schema_version", "parity", "certificates"}
    assert set(found) - set(raw) == {"certificates"}
    assert found["certificates"] == {}
    unknown = "onnxruntime"  # this bundle does not say which
    assert found["parity"] == {
        "fp32": {
            "encoder": entry(unknown, row("tas", 1, 1e-5, "1"), row("uas", 1, 1e-5, "1")),
            "decoder": entry(unknown, row("tas", 2, 1e-4, "K"), row("uas", 2, 1e-4, "m s-1")),
            "denoiser": entry(unknown, row("tas", 1, 1e-5, "1"), row("uas", 1, 1e-5, "1")),
        }
    }
    raw["parity"]["fp32"]["encoder"]["units"] = "K"  # as most exporters of schema 1 had it
    raw["provenance"]["versions"]["onnxruntime"] = "1.22.0"
    known = "onnxruntime 1.22.0"
    parity = STEPS[1](raw)["parity"]["fp32"]
    assert parity["encoder"] == entry(known, row("tas", 1, 1e-5, "K"), row("uas", 1, 1e-5, "m s-1"))
    assert parity["denoiser"] == entry(known, row("tas", 1, 1e-5, "1"), row("uas", 1, 1e-5, "1"))


def test_a_newer_schema_is_refused_before_anything_else_is_looked_at() -> None:
    newer = SCHEMA_VERSION + 1
    sentence = (
        f"the manifest has schema version {newer}, this fsae reads versions up to {SCHEMA_VERSION}: update with "
        "`pip install --upgrade fsae`"
    )
    for raw in ({"schema_version": newer}, raw_of(SCHEMA_VERSION) | {"schema_version": newer, "files": 3, "new": 1}):
        with pytest.raises(BundleError, match=f"^{re.escape(sentence)}$"):
            migrate(raw)
        with pytest.raises(BundleError, match=f"^{re.escape(sentence)}$"):
            Manifest.from_json(json.dumps(raw))


@pytest.mark.parametrize("version", [None, 0, -1, 1.0, True, "2", [1]])
def test_what_is_no_schema_version_is_refused(version: Any) -> None:
    with pytest.raises(BundleError, match=r"^bad manifest: schema_version is .*, expected a whole number from 1: "):
        migrate({"schema_version": version})


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
@pytest.mark.parametrize("path", [(), ("grid",), ("variables", 0), ("parity", "fp32", "decoder"), ("provenance",)])
def test_unknown_keys_are_errors_in_every_schema(version: int, path: tuple[str | int, ...]) -> None:
    raw = raw_of(version)
    _at(raw, path)["colour"] = "green"
    with pytest.raises(BundleError, match=r"^[^\n]*has unknown keys \['colour'\], expected \[[^\n]*\]: get[^\n]*$"):
        Manifest.from_json(json.dumps(raw))


def _at(raw: Any, path: tuple[str | int, ...]) -> Any:
    """The value at a path of a manifest."""
    for key in path:
        raw = raw[key]
    return raw


def _set(*path: str | int, to: Any) -> Callable[[Any], None]:
    def change(raw: Any) -> None:
        _at(raw, path[:-1])[path[-1]] = to

    return change


def _drop(*path: str | int) -> Callable[[Any], None]:
    def change(raw: Any) -> None:
        del _at(raw, path[:-1])[path[-1]]

    return change


ENCODER = ("parity", "fp32", "encoder")
BROKEN = [
    (_drop("parity"), "the top level lacks the keys ['parity']"),
    (_drop(*ENCODER, "tolerance"), "bad manifest: parity.fp32.encoder lacks the keys ['tolerance']"),
    (_drop("provenance"), "the top level lacks the keys ['provenance']"),
    (_drop("provenance", "versions"), "bad manifest: provenance lacks the keys ['versions']"),
    (_drop("latent", "zoom"), "bad manifest: latent lacks the keys ['zoom']"),
    (_drop("grid"), "the top level lacks the keys ['grid']"),
    (_drop("variables"), "the top level lacks the keys ['variables']"),
    (_drop("variables", 1, "units"), "bad manifest: variables[1] lacks the keys ['units']"),
    (_set("parity", to=[]), "parity is [], expected a table"),
    (_set("parity", "fp32", to=3), "parity.fp32 is 3, expected a table"),
    (_set(*ENCODER, to=None), "parity.fp32.encoder is None, expected a table"),
    (
        _set(*ENCODER, "tolerance", to="1e-4"),
        "bad manifest: parity.fp32.encoder.tolerance is '1e-4', expected a finite",
    ),
    (
        _set(*ENCODER, "tolerance", to=0.0),
        "encoder.differences[0].tolerance is 0.0, expected a finite number above 0",
    ),
    (_set(*ENCODER, "max_abs_error", to=-1.0), "parity.fp32.encoder.differences[0].max_abs_error is -1.0, expected"),
    (_set(*ENCODER, "units", to=1), "bad manifest: parity.fp32.encoder.units is 1, expected text"),
    (_set("parity", "fp16", to={"encoder": raw_of(1)["parity"]["fp32"]["encoder"]}), "is of a graph that files lack"),
    (_set("grid", "zoom", to="2"), "bad manifest: grid.zoom is '2', expected a whole number"),
    (_set("latent", to=[]), "latent is [], expected a table"),
    (_set("variables", to={}), "variables is {}, expected a list"),
    (_set("variables", to=[]), "variables is [], expected a list of 1 or more"),
    (_set("variables", 0, to="tas"), "variables[0] is 'tas', expected a table"),
    (_set("variables", 0, "name", to=7), "bad manifest: variables[0].name is 7, expected a letter"),
    (_set("variables", 0, "name", to="uas"), "expected different ones"),
    (
        _set("provenance", "versions", to={"onnx": 1}),
        "provenance.versions.onnx is 1, expected text",
    ),
    (_set("certificates", to={}), "it has schema version 1 but certificates, which came with version 2"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_broken_manifests_of_schema_1_give_one_sentence(change: Callable[[Any], None], message: str) -> None:
    raw = raw_of(1)
    change(raw)
    with pytest.raises(BundleError, match=rf"^[^\n]*{re.escape(message)}[^\n]*$"):
        Manifest.from_json(json.dumps(raw))


def test_parity_of_two_schemas_does_not_mix() -> None:  # oracle: the records of each
    for version, other in ((1, 2), (2, 1)):
        raw = raw_of(version) | {"parity": raw_of(other)["parity"]}
        with pytest.raises(BundleError, match=r"manifest: parity\.fp32\.encoder has unknown keys"):
            Manifest.from_json(json.dumps(raw))
