"""`fsae-run doctor` on GPUs: engines, drivers, and libraries that use none."""

import sys
import types
from pathlib import Path

import pytest
from damage import flip_last_bit
from doctored import Doctor, versions, with_gpu
from msgspec.structs import replace
from stand_in_gpu import HERE, an_engine, take_the_cpu_always, write_index

from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.checks import installation
from fsae.runtime.checks.doctor import USE_GPU

GOLDEN = Path(__file__).parents[2] / "golden"


def engines_of(bundle: Bundle) -> list:
    return [an_engine(bundle, graph) for graph in bundle.manifest.graphs]


def test_a_gpu_with_valid_engines(examined: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: what `auto` takes itself
    with_gpu(monkeypatch)
    bundle = open_bundle("tiny")
    write_index(bundle, *engines_of(bundle))
    code, found, problems, _ = examined("--hashes")
    assert (code, problems) == (0, [])
    assert found["libraries"]["tensorrt"] == HERE.version
    assert found["gpu"]["cuda"] == "up to 13.2"
    assert found["gpu"]["gpu 0"] == "Stand-in, compute capability 8.9, 24.0 GB"
    words = "engines of encoder, decoder, denoiser in fp32, valid here"
    assert found["engines"] == {"engines/tiny trt fp32": words}
    assert found["devices"]["trt"] == f"works: {words}"
    assert found["devices"]["auto"].startswith(f"takes {open_graphs(bundle, 'auto').device}, ")
    assert found["devices"]["auto"].startswith("takes trt, ")


def test_one_device_is_enough(examined: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: nothing is wrong
    with_gpu(monkeypatch)
    other = types.ModuleType("tensorrt_rtx")  # for which no engine was built
    monkeypatch.setattr(other, "__version__", "1.1.1", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", other)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    versions(monkeypatch, onnxruntime=None, onnxruntime_gpu=None)
    bundle = open_bundle("tiny")
    write_index(bundle, *engines_of(bundle))
    code, found, problems, _ = examined()
    assert (code, problems) == (0, [])
    assert found["devices"]["auto"].startswith("takes trt, ")
    assert found["devices"]["trt-rtx"] == "bundle tiny has no trt-rtx engine of the encoder in fp32"


def test_a_gpu_without_engines(examined: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: `auto` itself
    with_gpu(monkeypatch)
    code, found, problems, _ = examined()
    assert code == 0
    assert problems == [
        "problem: devices: trt: bundle tiny has no trt engine of the encoder in fp32; "
        "do: build one on this machine with: fsae-export engines/tiny --trt"
    ]
    assert found["devices"]["auto"].startswith(f"takes {open_graphs(open_bundle(), 'auto').device}, ")
    assert found["devices"]["auto"].startswith("takes cpu, ")


@pytest.mark.parametrize(
    ("what", "words", "todo"),
    [
        ("older graph", "the trt engine of the encoder was built from an older graph", "build one on this machine"),
        (
            "other GPU",
            "are for another machine: found trt 10.9.0, compute capability 9.0, ",
            "build one on this machine",
        ),
        ("other version", "are for another machine: found trt 10.8.0, compute", "build one on this machine"),
        ("missing", "encoder.engine is missing or truncated", "run fsae-export engines/tiny --trt again"),
        ("truncated", "encoder.engine is missing or truncated", "run fsae-export engines/tiny --trt again"),
        ("altered", "encoder.engine is altered or truncated", "run fsae-export engines/tiny --trt again"),
        ("index", "index.json is damaged", "delete engines/tiny/trt and run fsae-export BUNDLE --trt"),
    ],
)
def test_engines_that_cannot_be_loaded(
    examined: Doctor, here: Path, monkeypatch: pytest.MonkeyPatch, what: str, words: str, todo: str
) -> None:  # oracle: what the index says, and that `auto` passes them over
    with_gpu(monkeypatch)
    bundle = open_bundle("tiny")
    encoder, *others = engines_of(bundle)
    changes = {
        "older graph": {"graph_sha256": "0" * 64},
        "other GPU": {"target": replace(HERE, compute_capability="9.0")},
        "other version": {"target": replace(HERE, version="10.8.0")},
    }
    write_index(bundle, replace(encoder, **changes.get(what, {})), *others)
    folder = here / "engines" / "tiny" / "trt"
    if what == "missing":
        (folder / "encoder.engine").unlink()
    if what == "truncated":
        (folder / "encoder.engine").write_bytes(b"")
    if what == "altered":
        flip_last_bit(folder / "encoder.engine")
        assert examined()[2] == []  # the size alone is right
    if what == "index":
        (folder / "index.json").write_text("{")
    code, found, problems, _ = examined(*(["--hashes"] if what == "altered" else []))
    assert code == 0
    (problem,) = problems
    assert words in problem
    assert f"; do: {todo}" in problem
    assert found["devices"]["auto"].startswith("takes cpu, ")
    assert open_graphs(bundle, "auto").device == "cpu"


def test_engines_without_a_gpu_are_no_problem(examined: Doctor) -> None:  # oracle: folders are shared between machines
    bundle = open_bundle("tiny")
    write_index(bundle, *engines_of(bundle))
    code, found, problems, _ = examined()
    assert (code, problems) == (0, [])
    assert found["engines"]["engines/tiny trt fp32"].startswith("of no use here: trt needs an NVIDIA GPU")


def test_a_gpu_that_nothing_uses(examined: Doctor, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the driver's own file, its first line as NVIDIA writes it
    (here / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\nGCC 12.2.0\n"
    )
    monkeypatch.setattr(installation, "DRIVER", here / "version")
    for module in ("tensorrt", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, module, None)
    versions(monkeypatch, cuda_bindings=None)
    code, found, problems, _ = examined()
    assert code == 0
    assert found["gpu"] == {"driver": "535.104.05", "gpus": "not looked for: cuda-bindings cannot be imported"}
    (problem,) = problems
    assert "nothing that is installed uses the GPU" in problem
    assert problem.endswith(f"; do: {USE_GPU}")


def test_a_driver_that_is_too_old(examined: Doctor, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.10  Sat Aug 19\n")
    monkeypatch.setattr(installation, "DRIVER", here / "version")
    code, _, problems, _ = examined()
    assert code == 0
    (problem,) = problems
    assert problem.startswith(
        "problem: gpu: gpus: none: needs an NVIDIA GPU with a recent driver: cudaErrorInsufficient"
    )
    assert problem.endswith("; do: update the NVIDIA driver, then check nvidia-smi")


def test_cuda_that_falls_back_is_a_problem(examined: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: a library that takes the CPU whatever was asked for, as onnxruntime does without cuDNN
    with_gpu(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    take_the_cpu_always(monkeypatch)
    code, found, problems, _ = examined()
    assert code == 0
    assert found["devices"]["auto"].startswith("takes cpu, ")
    (problem,) = problems
    assert problem.startswith("problem: devices: cuda: cannot be used: onnxruntime took CPUExecutionProvider instead")
    assert problem.endswith('; do: pip install "onnxruntime-gpu[cuda,cudnn]" and check nvidia-smi')
