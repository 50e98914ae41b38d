"""Console entry points, kept tiny so that Ctrl-C during the slow imports prints no traceback.

Only the smallest modules of the standard library are imported here. In the 20 ms before, while Python itself starts, an
interrupt still prints a traceback.
"""

import importlib
import sys

INTERRUPTED = 130  # what shells give for Ctrl-C: 128 + SIGINT


def start(program: str, module: str, interrupted: int = INTERRUPTED) -> int:
    """Import a module, run its `main` and return the exit code; `interrupted` if Ctrl-C comes before or after `main`.

    `main` itself handles Ctrl-C while it runs, and says what is left.
    """
    try:
        code: int = importlib.import_module(module).main()
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return interrupted
    return code


def main() -> int:
    """Run `fsae-run` with the arguments of the process and return its exit code."""
    return start("fsae-run", "fsae.runtime.cli.main")
