"""Console entry point of `fsae-export`, see `fsae.runtime.cli.start`."""

from fsae.runtime.cli.start import start


def main() -> int:
    """Run `fsae-export` with the arguments of the process; return its exit code."""
    return start("fsae-export", "fsae.export.cli.main")
