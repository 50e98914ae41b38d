"""Records of files (manifests, indexes, configurations): strict both ways, and one sentence for whatever is wrong.

The annotations of a record are its checks: known keys, types, bounds, patterns. They hold when a file is read or
written, not when a record is made in Python. Conditions between fields stand in `__post_init__`, which raises
ValueError (`check`), and hold everywhere.
"""

import json
import re
import reprlib
import types
from collections import Counter
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from fsae.runtime.errors import FsaeError

R = TypeVar("R")
MOST = 3e38  # what float32 holds; finite, so that a bound refuses NaN and infinity
MOST_INTEGER = 2**63 - 1
Number = Annotated[float, Meta(ge=-MOST, le=MOST)]
Positive = Annotated[float, Meta(gt=0, le=MOST)]
NotNegative = Annotated[float, Meta(ge=0, le=MOST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=MOST_INTEGER)]
OneOrMore = Annotated[int, Meta(ge=1, le=MOST_INTEGER)]
Zoom = Annotated[int, Meta(ge=0, le=12)]


def whole(pattern: str, description: str, most: int = 200) -> Meta:
    """The constraint that a text of at most `most` characters matches a pattern as a whole."""
    return Meta(pattern=rf"\A(?:{pattern})\Z", max_length=most, description=description)


def one_of(*values: str) -> Meta:
    """The constraint that a text is one of `values`."""
    pattern = "|".join(map(re.escape, values))
    return Meta(pattern=rf"\A(?:{pattern})\Z", description=f"one of {list(values)}")


Line = Annotated[str, whole(r"[^\x00-\x1f\x7f-\x9f]*", "one line of text without control characters", 500)]
Text = Annotated[str, whole(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f]*", "text without control characters", 10_000)]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the records that stand in files."""


def check(good: bool, message: str) -> None:
    """Raise ValueError with `message` unless `good`."""
    if not good:
        raise ValueError(message)


def read_json(text: str, where: str, error: type[FsaeError], advice: str = "") -> Any:
    """The JSON value in `text`; `error` for other text, keys given twice and numbers that are not finite."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise error(f"{where}: the key {short(key)} is given twice", advice=advice)
        return found

    def refuse(constant: str) -> Any:
        raise error(f"{where} holds {constant}", "finite numbers only", advice)

    try:
        found = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is a character nowhere
        return found
    except (ValueError, RecursionError) as wrong:
        raise error(f"{where}: not JSON ({wrong})", advice=advice) from None


def decode_record(kind: type[R], value: object, where: str, error: type[FsaeError], advice: str = "") -> R:
    """A record of type `kind` from the values of JSON or TOML; `error` names the file `where` and the key."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as wrong:
        found, expected = _explained(wrong, kind, value)
        raise error(f"{where}: {found:.1000}", expected, advice) from None


def plain(value: Any) -> object:
    """A NumPy number as Python's own; an instance of a subclass of str, such as `torch.__version__`, as str."""
    return str(value) if isinstance(value, str) else value.item()


def to_json(record: object, indent: int = 2) -> str:
    """The text of a record's file: keys in the order of its fields, one newline at the end.

    NumPy numbers become plain ones, and integers in a float's place become floats. msgspec.ValidationError if what is
    written could not be read.
    """
    checked = msgspec.to_builtins(msgspec.convert(msgspec.to_builtins(record, enc_hook=plain), type(record)))
    return json.dumps(checked, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def json_schema(kind: type, title: str) -> str:
    """The JSON Schema (draft 2020-12) of a record's file, as text."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    text = json.dumps(head | msgspec.json.schema(kind), indent=2, ensure_ascii=False) + "\n"
    return text.replace(r"\\A", "^").replace(r"\\Z", "$")  # Python's own $ also matches before a last line break


# Sentences for what msgspec refuses.


def _explained(wrong: msgspec.ValidationError, kind: Any, value: Any) -> tuple[str, str]:
    """The fact, with its key, and the expectation."""
    parts = re.fullmatch(r"(.*?)(?: - at `(key` in `)?\$([^`]*)`)?", str(wrong), re.DOTALL)
    message, of_key, path = parts.groups() if parts else (str(wrong), None, None)
    name, kind, value = _place(kind, value, path or "")
    if wrong.__cause__ is not None:  # raised by a record's __post_init__
        return f"{name}: {message}" if name else message, ""
    name, bare = name or "the top level", _bare(kind)
    if of_key:
        kind = get_args(bare)[0]
        wrong_key = next(key for key in value if not _fits(key, kind))
        return f"{name} has the key {short(wrong_key)}", _described(kind)
    if message.startswith("Object contains unknown"):
        known = sorted(bare.__struct_fields__)
        return f"{name} has unknown keys {short(sorted(set(value) - set(known)))}", str(known)
    if message.startswith("Object missing required"):
        needed = [field.name for field in msgspec.structs.fields(bare) if field.required]
        return f"{name} lacks the keys {[key for key in needed if key not in value]}", ""
    return f"{name} is {short(value)}", _described(kind)


def _place(kind: Any, value: Any, path: str) -> tuple[str, Any, Any]:
    """Dotted name, type and value at a path such as ".files[...].size", in which msgspec leaves out keys of tables."""
    name = ""
    for field, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        kind = _bare(kind)
        if field:
            name, kind, value = f"{name}.{field}", get_type_hints(kind, include_extras=True)[field], value[field]
        elif index == "...":
            kind = get_args(kind)[1]
            key = next(key for key, item in value.items() if not _fits(item, kind))
            name, value = f"{name}.{short(key)[1:-1]}", value[key]
        else:
            kinds = get_args(kind)
            kind = kinds[0] if kinds[-1] is Ellipsis else kinds[int(index)]
            name, value = f"{name}[{index}]", value[int(index)]
    return name.lstrip("."), kind, value


def _bare(kind: Any) -> Any:
    """A type without its constraints and without `| None`."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    return kind


def _fits(value: object, kind: Any) -> bool:
    """True if a value can be converted to a type."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def short(value: object) -> str:
    """A value in at most about a line, control characters escaped."""
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = 60
    writer.maxlevel, writer.maxdict, writer.maxlist = 2, 3, 8
    return writer.repr(value)


def _described(kind: Any) -> str:
    """The values a type takes, in words."""
    if get_origin(kind) in (Union, types.UnionType):
        return f"{_described(next(part for part in get_args(kind) if part is not types.NoneType))} or none"
    bare, constraints = _bare(kind), [part for part in get_args(kind) if isinstance(part, Meta)]
    for constraint in constraints:
        if constraint.description is not None:
            return constraint.description
    if get_origin(bare) is Literal:
        return f"one of {list(get_args(bare))}"
    if get_origin(bare) is tuple:
        if get_args(bare)[-1] is not Ellipsis:
            return f"a list of {len(get_args(bare))}"
        return "a list" + "".join(f" of {limit.min_length} or more" for limit in constraints)
    words = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
    return words.get(bare, "a table") + "".join(map(_bounds, constraints))


def _bounds(limits: Meta) -> str:
    """The bounds of a number, but for those that only keep it finite.

    >>> _bounds(Meta(ge=0, le=12)), _bounds(Meta(gt=0, le=MOST)), _bounds(Meta(ge=0, lt=1))
    (' from 0 to 12', ' above 0', ' from 0 to below 1')
    """
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "to below"}
    bounds = {word: getattr(limits, name) for name, word in words.items() if getattr(limits, name) is not None}
    return "".join(f" {word} {bound}" for word, bound in bounds.items() if abs(bound) < MOST_INTEGER)
