"""Frozen records as JSON."""

import dataclasses
import json
from typing import Any


def as_json(record: Any) -> str:
    """A frozen record as JSON, keys in the order of its fields; infinite and undefined numbers become null."""
    return json.dumps(_plain(dataclasses.asdict(record)), indent=1, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    finite = not isinstance(value, float) or abs(value) < float("inf")  # false for NaN as well
    return value if finite else None
