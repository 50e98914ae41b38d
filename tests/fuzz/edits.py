"""Edits that damage an honest example: of bytes, of text, and of the values in JSON."""

import copy
import json
from typing import Any, NamedTuple

# What somebody may write in place of a value, or a broken program: each was once a traceback somewhere.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    13,
    2**31,
    2**63,
    -(2**63),
    10**30,
    -(10**400),
    10**400,
    0.0,
    -0.0,
    0.5,
    1e-300,
    1e300,
    1e18,
    float("nan"),
    float("inf"),
    "",
    " ",
    "nan",
    "1e400",
    "9" * 5000,
    "m" * 5000,
    "m " * 3000,
    "\x1b[2J",
    "a\nb",
    "\x00",
    "\u202e",
    "\ud800",
    "../x",
    "/etc/passwd",
    "٣",
    "²",
    "${HOME}",
    "%s%n",
    [],
    {},
    [[]],
    [[[[[[[[]]]]]]]],
    {"": {}},
)
ODD_TEXTS = (
    b"",
    b"\x00",
    b"\xff",
    b"\x80",
    b"\n",
    b"\r\n",
    b"-",
    b"/",
    b",",
    b":",
    b".",
    b"=",
    b"[" * 300,
    b"{" * 300,
    b"." * 300,
    b"0",
    b"9" * 30,
    b"9" * 5000,
    b"-1",
    b"1e400",
    b"nan",
    b"inf",
    b"since",
    b"days",
    b"\xd9\xa3",
    b"\xc2\xb2",
    b"\xe2\x80\xae",
    b"\x1b[31m",
    b"^-1",
    b"**",
    b"m^9999999999",
    b"T",
    b"Z",
    b"0000",
    b"99999-99-99",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
)


class Edit(NamedTuple):
    """One edit: its kind, where (0 to 1 of the whole), how much (0 to 1), and which odd value."""

    kind: int
    place: float
    size: float
    value: int


def edit_bytes(data: bytes, edit: Edit) -> bytes:  # noqa: PLR0911, a table of edits
    """Bytes with one edit: a flipped bit, another byte, text put in, a part removed, doubled or moved, a cut."""
    at = int(edit.place * len(data))
    end = min(len(data), at + 1 + int(edit.size**4 * len(data)))  # mostly short
    part, odd = data[at:end], ODD_TEXTS[edit.value % len(ODD_TEXTS)]
    match edit.kind % 9:
        case 0 | 1 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << edit.value % 8]) + data[at + 1 :]
        case 2:
            return data[:at] + bytes([edit.value % 256]) + data[at + 1 :]
        case 3:
            return data[:at] + odd + data[at:]
        case 4:
            return data[:at] + odd + data[end:]
        case 5:
            return data[:at] + data[end:]
        case 6:
            return data[:end] + part + data[end:]
        case 7:
            return data[end:] + part + data[:at]
        case _:
            return data[:at]


def edit_value(root: Any, edit: Edit) -> Any:
    """A JSON value with one edit: an odd value, a lost, doubled or renamed entry, or the value of another place."""
    root = copy.deepcopy(root)
    places = list(_places(root))
    if not places:
        return ODD_VALUES[edit.value % len(ODD_VALUES)]
    holder, key = places[int(edit.place * len(places)) % len(places)]
    odd = ODD_VALUES[edit.value % len(ODD_VALUES)]
    other = places[edit.value % len(places)]
    match edit.kind % 6:
        case 0 | 1:
            holder[key] = copy.deepcopy(odd)
        case 2:
            del holder[key]
        case 3 if isinstance(holder, dict):
            holder[str(odd)[:600]] = holder.pop(key)
        case 4 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case _:
            holder[key] = copy.deepcopy(other[0][other[1]])
    return root


def _places(value: Any) -> Any:
    """Holder and key of every value inside a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def edited(example: bytes, edits: list[Edit], is_json: bool) -> bytes:
    """An example with some edits; half of those of JSON change its values, the others its bytes."""
    data = example
    for edit in edits:
        if is_json and edit.kind % 2:
            try:
                value = json.loads(data)
                data = json.dumps(edit_value(value, edit._replace(kind=edit.kind // 2))).encode(
                    "utf-8", "surrogatepass"
                )
                continue
            except (ValueError, RecursionError):  # it is no JSON any more
                pass
        data = edit_bytes(data, edit)
        if len(data) > 4 * len(example) + 100_000:
            break
    return data
