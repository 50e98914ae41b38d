"""`fsae-export`: its arguments, output and exit codes; engines need neither torch nor onnx."""

import os
import shutil
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import TRAINING, run_blocked
from stand_in_gpu import obstacle

from fsae.export.bundle import write as export_bundle
from fsae.export.bundle.write import Exported
from fsae.export.cli.main import main, parse_batch
from fsae.runtime.backends.engine_index import read_index
from fsae.runtime.bundle.files import open_bundle
from fsae.runtime.errors import ToleranceError, UsageError
from fsae.training.fitting import run_folder as training_run

Call = tuple[Path, Path, str | None, tuple[str, ...], int]


@pytest.fixture
def here(tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the tiny bundle in ./engines."""
    shutil.copytree(tiny_bundle_path, tmp_path / "engines" / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The request exported: run, out, name, precisions, opset; the exporter itself is replaced by the tiny bundle."""
    calls: list[Call] = []

    def exporter(run: Path, out: Path, name: str | None, *, precisions: tuple[str, ...], opset: int) -> Exported:
        calls.append((run, out, name, precisions, opset))
        bundle = open_bundle(here / "engines" / "tiny")
        seconds = {file: 1.25 for file in bundle.manifest.files if file.endswith(".onnx")}
        return Exported(folder=bundle.folder, manifest=bundle.manifest, seconds=seconds)

    monkeypatch.setattr(training_run, "load_run", lambda path: path)
    monkeypatch.setattr(export_bundle, "export_run", exporter)
    return calls


def make_run(path: Path, age_s: float = 0) -> Path:
    """A folder that `latest_run` accepts as a finished run without a diffusion model."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "autoencoder.safetensors").write_bytes(b"")
    time = (path / "autoencoder.safetensors").stat().st_mtime - age_s
    os.utime(path / "autoencoder.safetensors", (time, time))
    return path


@pytest.fixture
def mine(here: Path) -> Path:
    """A finished run in that folder."""
    return make_run(here / "runs" / "mine")


def test_help_has_examples_and_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for words in ("fsae-export engines/default --trt", "--batch", "./runs"):
        assert words in text
    assert main(["-h"]) == 0
    assert capsys.readouterr().out == text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fsae-export, version ")


def test_without_arguments_the_latest_run_is_taken(
    here: Path, asked: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(here / "runs" / "older", age_s=100)
    make_run(here / "runs" / "newer")
    assert main([]) == 0
    assert asked == [(Path("runs/newer"), Path("engines"), None, ("fp32",), 18)]
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1  # the summary and nothing else
    assert "encoder, decoder, denoiser" in printed.out
    table = [line.split() for line in printed.err.splitlines()]
    # file, size, nodes, time; variable, zoom, largest, rms, tolerance of each difference
    row = next(row for row in table if row[0] == "encoder.fp32.onnx")
    assert row[3:] == ["7", "1.2", "s", "tas", "1", "1.0e-05", "K", "5.0e-06", "K", "1.0e-04", "K"]
    assert table[table.index(row) + 1][:2] == ["uas", "1"]


def test_runs_are_found_by_folder_and_by_name(here: Path, asked: list[Call]) -> None:
    make_run(here / "runs" / "mine")
    make_run(here / "elsewhere")
    assert main(["mine", "--name", "default", "--out", "bundles"]) == 0
    assert main(["elsewhere", "--precision", "fp16,int8", "--opset", "20"]) == 0
    assert asked == [
        (Path("runs/mine"), Path("bundles"), "default", ("fp32",), 18),
        (Path("elsewhere"), Path("engines"), None, ("fp16", "int8"), 20),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no finished run in runs"),
        (["engines/tiny"], 2, "is a bundle already: give --precision"),
        (["engines/tiny", "--trt", "--name", "x"], 2, "--out, --name, --opset and --data are for exports of graphs"),
        (["engines/tiny", "--precision", "fp16", "--opset", "20"], 2, "--opset is for runs"),
        (["engines/tiny", "--precision", "fp16", "--data", "no.toml"], 2, "no.toml"),
        (["mine", "--precision", "fp32,fp64"], 2, "found --precision fp32,fp64, expected some of fp32,fp16,bf16,int8"),
        (["mine", "--precision", "fp16,fp16"], 2, "each once"),
        (["engines/tiny", "--layers"], 2, "--layers is for engines: give --trt"),
        (["engines/tiny", "--trt", "--workspace", "0"], 2, "found a workspace of 0 GiB"),
        (["engines/tiny", "--batch", "1,8,32"], 2, "--batch is for engines"),
        (["engines/tiny", "--trt", "--batch", "8,1"], 2, "found --batch 8,1"),
        (["engines"], 2, "engines is not a run"),
        (["nowhere"], 4, "found no bundle 'nowhere'; known names: "),
        (["--frobnicate"], 2, "No such option"),
    ],
)
def test_mistakes_have_one_sentence_and_a_code(
    here: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("source", ["mine", "engines/tiny"])
def test_a_wrong_date_is_reported_before_any_work(
    mine: Path, asked: list[Call], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert main([source, "--precision", "fp16"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("fsae-export: the environment variable SOURCE_DATE_EPOCH is 'yesterday', expected")
    assert asked == []


def fail(error: BaseException) -> None:
    raise error


INTERRUPTED = "interrupted, nothing was left half-written"
NO_ONNXSCRIPT = (  # which torch imports only when it exports
    'exporting graphs needs onnxscript, which cannot be imported: pip install "fsae[export]" (building engines of a '
    "bundle needs no torch: fsae-export BUNDLE --trt)"
)


@pytest.mark.parametrize(
    ("work", "code", "sentence"),
    [
        (lambda: fail(ToleranceError("the exported decoder differs")), 6, "the exported decoder differs"),
        (lambda: fail(ImportError("no onnxscript here", name="onnxscript")), 3, NO_ONNXSCRIPT),
        (lambda: signal.raise_signal(signal.SIGINT), 130, INTERRUPTED),
        (lambda: signal.raise_signal(signal.SIGTERM), 130, INTERRUPTED),
    ],
    ids=["tolerance", "library", "SIGINT", "SIGTERM"],
)
def test_an_export_that_ends_early_has_one_sentence_and_a_code(
    mine: Path,
    asked: list[Call],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    work: Callable[[], None],
    code: int,
    sentence: str,
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(export_bundle, "export_run", lambda *arguments, **options: work())
    assert main([]) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"fsae-export: {sentence}"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_missing_tensorrt_is_reported_before_any_work(
    mine: Path, asked: list[Call], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["--trt"]) == 3
    error = capsys.readouterr().err
    assert 'pip install "fsae[trt]"' in error
    assert 'pip install "fsae[trt-rtx]"' in error
    assert asked == []


def test_a_named_tensorrt_without_a_gpu_does_not_fall_back(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    if obstacle("trt") is None:
        pytest.skip("there is a GPU with TensorRT")
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    assert main(["engines/tiny", "--trt"]) == 3
    assert "TensorRT builds engines on the GPU they run on" in capsys.readouterr().err


def test_batches_of_text() -> None:
    assert parse_batch("2, 4,8") == (2, 4, 8)
    for text in ("", "a", "1,2", "1,2,3,4", "0", "-1", "1.5"):
        with pytest.raises(UsageError, match="expected one size or smallest,best,largest"):
            parse_batch(text)


def test_engines_of_a_bundle_need_no_torch(here: Path) -> None:  # oracle: an interpreter that cannot import it
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'fsae[trt-rtx]'")
    for name in ("engines/tiny", "tiny", "engines/tiny/manifest.json"):
        done = run_blocked(name, "--trt", "--batch", "1,2,4", blocked=(*TRAINING, "onnxruntime"), folder=here)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("3 engines in engines/tiny/trt for trt-rtx ")
    engines = read_index(here / "engines" / "tiny" / "trt")
    assert [engine.graph for engine in engines] == ["decoder", "denoiser", "encoder"]
    assert all(engine.profile == (1, 2, 4) for engine in engines)
    for engine in engines:
        assert engine.file in done.stderr
        assert "up to date" in done.stderr


def test_exporting_a_run_without_torch_names_the_extra(here: Path, mine: Path) -> None:
    for arguments in ((), ("runs/mine",)):
        done = run_blocked(*arguments, folder=here)
        assert done.returncode == 3
        assert done.stderr.splitlines()[-1].startswith("fsae-export: exporting graphs needs ")
        assert 'pip install "fsae[export]"' in done.stderr
        assert "Traceback" not in done.stderr


def test_a_bundle_in_a_folder_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'fsae[trt-rtx]'")
    (here / "engines" / "tiny" / "trt").write_text("a file where the folder should be")
    assert main(["engines/tiny", "--trt", "--batch", "1"]) == 7
    assert "fsae-export: cannot write engines/tiny/trt" in capsys.readouterr().err
