"""Schemas of bundles: when the number rises, and how bundles of an older one are read, for ever.

`schema_version` stands for the keys of manifest.json and what they mean, for the inputs and outputs of the graphs, and
for the arrays of tables.npz and golden.npz. Compiled engines have an index with a number of its own (engines.py).

- Every fsae reads its own schema and all older ones. It writes only the newest, whatever a bundle makes use of.
- A newer schema is refused before anything else is looked at, with a sentence that says how to update.
- The number rises with every change after which an older fsae would refuse a bundle, or would take it and compute
  something else: a key that is new, goes, or changes its name, type, units or meaning; a new value of a key that takes
  one of a list (sampler, transform, calendar); another input or output of a graph; an array that results depend on.
  Unknown keys are errors, so even an optional key that only informs raises it. That is meant so: who has an older fsae
  reads "update", and not the name of a key.
- It stays where an older fsae is right to pass over what is new: files beside those it looks for (another precision, a
  card), entries under free names (versions, seeds), arrays that no result depends on.
- It rises at most once between two releases. What was released is left alone: the step away from a schema (`STEPS`) and
  its golden bundle (tests/golden/bundle-schema-N) change no more.

A step takes the JSON of one schema to that of the next. It knows both by itself and makes no record of manifest.py,
because those describe the newest schema alone. `fsae-export upgrade` writes what the steps give.

Schema 2: `parity` holds a difference for every variable and zoom, with the device, the library and the nodes of the
graph, and there are `certificates`. Schema 1: one figure for a graph. Its early bundles have no latent_season_std in
tables.npz; bundle.py takes it as empty.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fsae.runtime.errors import BundleError

from .records import decode

SCHEMA_VERSION = 2

Json = dict[str, Any]


def check(condition: bool, message: str) -> None:
    """Nothing, or BundleError with `message` where the condition does not hold."""
    if not condition:
        raise BundleError(f"bad manifest: {message}")


def read_json(text: str) -> Json:
    """The JSON object of a manifest as it stands; BundleError for other text, keys that stand twice, and NaN."""
    try:
        raw = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bad manifest: not JSON ({error})", advice="get the bundle again") from None
    check(isinstance(raw, dict), "expected a JSON object")
    found: Json = raw
    return found


def _unique_keys(pairs: list[tuple[str, Any]]) -> Json:
    """A JSON object as a dict; BundleError where a key stands twice."""
    found = dict(pairs)
    check(len(found) == len(pairs), f"a key stands twice among {[key for key, _ in pairs]}")
    return found


def _refuse_constant(text: str) -> Any:
    raise BundleError(f"bad manifest: it holds {text}, expected finite numbers only")


def schema_of(raw: Json) -> int:
    """Number of the schema that a manifest is of; BundleError for one that this fsae cannot know.

    >>> schema_of({"schema_version": 1})
    1
    """
    version = raw.get("schema_version")
    good = isinstance(version, int) and not isinstance(version, bool) and version >= 1
    check(good, f"schema_version is {version!r}, expected a whole number from 1")
    found: int = raw["schema_version"]
    if found > SCHEMA_VERSION:
        raise BundleError(
            f"the manifest has schema version {found}, this fsae reads versions up to {SCHEMA_VERSION}",
            advice="update with `pip install --upgrade fsae`",
        )
    return found


def migrate(raw: Json) -> Json:
    """A manifest of any schema up to the newest as one of the newest; what is wrong in it stays so, or is BundleError.

    >>> newest = {"schema_version": SCHEMA_VERSION, "name": "mine"}
    >>> migrate(newest) == newest
    True
    """
    for version in range(schema_of(raw), SCHEMA_VERSION):
        raw = STEPS[version](raw)
    return raw


@dataclass(frozen=True, kw_only=True)
class ParityOfSchema1:
    """Largest difference of a graph's output: that of the variable with the widest tolerance, in its units."""

    max_abs_error: float
    tolerance: float
    units: str


def from_1(raw: Json) -> Json:
    """Schema 2 of a manifest of schema 1: its one figure for a graph stands for every variable, at the output's zoom.

    Exporters of schema 1 measured on the CPU, with the ONNX Runtime that they noted. Units of the encoder and the
    decoder become the variable's, but for "1", which some of these bundles have; a denoiser is dimensionless.
    """
    check("certificates" not in raw, "it has schema version 1 and certificates, which came with 2")
    zooms = {"decoder": _part(raw, int, "grid", "zoom")}
    latent_zoom = _part(raw, int, "latent", "zoom")
    units = {
        _part(raw, str, "variables", place, "name"): _part(raw, str, "variables", place, "units")
        for place in range(len(_part(raw, list, "variables")))
    }
    versions = _part(raw, Mapping[str, str], "provenance", "versions")
    backend = " ".join(["onnxruntime", versions["onnxruntime"]] if "onnxruntime" in versions else ["onnxruntime"])

    def differences(graph: str, old: ParityOfSchema1) -> list[Json]:
        physical = graph in ("encoder", "decoder") and old.units != "1"
        return [
            {
                "variable": name,
                "zoom": zooms.get(graph, latent_zoom),
                "max_abs_error": old.max_abs_error,
                "rmse": None,
                "tolerance": old.tolerance,
                "units": own if physical else "1",
            }
            for name, own in units.items()
        ]

    before = _part(raw, Mapping[str, Mapping[str, ParityOfSchema1]], "parity")
    parity = {
        precision: {
            graph: {"device": "cpu", "backend": backend, "nodes": None, "differences": differences(graph, old)}
            for graph, old in graphs.items()
        }
        for precision, graphs in before.items()
    }
    return {**raw, "schema_version": 2, "parity": parity, "certificates": {}}


# By the schema that a step leaves behind.
STEPS: dict[int, Callable[[Json], Json]] = {1: from_1}


def _part(raw: Json, kind: Any, *path: str | int) -> Any:
    """What stands at `path`, of the type `kind`; BundleError where it is not there or of another type."""
    value: Any = raw
    where = "manifest"
    for key in path:
        there = isinstance(value, list) if isinstance(key, int) else isinstance(value, dict) and key in value
        if not there:
            raise BundleError(f"{where} lacks the keys {[key]}")
        value = value[key]
        where += f"[{key}]" if isinstance(key, int) else f".{key}"
    return decode(kind, value, where, BundleError)
