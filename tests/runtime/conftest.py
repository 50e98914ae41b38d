"""The tiny bundle opened for the tests of the runtime: graphs, interface and command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.cli.main import main
from fsae.runtime.emulator import Emulator

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def graphs(tiny_bundle: Bundle) -> OnnxGraphs:
    return OnnxGraphs(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def emulator(tiny_bundle: Bundle, graphs: OnnxGraphs) -> Emulator:
    return Emulator(tiny_bundle, graphs, threads=1)


@pytest.fixture
def command(tiny_bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs `fsae-run` with these words in this process; gives its exit code, stdout and stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = main(["--model", str(tiny_bundle_path), "--device", "cpu", "--threads", "1", *map(str, words)])
        return code, *capsys.readouterr()

    return run
