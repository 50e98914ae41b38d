"""The command generate: its output, defaults, a full disk and an interruption."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from commands import Run, one_sentence
from monthly_fields import values_of
from trees import tree

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.output import files as stores


def test_generate_writes_members_times_and_provenance(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out_path = tmp_path / "ensemble.zarr"
    code, out, err = run("generate", "--members", "3", "--steps", "4", "--start", "1990-11", "--out", out_path)
    assert code == 0
    assert out.startswith("generated 3 members x 4 steps of tas, uas on HEALPix zoom 2 in ")
    assert f"fsae-run: bundle tiny ({tiny_bundle.folder})" in err
    with xr.open_dataset(out_path, engine="zarr") as found:
        assert found["tas"].dims == ("realization", "time", "cell")
        assert found["realization"].values.tolist() == [0, 1, 2]
        months = found["time"].values.astype("datetime64[M]").astype(str).tolist()
        assert months == ["1990-11", "1990-12", "1991-01", "1991-02"]
        assert json.loads(found.attrs["fsae_request"]) == {
            "verb": "generate", "members": [0, 1, 2], "start": "1990-11-01T00:00:00", "steps": 4, "seed": 0,
            "grid": "native", "forcing": "calendar year", "sampler": "default",
        }  # fmt: skip
        assert found.attrs["fsae_manifest_sha256"] == tiny_bundle.manifest_sha256
        assert found.attrs["fsae_seed"] == 0
        assert set(json.loads(found.attrs["fsae_versions"])) == {"fsae", "numpy", "onnxruntime"}
        assert np.isfinite(found["tas"].values).all()
    assert (
        run("generate", "--member-ids", "2", "--steps", "4", "--start", "1990-11", "--out", tmp_path / "two.nc")[0] == 0
    )
    np.testing.assert_array_equal(values_of(tmp_path / "two.nc")[:, 0], values_of(out_path)[2])


def test_defaults_follow_the_training_period(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the documented defaults
    monkeypatch.chdir(tmp_path)
    assert run("generate", "--members", "1")[0] == 0
    with xr.open_dataset("ensemble.zarr", engine="zarr") as found:
        times = found["time"].values.astype("datetime64[M]").astype(str)
        assert (times[0], times[-1], times.size) == ("2004-01", "2004-12", 12)
    code, _, err = run("generate", "--members", "1")
    assert (code, err.splitlines()[-1]) == (
        7,
        "fsae-run: error: ensemble.zarr exists: give another path or --overwrite",
    )
    assert run("generate", "--members", "1", "--overwrite")[0] == 0


def test_the_same_request_gives_the_same_bytes_in_any_batch(run: Run, tmp_path: Path) -> None:
    for name, batch in (("a", "1"), ("b", "3")):
        arguments = ("--members", "3", "--steps", "3", "--seed", "5", "--batch", batch)
        assert run("generate", *arguments, "--out", tmp_path / f"{name}.zarr")[0] == 0
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")


def test_a_full_disk_is_exit_code_7(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, name: str, place: tuple[slice, ...], values: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stores.ZarrStore, "write", full)
    code, _, err = run("generate", "--members", "1", "--out", tmp_path / "out.zarr")
    assert code == 7
    assert "No space left on device; nothing was left there" in one_sentence(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_keeps_what_is_finished(tiny_bundle_path: Path, tmp_path: Path, number: int) -> None:
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # background jobs ignore it
    program = f"{listen}; import sys; from fsae.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program]
    command += ["--model", str(tiny_bundle_path), "--device", "cpu", "--threads", "1"]
    command += ["generate", "--members", "5000", "--steps", "3", "--out", str(tmp_path / "out.zarr")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.partial/fields.zarr/tas/c")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    sentence = r"fsae-run: stopped; \d+ of 15000 fields are kept in \S+out\.zarr\.partial: the same command "
    assert re.fullmatch(sentence + "with --resume goes on", err.splitlines()[-1])
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr.partial"]
