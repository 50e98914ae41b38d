"""The comparison of a family: coherence, places on the sphere, figures of known errors, and small runs end to end."""

import dataclasses
import json
from pathlib import Path

import cftime
import healpy
import numpy as np
import pytest
import xarray as xr
from made_up_model import made_up_model
from msgspec import structs
from scipy.special import sph_harm_y
from small_config import SAMPLE, small_config

from fsae.runtime.arrays import F32
from fsae.runtime.climate import climatology as harmonic
from fsae.runtime.errors import DataError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import coarsen, npix, pixel_centres, pixel_of, refine
from fsae.training.cli.main import main
from fsae.training.data.prepared import read_prepared
from fsae.training.evaluation.periods import Period
from fsae.training.evaluation.reconstruction import LOCALISED
from fsae.training.fitting import cnn_vae as cnn_stage
from fsae.training.fitting.pipeline import prepare_stage, statistics_stage
from fsae.training.fitting.run_folder import load_run, make_autoencoder, read_statistics, save_weights, write_record
from fsae.training.input_files import Files
from fsae.training.metrics import spectra
from fsae.training.networks.torch_graphs import TorchGraphs
from fsae.training.studies.compare import (
    BILINEAR,
    CNN,
    EOF,
    FSAE,
    RIDGE,
    UNSHARPENED,
    check_same_data,
    checks,
    claims,
)
from fsae.training.studies.compare_scores import Rebuilt, Row, Scene, row_of, scene_of
from fsae.training.studies.places import COAST, EVERYWHERE, STEEP, coasts, places_of, slope, steep

ZOOM = 3
GRID = LatLonGrid(lat_deg=np.linspace(90, -90, 13), lon_deg=np.arange(24) * 15.0)


def drawn(fields: int, lmax: int, seed: int) -> spectra.Coefficients:
    """Coefficients of white noise: |a_lm|**2 is one on average for every order."""
    rng = np.random.default_rng(seed)
    degree, order = healpy.Alm.getlm(lmax)
    real, imaginary = rng.normal(size=(2, fields, degree.size))
    return np.where(order == 0, real, (real + 1j * imaginary) / np.sqrt(2))


def wave(zoom: int, degree: int, order: int, turn_deg: float = 0.0) -> np.ndarray:
    """Real part of Y_lm at nested pixel centres, turned eastward: SciPy's, not healpy's."""
    lat, lon = (np.radians(angle) for angle in pixel_centres(zoom))
    return sph_harm_y(degree, order, np.pi / 2 - lat, lon - np.radians(turn_deg)).real


def test_coherence_of_the_same_and_of_a_flipped_band_is_one() -> None:
    # oracle: the squared cosine of the angle between a and -a, or c a, is one
    one = drawn(2, 20, 0)
    degree = healpy.Alm.getlm(20)[0]
    other = one * np.where((degree > 5) & (degree <= 10), -1.0, 3.0)
    np.testing.assert_allclose(spectra.coherence(one, one), 1, rtol=1e-12)
    np.testing.assert_allclose(spectra.coherence(one, other), 1, rtol=1e-12)


def test_coherence_of_independent_noise_is_one_over_the_number_of_waves() -> None:
    # oracle: a squared correlation about zero of nu pairs of independent Gaussian numbers is 1 / nu on average
    fields, lmax = 4, 40
    degree = np.arange(lmax + 1)
    found = [spectra.coherence(drawn(fields, lmax, seed), drawn(fields, lmax, 99 + seed)) for seed in range(40)]
    scaled = np.mean(found, axis=0) * fields * (2 * degree + 1)
    assert scaled[2:].mean() == pytest.approx(1, abs=4 * np.sqrt(2 / (40 * (lmax - 1))))  # four standard errors


def test_coherence_falls_with_a_turn_in_longitude() -> None:
    # oracle: a wave of order m turned by d keeps cos(m d) of itself; waves of one degree and equal power average
    turn = 20.0
    still, turned = (np.stack([wave(4, 5, 2, by) + wave(4, 9, 1, by) + wave(4, 9, 6, by)]) for by in (0.0, turn))
    found = spectra.coherence(*(spectra.harmonic_coefficients(field, 12) for field in (still, turned)))
    cosine = np.cos(np.radians(turn) * np.array([2, 1, 6]))
    assert found[5] == pytest.approx(cosine[0] ** 2, abs=1e-4)
    assert found[9] == pytest.approx(cosine[1:].mean() ** 2, abs=1e-4)


