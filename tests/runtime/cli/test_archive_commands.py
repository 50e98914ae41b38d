"""`compress` to archives and `info` of them, as commands."""

import json

import numpy as np
import pytest
import xarray as xr

from fsae.runtime.cli.main import main

SAMPLE = "ncep1-tas-mon-200501-201412.nc"


@pytest.fixture
def shipped(capsys):
    """A function that runs `fsae-run` with the shipped bundle; gives its exit code, stdout and stderr."""

    def run(*words):
        code = main(["--model", "default", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def test_compress_and_info_tell_the_same_errors(shipped, sample_data, tmp_path):
    """Oracle: the values that xarray decodes, against the file."""
    out = tmp_path / "archive.zarr"
    code, told, _ = shipped("compress", sample_data / SAMPLE, out, "--max-error", "tas=1")
    assert code == 0
    assert "largest error" in told
    facts = json.loads(shipped("info", out, "--json")[1])["tas"]
    with xr.open_dataset(out, engine="fsae") as made, xr.open_dataset(sample_data / SAMPLE) as original:
        error = np.abs(made.tas.values - original.tas.values).max()
    assert error <= 1
    assert facts["max_error"] == pytest.approx(error, rel=1e-3)
    assert facts["bytes"] < facts["store_bytes"]


@pytest.mark.parametrize(
    "words",
    [
        ("--rmse", "x"),
        ("--rmse", "0.2", "--ratio", "64"),
        ("--max-error", "tas=0.5", "--lossless-latents"),
        ("--rmse", "pr=1"),
        ("--ratio", "0.1"),
    ],
    ids=" ".join,
)
def test_bad_qualities_are_refused(shipped, sample_data, tmp_path, words):
    """Oracle: exit code 2, one sentence, and no output."""
    code, _, told = shipped("compress", sample_data / SAMPLE, tmp_path / "x.zarr", *words)
    assert code == 2
    assert len(told.strip().splitlines()[-1]) < 400
    assert not list(tmp_path.iterdir())


def test_a_bundle_without_the_codec_says_so(command, sample_data, tmp_path):
    """Oracle: the sentence that names the bundle, and what to do."""
    code, _, told = command("compress", sample_data / SAMPLE, tmp_path / "x.zarr", "--rmse", "0.2")
    assert code == 4
    assert "has no archive codec: give --model default" in told
