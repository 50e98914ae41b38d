"""Installations for tests of `fsae-run doctor`: versions of distributions and a GPU that are made up."""

import importlib.metadata
import types
from collections.abc import Callable

import pytest
from stand_in_gpu import FakeCuda, install_stand_ins

Doctor = Callable[..., tuple[int, dict[str, dict[str, str]], list[str], str]]


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str | None) -> None:
    """Make distributions look installed in these versions, or absent."""
    real = importlib.metadata.version
    known = {name.replace("_", "-"): version for name, version in installed.items()}

    def version(distribution: str) -> str:
        if distribution not in known:
            return real(distribution)
        if known[distribution] is None:
            raise importlib.metadata.PackageNotFoundError(distribution)
        return known[distribution]

    monkeypatch.setattr(importlib.metadata, "version", version)


def with_gpu(monkeypatch: pytest.MonkeyPatch, driver: str = "cudaSuccess") -> None:
    """A GPU with CUDA 13.2 and TensorRT, as far as anything here can see."""
    install_stand_ins(monkeypatch, driver_error=driver)
    properties = types.SimpleNamespace(name=b"Stand-in", major=8, minor=9, totalGlobalMem=24_000_000_000)
    success = FakeCuda.cudaError_t.cudaSuccess
    monkeypatch.setattr(FakeCuda, "cudaDriverGetVersion", lambda self: (success, 13020), raising=False)
    monkeypatch.setattr(FakeCuda, "cudaGetDeviceProperties", lambda self, device: (success, properties))
