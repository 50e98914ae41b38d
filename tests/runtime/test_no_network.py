"""Commands neither open connections nor leave an identifier: traced from outside, for libraries act in C++."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAMILIES = re.compile(r"socket\((AF_INET6?|AF_PACKET)\b")


def run_traced(folder: Path, *command: str) -> str:
    """Run a command as a user at a terminal, with nothing in its environment that silences a library; its trace."""
    silencers = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    trace = folder / "trace"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=socket,connect,sendto,sendmsg,sendmmsg", "-o", trace, *command],
        env={**{name: value for name, value in os.environ.items() if name not in silencers}, "HOME": str(folder)},
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return trace.read_text()


@pytest.fixture
def strace() -> None:
    """Skip the test where the kernel's or the system's tracing is not to be had."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    "command", ["--device cpu generate --members 2 --out out.zarr", "doctor", "--device cpu verify"]
)
def test_commands_open_no_connection_and_leave_no_identifier(
    tiny_bundle_path: Path, tmp_path: Path, command: str
) -> None:
    """Oracle: the kernel's record of sockets, and the user's home folder afterwards."""
    words = ("-m", "fsae.runtime.cli.main", "--model", str(tiny_bundle_path), *command.split())
    trace = run_traced(tmp_path, sys.executable, *words)
    assert (tmp_path / "out.zarr" / "zarr.json").is_file() == ("generate" in command)
    assert FAMILIES.findall(trace) == []
    left = {path.name for path in tmp_path.rglob("*") if "out.zarr" not in path.parts} - {"trace", "out.zarr"}
    assert not {name for name in left if "onnx" in name.lower() or "device" in name.lower()}, left
    assert "Microsoft" not in left


@pytest.mark.usefixtures("strace")
def test_the_trace_sees_a_lookup(tmp_path: Path) -> None:  # the net has no hole: a lookup that is made is found
    lookup = "import socket\ntry:\n socket.getaddrinfo('fsae.invalid', 80)\nexcept OSError:\n pass"
    opens = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()"
    assert FAMILIES.findall(run_traced(tmp_path, sys.executable, "-c", f"{lookup}\n{opens}"))
