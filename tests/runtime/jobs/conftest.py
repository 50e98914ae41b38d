"""Fixtures of the tests of jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from nursery import Nursery
from runs import Command, Said

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.cli.main import main
from fsae.runtime.emulator import Emulator


@pytest.fixture
def emulator(tiny_bundle: Bundle) -> Emulator:
    return Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1))


@pytest.fixture(scope="session")
def nursery(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tiny_bundle_path, tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture
def command(tiny_bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process."""

    def run(*words: str) -> Said:
        code = main(["--model", str(tiny_bundle_path), "--device", "cpu", "--threads", "1", *words])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run
