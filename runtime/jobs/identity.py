"""The identity of a run: one continues another only if both would give the same output."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import numpy as np

from fsae.runtime.errors import DataError
from fsae.runtime.input.fingerprint import fingerprint
from fsae.runtime.output.layout import Layout, coordinates, normalised
from fsae.runtime.output.store import Attribute

REQUEST = "fsae_request"
INPUTS = "fsae_inputs"  # what was read: by name the fingerprint of each input, see input/fingerprint.py
PARTS = {REQUEST: "request", INPUTS: "file of the input"}  # attributes that are compared part by part


def with_inputs(layout: Layout, inputs: Mapping[str, object]) -> Layout:
    """The layout, whose attributes say what was read; `inputs` are files or datasets by name."""
    found = fingerprints(inputs)
    return dataclasses.replace(layout, attributes={**layout.attributes, INPUTS: normalised(found)}) if found else layout


def fingerprints(inputs: Mapping[str, object]) -> dict[str, str]:
    """The fingerprints, by name, of inputs that have one."""
    return {name: found for name, given in inputs.items() if (found := fingerprint(given))}


def check_inputs(layout: Layout, inputs: Mapping[str, object]) -> None:
    """Raise DataError if inputs are no longer what they were when the layout was made."""
    before, now = json.loads(str(layout.attributes.get(INPUTS, "{}"))), fingerprints(inputs)
    if other := difference(before, now):
        raise DataError(
            f"the input changed while it was read: {other}",
            advice="start again with --overwrite once nothing writes it",
        )


def _identity_of(attributes: Mapping[str, Attribute]) -> dict[str, str]:
    """Attributes as text, each part of the request and each input by itself; `history` says it all once more."""
    found = {key: str(value) for key, value in attributes.items() if key not in PARTS and key != "history"}
    for key, what in PARTS.items():
        for part, value in json.loads(str(attributes.get(key, "{}"))).items():
            found[f"{what}: {part}"] = json.dumps(value)
    return found


def identity(layout: Layout) -> dict[str, str]:
    """The facts that two runs must share for one to continue the other: attributes, each part of the request, inputs.

    Coordinates and shapes are in it as one hash.
    """
    whole = hashlib.sha256(repr((layout.dims, layout.shape, layout.chunks, tuple(layout.variables))).encode())
    if layout.shard > 1:  # one without shards is told as in earlier versions
        whole.update(f"{layout.shard} chunks in a file".encode())
    for item in coordinates(layout):
        whole.update(repr((item.name, item.dims, item.values.dtype.str, item.values.shape)).encode())
        whole.update(np.ascontiguousarray(item.values).tobytes())
    return _identity_of(layout.attributes) | {"coordinates": whole.hexdigest()}


def same_request(layout: Layout, attributes: Mapping[str, Attribute]) -> str:
    """The difference, in words, between a layout's attributes and those of finished output; empty if there is none."""
    wanted = _identity_of(layout.attributes)
    found = _identity_of(attributes)
    return difference({key: found[key] for key in wanted if key in found}, wanted)


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The difference between two identities, in words; empty if there is none.

    >>> difference({"request: seed": "1", "fsae_device": "cpu"}, {"request: seed": "2", "fsae_device": "cpu"})
    'request: seed (1 there, 2 here)'
    """
    keys = [key for key in (*before, *now) if before.get(key) != now.get(key)]

    def short(text: str | None) -> str:
        return "nothing" if text is None else text if len(text) <= 60 else f"{text[:57]}..."

    parts = [f"{key} ({short(before.get(key))} there, {short(now.get(key))} here)" for key in dict.fromkeys(keys)]
    return "; ".join(parts)
