"""The archive codec of a run: fitted on any sphere, by a command that goes on, and shipped by the export."""

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import pytest
from small_config import SAMPLE, write_config

from fsae.export.bundle.contents import read_codec
from fsae.export.bundle.write import export_run
from fsae.runtime.archive.codec import Codec
from fsae.runtime.archive.lookup import CLIMATOLOGY, FILE, SOURCE_CLIMATOLOGY, archive_key, open_codec
from fsae.runtime.archive.quality import Quality
from fsae.runtime.archive.tables import STENCIL_ONE
from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.checks.verify import check_files, check_graphs
from fsae.runtime.cli.main import main as run
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.codec.encoder_input import Reading, open_input
from fsae.runtime.errors import BundleError, DataError, UsageError
from fsae.runtime.sphere.healpix import coarsen, npix, pixel_centres, surroundings
from fsae.runtime.sphere.interpolated_grid import cells_of
from fsae.training.cli.main import main
from fsae.training.config import days_of, whole_years
from fsae.training.data.prepared import part_of, read_prepared
from fsae.training.fitting import archive_codec
from fsae.training.fitting import archive_stage as stage
from fsae.training.fitting.archive_codec import GLOBAL_SHARE, LOCAL, MOVED_SHARE, codec_arrays, fit_codec
from fsae.training.fitting.run_folder import load_run
from fsae.training.networks.localisation import localised_covariance


def waves(zoom: int, steps: int) -> np.ndarray:
    """Anomalies (time, pixel) that drift around the globe, with a little noise."""
    lat, lon = (np.radians(axis) for axis in pixel_centres(zoom))
    time = np.arange(steps)[:, None]
    noise = np.random.default_rng(0).normal(size=(steps, npix(zoom)))
    return (np.cos(2 * lon + 0.3 * time) * np.cos(lat) + 0.5 * np.sin(3 * lat + 0.1 * time) + 0.05 * noise).astype("f4")


