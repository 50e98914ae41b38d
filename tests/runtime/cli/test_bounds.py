"""Bounds before work: numbers, paths and files that nobody means are refused at once, with a code and a sentence."""

import os
import time
from pathlib import Path

import pytest

from fsae.runtime.cli.main import main
from fsae.runtime.errors import UsageError
from fsae.training.config import read_config

NINES = "9" * 400
DIGITS = "9" * 5000  # more than Python converts
LINES = [
    (("generate", "--members", NINES), 2),
    (("generate", "--members", DIGITS), 2),
    (("generate", "--member-ids", f"0-{NINES}"), 2),
    (("generate", "--member-ids", "0-99999999999"), 2),
    (("generate", "--batch", DIGITS), 2),
    (("generate", "--seed", NINES), 2),
    (("generate", "--steps", NINES), 2),
    (("generate", "--shard", "1/99999999999999"), 2),
    (("generate", "--shard", f"{DIGITS}/{DIGITS}"), 2),
    (("generate", "--workers", NINES), 2),
    (("generate", "--grid", "1e400"), 2),
    (("generate", "--grid", "99999999x99999999"), 2),
    (("generate", "--forcing", DIGITS), 2),
    (("generate", "--forcing", "fifo.csv"), 5),
    (("generate", "--forcing", "a\0b"), 5),
    (("generate", "--forcing", "x" * 300), 5),
    (("generate", "--initial", "fifo.csv", "--climatology", "training"), 5),
    (("generate", "--out", "x" * 250 + ".zarr"), 7),
    (("generate", "--out", "a\0b.zarr"), 7),
    (("generate", "--members", "1", "--steps", "1", "--out", os.fsdecode(b"\xff.nc")), 7),
    (("generate", "--out", "x/" * 3000 + "o.zarr"), 7),
    (("verify", "--threads", "99999999"), 2),
    (("compress", "fifo.csv", "o.zarr"), 5),
    (("compress", "/dev/zero", "o.zarr"), 5),
    (("compress", "", "o.zarr"), 5),
    (("climatology", "in.nc", "o.nc", "--harmonics", "99999999"), 2),
    (("--model", "x" * 300, "info"), 4),
    (("--model", "a\0b", "info"), 4),
    (("--model", "/dev/zero", "info"), 4),
]


@pytest.mark.parametrize(("words", "code"), LINES, ids=[ascii(" ".join(words))[:60] for words, _ in LINES])
def test_what_nobody_means_is_refused_at_once(
    words: tuple[str, ...],
    code: int,
    tiny_bundle_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # oracle: the table in README.md
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.csv")
    began = time.monotonic()
    model = () if words[0] == "--model" else ("--model", str(tiny_bundle_path))
    assert main([*model, *words]) in (code, 5 if code == 2 and "--forcing" in words else code)
    err = capsys.readouterr().err
    assert time.monotonic() - began < 5
    assert "Traceback" not in err
    assert "fsae failed" not in err
    assert len(err.splitlines()[-1]) < 700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo.csv"]


@pytest.mark.parametrize("text", ["a" + ".a" * 20_000 + " = 1", "a = " + "[" * 20_000, "a = 1\n" * 300_000])
def test_a_configuration_that_nests_without_end(text: str, tmp_path: Path) -> None:
    # oracle: the time that an ordinary one takes, and much more
    path = tmp_path / "config.toml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"config\.toml is not"):
        read_config(path)
    assert time.monotonic() - began < 5


def test_a_table_that_is_a_pipe_is_not_read(
    tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: it would never end
    import shutil

    bundle = shutil.copytree(tiny_bundle_path, tmp_path / "bundle")
    (bundle / "encoder.fp32.onnx").unlink()
    os.mkfifo(bundle / "encoder.fp32.onnx")
    assert main(["--model", str(bundle), "verify"]) == 4
    assert "encoder.fp32.onnx is not a file" in capsys.readouterr().err