def test_cross_power_of_a_field_with_itself_is_its_power() -> None:  # oracle: anafast
    fields = np.random.default_rng(2).normal(size=(3, npix(3)))
    coefficients = spectra.harmonic_coefficients(fields, 12)
    np.testing.assert_allclose(
        spectra.cross_power(coefficients, coefficients), spectra.power_spectrum(fields, 12), rtol=1e-9
    )


def test_slope_of_a_world_that_rises_northward() -> None:
    # oracle: h = H sin(lat) has the gradient H cos(lat) / R; over all directions its mean square is half of that
    zoom, height_m = 5, 1e6
    lat = np.radians(pixel_centres(zoom)[0])
    expected = height_m * np.cos(lat) / 6_371_229.0 / np.sqrt(2)
    inside = np.abs(lat) < np.radians(70)
    np.testing.assert_allclose(slope(height_m * np.sin(lat))[inside], expected[inside], rtol=0.25)  # eight directions
    assert slope(np.full(npix(2), 50.0)).max() == 0


def test_steep_is_a_tenth_of_the_sphere_and_the_steepest() -> None:
    # oracles: count; z**9 has the gradient 9 z**8 sqrt(1 - z**2), so its steepest tenth is known by its rank
    zoom = 5
    z = np.sin(np.radians(pixel_centres(zoom)[0]))
    mask = steep(1e5 * z**9)
    assert abs(mask.mean() - 0.1) <= 0.5 / npix(zoom)
    gradient = z**8 * np.sqrt(1 - z**2)
    exact = gradient >= np.sort(gradient)[-mask.sum()]
    assert (mask & exact).sum() > 0.85 * mask.sum()  # the rest lies on the edges of the two belts
    with pytest.raises(DataError, match="slope in 9 pixels"):
        steep(np.eye(1, npix(zoom), 5000)[0])  # one peak: nine pixels, itself and its neighbours, have a slope


def test_coasts_are_mixed_pixels_and_where_land_meets_sea() -> None:
    # oracle: neighbours by healpy
    zoom, island = 3, 300
    around = healpy.get_all_neighbours(1 << zoom, island, nest=True)
    land = np.zeros(npix(zoom))
    land[island] = 0.97
    np.testing.assert_array_equal(np.flatnonzero(coasts(land)), np.sort([island, *around]))
    land[island] = 0.6
    np.testing.assert_array_equal(np.flatnonzero(coasts(land)), [island])
    np.testing.assert_array_equal(coasts(1 - land), coasts(land))
    assert not coasts(np.array([0.05] * npix(0))).any()


def test_places_of_the_real_earth(shared_data: Path, tmp_path: Path) -> None:  # oracle: geography
    with xr.open_dataset(shared_data / "static-etopo-20min.nc") as static:  # on one degree: quicker
        static[["orog", "lsm"]].coarsen(lat=3, lon=3).mean(keep_attrs=True).to_netcdf(tmp_path / "static.nc")
    places = places_of([tmp_path / "static.nc"], 4)
    himalaya, andes, pacific, sahara, florida, norway = pixel_of(
        4, np.array([29.0, -20.0, 0.0, 24.0, 27.0, 62.0]), np.array([84.0, -69.0, -140.0, 5.0, -81.0, 6.0])
    )
    assert places[STEEP][[himalaya, andes]].all()
    assert not places[STEEP][[pacific, sahara, florida]].any()
    assert places[COAST][[florida, norway]].all()
    assert not places[COAST][[pacific, sahara]].any()
    assert 0.1 < places[COAST].mean() < 0.4
    assert places[EVERYWHERE].tolist() == [1.0] * npix(4)


