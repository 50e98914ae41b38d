"""Commands in fresh processes that can be slowed, killed and counted, without the second that imports take."""

import json
import os
import subprocess
import sys
from pathlib import Path

from runs import wait_until

# A process that forks one that runs a command for every line it is given: [slow decoding [s], die at this many file
# operations below the folder (0: never), folder, words]. It answers with the process number, then with how it ended.
NURSERY = """
import json, os, signal, sys, time
import numpy, onnxruntime, xarray, zarr, zarr.api.synchronous, h5netcdf
import fsae.runtime.emulator
from fsae.runtime.cli.main import main
from fsae.runtime.backends.onnx import OnnxGraphs

def run(slow_s, fatal, folder, words, log):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    decode, seen = OnnxGraphs.decode, [0]
    def slowly(self, *given):
        print("fsae-test: working", file=sys.stderr, flush=True)
        time.sleep(slow_s)
        return decode(self, *given)
    if slow_s:
        OnnxGraphs.decode = slowly
    def count(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate") and isinstance(
            arguments[0], (str, os.PathLike)
        ) and os.fspath(arguments[0]).startswith(folder):
            seen[0] += 1
            if seen[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
    if fatal:
        sys.addaudithook(count)
    code = main(words)
    if fatal:
        print("fsae-test: operations", seen[0], file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    given = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            run(*given)
        finally:
            os._exit(99)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def signalled(child: int, number: int) -> bool:
    """Send a signal to a process; False if it has ended."""
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return False
    return True


class Nursery:
    """Starts commands in fresh processes, without the second that imports take; `log` is what the last one said."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.log = folder / "stderr"
        self._words = ["--model", str(bundle), "--device", "cpu", "--threads", "1"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == "ready"

    def start(self, *words: str | Path, slow_s: float = 0.0, fatal: int = 0, folder: Path | None = None) -> int:
        """Start a command; return the number of its process."""
        assert self._process.stdin is not None
        self.log.unlink(missing_ok=True)
        line = [slow_s, fatal, str(folder or ""), [*self._words, *map(str, words)], str(self.log)]
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        """Wait for it to end; return its exit code, or minus the number of the signal that ended it."""
        return int(self._read())

    def wait_for(self, text: str, child: int) -> None:
        """Wait until the command has written `text` to its log, or has ended."""
        wait_until(lambda: (self.log.exists() and text in self.log.read_text()) or not signalled(child, 0), text)

    def close(self) -> None:
        """End the process that starts the others."""
        self._process.communicate()

    def _read(self) -> str:
        """The next line that is an answer; results of commands stand between them."""
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            assert line, "the nursery died"
            if line.strip() == "ready" or line.strip().lstrip("-").isdigit():
                return line.strip()
