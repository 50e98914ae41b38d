"""The identity of a run: one continues another only if both would give the same output."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fsae.runtime.input.sources import ZARR_MARKS, Source
from fsae.runtime.output.layout import Layout, coordinates
from fsae.runtime.output.store import Attribute

REQUEST = "fsae_request"


def _identity_of(attributes: Mapping[str, Attribute]) -> dict[str, str]:
    """Attributes as text, each part of the request by itself."""
    found = {key: str(value) for key, value in attributes.items() if key != REQUEST}
    request = json.loads(str(attributes.get(REQUEST, "{}")))
    return found | {f"request: {key}": json.dumps(value) for key, value in request.items()}


def identity(layout: Layout, inputs: Mapping[str, object]) -> dict[str, str]:
    """The facts that two runs must share for one to continue the other: attributes, each part of the request, inputs.

    `inputs` are the files read, by name; of data in memory nothing is known but what the request says. Coordinates and
    shapes are in it as one hash.
    """
    whole = hashlib.sha256(repr((layout.dims, layout.shape, layout.chunks, tuple(layout.variables))).encode())
    for item in coordinates(layout):
        whole.update(repr((item.name, item.dims, item.values.dtype.str, item.values.shape)).encode())
        whole.update(np.ascontiguousarray(item.values).tobytes())
    stamps = {f"file of the {name}": _stamp(given) for name, given in inputs.items()}
    return _identity_of(layout.attributes) | stamps | {"coordinates": whole.hexdigest()}


def _stamp(given: object) -> str:
    """Size and modification time of a file, or of the metadata of a Zarr store; of several files one hash of those.

    Empty for what is not a file.
    """
    if not isinstance(given, Source | str | os.PathLike | list | tuple):
        return ""
    stamps = [_stamp_of(path) for path in Source.of(given).paths]
    if not stamps:
        return ""
    whole = hashlib.sha256("; ".join(stamps).encode()).hexdigest()
    return stamps[0] if len(stamps) == 1 else f"{whole} of {len(stamps)} files"


def _stamp_of(path: Path) -> str:
    parts = [path, *(path / mark for mark in ZARR_MARKS)] if path.is_dir() else [path]
    found = [part.stat() for part in parts if part.exists()]
    return ", ".join(f"{stat.st_size} bytes of {stat.st_mtime_ns}" for stat in found)


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
