"""The errors of `fsae`, one class per exit code.

    FsaeError                  any failure a user can act on
    ├── UsageError      2      contradicting or unknown options, bad configuration
    ├── DeviceError     3      a backend or device that is not there
    ├── BundleError     4      a bundle that is missing, damaged or of another schema
    ├── DataError       5      input fields: file type, grid, units, variables, times, missing values
    ├── ToleranceError  6      a result outside its tolerance
    ├── OutputError     7      output that exists, is full or cannot be written
    └── Stopped        75      interrupted; what is finished is kept

Each error carries what was found, what was expected and what to do, and puts them together as its message.
"""


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
        return f"{self.found}, expected {self.expected}" if self.expected else self.found

    def __str__(self) -> str:
        return f"{self.reason}: {self.advice}" if self.advice else self.reason


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
        return f"device {self.device} {super().__str__()}" if self.device else super().__str__()


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
