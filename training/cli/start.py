"""Where `fsae-train` begins, see `fsae.runtime.cli.start`."""

from fsae.runtime.cli.start import start
from fsae.runtime.errors import Stopped


def main() -> int:
    """The exit code of `fsae-train` with the arguments of the process."""
    return start("fsae-train", "fsae.training.cli.main", interrupted=Stopped.exit_code)
