"""What can go wrong, one class per exit code.

    FsaeError                  any failure a user can act on
    ├── UsageError      2      contradicting or unknown options, bad configuration
    ├── DeviceError     3      a backend or device that is not there
    ├── BundleError     4      a bundle that is missing, damaged or of another schema
    ├── DataError       5      input fields: file type, grid, units, variables, times, missing values
    ├── ToleranceError  6      a result outside its tolerance
    ├── OutputError     7      output that exists, is full or cannot be written
    └── Stopped        75      interrupted; what is finished is kept

Every message says what was found, what was expected and what to do.
"""


class FsaeError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the commands exit with."""

    exit_code = 1


class UsageError(FsaeError):
    """Options or configuration that contradict each other or are unknown."""

    exit_code = 2


class DeviceError(FsaeError):
    """A backend library, driver or device that was asked for and is not there."""

    exit_code = 3


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
