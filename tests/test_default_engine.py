"""The default engine as it is shipped: verified, reproducible, conserving, and as good as promised."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import fsae.runtime
from fsae.export.engines import build_engines
from fsae.runtime.bundle import COMPILED, Bundle, open_bundle
from fsae.runtime.cli import main
from fsae.runtime.compression import open_fields
from fsae.runtime.engines import read_index
from fsae.runtime.healpix import coarsen

PROMISED_RMSE_K = 0.33  # global, evaluation years 2005-2014, ratio 16
CONSERVED_K = 1e-3  # cell means of the coarsest zoom, float32 latents


@pytest.fixture(scope="module")
def emulator(default_bundle: Bundle) -> fsae.runtime.Emulator:
    return fsae.runtime.load(default_bundle.folder, device="cpu")


@pytest.fixture(scope="module")
def evaluation(sample_data: Path, emulator: fsae.runtime.Emulator) -> tuple[np.ndarray, np.ndarray]:
    """Fields (time, pixel) of the evaluation years, never trained on, and what they become by compression."""
    path = sample_data / "ncep1-tas-mon-200501-201412.nc"
    truth = open_fields(emulator.bundle, path).read()[0, :, 0]
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as data:
        restored = emulator.decompress(emulator.compress(data, climatology="training"))
    return truth, restored["tas"].values


def test_it_is_what_it_was_when_it_was_exported(default_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: hashes, and outputs of the trained model stored beside it
    assert main(["--model", str(default_bundle.folder), "--device", "cpu", "verify"]) == 0
    assert f"verified {default_bundle.manifest.name}: " in capsys.readouterr().out


def test_it_is_small_and_described(default_bundle: Bundle) -> None:
    assert default_bundle.size < 10e6
    manifest = default_bundle.manifest
    assert (manifest.latent.ratio, manifest.grid.zoom, manifest.latent.zoom) == (16, 5, 3)
    assert manifest.provenance.period[1][:7] == "2004-12"
    assert "MODEL_CARD.md" in manifest.files


def test_members_are_reproducible(emulator: fsae.runtime.Emulator) -> None:  # oracle: each other, bitwise
    five = emulator.generate(5, steps=3)
    alone = emulator.generate([3], steps=3, batch=1)
    np.testing.assert_array_equal(alone["tas"].values[0], five["tas"].values[3])
    assert np.abs(five["tas"].values[0] - five["tas"].values[1]).max() > 1.0  # two members differ by weather


def test_two_members_look_like_a_climate(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: plain physics of near-surface temperature, and the valid range of the manifest
    emulator.generate_file(tmp_path / "ensemble.zarr", 2)
    with xr.open_dataset(tmp_path / "ensemble.zarr", engine="zarr") as found:
        tas, lat = found["tas"].values, found["lat"].values
        assert tas.shape == (2, 12, 12288)
        low, high = emulator.bundle.manifest.variables[0].valid_range
        assert low < tas.min() < tas.max() < high
        assert 285 < tas.mean() < 291  # [K], cells are of equal area
        north = tas[:, :, lat > 45].mean(axis=(0, 2))
        assert north[6] - north[0] > 15  # July against January
        assert tas[:, :, np.abs(lat) < 10].mean() - tas[:, :, np.abs(lat) > 70].mean() > 30


def test_cell_means_are_conserved(
    emulator: fsae.runtime.Emulator, evaluation: tuple[np.ndarray, np.ndarray]
) -> None:  # oracle: the invariant of the pyramid; the base passes through
    truth, restored = (field.astype(np.float64) for field in evaluation)
    levels = emulator.bundle.manifest.grid.zoom - emulator.bundle.manifest.zooms[0]
    assert np.abs(coarsen(truth, levels) - coarsen(restored, levels)).max() < CONSERVED_K


def test_reconstruction_is_as_good_as_promised(evaluation: tuple[np.ndarray, np.ndarray]) -> None:
    # oracle: the reanalysis of ten years that were not trained on
    truth, restored = (field.astype(np.float64) for field in evaluation)
    assert np.sqrt(np.mean((truth - restored) ** 2)) < PROMISED_RMSE_K


def test_tensorrt_rtx_builds_every_graph(default_bundle: Bundle, tmp_path: Path) -> None:
    # oracle: hashes of the files that lie there; needs no GPU, as TensorRT-RTX compiles without one
    shutil.copytree(default_bundle.folder, tmp_path / "default", ignore=shutil.ignore_patterns(COMPILED))
    bundle = open_bundle(tmp_path / "default")
    built = build_engines(bundle, "trt-rtx")
    folder = bundle.folder / COMPILED
    index = read_index(folder)
    assert sorted(index, key=lambda e: e.graph) == sorted(built, key=lambda e: e.graph)
    assert {engine.graph for engine in index} == set(bundle.manifest.graphs) == {"encoder", "decoder", "denoiser"}
    for engine in index:
        assert engine.graph_sha256 == bundle.manifest.files[f"{engine.graph}.fp32.onnx"].sha256
        assert hashlib.sha256((folder / engine.file).read_bytes()).hexdigest() == engine.sha256
    assert {path.name for path in folder.glob("*.engine")} == {engine.file for engine in index}