@pytest.mark.parametrize(("zoom", "base", "steps"), [(1, 4, 4), (2, 4, 9), (3, 4, 40), (4, 2, 3)])
def test_the_codec_fits_any_sphere_and_a_few_steps(
    zoom: int, base: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the error asked for, of what `decode` gives; the same tables from the same data.

    Zoom 1 has one mode a cell, zooms up to `base` no details, zoom 4 two levels of them.
    """
    monkeypatch.setattr(archive_codec, "BASE_ZOOM", base)
    monkeypatch.setattr(stage, "BASE_ZOOM", base)
    anomalies = waves(zoom, steps)
    patterns = stage.pattern_count(steps, zoom, stage.MOST_BYTES)
    tables = fit_codec(anomalies, patterns)
    assert (tables.zoom, len(tables.patterns)) == (zoom, min(steps, npix(min(zoom, base))))
    codec = Codec(tables=tables, climatology=np.zeros((1, npix(zoom)), "f4"), grid=cells_of(zoom))
    data, figures = codec.encode(anomalies, np.zeros(steps), Quality(rmse=0.02))
    error = codec.decode(data).astype(np.float64) - anomalies
    assert figures.rmse <= 0.02
    assert np.sqrt((error**2).mean()) == pytest.approx(figures.rmse, rel=1e-9)
    again = codec_arrays(fit_codec(anomalies, patterns))
    assert all(np.array_equal(table, again[name]) for name, table in codec_arrays(tables).items())


def test_the_shipped_patterns_are_those_of_the_training_years(default_bundle, sample_data) -> None:
    """Oracle: the definition, C p = v p, for the covariance of the training years' anomalies at zoom 4."""
    from fsae.runtime.codec.encoder_input import open_fields
    from fsae.runtime.sphere.healpix import coarsen

    fields = open_fields(default_bundle, sample_data / "ncep1-tas-mon-194801-200412.nc")
    known = evaluate(default_bundle.tables.climatology, season(fields.phase, 4))[:, 0]
    covariance = localised_covariance(coarsen(fields.read()[0, :, 0] - known), LOCAL, GLOBAL_SHARE, MOVED_SHARE)
    patterns = open_codec(default_bundle, "tas", 5).tables.synthesis[0][:100].astype(np.float64)
    patterns /= np.linalg.norm(patterns, axis=1, keepdims=True)
    made = patterns @ covariance
    values = (made * patterns).sum(1)
    assert (np.diff(values) < 0).all()
    assert (np.linalg.norm(made - values[:, None] * patterns, axis=1) < 0.03 * values[0]).all()  # eight bits a pixel


def test_details_learned_from_few_months_help_in_other_years(default_bundle: Bundle, sample_data: Path) -> None:
    """Oracle: months of ten other years, whose details are nearer to what is foreseen than to none at all."""
    known, (one, other) = default_bundle.tables.climatology[:1], (slice(0, 20), slice(684, 804))
    files = sorted(str(path) for path in sample_data.glob("ncep1-tas-mon-*.nc"))
    given = open_input(default_bundle, "compress", files, Reading(climatology="training", zoom=4))
    with contextlib.closing(given):
        seasons = season(given.fields.phase, known.shape[1] // 2)
        fields = given.fields.read(slice(0, 804))[0] - evaluate(coarsen(known), seasons)
    children = fields[:, 0].astype(np.float64)
    parents = coarsen(children)
    weights = archive_codec._stencil(parents[one], children[one], 0, parents.shape[1]) / STENCIL_ONE
    foreseen = np.einsum("pcn,tpn->tpc", weights, parents[other][:, surroundings(3)])
    details = children[other].reshape(120, -1, 4) - parents[other][..., None]
    assert np.square(details - foreseen).mean() < 0.7 * np.square(details).mean()


@pytest.fixture(scope="module")
def codec_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `fsae-train codec`, of a configuration that has a diffusion model too."""
    folder = tmp_path_factory.mktemp("codec")
    config = write_config(
        folder,
        'data.normalisation = "mean_std"',
        "autoencoder.zoom = 2",
        "diffusion = {window = 3, previous = 2, token_zooms = [0], width = 16, heads = 2, embedding = 9}",
        "diffusion_fit = {steps = 1, batch = 2, learning_rate = 1e-3}",
    )
    assert main(["codec", str(config), "--out", str(folder / "runs"), "--quiet"]) == 0
    return folder / "runs" / "small"


def test_a_codec_run_has_its_tables_and_no_diffusion_model(codec_run: Path) -> None:
    """Oracle: least squares by NumPy on the prepared fields; the size that is allowed."""
    made = load_run(codec_run)
    assert made.denoiser is None
    assert made.config.diffusion is None
    with np.load(codec_run / FILE) as arrays:
        own, source = arrays[f"tas.{CLIMATOLOGY}"], arrays[f"tas.{SOURCE_CLIMATOLOGY}"]
    assert (own.dtype, source.dtype, source.shape) == (np.float32, np.float32, (5, 73 * 144))
    fields = read_prepared(made.config, codec_run)
    part = part_of(fields, made.config.data.training_years)
    design = np.concatenate([np.ones((72, 1)), season(fields.phase[part], 2)], axis=1)
    expected = np.linalg.lstsq(design, fields.read(part)[0, :, 0].astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(own, expected, atol=1e-3)  # kelvin, float32 at 300
    assert (codec_run / FILE).stat().st_size <= stage.MOST_BYTES


def test_the_command_goes_on_and_makes_the_same_tables(codec_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the bytes of the first run; a stage that is there is not fitted again."""
    words = ["codec", str(codec_run.parents[1] / "small.toml"), "--out", str(codec_run.parent), "--quiet"]
    before = {name: (codec_run / name).read_bytes() for name in (FILE, "autoencoder.safetensors")}
    with monkeypatch.context() as patch:
        patch.setattr(stage, "fit_codec", None)
        assert main(words) == 0
    (codec_run / FILE).unlink()
    assert main(words) == 0
    assert {name: (codec_run / name).read_bytes() for name in before} == before


def test_an_exported_codec_run_compresses_and_says_that_it_does_not_generate(
    codec_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the input itself on its own grid, the hash of the run's file, the exit codes."""
    import xarray as xr

    exported = export_run(load_run(codec_run), tmp_path / "engines", "mine")
    bundle = open_bundle(exported.folder)
    assert archive_key(bundle) == hashlib.sha256((codec_run / FILE).read_bytes()).hexdigest()
    assert check_files(bundle) == len(bundle.manifest.files)
    assert "`fsae-train codec config.toml` and" in (bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(check.good for check in check_graphs(bundle, open_graphs(bundle, "cpu")))
    monkeypatch.chdir(tmp_path)
    model = ["--model", "mine"]
    assert run([*model, "compress", str(SAMPLE), "out.zarr", "--max-error", "tas=0.5"]) == 0
    with xr.open_dataset("out.zarr", engine="fsae") as found, xr.open_dataset(SAMPLE) as source:
        assert np.abs(found.tas.values - source.tas.values).max() <= 0.5
    assert run([*model, "compress", str(SAMPLE), "latents.zarr", "--climatology", "training"]) == 0
    assert run([*model, "decompress", "latents.zarr", "again.nc"]) == 0
    assert run([*model, "superres", str(SAMPLE), "fine.zarr", "--zoom", "1", "--climatology", "training"]) == 0
    assert run([*model, "verify"]) == 0
    assert run([*model, "info"]) == 0
    capsys.readouterr()
    assert run([*model, "generate", "--out", "e.zarr"]) == 4
    assert "mine has no diffusion model" in capsys.readouterr().err


def test_missing_tables_are_said_to_be_missing_and_damaged_ones_refused(
    codec_run: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Oracle: one sentence that says what to do, and no folder of a bundle."""
    data = (codec_run / FILE).read_bytes()
    try:
        (codec_run / FILE).write_bytes(data[:-100])
        with pytest.raises(DataError, match="run the same fsae-train codec command again"):
            export_run(load_run(codec_run), tmp_path / "engines", "damaged")
        assert not (tmp_path / "engines").exists()
        (codec_run / FILE).unlink()
        assert read_codec(load_run(codec_run)) is None
    finally:
        (codec_run / FILE).write_bytes(data)
    with pytest.raises(BundleError, match="fsae-train codec"):
        archive_key(tiny_bundle)


def test_a_codec_run_can_get_its_diffusion_model_later(codec_run: Path, tmp_path: Path) -> None:
    """Oracle: the same tables and autoencoder, and a denoiser beside them."""
    import shutil

    copy = shutil.copytree(codec_run, tmp_path / "small")
    assert main([str(codec_run.parents[1] / "small.toml"), "--out", str(tmp_path), "--quiet"]) == 0
    assert load_run(copy).denoiser is not None
    for name in (FILE, "autoencoder.safetensors"):
        assert (copy / name).read_bytes() == (codec_run / name).read_bytes()


def test_periods_of_days() -> None:
    """Oracle: the calendar."""
    assert days_of(("2002-07-01", "2002-07-21")) == ((2002, 7, 1), (2002, 7, 21))
    assert whole_years((1948, 2004), "a test") == (1948, 2004)
    with pytest.raises(UsageError, match="whole years, for a test"):
        whole_years(("2002-07-01", "2002-07-21"), "a test")


def test_few_days_are_learned_from_and_the_others_held_out(tmp_path: Path) -> None:
    """Oracle: the stamps of the steps that the period holds."""
    from fsae.training.config import read_config
    from fsae.training.fitting.pipeline import train_codec
    from fsae.training.input_files import Files

    changes = [
        'data.training_years = ["2005-01-01", "2005-09-30"]',
        'data.evaluation_years = ["2005-10-01", "2006-12-31"]',
    ]
    config = read_config(write_config(tmp_path, *changes))
    train_codec(config, Files(inputs=[SAMPLE]), tmp_path / "run", progress=False)
    made = load_run(tmp_path / "run")
    assert made.facts.period == ("2005-01-01", "2005-09-01")
    with np.load(tmp_path / "run" / FILE) as arrays:
        assert len(arrays["tas.patterns"]) == 9
