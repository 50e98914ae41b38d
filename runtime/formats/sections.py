"""The sections of GRIB messages of edition 2, without ecCodes: WMO Manual on Codes, volume I.2, FM 92.

A message is section 0 of 16 octets (GRIB, two that are reserved, discipline, edition, length of the whole), sections
that each begin with their length and number, and 7777. Section 2 is free for local use.
"""

from collections.abc import Iterator
from typing import BinaryIO

BEGIN, END = b"GRIB", b"7777"
HEAD = 16  # octets of section 0
LOCAL, DATA = 2, 7  # numbers of sections

Sections = dict[int, bytes]  # by number; without their length and number, section 0 in full


def messages_of(file: BinaryIO, data: bool = True) -> Iterator[Sections]:
    """The sections of each message of a file, one message at a time; without `data` section 7 is passed over as empty.

    ValueError if the file is not a row of such messages, each with every section at most once.
    """
    while head := file.read(HEAD):
        if len(head) < HEAD or head[:4] != BEGIN or head[7] != 2:
            raise ValueError("no message of GRIB edition 2")
        end = file.tell() - HEAD + int.from_bytes(head[8:])
        found = {0: head}
        while (start := file.read(len(END))) != END:
            number, left = int.from_bytes(file.read(1)), int.from_bytes(start) - 5
            if left < 0 or number <= max(found) or file.tell() + left > end:
                raise ValueError("a message with a section that is damaged")
            if number == DATA and not data:
                file.seek(left, 1)
                found[number] = b""
            else:
                found[number] = file.read(left)
        if file.tell() != end:
            raise ValueError("a message of another length than it says")
        yield found


def with_local(message: bytes, content: bytes) -> bytes:
    """A message without section 2, with one of this content."""
    identification = HEAD + int.from_bytes(message[HEAD : HEAD + 4])
    section = (5 + len(content)).to_bytes(4) + bytes([LOCAL]) + content
    return b"".join(
        [
            message[:8],
            (len(message) + len(section)).to_bytes(8),
            message[HEAD:identification],
            section,
            message[identification:],
        ]
    )
