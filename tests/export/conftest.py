"""Fixtures of the exporter's tests."""

import logging
import shutil
import types
from pathlib import Path

import pytest

from fsae.runtime.bundle.files import Bundle, open_bundle


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> None:
    """The log of the package, in `caplog` from level INFO on."""
    caplog.set_level(logging.INFO, logger="fsae")


@pytest.fixture
def tiny_copy(tiny_bundle_path: Path, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle, to be changed."""
    return open_bundle(shutil.copytree(tiny_bundle_path, tmp_path / "tiny"))


@pytest.fixture
def rtx() -> types.ModuleType:
    """The library TensorRT-RTX, which builds engines without a GPU."""
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'fsae[trt-rtx]'")
