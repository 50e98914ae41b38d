"""Where the commands begin: their modules take a while to import, and Ctrl-C in the meantime is no traceback either.

Nothing but the standard library's smallest modules is imported here. Before this the interpreter is in charge, for some
20 ms, and says of an interrupt what it likes.
"""

import importlib
import sys

INTERRUPTED = 130  # what shells give for Ctrl-C: 128 + SIGINT


def start(program: str, module: str, interrupted: int = INTERRUPTED) -> int:
    """The exit code of `main` in a module, which is imported first; `interrupted` where Ctrl-C comes before or after.

    Inside, `main` itself answers it and says what is left.
    """
    try:
        code: int = importlib.import_module(module).main()
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return interrupted
    return code


def main() -> int:
    """The exit code of `fsae-run` with the arguments of the process."""
    return start("fsae-run", "fsae.runtime.cli.main")
