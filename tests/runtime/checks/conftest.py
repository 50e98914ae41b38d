"""A working folder to be examined by `fsae-run doctor`."""

import json
import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest
from doctored import Doctor, versions
from stand_in_gpu import install_stand_ins

from fsae.runtime.bundle import files as bundle_module
from fsae.runtime.bundle.exported import remember
from fsae.runtime.bundle.files import bundles_in, fingerprint
from fsae.runtime.checks import installation
from fsae.runtime.cli.main import main

GOLDEN = Path(__file__).parents[2] / "golden"


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
