"""Weights that lie beside an ONNX file: protobuf ends at 2 GB, so a larger graph names a second file that holds them.

ONNX calls this external data. The graph itself says where it is, and a graph from elsewhere may say anything: an
absolute path, one that leads out of the bundle, or a file in the working folder. It is checked here, before a library
opens the graph: weights are taken from FILE.data alone, and only if the manifest lists it.
"""

from collections.abc import Iterator
from pathlib import Path

from fsae.runtime.errors import BundleError

from .files import Bundle
from .records import short

# Field numbers of onnx.proto: message -> field -> the message in it, for all that lead to a tensor or are one.
MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {13: "entry"},
}
KEY, VALUE = 1, 2  # fields of an entry of external data
LOCATION = b"location"  # its key for the path
VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5  # wire types of protobuf; groups (3, 4) have long been dropped


def weights_file(name: str) -> str:
    """Name of the file that holds the weights of an ONNX file, unless they are inside it.

    >>> weights_file("encoder.fp32.onnx")
    'encoder.fp32.onnx.data'
    """
    return f"{name}.data"


def read_graph(bundle: Bundle, name: str) -> tuple[bytes, Path | None]:
    """Content of a bundle's ONNX file and, if its weights lie beside it, the path a library has to open instead.

    The hashes of both files are checked. BundleError if the graph names any other file, or one that is not listed.
    """
    data = bundle.read(name)
    found = external_locations(data, name)
    if not found:
        return data, None
    expected = weights_file(name)
    foreign = sorted(found - {expected})
    if foreign:
        raise BundleError(
            f"{bundle.folder / name} wants to read its weights from {short(foreign[0])}",
            f"{expected} beside it",
            "do not use this bundle, and get it again from where it was published",
        )
    bundle.check(expected)
    return data, bundle.folder / name


def external_locations(data: bytes, name: str = "the graph") -> set[str]:
    """Paths an ONNX file names for weights outside it; BundleError if `data` is not a protobuf message.

    >>> external_locations(b"")
    set()
    """
    if LOCATION not in data:  # nearly always, and quick
        return set()
    found = set()
    todo = [("model", memoryview(data))]  # a list, as messages can be nested deeper than calls may be
    while todo:
        kind, message = todo.pop()
        content: dict[int, bytes] = {}
        for field, value in _fields(message, name):
            if kind == "entry":
                content[field] = bytes(value)  # the last one counts, as everywhere in protobuf
            elif field in MESSAGES[kind]:
                todo.append((MESSAGES[kind][field], value))
        if kind == "entry" and content.get(KEY) == LOCATION:
            found.add(content.get(VALUE, b"").decode("utf-8", "replace"))
    return found


def _fields(message: memoryview, name: str) -> Iterator[tuple[int, memoryview]]:
    """Number and content of every field of a protobuf message that has bytes for its content."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at, name)
        field, wire = tag >> 3, tag & 7
        if tag >= 2**32 or not field or wire not in (VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES):
            raise _damaged(name)
        if wire == VARINT:
            _, at = _varint(message, at, name)
        elif wire == COUNTED:
            size, at = _varint(message, at, name)
            yield field, message[at : at + size]
            at += size
        else:
            at += 8 if wire == EIGHT_BYTES else 4
    if at > len(message):
        raise _damaged(name)


def _varint(message: memoryview, at: int, name: str) -> tuple[int, int]:
    """A number in seven bits a byte, the lowest first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):  # ten bytes at most
        if at >= len(message):
            raise _damaged(name)
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise _damaged(name)


def _damaged(name: str) -> BundleError:
    return BundleError(f"{name} is not an ONNX file: it is not a protobuf message", advice="get the bundle again")
