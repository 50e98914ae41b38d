"""`fsae-run doctor`: what it finds on whole and on broken installations, its advice, and that it never fails itself."""

import importlib.metadata
import sys
import types
from pathlib import Path

import onnxruntime
import psutil
import pytest
from doctored import Doctor, versions
from processes import run_blocked

from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.bundle.files import open_bundle
from fsae.runtime.checks import doctor as doctor_module
from fsae.runtime.checks import installation
from fsae.runtime.cli.main import main

GOLDEN = Path(__file__).parents[2] / "golden"


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
