"""The errors of `fsae`, one class per exit code.

    FsaeError                  any failure a user can act on
    ├── UsageError      2      contradicting or unknown options, bad configuration
    ├── DeviceError     3      a backend or device that is not there
    ├── BundleError     4      a bundle that is missing, damaged or of another schema
    ├── DataError       5      input fields: file type, grid, units, variables, times, missing values
    ├── ToleranceError  6      a result outside its tolerance
    ├── OutputError     7      output that exists, is full or cannot be written
    └── Stopped        75      interrupted; what is finished is kept

Each error carries what was found, what was expected and what to do, and puts them together as its message. Much of
that comes from files and command lines, so a message is made fit for a terminal where it is composed: control
characters are shown as escapes, and what is too long is cut in the middle.
"""

import re

MOST_OF_A_WORD = 200  # characters, of a path, a name, a number
MOST_OF_A_QUOTE = 200  # characters between quotation marks
MOST_OF_A_PART = 600  # characters of what was found, what was expected, what to do
LONG_WORD = re.compile(rf"\S{{{MOST_OF_A_WORD + 1},}}")
LONG_QUOTE = re.compile(rf"(?<!\w)(['\"])((?:(?!\1).){{{MOST_OF_A_QUOTE + 1},}})\1")


def shown(text: str, most: int = MOST_OF_A_PART) -> str:
    """A text as one line for a terminal: control characters as escapes, long words, quotes and the whole cut.

    >>> shown("tas\\x1b[31m in\\n'my file.nc'")
    "tas\\\\x1b[31m in\\\\n'my file.nc'"
    >>> len(shown("m" * 1_000_000)), len(shown("m " * 1_000_000))
    (200, 600)
    """
    text = _cut(text, 20 * most)  # before work is spent on it
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    text = LONG_WORD.sub(lambda word: _cut(word[0], MOST_OF_A_WORD), text)
    text = LONG_QUOTE.sub(lambda quote: f"{quote[1]}{_cut(quote[2], MOST_OF_A_QUOTE)}{quote[1]}", text)
    return _cut(text, most)


def _cut(text: str, most: int) -> str:
    """The text in at most that many characters, two thirds from its beginning and one from its end."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 3]}...{text[-end:]}"


class FsaeError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the commands exit with.

    `found` is the fact, or a whole sentence; `expected` what should stand there; `advice` what the user can do.

    >>> str(BundleError("cannot read tables.npz", advice="get the bundle again"))
    'cannot read tables.npz: get the bundle again'
    >>> str(UsageError("found --zoom 9", "0 to 5"))
    'found --zoom 9, expected 0 to 5'
    """

    exit_code = 1

    def __init__(self, found: str, expected: str = "", advice: str = "") -> None:
        super().__init__(found, expected, advice)  # all three, so that pickling keeps them
        self.found, self.expected, self.advice = found, expected, advice

    @property
    def reason(self) -> str:
        """The message without the advice."""
        found = shown(self.found)
        return f"{found}, expected {shown(self.expected)}" if self.expected else found

    def __str__(self) -> str:
        return f"{self.reason}: {shown(self.advice)}" if self.advice else self.reason


class UsageError(FsaeError):
    """Options or configuration that contradict each other or are unknown."""

    exit_code = 2


class DeviceError(FsaeError):
    """A backend library, driver or device that was asked for and is not there; `device` is its name, if it is known.

    >>> str(DeviceError("needs tensorrt", advice='pip install "fsae[trt]"', device="trt"))
    'device trt needs tensorrt: pip install "fsae[trt]"'
    """

    exit_code = 3

    def __init__(self, found: str, expected: str = "", advice: str = "", device: str = "") -> None:
        super().__init__(found, expected, advice)
        self.device = device
        self.args = (*self.args, device)

    def __str__(self) -> str:
        return f"device {shown(self.device)} {super().__str__()}" if self.device else super().__str__()


class BundleError(FsaeError):
    """A bundle that is missing, incomplete, altered, or written by a newer schema."""

    exit_code = 4


class DataError(FsaeError):
    """Input data that does not fit: file type, variable, units, grid, time axis, missing values."""

    exit_code = 5


class ToleranceError(FsaeError):
    """A result further from its reference than the tolerance allows."""

    exit_code = 6


class OutputError(FsaeError):
    """Output that exists already, or a place that is full or cannot be written."""

    exit_code = 7


class Stopped(FsaeError):
    """A training or a run was interrupted; what is finished is kept, and it can go on from there."""

    exit_code = 75
