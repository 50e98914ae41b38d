"""Schemas of bundles: when the number rises, and how bundles of an older one are read, for ever.

`schema_version` stands for the keys of manifest.json and what they mean, for the inputs and outputs of the graphs, and
for the arrays of tables.npz and golden.npz. Compiled engines have an index with a number of its own (engine_index.py).

- Every fsae reads its own schema and all older ones. It writes only the newest, whatever a bundle makes use of.
- A newer schema is refused before anything else is looked at, with a sentence that says how to update.
- The number rises with every change after which an older fsae would refuse a bundle, or would take it and compute
  something else: a key that is new, goes, or changes its name, type, units or meaning; a new value of a key that takes
  one of a list (sampler, transform, calendar); another input or output of a graph; an array that results depend on.
  Unknown keys are errors, so even an optional key that only informs raises it. This is intended: whoever has an older
  fsae reads "update", and not the name of a key.
- It stays if an older fsae is right to pass over what is new: files beside those it looks for (another precision, a
  card), entries under free names (versions, seeds), arrays that no result depends on.
- It rises at most once between two releases. What was released is left alone: the step away from a schema (`STEPS`) and
  its golden bundle (tests/golden/bundle-schema-N) change no more.

A step takes the JSON of one schema to that of the next. It uses no record of manifest.py, because those describe
the newest schema alone. `fsae-export upgrade` writes what the steps give.

Schema 2: `parity` holds a difference for every variable and zoom, with the device, the library and the nodes of the
graph, and there are `certificates`. Schema 1: one figure for a graph. Its early bundles have no latent_season_std in
tables.npz; tables.py takes it as empty.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from fsae.runtime.errors import BundleError

from .records import Record, decode_record, read_json, short

SCHEMA_VERSION: Final = 2
BAD, ADVICE = "bad manifest", "get the bundle again"
Json = dict[str, Any]


def read_manifest(text: str) -> Json:
    """The JSON object of a manifest as written; BundleError for other text, keys given twice, and NaN."""
    raw: Json = read_json(text, BAD, BundleError, ADVICE)
    if not isinstance(raw, dict):
        raise BundleError(f"{BAD}: the top level is another value", "a JSON object", ADVICE)
    return raw


def schema_of(raw: Json) -> int:
    """Number of the schema that a manifest is of; BundleError for one that this fsae cannot know.

    >>> schema_of({"schema_version": 1})
    1
    """
    version = raw.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BundleError(f"{BAD}: schema_version is {short(version)}", "a whole number from 1", ADVICE)
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"the manifest has schema version {short(version)}, this fsae reads versions up to {SCHEMA_VERSION}",
            advice="update with `pip install --upgrade fsae`",
        )
    return version


def migrate(raw: Json) -> Json:
    """A manifest of any schema in the newest; what is wrong in it stays wrong, or is a BundleError.

    >>> newest = {"schema_version": SCHEMA_VERSION, "name": "mine"}
    >>> migrate(newest) == newest
    True
    """
    for version in range(schema_of(raw), SCHEMA_VERSION):
        raw = STEPS[version](raw)
    return raw


class ParityOfSchema1(Record, frozen=True, kw_only=True):
    """Largest difference of a graph's output: that of the variable with the widest tolerance, in its units."""

    max_abs_error: float
    tolerance: float
    units: str


class ProvenanceOfSchema1(msgspec.Struct):
    """Versions of the libraries of the export."""

    versions: Mapping[str, str]


class ManifestOfSchema1(msgspec.Struct):
    """The keys of schema 1 that the step away from it uses; the newest schema checks what it copies."""

    grid: Json
    latent: Json
    variables: tuple[Json, ...]
    provenance: ProvenanceOfSchema1
    parity: Mapping[str, Mapping[str, ParityOfSchema1]]


def from_1(raw: Json) -> Json:
    """Schema 2 of a manifest of schema 1: its one figure for a graph stands for every variable, at the output's zoom.

    Exporters of schema 1 measured on the CPU, with the ONNX Runtime that they noted. Units of the encoder and the
    decoder become the variable's, but for "1", which some of these bundles have; a denoiser is dimensionless.
    """
    if "certificates" in raw:
        raise BundleError(f"{BAD}: it has schema version 1 but certificates, which came with version 2", advice=ADVICE)
    old = decode_record(ManifestOfSchema1, raw, BAD, BundleError, ADVICE)
    backend = f"onnxruntime {old.provenance.versions.get('onnxruntime', '')}".rstrip()

    def entry(graph: str, parity: ParityOfSchema1) -> Json:
        physical = graph in ("encoder", "decoder") and parity.units != "1"
        differences = [
            {
                "variable": variable.get("name"),
                "zoom": (old.grid if graph == "decoder" else old.latent).get("zoom"),
                "max_abs_error": parity.max_abs_error,
                "rmse": None,
                "tolerance": parity.tolerance,
                "units": variable.get("units") if physical else "1",
            }
            for variable in old.variables
        ]
        return {"device": "cpu", "backend": backend, "nodes": None, "differences": differences}

    parity = {
        precision: {graph: entry(graph, one) for graph, one in graphs.items()}
        for precision, graphs in old.parity.items()
    }
    return {**raw, "schema_version": 2, "parity": parity, "certificates": {}}


# By the schema that a step starts from.
STEPS: dict[int, Callable[[Json], Json]] = {1: from_1}
