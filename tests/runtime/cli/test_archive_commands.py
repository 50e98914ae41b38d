"""`compress` to archives and `info` of them, as commands."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr

from fsae.runtime.bundle.files import open_bundle
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


def test_info_of_an_absent_archive_is_refused_alike_in_json(shipped, tmp_path):
    """Oracle: exit code 5 and the sentence that `info` says without --json."""
    told = shipped("info", tmp_path / "none.zarr")
    assert told[0] == 5
    assert shipped("info", tmp_path / "none.zarr", "--json") == told


def test_info_of_the_folder_of_a_bundle_is_that_of_the_bundle(run, tiny_bundle_path):
    """Oracle: the same with --model."""
    told = run("info", model=tiny_bundle_path)
    assert told[0] == 0
    assert run("info", tiny_bundle_path) == told


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["long", "nul"])
def test_info_of_a_name_that_no_store_has_is_refused(run, name):
    """Oracle: exit code 5, and one sentence."""
    code, _, told = run("info", name)
    assert code == 5
    assert "cannot read" in told


def test_a_bundle_without_the_codec_says_so(command, sample_data, tmp_path):
    """Oracle: the sentence that names the bundle, and what to do."""
    code, _, told = command("compress", sample_data / SAMPLE, tmp_path / "x.zarr", "--rmse", "0.2")
    assert code == 4
    assert "bundle tiny has no archive codec: fit one with `fsae-train codec CONFIG` and export it" in told


def test_the_default_is_the_quality_of_the_bundle(shipped, sample_data, tmp_path):
    """Oracle: `archive_rmse` of the manifest, the errors of what `decompress` gives, and the sizes of the files."""
    out, back = tmp_path / "archive.zarr", tmp_path / "back.nc"
    code, told, _ = shipped("compress", sample_data / SAMPLE, out)
    assert code == 0
    asked = (open_bundle("default").manifest.archive_rmse or {})["tas"]
    facts = json.loads(shipped("info", out, "--json")[1])["tas"]
    assert 0.95 * asked < facts["rmse"] <= asked
    told_again = json.loads(zarr.open_group(out).attrs["fsae_figures"])["tas"]
    assert told_again == {key: value for key, value in facts.items() if key != "store_bytes"}
    size = (sample_data / SAMPLE).stat().st_size
    assert f"{size / facts['store_bytes']:.1f} times smaller than the input's files" in told
    assert "both take fewer than float32" in told
    assert shipped("decompress", out, back, "--times", "2006/2007")[0] == 0
    with xr.open_dataset(back) as made, xr.open_dataset(sample_data / SAMPLE) as original:
        there = original.tas.isel(time=slice(12, 36))
        error = (made.tas.values.astype(np.float64) - there.values) ** 2
        weight = np.cos(np.radians(there.lat.values))
        assert np.sqrt((error.mean((0, 2)) * weight).sum() / weight.sum()) == pytest.approx(asked, rel=0.05)
        assert np.array_equal(
            made.time.dt.year * 12 + made.time.dt.month, there.time.dt.year * 12 + there.time.dt.month
        )


def test_steps_are_appended(shipped, sample_data, tmp_path):
    """Oracle: the chunks before, byte by byte; the archives of both parts; and a refusal of steps that are there."""
    parts = [tmp_path / "a.nc", tmp_path / "b.nc"]
    with xr.open_dataset(sample_data / SAMPLE) as original:
        for path, steps in zip(parts, (slice(0, 70), slice(70, 120)), strict=True):
            original.isel(time=steps).to_netcdf(path, engine="h5netcdf")
    whole, last = tmp_path / "whole.zarr", tmp_path / "last.zarr"
    for out, path, words in ((whole, parts[0], ()), (last, parts[1], ()), (whole, parts[1], ("--append",))):
        before = {file: file.read_bytes() for file in whole.glob("tas/c/*/0/0")}
        assert shipped("compress", path, out, "--rmse", "tas=0.3", *words)[0] == 0
    assert all(file.read_bytes().startswith(data) for file, data in before.items())
    assert len(before) == 2
    made = xr.open_dataset(whole, engine="fsae").tas
    assert np.array_equal(made[70:].values, xr.open_dataset(last, engine="fsae").tas.values)
    assert made.time.dt.month.values.tolist() == [*range(1, 13)] * 10
    code, _, told = shipped("compress", parts[1], whole, "--rmse", "tas=0.3", "--append")
    assert code == 5
    assert "ends with 2014-12-16" in told
    assert np.array_equal(made.values, xr.open_dataset(whole, engine="fsae").tas.values)
    code, _, told = shipped("compress", parts[1], whole, "--rmse", "tas=0.4", "--append")
    assert code == 5
    assert "of another quality" in told


@pytest.mark.parametrize(
    "words",
    [
        ("--append", "--overwrite"),
        ("--append", "--lossless-latents", "--climatology", "training"),
        ("--zoom", "4"),
        ("--climatology", "x.nc"),
    ],
    ids=" ".join,
)
def test_what_archives_cannot_is_refused(shipped, sample_data, tmp_path, words):
    """Oracle: exit code 2, and no output."""
    assert shipped("compress", sample_data / SAMPLE, tmp_path / "x.zarr", *words)[0] == 2
    assert not list(tmp_path.iterdir())
