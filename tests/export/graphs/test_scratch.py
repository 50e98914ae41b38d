"""Temporary files of an export: no folder stays behind, and a full or missing place gives one sentence."""

import contextlib
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node
from small_graphs import onnx_file

from fsae.export.certificate.originals import original_bundle
from fsae.export.graphs.external_data import placed
from fsae.export.graphs.scratch import scratch_folder
from fsae.export.precisions.int8 import quantize
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import OutputError
from fsae.runtime.signals import termination_as_interrupt


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to, empty."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def a_map() -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The files of y = x w, named as a learned map, and inputs to calibrate it on."""
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(64, 64)).astype(np.float32)
    product = make_node("MatMul", ["x", "w"], ["y"], name="mlp.0/MatMul_0")
    data = onnx_file([product], {"x": ["batch", 64]}, {"y": ["batch", 64]}, {"w": weights})
    return {"g.fp32.onnx": data}, {"x": generator.normal(size=(8, 64)).astype(np.float32)}


def place_a_map() -> None:
    with placed(a_map()[0]):
        pass


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 1000 bytes: writing fails as on a full disk, in Python and in libraries."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("work", [place_a_map, lambda: quantize(*a_map())], ids=["placed", "quantize"])
def test_a_full_place_is_one_sentence(place: Path, work: Callable[[], object]) -> None:  # oracle: the kernel's limit
    work()
    assert list(place.iterdir()) == []
    with full_disk(), pytest.raises(OutputError, match=r"cannot write the temporary file.*File too large.*TMPDIR"):
        work()
    assert list(place.iterdir()) == []


def test_a_missing_place_is_one_sentence(place: Path, tiny_bundle: Bundle) -> None:  # oracle: the folder that is gone
    place.rmdir()
    works = (place_a_map, lambda: quantize(*a_map()), lambda: original_bundle(tiny_bundle, None).__enter__())
    for work in works:
        with pytest.raises(OutputError, match=r"temporary file or folder \S*/temporary/\S+: No such file.*TMPDIR"):
            work()


@pytest.mark.parametrize("call", ["mkdir", "unlink"])
def test_a_signal_at_either_end_leaves_no_folder(place: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    # oracle: the empty place; the signal comes right after the folder was made, and after its last file was removed
    original = getattr(os, call)

    def interrupted(*arguments: object, **options: object) -> None:
        original(*arguments, **options)
        monkeypatch.setattr(os, call, original)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(os, call, interrupted)
    reached = []
    with pytest.raises(KeyboardInterrupt), termination_as_interrupt(), scratch_folder() as folder:  # noqa: PT012
        (folder / "graph.onnx").write_bytes(b"graph")
        reached.append(call)
    assert reached == ([] if call == "mkdir" else ["unlink"])
    assert list(place.iterdir()) == []


def test_what_fails_in_the_block_is_left_alone(place: Path) -> None:  # not every OSError there is of this folder
    with pytest.raises(FileNotFoundError), scratch_folder():
        Path("nowhere").read_bytes()
    assert list(place.iterdir()) == []
