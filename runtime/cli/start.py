"""Console entry points, kept tiny so that Ctrl-C during the slow imports prints no traceback.

Only the smallest modules of the standard library are imported here. In the 20 ms before, while Python itself starts, an
interrupt still prints a traceback.
"""

import importlib
import os
import sys

INTERRUPTED = 130  # what shells give for Ctrl-C: 128 + SIGINT
UNUSABLE = 3  # that of DeviceError, which covers libraries


def start(program: str, module: str, interrupted: int = INTERRUPTED) -> int:
    """Import a module, run its `main` and return the exit code; `interrupted` if Ctrl-C comes before or after `main`.

    `main` itself handles Ctrl-C and failures while it runs, and says what is left.
    """
    try:
        open_streams()
        importlib.import_module("fsae.runtime.cli.failures").quiet_libraries()
        code: int = importlib.import_module(module).main()
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return interrupted
    except Exception as error:  # `main` lets none out
        why = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        sys.stderr.write(f"{program}: error: its libraries cannot be loaded ({why}): install fsae again\n")
        return UNUSABLE
    return code


def open_streams() -> None:
    """Open what is closed of stdin, stdout and stderr on the null device.

    Else the first file of the program gets the number of stdout or stderr, and whatever a library prints lands in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def main() -> int:
    """Run `fsae-run` with the arguments of the process and return its exit code."""
    return start("fsae-run", "fsae.runtime.cli.main")
