"""Reports of a build: its phases, on a terminal and in a log, and the layers of an engine in a file beside it."""

import io
import json
import sys
import types
from dataclasses import replace

import pytest
from stand_in_gpu import Logger, install_cuda, obstacle

from fsae.export.cli.show import show_builds
from fsae.export.engines.build import build_engines
from fsae.export.engines.compile import BuildOptions
from fsae.export.engines.layer_report import FROM_ENGINE, FROM_GRAPH, inspected_layers, report_name
from fsae.runtime.backends.engine_index import engine_folder
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import DeviceError
from fsae.runtime.log import log, on_stderr

SMALL = BuildOptions(profile=(2, 2, 2))


def test_every_phase_is_reported_and_never_beyond_its_end(rtx: types.ModuleType, tiny_copy: Bundle) -> None:
    seen: list[tuple[str, int, int]] = []
    build_engines(tiny_copy, "trt-rtx", SMALL, progress=lambda *step: seen.append(step))
    assert {f"{graph} fp32: Building engine" for graph in tiny_copy.manifest.graphs} <= {phase for phase, _, _ in seen}
    for phase, done, total in seen:
        assert 0 <= done <= total, phase
    steps = [done for phase, done, _ in seen if phase == "encoder fp32: Building engine"]
    assert steps == list(range(len(steps)))
    assert len(steps) > 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_phase_and_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: the lines of the log and the phase
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with on_stderr(), show_builds() as progress:
        log.info("encoder fp32: building [here]")
        progress("encoder fp32: Timing graph nodes", 3, 7)
        log.info("x" * 200)  # longer than the terminal is wide: not broken by us
    text = terminal.getvalue()
    assert "encoder fp32: building [here]\n" in text.replace("\r", "")
    assert "x" * 200 in text
    assert "encoder fp32: Timing graph nodes" in text
    assert "3/7" in text


@pytest.mark.parametrize(("every_s", "lines"), [(0.0, 2), (1000.0, 0)])
def test_a_log_has_a_line_now_and_then(capsys: pytest.CaptureFixture[str], every_s: float, lines: int) -> None:
    with show_builds(every_s) as progress:
        progress("encoder fp32: Timing graph nodes", 3, 7)
        progress("encoder fp32: Timing graph nodes", 4, 7)
    error = capsys.readouterr().err.splitlines()
    assert len(error) == lines
    assert error[1:] == ["encoder fp32: Timing graph nodes, 4 of 7"][: lines - 1]


def test_layers_are_reported_on_request(
    rtx: types.ModuleType, tiny_copy: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    # oracle: the output of each graph, and types of the graph; nothing is built for a report alone
    build_engines(tiny_copy, "trt-rtx", SMALL)
    assert not list(engine_folder(tiny_copy).glob("*.layers.json"))
    caplog.clear()
    built = build_engines(tiny_copy, "trt-rtx", replace(SMALL, layers=True))
    assert not any("building" in line for line in caplog.messages)
    on_gpu = obstacle("trt-rtx") is None
    for engine in built:
        text = (engine_folder(tiny_copy) / report_name(engine.file)).read_text()
        report = json.loads(text)
        assert (report["graph"], report["precision"], report["engine"]) == (engine.graph, "fp32", engine.file)
        assert report["layers_are"].startswith(FROM_ENGINE if on_gpu else FROM_GRAPH)
        assert len(text.splitlines()) == len(report["layers"]) + 9  # one layer a line
        if not on_gpu:
            outputs = {tensor["name"]: tensor for layer in report["layers"] for tensor in layer["outputs"]}
            found = outputs[{"encoder": "latent", "decoder": "field", "denoiser": "denoised"}[engine.graph]]
            assert found["dtype"] == "FLOAT"
            assert found["shape"][0] == -1
            assert any(layer["type"] == "MATRIX_MULTIPLY" for layer in report["layers"])
    path = engine_folder(tiny_copy) / report_name("encoder.fp32.trt-rtx.0123456789abcdef.engine")
    path.write_text("of an engine that is gone")
    build_engines(tiny_copy, "trt-rtx", SMALL)
    assert not path.exists()
    assert len(list(engine_folder(tiny_copy).glob("*.layers.json"))) == 3


def test_an_engine_that_can_be_loaded_is_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(monkeypatch)
    trt = types.ModuleType("tensorrt")
    trt.ILogger = Logger
    trt.LayerInformationFormat = types.SimpleNamespace(JSON="json")
    text = json.dumps({"Layers": [{"Name": "fused", "Precision": "FP16"}], "Bindings": ["field"]})
    inspector = types.SimpleNamespace(get_engine_information=lambda form: text if form == "json" else "")
    engine = types.SimpleNamespace(create_engine_inspector=lambda: inspector)
    trt.Runtime = lambda logger: types.SimpleNamespace(deserialize_cuda_engine={b"good": engine}.get)
    assert inspected_layers(trt, "trt", b"good") == [{"Name": "fused", "Precision": "FP16"}]
    with pytest.raises(DeviceError, match="tensorrt cannot load the engine"):
        inspected_layers(trt, "trt", b"other")
    install_cuda(monkeypatch, driver_error="cudaErrorInsufficientDriver")
    with pytest.raises(DeviceError, match="recent driver"):  # TensorRT is not asked then
        inspected_layers(trt, "trt", b"good")
    install_cuda(monkeypatch)
    text = "layer names only"
    with pytest.raises(DeviceError, match="did not return a list of layers"):
        inspected_layers(trt, "trt", b"good")
