"""Frozen dataclasses from JSON or TOML values and back, strict both ways: manifests and configurations are made so."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fsae.runtime.errors import FsaeError

Error = type[FsaeError]


def decode_record(kind: type, value: Any, where: str, error: Error) -> Any:
    """A dataclass `kind` from a mapping with exactly its keys (those with a default may be absent); else `error`."""
    if not isinstance(value, dict):
        raise error(f"{where} is {value!r}, expected a table of {[f.name for f in fields(kind)]}")
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    missing = [
        f.name for f in fields(kind) if f.name not in value and f.default is MISSING and f.default_factory is MISSING
    ]
    if unknown:
        raise error(f"{where} has unknown keys {unknown}, expected {sorted(hints)}")
    if missing:
        raise error(f"{where} lacks the keys {missing}")
    return kind(**{key: decode(hints[key], item, f"{where}.{key}", error) for key, item in value.items()})


def decode(kind: Any, value: Any, where: str, error: Error) -> Any:
    """`value` as read from JSON or TOML, checked against and turned into the annotated type `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # only `X | None` occurs
        return None if value is None else decode(_plain(arguments), value, where, error)
    if origin is Literal:
        if value not in arguments:
            raise error(f"{where} is {value!r}, expected one of {list(arguments)}")
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        return decode_record(kind, value, where, error)
    if origin is tuple:
        if not isinstance(value, list):
            raise error(f"{where} is {value!r}, expected a list")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise error(f"{where} has {len(value)} entries, expected {len(kinds)}")
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(decode(k, v, f"{where}[{i}]", error) for i, (k, v) in pairs)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise error(f"{where} is {value!r}, expected an object")
        return {key: decode(arguments[1], item, f"{where}.{key}", error) for key, item in value.items()}
    wanted = int | float if kind is float else kind
    if not isinstance(value, wanted) or (kind is not bool and isinstance(value, bool)):
        raise error(f"{where} is {value!r}, expected a value of type {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise error(f"{where} is {value!r}, expected a finite number")
    return kind(value)


def encode(kind: Any, value: Any) -> Any:
    """What JSON holds of `value`: NumPy numbers become plain ones and integers in a float's place become floats."""
    origin, arguments = get_origin(kind), get_args(kind)
    if value is None or origin is Literal:
        return value
    if origin in (Union, types.UnionType):
        return encode(_plain(arguments), value)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {f.name: encode(hints[f.name], getattr(value, f.name)) for f in fields(kind)}
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return [encode(k, v) for k, v in zip(kinds, value, strict=True)]
    if origin in (dict, Mapping):
        return {str(key): encode(arguments[1], item) for key, item in value.items()}
    return kind(value)


def _plain(arguments: tuple[Any, ...]) -> Any:
    """The X of `X | None`."""
    return next(argument for argument in arguments if argument is not type(None))
