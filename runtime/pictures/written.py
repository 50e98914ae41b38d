"""Files of pictures and pages: whole or not there, and marked, so that only our own are replaced.

The mark is a hash of the rest of the file, in a PNG in a text chunk before its end, in an SVG or HTML in a comment at
its end.
A picture that another program has saved again has lost it, or no longer fits it.
"""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fsae.runtime.errors import OutputError, UsageError
from fsae.runtime.output.files import check_name, check_place, write_file
from fsae.runtime.ownership import kind

SUFFIXES = (".png", ".svg")
MARK = "fsae_mark"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def check_picture(
    path: Path, overwrite: bool, inputs: Mapping[str, object], suffixes: Sequence[str] = SUFFIXES
) -> None:
    """Raise OutputError if a picture may not or cannot be written, UsageError for a name without one of the suffixes.

    With `overwrite` only our own picture may be there, and it may be none of the `inputs`, by their kinds.
    """
    check_name(path)
    if path.suffix.lower() not in suffixes:
        expected = f"a name that ends in {' or '.join(suffixes)}"
        raise UsageError(f"found the output {path}", expected, f"name it such as {path.stem or 'map'}{suffixes[0]}")
    check_place(path, overwrite, inputs, _check_ours)


def _check_ours(path: Path) -> None:
    """Raise OutputError unless our own picture is at a path, as we wrote it."""
    found = kind(path)
    why = "" if found == "file" else f"is a {found}"
    if not why and not is_marked(path.read_bytes()):
        why = "is not what fsae wrote, or was changed since"
    if why:
        raise OutputError(f"{path} exists and {why}: it is not replaced", advice="move it away, or give another path")


def marked(picture: bytes) -> bytes:
    """The bytes of a PNG or SVG with our mark."""
    is_png = picture.startswith(PNG_MAGIC)
    body, end = (picture.removesuffix(PNG_END), PNG_END) if is_png else (picture, b"")
    mark = hashlib.sha256(b"fsae" + picture).hexdigest().encode()
    if not is_png:
        return body + f"<!-- {MARK} {mark.decode()} -->\n".encode()
    chunk = b"tEXt" + MARK.encode() + b"\0" + mark
    return body + (len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + end


def is_marked(content: bytes) -> bool:
    """True if the bytes of a file are those of a picture that we wrote.

    >>> is_marked(marked(b"<svg/>")), is_marked(marked(b"<svg/>").replace(b"svg", b"SVG")), is_marked(b"<svg/>")
    (True, False, False)
    """
    end = PNG_END if content.startswith(PNG_MAGIC) else b""
    length = len(marked(PNG_MAGIC + PNG_END if end else b"")) - (len(PNG_MAGIC + PNG_END) if end else 0)
    picture = content.removesuffix(end)[:-length] + end
    return len(content) > length and marked(picture) == content


def write_picture(path: Path, picture: bytes, overwrite: bool) -> None:
    """Write a picture under its name, at once; OutputError if that fails, or something has come there meanwhile."""
    write_file(path, marked(picture), overwrite, _check_ours)
