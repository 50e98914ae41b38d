"""Where `fsae-train` begins, see `fsae.runtime.start`."""

from fsae.runtime.errors import Stopped
from fsae.runtime.start import start


def main() -> int:
    """The exit code of `fsae-train` with the arguments of the process."""
    return start("fsae-train", "fsae.training.cli", interrupted=Stopped.exit_code)