@pytest.fixture(scope="module")
def scene() -> tuple[Scene, F32]:
    """Two years of made-up fields of two variables, with places known by their latitude, and the true anomalies."""
    rng = np.random.default_rng(4)
    phase = (np.arange(24) % 12 + 0.5) / 12
    values = (280 + rng.normal(size=(24, 2, npix(ZOOM)))).astype(np.float32)
    period = Period(
        values=values, phase=phase, times=[cftime.datetime(2001 + i // 12, 1 + i % 12, 1) for i in range(24)]
    )
    fitted = harmonic.fit(values, phase, 1)
    model = made_up_model(None, fitted, (2.0, 0.5), zooms=(0, 1, 2, 3))  # nothing is encoded here
    north = (pixel_centres(ZOOM)[0] > 0).astype(float)
    made = scene_of(model, period, weights={EVERYWHERE: np.ones(npix(ZOOM)), STEEP: north}, grid=GRID)
    return made, values - harmonic.evaluate(fitted, harmonic.season(phase, 1))


def row(error: np.ndarray, scene: Scene, variable: int = 0, *, on_points: bool = False) -> Row:
    """The row of a method with that error."""
    method = Rebuilt(
        method=FSAE, run="a", ratio=4, numbers=9, parameters=1, error=error.astype(np.float32), on_points=on_points
    )
    return row_of(method, scene, variable)


def test_figures_of_an_error_of_one_kelvin_everywhere(scene: tuple[Scene, F32]) -> None:
    # oracle: closed forms; PSNR = 20 log10(range / 1 K)
    own, truth = scene
    for on_points, places in ((False, npix(ZOOM)), (True, GRID.size)):
        found = row(np.ones((24, 2, places)), own, on_points=on_points)
        assert (found.rmse, found.lat_lon_rmse, found.worst_pixel, found.steep_rmse) == pytest.approx((1, 1, 1, 1))
        assert found.level_rmse == pytest.approx((1, 0, 0, 0), abs=1e-6)
        assert found.psnr_db == pytest.approx(20 * np.log10(np.ptp(own.values[:, 0])))
        assert found.coast_rmse is None
        assert max(found.error_share) < 1e-6  # it has no power above l = 0
    assert truth.shape == own.values.shape


def test_an_error_in_one_pixel_is_looked_up_and_not_spread(scene: tuple[Scene, F32]) -> None:
    # oracle: healpy says which points lie in the pixel; sums over them by hand
    own, _ = scene
    lat, lon = (axis.ravel() for axis in np.meshgrid(GRID.lat_deg, GRID.lon_deg, indexing="ij"))
    inside = healpy.ang2pix(1 << ZOOM, lon, lat, nest=True, lonlat=True)
    area = np.cos(np.radians(lat))
    pixel = int(inside[lat == 45.0][3])  # in the northern half
    error = np.zeros((24, 2, npix(ZOOM)))
    error[::2, 0, pixel] = 6
    found = row(error, own)
    assert found.worst_pixel == pytest.approx(6 / np.sqrt(2))
    assert found.rmse == pytest.approx(6 / np.sqrt(2 * npix(ZOOM)))
    assert found.steep_rmse == pytest.approx(6 / np.sqrt(2 * own.weights[STEEP].sum()))
    assert found.lat_lon_rmse == pytest.approx(6 * np.sqrt(area[inside == pixel].sum() / area.sum() / 2))
    assert np.square(found.level_rmse).sum() == pytest.approx(found.rmse**2)
    assert row(error, own, 1).rmse == 0  # the other variable has none


def test_an_error_at_one_point_stays_on_its_own_grid(scene: tuple[Scene, F32]) -> None:
    # oracles: cos(latitude) by hand; nearest row and column by trying all
    own, _ = scene
    at_lat, at_lon = 5, 23  # 15 N, 345 E
    error = np.zeros((24, 2, *GRID.shape))
    error[:, 0, at_lat, at_lon] = 2
    found = row(error.reshape(24, 2, -1), own, on_points=True)
    area = np.cos(np.radians(GRID.lat_deg))
    assert found.rmse == found.lat_lon_rmse == pytest.approx(2 * np.sqrt(area[at_lat] / (area.sum() * 24)))
    assert found.worst_pixel == pytest.approx(2)
    lat, lon = pixel_centres(ZOOM)
    nearest_lat = np.abs(lat[:, None] - GRID.lat_deg).argmin(axis=1)
    nearest_lon = np.abs((lon[:, None] - GRID.lon_deg + 180) % 360 - 180).argmin(axis=1)
    share = np.mean((nearest_lat == at_lat) & (nearest_lon == at_lon))
    assert share > 0
    assert np.square(found.level_rmse).sum() == pytest.approx(4 * share)


def test_an_error_on_the_source_grid_has_its_spectrum(scene: tuple[Scene, F32]) -> None:
    # oracle: the same wave taken out of the truth at the pixel centres; 15 degrees resolve degree 2 to some per cent
    own, truth = scene
    lat, lon = np.radians(GRID.lat_deg)[:, None], np.radians(GRID.lon_deg)
    at_points, at_pixels = sph_harm_y(2, 1, np.pi / 2 - lat, lon).real.ravel(), wave(ZOOM, 2, 1)
    amount = truth @ at_pixels / np.sum(at_pixels**2)  # (time, variable)
    found = row(-amount[..., None] * at_points, own, on_points=True)
    expected = row(-amount[..., None] * at_pixels, own)
    assert found.error_share[0] == pytest.approx(expected.error_share[0], rel=0.1)
    assert found.coherence[0] == pytest.approx(expected.coherence[0], abs=0.02)
    assert expected.coherence[0] < 0.95
    assert max(found.error_share[1:]) < 0.01 * found.error_share[0]


def test_spectral_figures_of_nothing_of_all_and_of_too_much(scene: tuple[Scene, F32]) -> None:
    # oracle: error -x leaves nothing of x, error 0 all of it, error x twice of it, in phase
    own, truth = scene
    nothing, exact, doubled = (row(factor * truth, own, 1) for factor in (-1, 0, 1))
    for found, share, degree in ((nothing, 1, None), (exact, 0, own.lmax), (doubled, 1, own.lmax)):
        np.testing.assert_allclose(found.error_share, share, rtol=1e-4)
        assert [band.error_share for band in found.bands] == pytest.approx([share] * len(found.bands), rel=1e-4)
        assert found.coherent_degree == degree
    assert doubled.coherent_share == 1
    assert min(doubled.coherence) > 1 - 1e-6
    assert [(band.first, band.last) for band in exact.bands] == [(2, 10), (11, 16)]
    assert exact.psnr_db is None
    assert nothing.rmse == pytest.approx(np.sqrt(np.mean(truth[:, 1].astype(float) ** 2)))


def test_coherence_holds_up_to_the_scales_that_are_kept(scene: tuple[Scene, F32]) -> None:
    # oracle: block means of four pixels resolve degrees up to about nside / 2 of theirs, not twice that
    own, truth = scene
    smooth = refine(coarsen(truth.astype(float), 1), 1)
    found = row(smooth - truth, own)
    assert found.coherent_degree is not None
    assert 3 <= found.coherent_degree <= 12
    assert found.coherent_share < 0.8
    assert found.coherence[0] > 0.9 > found.coherence[-1]


def figures(method: str, ratio: int, rmse: float, run: str | None = "r") -> Row:
    """A row of which only the errors matter."""
    return Row(
        method=method,
        run=run,
        ratio=ratio,
        numbers=1,
        parameters=1,
        rmse=rmse,
        lat_lon_rmse=1.1 * rmse,
        psnr_db=None,
        level_rmse=(),
        worst_pixel=1,
        steep_rmse=None,
        coast_rmse=None,
        error_share=(),
        coherence=(),
        coherent_share=1,
        coherent_degree=None,
        bands=(),
    )


def test_claims_and_checks_of_hand_made_rows() -> None:  # oracle: the definitions, row by row
    rows = [
        figures(FSAE, 4, 0.10, "a"),
        figures(CNN, 4, 0.16, "a"),
        figures(BILINEAR, 4, 0.25, None),
        figures(FSAE, 16, 0.30, "b"),
        figures(CNN, 16, 0.40, "b"),
        figures(BILINEAR, 16, 0.20, None),
        figures(FSAE, 64, 0.35, "c"),
    ]
    made = [(claim.run, claim.cnn_run, claim.holds) for claim in claims(rows)]
    assert made == [("b", "a", False), ("c", "b", True)]
    verdicts = {check.name: check.passed for check in checks("tas", "K", rows)}
    assert verdicts == {
        "a, ratio 4: RMSE": True,
        "a, ratio 4: RMSE, against bilinear block means": True,
        "a, ratio 4: RMSE on lat-lon, against the CNN-VAE": True,
        "b, ratio 16: RMSE": False,
        "b, ratio 16: RMSE, against bilinear block means": False,
        "b, ratio 16: RMSE on lat-lon, against the CNN-VAE": True,
        "c, ratio 64: RMSE": True,
    }
    assert "a, ratio 4: RMSE" not in {check.name for check in checks("uas", "m s-1", rows)}


def write_run(folder: Path, latent_zoom: int, *, sharpen: bool = False, last_year: int = 2014) -> None:
    """A finished run whose autoencoder was never trained: what it gives is arbitrary and known."""
    folder.mkdir()
    config = small_config(
        f'name = "{folder.name}"',
        f"data.evaluation_years = [2011, {last_year}]",
        f"autoencoder.latent_zoom = {latent_zoom}",
        f"autoencoder.sharpen = {str(sharpen).lower()}",
    )
    write_record(folder / "config.json", config)
    prepare_stage(config, Files(inputs=[SAMPLE]), folder, progress=False)
    statistics_stage(config, read_prepared(config, folder), Files(inputs=[SAMPLE]), folder)
    model = make_autoencoder(config, read_statistics(folder))
    if sharpen:
        model.sharpening[:] = 0.3
    save_weights(model, folder / "autoencoder.safetensors")


def add_cnn_vae(folder: Path) -> None:
    """Beside a run's autoencoder a CNN-VAE that was never trained."""
    inputs = [SAMPLE]
    run = load_run(folder)
    config = run.config
    with cnn_stage.open_lat_lon(config, inputs, folder) as fields:
        cnn_stage.statistics_stage(config, fields, folder)
        save_weights(cnn_stage.make_cnn_vae(config, fields.grid, run.statistics), folder / "cnn_vae.safetensors")
    write_record(folder / "cnn_vae" / "sources.json", cnn_stage.Sources(inputs=(str(inputs[0]),)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs `fine` (ratio 4, sharpened, with a CNN-VAE), `coarse` (ratio 16), `early` (fewer years)."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "fine", 2, sharpen=True)
    add_cnn_vae(folder / "fine")
    write_run(folder / "coarse", 1)
    write_run(folder / "early", 1, last_year=2013)
    return folder


def by_hand(folder: Path, *, sharpened: bool = True) -> float:
    """RMSE of a run's autoencoder on 2011-2014, from the prepared store and the modules."""
    run = load_run(folder)
    if not sharpened:
        run.autoencoder.sharpening.zero_()
    with xr.open_zarr(run.fields) as prepared:
        fields = prepared.tas.sel(time=slice("2011", "2014")).values[:, None]
    season = harmonic.season((np.arange(48) % 12 + 0.5) / 12, 2)  # months are not equally long: 1e-3 of a year
    graphs = TorchGraphs(run.autoencoder, None)
    mask = np.ones((48, len(run.config.autoencoder.zooms)), dtype=np.float32)
    error = graphs.decode(graphs.encode(fields, season, mask), season) - fields
    return float(np.sqrt(np.mean(error.astype(np.float64) ** 2)))


def test_runs_are_compared_by_ratio_with_their_baselines(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # oracles: the modules called directly, and block means interpolated by healpy, on the prepared fields
    figures_path = runs / "figures.json"
    arguments = ["compare", str(runs / "coarse"), str(runs / "fine"), "--json", str(figures_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    read = json.loads(figures_path.read_text())
    assert [run["name"] for run in read["runs"]] == ["fine", "coarse"]
    (tas,) = read["variables"]
    found = {(row["method"], row["ratio"]): row for row in tas["rows"]}
    linear = (EOF, LOCALISED, BILINEAR, RIDGE)
    assert list(found)[:7] == [(method, 4) for method in (FSAE, UNSHARPENED, CNN, *linear)]
    assert list(found)[7:] == [(method, 16) for method in (FSAE, *linear)]
    assert found[FSAE, 4]["rmse"] == pytest.approx(by_hand(runs / "fine"), rel=0.01)
    assert found[UNSHARPENED, 4]["rmse"] == pytest.approx(by_hand(runs / "fine", sharpened=False), rel=0.01)
    assert found[FSAE, 4]["rmse"] != found[UNSHARPENED, 4]["rmse"]
    assert found[FSAE, 16]["rmse"] == pytest.approx(by_hand(runs / "coarse"), rel=0.01)
    statistics = read_statistics(runs / "coarse")
    with xr.open_zarr(runs / "coarse" / "data.zarr") as prepared:
        fields = prepared.tas.sel(time=slice("2011", "2014")).values
    season = harmonic.season((np.arange(48) % 12 + 0.5) / 12, 2)
    anomaly = fields - harmonic.evaluate(statistics["climatology"], season)[:, 0]
    for levels, ratio in ((1, 4), (2, 16)):
        blocks = anomaly.reshape(48, -1, 4**levels).mean(axis=-1)
        lon, lat = healpy.pix2ang(8, np.arange(768), nest=True, lonlat=True)
        smooth = np.stack([healpy.get_interp_val(block, lon, lat, nest=True, lonlat=True) for block in blocks])
        own = found[BILINEAR, ratio]
        assert own["rmse"] == pytest.approx(np.sqrt(np.mean((smooth - anomaly) ** 2)), rel=0.01)
        assert own["numbers"] == 768 // ratio
        assert (own["run"], own["parameters"]) == (None, 0)
    assert found[EOF, 4]["numbers"] == 72  # all there are in six years
    assert found[EOF, 16]["parameters"] == 48 * 768
    made = cnn_stage.reconstruct(runs / "fine")
    area = np.cos(np.radians(made.lat_deg))[:, None]
    square = np.average(np.square(made.rebuilt - made.truth, dtype=np.float64).mean(axis=(0, 1, 3)), weights=area[:, 0])
    assert found[CNN, 4]["rmse"] == found[CNN, 4]["lat_lon_rmse"] == pytest.approx(np.sqrt(square))
    assert found[CNN, 4]["numbers"] == 37 * 72
    (claim,) = tas["claims"]
    assert (claim["run"], claim["ratio"], claim["cnn_run"], claim["cnn_ratio"]) == ("coarse", 16, "fine", 4)
    assert read["evaluation_years"] == [2011, 2014]
    assert f"| {FSAE}, not sharpened " in text
    assert max(map(len, text.splitlines())) <= 120
    assert f"{found[FSAE, 16]['rmse']:.3f}" in text


def test_runs_on_other_data_are_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the exit codes, and the words for what differs
    for arguments, code, words in (
        (["fine", "early"], 5, "evaluation years"),
        (["fine", "fine"], 5, "a name of its own"),
        (["fine", "nowhere"], 2, "nowhere"),
        (["fine", "--static", "fine/data.zarr"], 5, "orog"),
        (["fine", "--json", "nowhere/figures.json"], 7, "nowhere"),
    ):
        paths = [word if word.startswith("--") else str(runs / word) for word in arguments]
        assert main(["compare", *paths]) == code
        assert words in capsys.readouterr().err
    one = load_run(runs / "fine")
    other = dataclasses.replace(one, path=tmp_path / "other")
    check_same_data([one, other])
    for change in (
        dataclasses.replace(other, facts=structs.replace(other.facts, inputs=())),
        dataclasses.replace(
            other, config=structs.replace(one.config, data=structs.replace(one.config.data, method="bilinear"))
        ),
    ):
        with pytest.raises(DataError, match="on the same data"):
            check_same_data([one, change])


def test_without_a_lat_lon_source_there_is_no_figure_on_one(scene: tuple[Scene, F32]) -> None:
    # oracle: the definition
    own, truth = scene
    found = row(0.5 * truth, dataclasses.replace(own, points=None))
    assert found.lat_lon_rmse is None
    assert found.rmse == row(0.5 * truth, own).rmse
