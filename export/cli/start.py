"""Where `fsae-export` begins, see `fsae.runtime.cli.start`."""

from fsae.runtime.cli.start import start


def main() -> int:
    """The exit code of `fsae-export` with the arguments of the process."""
    return start("fsae-export", "fsae.export.cli.main")
