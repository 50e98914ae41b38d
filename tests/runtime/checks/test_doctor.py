"""`fsae-run doctor`: what it finds on whole and on broken installations, its advice, and that it never fails itself."""

import importlib.metadata
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import psutil
import pytest
from damage import damage, flip_last_bit
from msgspec.structs import replace
from processes import run_blocked
from stand_in_gpu import HERE, FakeCuda, an_engine, install_stand_ins, take_the_cpu_always, write_index
from tiny_bundle import make_tiny_bundle, tiny_manifest

from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.bundle import files as bundle_module
from fsae.runtime.bundle.exported import remember
from fsae.runtime.bundle.files import Bundle, bundles_in, fingerprint, open_bundle, write_manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.runtime.checks import doctor as doctor_module
from fsae.runtime.checks import installation
from fsae.runtime.checks.doctor import USE_GPU
from fsae.runtime.cli.main import main

GOLDEN = Path(__file__).parents[2] / "golden"
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


@pytest.fixture
def here(tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the tiny bundle in ./engines, no other bundle, and a machine without an NVIDIA driver."""
    remember(fingerprint(shutil.copytree(tiny_bundle_path, tmp_path / "engines" / "tiny")))
    (tmp_path / "shipped").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: tmp_path / "shipped")
    monkeypatch.setattr(installation, "DRIVER", tmp_path / "no-driver")
    install_stand_ins(monkeypatch, driver_error="cudaErrorInsufficientDriver")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # what a missing package looks like to import
    versions(monkeypatch, tensorrt=None, tensorrt_rtx_cu13=None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    return tmp_path


@pytest.fixture
def examined(here: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs the command, as text and as JSON; gives the code, value by section and name, problems, and stderr."""

    def command(*words: str) -> tuple[int, dict[str, dict[str, str]], list[str], str]:
        for folder in bundles_in(Path("engines")):
            remember(fingerprint(folder))
        code = main(["doctor", *words])
        text, err = capsys.readouterr()
        assert main(["doctor", "--json", *words]) == code
        record = json.loads(capsys.readouterr().out)
        assert record["exit_code"] == code
        assert (record["failure"] is None) == (code == 0)
        found: dict[str, dict[str, str]] = {}
        for finding in record["findings"]:
            found.setdefault(finding["section"], {})[finding["name"]] = finding["value"]
            if finding["name"] != "memory":  # which changes from moment to moment
                assert finding["value"] in text
        problems = [line for line in text.splitlines() if line.startswith("problem: ")]
        assert len(problems) == sum(finding["advice"] is not None for finding in record["findings"])
        assert all(line.count("; do: ") == 1 for line in problems)
        assert ("no problems" in text) == (not problems)
        assert "Traceback" not in text + err
        return code, found, problems, err

    return command


def with_gpu(monkeypatch: pytest.MonkeyPatch, driver: str = "cudaSuccess") -> None:
    """A GPU with CUDA 13.2 and TensorRT, as far as anything here can see."""
    install_stand_ins(monkeypatch, driver_error=driver)
    properties = types.SimpleNamespace(name=b"Stand-in", major=8, minor=9, totalGlobalMem=24_000_000_000)
    success = FakeCuda.cudaError_t.cudaSuccess
    monkeypatch.setattr(FakeCuda, "cudaDriverGetVersion", lambda self: (success, 13020), raising=False)
    monkeypatch.setattr(FakeCuda, "cudaGetDeviceProperties", lambda self, device: (success, properties))


# --- a machine where all is well ---


def test_a_whole_installation(examined: Doctor, here: Path) -> None:  # oracle: metadata, and what `auto` takes itself
    code, found, problems, err = examined("--hashes")
    assert (code, problems, err) == (0, [], "")
    for library in ("numpy", "xarray", "zarr", "h5netcdf", "cftime"):
        assert found["libraries"][library] == importlib.metadata.version(library)
    assert ", ".join(onnxruntime.get_available_providers()) in found["libraries"]["onnxruntime"]
    assert found["libraries"]["tensorrt_rtx"] == "not installed"
    assert found["gpu"]["gpus"].startswith("none: needs an NVIDIA GPU with a recent driver")
    assert found["bundles"]["in use"] == "engines/tiny"
    assert found["bundles"]["engines/tiny"].startswith("tiny, schema 2, fp32, ")
    assert found["bundles"]["engines/tiny"].endswith(" in 6 files of the right hash, generates")
    assert "engines" not in found
    chosen = open_graphs(open_bundle(), "auto")
    assert found["devices"]["auto"].startswith(f"takes {chosen.device}, ")
    assert found["devices"][chosen.device] == f"works: {chosen.backend} ran the decoder of tiny in fp32"


def test_platform(examined: Doctor, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: made-up files
    for name, text in (
        ("CPU_INFO", "processor : 0\nmodel name : Some CPU\nflags : fpu avx2 avx512f\nprocessor : 1\nflags : avx2\n"),
        ("MEMORY_LIMIT", "500000000\n"),
    ):
        (here / name).write_text(text)
        monkeypatch.setattr(installation, name, here / name)
    memory = types.SimpleNamespace(total=2_000_000_000, available=1_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    found = examined()[1]["platform"]
    assert found["processor"] == "Some CPU"
    assert found["features"] == "avx2, avx512f, no avx_vnni, no avx512_vnni, no amx_int8, no amx_bf16"
    assert found["memory"] == "2.0 GB, 1.0 GB available, limited to 0.5 GB"
    for name in ("CPU_INFO", "MEMORY_LIMIT"):  # as on a system without them
        (here / name).unlink()
    code, sections, problems, _ = examined()
    assert (code, problems) == (0, [])
    assert sections["platform"]["features"] == "cannot be read here"
    assert sections["platform"]["memory"] == "2.0 GB, 1.0 GB available"
    assert sections["cache"]["regridding weights"] == "not kept: FSAE_CACHE is 'off', or there is no home"


def test_help_has_examples_and_options_of_devices_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    assert "Examples:\n    fsae-run doctor" in capsys.readouterr().out
    assert main(["--device", "cpu", "doctor"]) == 2
    assert "doctor takes no --device, --precision or --threads: leave them out" in capsys.readouterr().err


# --- libraries ---


def test_without_onnxruntime(
    examined: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: `verify` says the same
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    versions(monkeypatch, onnxruntime=None, onnxruntime_gpu=None)
    code, found, problems, err = examined()
    assert code == 3
    assert found["libraries"]["onnxruntime"] == "not installed"
    assert found["devices"]["auto"] == "finds no device"
    (problem,) = problems
    assert problem.startswith("problem: devices: cpu: needs onnxruntime, which cannot be imported")
    assert problem.endswith('; do: pip install "fsae[cpu]"')
    (error,) = err.splitlines()
    assert error.startswith("fsae-run: error: no device runs engines/tiny: device cpu needs onnxruntime")
    assert main(["verify"]) == code


def test_an_onnxruntime_whose_files_are_gone(examined: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: what pip leaves after one of the two packages was uninstalled
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    versions(monkeypatch, onnxruntime="1.22.0", onnxruntime_gpu=None)
    code, _, problems, _ = examined()
    assert code == 3
    assert problems[0].startswith("problem: libraries: onnxruntime: cannot be imported (ModuleNotFoundError: ")
    assert problems[0].endswith("; do: pip install --force-reinstall onnxruntime")


@pytest.mark.parametrize(("gpu", "runs"), [("1.21.0", True), ("1.21.0", False), (None, False)])
def test_both_onnxruntimes(
    examined: Doctor, monkeypatch: pytest.MonkeyPatch, gpu: str | None, runs: bool
) -> None:  # oracle: pyproject.toml, where cpu and gpu exclude each other; the exit code is whether something runs
    versions(monkeypatch, onnxruntime="1.22.0", onnxruntime_gpu=gpu)
    if not runs:  # as also where one of the two was taken away again
        monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    code, _, problems, _ = examined()
    assert code == (0 if runs else 3)
    found = "1.22.0" if gpu is None else f"1.22.0, onnxruntime-gpu {gpu}"
    assert problems[0].startswith(f"problem: libraries: onnxruntime: {found}: broken, as when onnxruntime and ")
    assert "; do: pip uninstall onnxruntime onnxruntime-gpu, then pip install" in problems[0]


@pytest.mark.parametrize("raised", [OSError("libnvinfer.so.10: cannot open"), RuntimeError("no driver"), KeyError("x")])
def test_a_library_that_fails_on_import(examined: Doctor, monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    real = installation.importlib.import_module

    def failing(name: str) -> types.ModuleType:
        if name == "tensorrt":
            raise raised
        return real(name)

    monkeypatch.setattr(
        installation, "importlib", types.SimpleNamespace(import_module=failing, metadata=importlib.metadata)
    )
    code, found, problems, _ = examined()
    assert code == 0
    assert found["libraries"]["tensorrt"] == f"cannot be imported ({type(raised).__name__}: {raised})"
    assert [problem.split("; do: ")[1] for problem in problems] == ["pip install --force-reinstall tensorrt"]


def test_without_numpy(tmp_path: Path) -> None:  # oracle: an interpreter that cannot import it
    done = run_blocked("doctor", module="fsae.runtime.cli.main", blocked=["numpy"], folder=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stdout + done.stderr
    raised = "(ModuleNotFoundError: numpy is blocked by the test)"
    assert f"problem: libraries: numpy: cannot be imported {raised}; do: pip install" in done.stdout
    assert "zarr           not tried: it needs numpy" in done.stdout
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"fsae-run: error: the runtime does not work here {raised}: ")


def test_what_nobody_thought_of_is_a_finding(examined: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*arguments: object) -> None:
        raise ZeroDivisionError("of all things")

    for name, section in (("gpu_findings", "gpu"), ("platform_findings", "platform")):
        with monkeypatch.context() as patch:
            patch.setattr(doctor_module, name, breaks)
            code, found, problems, _ = examined()
        assert (code, len(problems)) == (0, 1)
        assert found[section][section] == "cannot be examined (ZeroDivisionError: of all things)"
    monkeypatch.setattr(doctor_module, "try_device", breaks)
    code, found, _, err = examined()
    assert code == 3
    assert "cpu fails (ZeroDivisionError: of all things)" in err
    monkeypatch.setattr(doctor_module, "read_bundles", breaks)
    assert "the runtime does not work here (ZeroDivisionError: of all things)" in examined()[3]


# --- GPUs and engines ---


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


# --- bundles ---


DAMAGE = {
    "newer schema": (f"has schema version {SCHEMA_VERSION + 1}", "update with `pip install --upgrade fsae`"),
    "truncated manifest": ("not JSON", "get the bundle again"),
    "truncated graph": ("decoder.fp32.onnx is truncated or altered: found ", "get the bundle again"),
    "missing graph": ("cannot read engines/tiny/decoder.fp32.onnx: No such file", "get the bundle again"),
    "altered graph": ("decoder.fp32.onnx is altered: its SHA-256 differs", "get the bundle again"),
    "no graph at all": ("cannot load decoder.fp32.onnx", "update onnxruntime"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_bundle(examined: Doctor, here: Path, what: str) -> None:  # oracle: `verify` refuses it too
    damage(here / "engines" / "tiny", what)
    code, _, problems, err = examined()
    words, todo = DAMAGE[what]
    (problem,) = problems
    assert words in problem
    assert f"; do: {todo}" in problem
    (error,) = err.splitlines()
    assert words in error
    assert code == main(["verify"]) == 4


def test_hashes_are_compared_when_asked(examined: Doctor, here: Path) -> None:  # oracle: a file of the right size
    denoiser = here / "engines" / "tiny" / "denoiser.fp32.onnx"  # which nothing else here reads
    flip_last_bit(denoiser)
    assert examined()[0] == 0
    code, _, problems, _ = examined("--hashes")
    assert code == 4
    assert "denoiser.fp32.onnx is altered: its SHA-256 differs" in problems[0]


def test_a_damaged_bundle_that_is_not_in_use(examined: Doctor, here: Path) -> None:
    damage(make_tiny_bundle(here / "shipped" / "default"), "truncated graph")
    code, found, problems, _ = examined()
    assert (code, len(problems)) == (0, 1)
    assert found["bundles"]["in use"] == "engines/tiny"
    assert examined("--model", "default")[0] == 4


def test_a_bundle_with_two_names_is_there_once(
    examined: Doctor, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: a checkout, where the shipped bundles are those in ./engines
    make_tiny_bundle(here / "engines" / "default")
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: here / "engines")
    found = examined()[1]["bundles"]
    assert {Path(name).name for name in found} == {"in use", "tiny", "default"}
    assert len(found) == 3


def test_no_bundle_at_all(examined: Doctor, here: Path) -> None:
    shutil.rmtree(here / "engines")
    code, _, problems, _ = examined()
    assert code == 4
    assert problems == [
        "problem: bundles: in use: found no bundle in ./engines and none is shipped with this installation; "
        "do: give --model PATH"
    ]
    code, _, problems, _ = examined("--model", "nowhere")
    assert code == 4
    assert problems[0].startswith("problem: bundles: in use: found no bundle 'nowhere'; known names: none; do: ")


def test_a_bundle_that_only_compresses(examined: Doctor, here: Path) -> None:
    folder = here / "engines" / "tiny"
    (folder / "denoiser.fp32.onnx").unlink()
    manifest = tiny_manifest()
    parity = {"fp32": {graph: manifest.parity["fp32"][graph] for graph in ("encoder", "decoder")}}
    files = {name: entry for name, entry in manifest.files.items() if "denoiser" not in name}
    write_manifest(folder, replace(manifest, denoiser=None, sampler=None, parity=parity, files=files))
    code, _, problems, _ = examined()
    assert code == 4
    assert "engines/tiny, has no diffusion model and cannot generate; do: give --model with one that can" in problems[0]
    code, found, problems, _ = examined("--model", "tiny")  # who names it wants what it has
    assert (code, problems) == (0, [])
    assert found["bundles"]["engines/tiny"].endswith("does not generate")


def test_the_schema_is_that_of_the_file(examined: Doctor) -> None:  # oracle: the golden bundles' names
    folder = GOLDEN / "bundle-schema-1"
    code, found, problems, _ = examined("--model", str(folder), "--hashes")
    assert (code, problems) == (0, [])
    assert ", schema 1, fp32, " in found["bundles"][str(folder)]
