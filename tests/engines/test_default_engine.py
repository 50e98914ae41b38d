"""The engines as they are shipped: verified, reproducible, conserving, and as good as promised."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from repository_engines import ENGINES

import fsae.runtime
from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.bundle.exported import remember
from fsae.runtime.bundle.files import COMPILED, Bundle, find_bundle, fingerprint, open_bundle
from fsae.runtime.cli.main import main
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.codec.encoder_input import open_fields
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.healpix import coarsen

PROMISED_RMSE_K = {"ratio-4": 0.048, "default": 0.21, "ratio-64": 0.44, "ratio-256": 0.78}  # global, 2005-2014
CONSERVED_K = 1e-3  # cell means of the coarsest zoom, float32 latents


@pytest.fixture(scope="module")
def emulator(default_bundle: Bundle) -> fsae.runtime.Emulator:
    return fsae.runtime.load(default_bundle.folder, device="cpu")


def evaluation(engine: fsae.runtime.Emulator, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Fields (time, pixel) of the evaluation years, never trained on, and what they become by compression."""
    path = data / "ncep1-tas-mon-200501-201412.nc"
    truth = open_fields(engine.bundle, path).read()[0, :, 0]
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as dataset:
        restored = engine.decompress(engine.compress(dataset, climatology="training"))
    return truth.astype(np.float64), restored["tas"].values.astype(np.float64)


def test_it_is_what_it_was_when_it_was_exported(default_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: hashes, and outputs of the trained model stored beside it
    assert main(["--model", str(default_bundle.folder), "--device", "cpu", "verify"]) == 0
    assert f"verified {default_bundle.manifest.name}: " in capsys.readouterr().out


def test_it_is_small_and_described(default_bundle: Bundle) -> None:
    archive = default_bundle.manifest.files["archive.npz"].size
    assert archive <= 2e6
    assert default_bundle.size - archive < 16e6  # dense maps take 5.5 MB of it, in bytes
    manifest = default_bundle.manifest
    assert (manifest.latent.ratio, manifest.grid.zoom, manifest.latent.zoom) == (16, 5, 3)
    assert manifest.provenance.period[1][:7] == "2004-12"
    assert "MODEL_CARD.md" in manifest.files


def test_members_are_reproducible(emulator: fsae.runtime.Emulator) -> None:  # oracle: each other, bitwise
    five = emulator.generate(Request(members=5, steps=3))
    alone = emulator.generate(Request(members=[3], steps=3), batch=1)
    np.testing.assert_array_equal(alone["tas"].values[0], five["tas"].values[3])
    assert np.abs(five["tas"].values[0] - five["tas"].values[1]).max() > 1.0  # two members differ by weather


def test_the_fast_sampler_draws_like_the_other(emulator: fsae.runtime.Emulator) -> None:  # oracle: the other sampler
    one, other = (
        emulator.generate(Request(members=4, steps=12, sampler=name))["tas"].values for name in ("default", "fast")
    )
    differences = [fields - fields.mean(axis=0) for fields in (one, other)]
    spread = [float(np.std(difference)) for difference in differences]
    assert 0.85 < spread[1] / spread[0] < 1.1
    assert np.corrcoef(differences[0].ravel(), differences[1].ravel())[0, 1] > 0.9  # from the same noise


def test_two_members_look_like_a_climate(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: plain physics of near-surface temperature, and the valid range of the manifest
    emulator.generate_file(tmp_path / "ensemble.zarr", Request(members=2))
    with xr.open_dataset(tmp_path / "ensemble.zarr", engine="zarr") as found:
        tas, lat = found["tas"].values, found["lat"].values
        assert tas.shape == (2, 12, 12288)
        low, high = emulator.bundle.manifest.variables[0].valid_range
        assert low < tas.min() < tas.max() < high
        assert 285 < tas.mean() < 291  # [K], cells are of equal area
        north = tas[:, :, lat > 45].mean(axis=(0, 2))
        assert north[6] - north[0] > 15  # July against January
        assert tas[:, :, np.abs(lat) < 10].mean() - tas[:, :, np.abs(lat) > 70].mean() > 30


@pytest.mark.parametrize("name", PROMISED_RMSE_K)
def test_every_engine_keeps_cell_means_and_its_promise(name: str, sample_data: Path) -> None:
    # oracle: the reanalysis of ten years that were not trained on; the invariant of the pyramid, whose base passes
    # through; the ratio in the name
    engine = fsae.runtime.load(ENGINES / name, device="cpu")
    truth, restored = evaluation(engine, sample_data)
    assert np.sqrt(np.mean((truth - restored) ** 2)) < PROMISED_RMSE_K[name]
    manifest = engine.bundle.manifest
    levels = manifest.grid.zoom - manifest.zooms[0]
    assert np.abs(coarsen(truth, levels) - coarsen(restored, levels)).max() < CONSERVED_K
    assert manifest.latent.ratio == (16 if name == "default" else int(name.removeprefix("ratio-")))
    assert (manifest.denoiser is not None) == (name == "default")


def test_a_constant_anomaly_stays_constant_in_every_base_cell(emulator: fsae.runtime.Emulator) -> None:
    # oracle: the climatology of the season plus the constant, in every cell of the coarsest zoom
    tables, manifest = emulator.bundle.tables, emulator.bundle.manifest
    features = season(np.array([0.04, 0.54]), manifest.time.harmonics)
    mean = evaluate(tables.climatology, features)
    graphs = open_graphs(emulator.bundle, "cpu")
    mask = np.ones((2, len(manifest.zooms)), dtype=np.float32)
    restored = graphs.decode(graphs.encode(mean + np.float32(1.5), features, mask), features)
    change = coarsen((restored - mean).astype(np.float64), manifest.grid.zoom - manifest.zooms[0])
    np.testing.assert_allclose(change, 1.5, atol=CONSERVED_K)


def test_the_engines_are_small_together() -> None:
    folders = [open_bundle(ENGINES / name) for name in PROMISED_RMSE_K]
    archive = sum(
        bundle.manifest.files["archive.npz"].size for bundle in folders if "archive.npz" in bundle.manifest.files
    )
    assert archive <= 2e6
    assert sum(bundle.size for bundle in folders) - archive < 39e6


def test_the_default_is_the_default_beside_its_relatives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle_path: Path
) -> None:
    # oracle: copies of what is shipped, as a checkout has them, do not hide it; an engine of one's own does
    shutil.copytree(ENGINES, tmp_path / "engines", ignore=shutil.ignore_patterns("*.onnx", COMPILED))
    monkeypatch.chdir(tmp_path)
    assert find_bundle().name == "default"
    shutil.copytree(tiny_bundle_path, tmp_path / "engines" / "mine")
    remember(fingerprint(tmp_path / "engines" / "mine"))
    assert find_bundle() == Path("engines/mine")


def test_edited_latents_decode_to_implausible_fields(emulator: Emulator, sample_data: Path) -> None:
    # oracle: the months themselves, whose latents are taken; in memory no checksum tells
    with xr.open_dataset(sample_data / "ncep1-tas-mon-200501-201412.nc") as data:
        latents = emulator.compress(data.isel(time=slice(0, 12)), climatology="training")
    emulator.decompress(latents)
    edited = latents.assign(tas=latents["tas"] * 5.3)
    with pytest.raises(DataError, match="from its climatology"):
        emulator.decompress(edited)
