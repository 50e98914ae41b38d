"""Analysis of the compressed space: planted season, trend, eruption and El Niño are found, noise is not."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from processes import python
from scipy import stats
from scipy.spatial.distance import mahalanobis
from small_config import SAMPLE, small_config

from fsae.runtime.climate import climatology
from fsae.runtime.errors import DataError, OutputError
from fsae.runtime.sphere.healpix import coarsen, pixel_centres
from fsae.training.cli.main import main
from fsae.training.data.prepared import encode_series, read_prepared
from fsae.training.fitting.pipeline import train
from fsae.training.fitting.run_folder import Run, read_record
from fsae.training.input_files import Files
from fsae.training.latent_space import analyse as analysis
from fsae.training.latent_space import pictures, structure
from fsae.training.latent_space.analyse import Analysis, Months, analyse, answers, format_analysis, read_months
from fsae.training.latent_space.pictures import MONTH_COLOURS, Cloud
from fsae.training.latent_space.structure import Warmth, eruption_windows, season_of, steady, warming_of

YEARS = np.arange(1948, 2015)
INDEX = np.arange(12 * 1948, 12 * 2015)
NUMBERS = 24


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(INDEX), NUMBERS))


def months_of(latents: np.ndarray, **changes: object) -> Months:
    """A record whose block means are its latents, with their mean as temperature and no El Niño."""
    warmth = Warmth(latent_mean=latents.mean(axis=1), global_mean=latents.mean(axis=1), el_nino=None)
    plain = Months(
        index=INDEX,
        latents=latents,
        blocks=latents,
        cycle=np.zeros_like(latents),
        means=latents.mean(axis=1, keepdims=True),
        warmth=warmth,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def answer_of(found: Analysis) -> dict[str, str]:
    return {question: answer for question, answer, _ in answers(found)}


def test_seasons_that_lie_apart_or_spread_apart_are_told_from_noise() -> None:
    # oracle: planted class means, planted class variances, and 804 draws at chance, whose deviation is 1.5 %
    season = (INDEX % 12 + 1) // 3 % 4
    apart = noise(0)
    apart[:, :4] += 8 * np.eye(4)[season]
    found = season_of("apart", apart, INDEX)
    assert min(found.linear[0], found.quadratic[0]) > 0.99
    assert found.nearest[0] > 0.8
    assert found.silhouette[0] > 0.2
    spread = noise(0) * np.where(np.arange(NUMBERS) % 4 == season[:, None], 4.0, 1.0)
    found = season_of("spread", spread, INDEX)
    assert found.quadratic[0] > 0.95
    assert found.linear[0] < 0.45  # above chance: what little the class means differ by chance lies in the wide numbers
    assert abs(found.silhouette[0]) < 0.03
    found = season_of("nothing", noise(1), INDEX)
    for shares in (found.linear, found.nearest, found.quadratic):
        assert abs(shares[0] - 1 / 4) < 0.06
        assert abs(shares[1] - 1 / 12) < 0.04
    assert abs(found.silhouette[0]) < 0.03


def test_quadratic_classes_meet_where_two_gaussians_do() -> None:
    # oracle: N(0, 1) and N(0, 9) are equally likely at x^2 = 2 ln 3 / (1 - 1/9); 4,000 draws put it within 5 %
    rng = np.random.default_rng(2)
    known = np.concatenate([rng.normal(size=(2000, 1)), 3 * rng.normal(size=(2000, 1))])
    edge = np.sqrt(2 * np.log(3) / (1 - 1 / 9))
    asked = edge * np.array([[-1.05], [-0.95], [0.95], [1.05]])
    assert structure.quadratic(known, np.repeat([4, 7], 2000), asked).tolist() == [7, 4, 4, 7]


def test_warming_orders_years_where_it_was_planted_only() -> None:  # oracles: planted line; nothing to find in noise
    rng = np.random.default_rng(3)
    means = rng.normal(size=(len(YEARS), NUMBERS))
    nothing = warming_of("noise", means, YEARS)
    assert nothing.r2 < 0.1
    assert nothing.rank < 0.4  # 0.24 is exceeded in 5 % of cases
    warming = warming_of("line", means + 0.2 * (YEARS - 1980)[:, None] * rng.normal(size=NUMBERS), YEARS)
    assert warming.r2 > 0.95
    assert min(warming.rank, warming.predicted_rank) > 0.98


def test_rank_correlation_is_spearmans() -> None:  # oracle: scipy, ties included
    one, other = np.random.default_rng(4).integers(0, 9, size=(2, 50))
    np.testing.assert_allclose(structure.rank_correlation(one, other), stats.spearmanr(one, other).statistic)


def test_departures_are_mahalanobis_distances() -> None:  # oracle: scipy, with the covariance of all windows
    windows = np.random.default_rng(5).normal(size=(60, 4)) @ np.diag([1.0, 2.0, 3.0, 4.0])
    inverse = np.linalg.inv(np.cov(windows.T))
    expected = [mahalanobis(window, windows.mean(axis=0), inverse) for window in windows]
    np.testing.assert_allclose(structure.departures(windows), expected)


def test_season_and_slow_change_are_removed_and_a_cold_year_stays() -> None:  # oracle: cubic, cycle and pulse planted
    time = (INDEX - INDEX.mean()) / 400
    slow = 3 * time**3 - time**2 + 5
    cycle = np.tile(np.random.default_rng(6).normal(size=12), len(YEARS))
    np.testing.assert_allclose(steady(slow + cycle, INDEX), 0, atol=1e-9)
    pulse = -1.0 * (INDEX // 12 == 1992)
    left = steady(np.stack([slow + cycle + pulse, pulse], axis=1), INDEX)
    np.testing.assert_allclose(left[pulse < 0].mean(axis=0), -1, atol=0.1)
    assert np.abs(left[INDEX // 12 < 1985].mean(axis=0)).max() < 0.05


def test_a_planted_eruption_stands_out_and_the_others_do_not() -> None:
    # oracle: two deviations of cooling over all numbers in the second year after Pinatubo
    latents = noise(7)
    cold = (INDEX >= 12 * 1992 + 6) & (INDEX < 12 * 1993 + 6)
    latents[cold] -= 2
    found = analyse("planted", months_of(latents))
    second = found.windows[-1]
    assert (second.eruption, second.period) == ("Pinatubo 1991", "1992-07 to 1993-06")
    assert (second.colder, second.departure, second.block_departure) == (100, 100, 100)
    assert second.global_mean == pytest.approx(-2, abs=0.25)
    said = answer_of(found)
    assert {said[f"Does {name} stand out?"] for name in ("Agung 1963", "El Chichón 1982")} == {"no"}
    assert said["Does Pinatubo 1991 stand out?"] == "yes"
    assert said["Does warming order the years?"] == "no"
    assert "colder than 100.0 % of windows, 1992-07 to 1993-06" in format_analysis(found)


def test_percentiles_of_noise_are_uniform_and_hardly_any_stand_out() -> None:
    # oracle: stationary noise; of 90 eruptions at most 5 % stand out, beyond 12 less than once in a thousand
    windows = []
    for seed in range(30):
        latents = noise(100 + seed)[:, :12]
        warmth = Warmth(latent_mean=latents.mean(axis=1), global_mean=latents.mean(axis=1), el_nino=None)
        windows += list(eruption_windows(latents, latents, warmth, INDEX))
    assert len(windows) == 180
    for name in ("departure", "colder"):
        assert stats.kstest([getattr(w, name) / 100 for w in windows], "uniform").pvalue > 0.001
    highest = np.array([max(w.departure, w.colder or 0) for w in windows]).reshape(-1, 2).max(axis=1)
    assert np.sum(highest >= analysis.threshold(windows[0])) <= 12


def test_el_nino_hides_cooling_until_it_is_regressed_out() -> None:
    # oracle: a planted index that warms 3 months later, an eruption that cools less than it warms
    rng = np.random.default_rng(8)
    el_nino = np.convolve(rng.normal(size=len(INDEX) + 11), np.full(12, 0.3), "valid")
    event = (INDEX >= 12 * 1982 + 4) & (INDEX < 12 * 1983 + 4)
    el_nino[event] = 3.0
    series = np.concatenate([np.zeros(3), el_nino[:-3]])
    steadied = steady(el_nino, INDEX)
    lagged = np.concatenate([np.zeros(3), steadied[:-3]])
    np.testing.assert_allclose(structure.without_el_nino(2 * lagged, steadied), 0, atol=1e-12)
    latents = 0.02 * noise(9) + (0.5 * series - 1.0 * event)[:, None]
    warmth = Warmth(latent_mean=latents.mean(axis=1), global_mean=latents.mean(axis=1), el_nino=el_nino)
    first = next(w for w in eruption_windows(latents, latents, warmth, INDEX) if w.eruption.startswith("El Chichón"))
    assert first.el_nino is not None
    assert first.el_nino > 2
    assert first.colder is not None
    assert first.colder < 60
    assert first.colder_without_el_nino == 100


def test_the_climatology_put_back_shows_the_season() -> None:  # oracle: a planted yearly cycle, then none
    latents = noise(10)
    cycle = 5 * np.cos(2 * np.pi * (INDEX[:, None] % 12 + np.arange(NUMBERS)) / 12)
    said = answer_of(analyse("cycle", months_of(latents, cycle=cycle)))
    assert said["Does season show in the position (linear) of latents?"] == "no"
    assert said["Does season show in the position (linear) of latents + climatology?"] == "yes"
    found = analyse("none", months_of(latents, warmth=None))
    assert [row.space for row in found.season] == ["latents", "block means"]
    assert found.windows[0].colder is None
    assert analysis.threshold(found.windows[0]) == 97.5


def test_too_few_years_are_refused() -> None:  # oracle: the least that the message names
    short = months_of(noise(0))
    part = slice(0, 12 * 9 + 11)
    few = {field.name: getattr(short, field.name) for field in dataclasses.fields(short)}
    few = {name: value[part] if isinstance(value, np.ndarray) else value for name, value in few.items()}
    with pytest.raises(DataError, match="found 9 whole years, expected at least 10"):
        analyse("short", Months(**few))


def cloud(month: np.ndarray) -> Cloud:
    points = np.random.default_rng(11).normal(size=(len(month), 5))
    inside = np.arange(len(month)) < 20
    year = 1950 + np.arange(len(month)) / 12
    return Cloud(title="points", points=points, month=month, year=year, marks={"cold": inside}, rings={"warm": ~inside})


def test_pictures_of_others_stay(tmp_path: Path) -> None:  # oracle: the bytes before
    mine = tmp_path / "pca-month.png"
    mine.write_bytes(b"years of work")
    drawn = pictures.principal_components(cloud(np.tile([0, 6], 40)), 0)
    for attempt in (
        lambda: pictures.check_pictures(tmp_path),
        lambda: pictures.draw_picture("made up", pictures.by_month, [drawn], mine),
    ):
        with pytest.raises(OutputError, match=r"pca-month\.png exists and is not what fsae wrote"):
            attempt()
        assert mine.read_bytes() == b"years of work"
    mine.unlink()
    for _ in range(2):  # our own is replaced
        pictures.draw_picture("made up", pictures.by_month, [drawn], mine)
        pictures.check_pictures(tmp_path)


def has_colour(image: np.ndarray, colour: str) -> bool:
    return bool((np.abs(image[..., :3] - to_rgb(colour)) < 1 / 255).all(axis=-1).any())


def test_pictures_show_their_own_variable_in_its_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # oracle: which colours may stand left of the colour bar
    monkeypatch.setattr(pictures, "DPI", 60)
    drawn = pictures.principal_components(cloud(np.tile([0, 6], 40)), 0)
    images = {}
    for draw in (pictures.by_month, pictures.by_year, pictures.by_event):
        pictures.draw_picture("made up", draw, [drawn], tmp_path / "one.png")
        image = imread(tmp_path / "one.png")
        images[draw.__name__] = image[:, : int(0.8 * image.shape[1])]
    assert has_colour(images["by_month"], MONTH_COLOURS[0])
    assert has_colour(images["by_month"], MONTH_COLOURS[6])
    assert not has_colour(images["by_month"], MONTH_COLOURS[3])
    assert has_colour(images["by_year"], "#440154")  # the first colour of viridis: the first month
    assert has_colour(images["by_event"], "C0")
    assert not any(has_colour(images[kind], MONTH_COLOURS[0]) for kind in ("by_year", "by_event"))
    assert not has_colour(images["by_year"], "C0")


def test_principal_components_name_their_shares() -> None:  # oracle: eigenvalues of the covariance
    points = cloud(np.zeros(50, dtype=np.int64))
    values = np.linalg.eigvalsh(np.cov(points.points.T))[::-1]
    drawn = pictures.principal_components(points, 0)
    np.testing.assert_allclose(drawn.places.var(axis=0, ddof=1), values[:2])
    assert drawn.axes[1] == f"PC 2 ({100 * values[1] / values.sum():.0f} %)"


def test_neighbours_stay_neighbours_in_the_map() -> None:  # oracle: two clusters ten deviations apart
    cluster = np.repeat([0, 1], 20)
    made = cloud(cluster)
    made = dataclasses.replace(made, points=made.points + 10 * cluster[:, None])
    places = pictures.neighbour_map(made, 0).places
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.diag(np.full(40, np.inf))
    np.testing.assert_array_equal(cluster[apart.argmin(axis=1)], cluster)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = small_config("autoencoder_fit.steps = 2")
    return train(config, Files(inputs=[SAMPLE]), tmp_path_factory.mktemp("runs") / "small", progress=False)


def test_months_of_a_run_are_what_its_encoder_makes(run: Run) -> None:
    # oracle: all fields at once, by hand: anomalies, their latents, block means, global mean and Nino 3.4
    months = read_months(run, progress=False)
    assert months.index.tolist() == list(range(12 * 2005, 12 * 2015))
    fields = read_prepared(run.config, run.path)
    values, tables = fields.read()[0], run.statistics
    season = climatology.season(fields.phase, 2)
    scale = tables["scale"][:, None]
    anomalies = (values - climatology.evaluate(tables["climatology"], season)) / scale
    whole = (values - tables["climatology"][:, 0]) / scale
    np.testing.assert_allclose(months.latents, encode_series(run.autoencoder, anomalies, season)[:, 0], atol=1e-4)
    np.testing.assert_allclose(months.blocks, coarsen(anomalies.astype(np.float64), 2)[:, 0], atol=1e-4)
    np.testing.assert_allclose(months.blocks + months.cycle, coarsen(whole.astype(np.float64), 2)[:, 0], atol=1e-4)
    lat_deg, lon_deg = pixel_centres(3)
    inside = (lat_deg >= -5) & (lat_deg <= 5) & (lon_deg >= 360 - 170) & (lon_deg <= 360 - 120)
    assert months.warmth is not None
    np.testing.assert_allclose(months.warmth.global_mean, values[:, 0].mean(axis=-1), rtol=1e-5)
    assert months.warmth.el_nino is not None
    np.testing.assert_allclose(months.warmth.el_nino, values[:, 0, inside].mean(axis=-1), rtol=1e-5)


def test_data_that_is_not_monthly_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: the message
    daily = dataclasses.replace(read_prepared(run.config, run.path), step="1 day")
    monkeypatch.setattr(analysis, "read_prepared", lambda *arguments: daily)
    with pytest.raises(DataError, match="in steps of 1 day, expected 1 month"):
        read_months(run, progress=False)


def test_the_command_prints_tables_and_writes_figures(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the record read back is what was printed; ten years after 2005 hold no eruption
    monkeypatch.setattr(pictures, "DPI", 40)
    out = tmp_path / "analysis"
    assert main(["analyse", str(run.path), "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    found = read_record(out / "analysis.json", Analysis)
    assert isinstance(found, Analysis)
    assert format_analysis(found) in said
    assert (found.name, found.months, found.windows) == ("small", 120, ())
    assert json.loads((out / "analysis.json").read_text())["period"] == ["2005-01", "2014-12"]
    pictured = {path.stem: imread(path) for path in out.glob("*.png")}
    assert set(pictured) == {f"{way}-{kind}" for way in ("pca", "tsne") for kind in ("month", "year", "events")}


def test_help_loads_neither_pictures_nor_statistics() -> None:  # oracle: modules of a fresh interpreter
    code = (
        "import sys; from fsae.training.cli.main import main; assert main(['analyse', '--help']) == 0; "
        "assert not {'matplotlib', 'sklearn', 'torch'} & set(sys.modules)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
