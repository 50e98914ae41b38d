"""Parts of fields and other grids: the values of a whole run at the same points, and weights that conserve."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from tiny_bundle import ZOOM, tiny_grid

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.calendar import steps_between
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.output.selection import Selection, cells_inside, parse_bbox, rows_and_columns, steps_inside, view_of
from fsae.runtime.output.target_grid import grid_like
from fsae.runtime.sphere.grids import LatLonGrid, is_same, regular_grid
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.runtime.sphere.regrid import cell_areas, cell_mean_weights, conservative_weights, interpolation_weights
from fsae.runtime.sphere.weights import apply, target_rows

PACIFIC = (170.0, -50.0, -150.0, 20.0)  # across the date line
ATLANTIC = (-60.0, -20.0, 20.0, 50.0)  # across longitude 0
START, STEPS = "1990-01", 4


def generated(emulator: Emulator, select: Selection) -> xr.Dataset:
    return emulator.generate(Request(members=[0, 3], start=START, steps=STEPS, seed=5, select=select), batch=2)


def inside(lat: np.ndarray, lon: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Mask of the points in a box, by the angle from its west edge."""
    west, south, east, north = box
    return (lat >= south) & (lat <= north) & ((lon - west) % 360 <= ((east - west) % 360 or 360))


def test_cells_need_no_centres(emulator: Emulator) -> None:  # oracle: the same run with them
    whole, bare = (generated(emulator, Selection(bbox=PACIFIC, centres=flag)) for flag in (True, False))
    xr.testing.assert_identical(bare.drop_attrs(), whole.drop_vars(["lat", "lon"]).drop_attrs())
    assert whole["tas"].encoding["coordinates"] == "lat lon forcing"
    assert bare["tas"].encoding["coordinates"] == "forcing"
    assert bare["tas"].attrs == whole["tas"].attrs


@pytest.mark.parametrize("box", [PACIFIC, ATLANTIC, (-180.0, -90.0, 180.0, 0.0)])
def test_a_box_of_cells_is_those_of_the_whole_run(
    emulator: Emulator, box: tuple[float, float, float, float]
) -> None:  # oracle: the run without a selection, bit for bit
    whole, part = generated(emulator, Selection()), generated(emulator, Selection(bbox=box))
    cells = part["cell"].values
    expected = np.flatnonzero(inside(whole["lat"].values, whole["lon"].values, box))
    assert cells.tolist() == expected.tolist()
    assert 0 < cells.size < npix(ZOOM)
    for name in ("tas", "uas"):
        np.testing.assert_array_equal(part[name].values, whole[name].values[..., cells])
    for name in ("lat", "lon"):
        np.testing.assert_array_equal(part[name].values, whole[name].values[cells])
    assert part["cell"].attrs["standard_name"] == "healpix_index"
    assert part["crs"].attrs["refinement_level"] == ZOOM


@pytest.mark.parametrize(("grid", "regrid"), [("source", "auto"), ("10", "bilinear"), ("30", "auto"), ("9x20", "auto")])
@pytest.mark.parametrize("box", [PACIFIC, ATLANTIC])
def test_a_box_of_a_lat_lon_grid_is_that_of_the_whole_run(
    emulator: Emulator, grid: str, regrid: str, box: tuple[float, float, float, float]
) -> None:  # oracle: the run without a box, bit for bit
    whole = generated(emulator, Selection(grid=grid, regrid=regrid))
    part = generated(emulator, Selection(grid=grid, regrid=regrid, bbox=box))
    lon = part["lon"].values
    assert (np.diff(lon) > 0).all()
    assert -360 <= lon[0] <= lon[-1] <= 360
    rows = np.flatnonzero(np.isin(whole["lat"].values, part["lat"].values))
    columns = [int(np.flatnonzero(np.isclose(whole["lon"].values % 360, value % 360))[0]) for value in lon]
    mesh = np.meshgrid(whole["lat"].values, whole["lon"].values, indexing="ij")
    assert part["tas"][0, 0].size == inside(*mesh, box).sum()
    for name in ("tas", "uas"):
        np.testing.assert_array_equal(part[name].values, whole[name].values[..., rows, :][..., columns])


def test_some_variables_are_those_of_the_whole_run(emulator: Emulator) -> None:  # oracle: the run with all
    whole = generated(emulator, Selection(grid="30"))
    part = generated(emulator, Selection(grid="30", variables=["uas"]))
    assert [str(name) for name in part.data_vars if name in ("tas", "uas")] == ["uas"]
    np.testing.assert_array_equal(part["uas"].values, whole["uas"].values)


def test_decompress_and_superres_take_parts_too(emulator: Emulator) -> None:  # oracle: their whole output
    data = emulator.generate(Request(members=1, start=START, steps=30, seed=1)).isel(realization=0, drop=True)
    latents = emulator.compress(data, climatology="training")
    select = Selection(bbox=PACIFIC, variables=["tas"], times="1991-02/1992")
    steps = slice(13, 30)
    assert str(data["time"].values[13])[:7] == "1991-02"
    for made, part in (
        (emulator.decompress(latents), emulator.decompress(latents, select=select)),
        (
            emulator.superres(data, zoom=1, climatology="training"),
            emulator.superres(data, zoom=1, climatology="training", select=select),
        ),
    ):
        np.testing.assert_array_equal(part["tas"].values, made["tas"].values[steps][:, part["cell"].values])
        np.testing.assert_array_equal(part["time"].values, made["time"].values[steps])
        np.testing.assert_array_equal(part["time_bnds"].values, made["time_bnds"].values[steps])
        assert "uas" not in part


def test_times_are_a_start_and_steps(emulator: Emulator) -> None:  # oracle: the same run by --start and --steps
    for times, start, steps in (
        ("1990-11/1991-02", "1990-11", 4),
        ("1990-11-20/1991-02-01", "1990-11", 4),
        ("1990/1990", "1990-01", 12),
        ("1990-12/1991", "1990-12", 13),
    ):
        found = emulator.generate(Request(members=1, select=Selection(times=times)), batch=1)
        xr.testing.assert_identical(found, emulator.generate(Request(members=1, start=start, steps=steps), batch=1))
    for both in ({"start": "1990"}, {"steps": 3}):
        with pytest.raises(UsageError, match="--times and --start or --steps: give one or the other"):
            Request(select=Selection(times="1990/1991"), **both)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "end", "step", "count"),
    [
        ((2005, 1, 1), (2005, 7, 15), "3 months", 3),
        ((2005, 1, 1), (2005, 7, 1), "3 months", 2),
        ((2005, 3, 9), (2007, 1, 1), "1 year", 2),
        ((2005, 1, 1, 7), (2005, 1, 2), "6 hours", 3),
        ((2005, 1, 1, 7), (2005, 1, 2, 1), "6 hours", 4),
        ((2004, 2, 28, 5), (2004, 3, 1), "1 day", 2),
    ],
)
def test_steps_of_every_length(first: tuple[int, ...], end: tuple[int, ...], step: str, count: int) -> None:
    # oracle: counted by hand
    dates = [cftime.datetime(*numbers, calendar="standard") for numbers in (first, end)]
    assert steps_between(*dates, step) == count


def test_steps_inside_a_period() -> None:  # oracle: the dates themselves
    stamps = [cftime.datetime(2000 + m // 12, m % 12 + 1, 16, calendar="360_day") for m in range(24)]
    assert steps_inside(stamps, None, "x") == slice(0, 24)
    assert steps_inside(stamps, "2000-03/2000-05", "x") == slice(2, 5)
    assert steps_inside(stamps, "2001/2030", "x") == slice(12, 24)
    with pytest.raises(DataError, match="x holds no step in 1990/1991, its steps run from 2000-01-16"):
        steps_inside(stamps, "1990/1991", "x")
    with pytest.raises(DataError, match="do not follow each other"):
        steps_inside([stamps[0], stamps[12], stamps[1]], "2000/2000", "x")


@pytest.mark.parametrize("text", ["30", "10", "7x12", "12x12"])
def test_conservative_means_keep_the_global_mean_and_constants(text: str) -> None:  # oracle: areas of both grids
    grid = regular_grid(text)
    weights = cell_mean_weights(grid, ZOOM)
    field = np.random.default_rng(0).normal(size=npix(ZOOM))
    np.testing.assert_allclose(apply(weights, field) @ cell_areas(grid), field.mean(), atol=1e-12)
    np.testing.assert_allclose(apply(weights, np.ones(npix(ZOOM))), 1, rtol=1e-12)
    forth = conservative_weights(grid, ZOOM)  # the same overlaps, the other way round
    dense = np.zeros((npix(ZOOM), grid.size))
    dense[np.repeat(np.arange(npix(ZOOM)), np.diff(forth.indptr)), forth.index] = forth.weight
    back = np.zeros((grid.size, npix(ZOOM)))
    back[np.repeat(np.arange(grid.size), np.diff(weights.indptr)), weights.index] = weights.weight
    np.testing.assert_allclose(back * cell_areas(grid)[:, None], dense.T / npix(ZOOM), atol=1e-13)


def test_coarse_grids_are_conservative_and_fine_ones_bilinear(tiny_bundle: Bundle) -> None:
    # oracle: a linear function of the vertical: its mean over a cell is known, and so is its value at a point
    z = np.sin(np.radians(pixel_centres(ZOOM)[0])).astype(np.float32)
    for text, conservative in (("6x12", True), ("60x120", False)):
        view = view_of(tiny_bundle, Selection(grid=text))
        both = [view_of(tiny_bundle, Selection(grid=text, regrid=r)) for r in ("conservative", "bilinear")]
        fields = [v.take(np.stack([z, z])[None])[0, 0] for v in (view, *both)]
        assert (fields[0] == fields[1]).all() == conservative
        assert (fields[0] == fields[2]).all() != conservative
        exact = np.sin(np.radians(np.repeat(regular_grid(text).lat_deg, regular_grid(text).lon_deg.size)))
        np.testing.assert_allclose(fields[0], exact, atol=0.12)  # rings of zoom 2 lie 0.17 apart


def test_some_rows_of_weights_are_those_of_the_matrix() -> None:  # oracle: the dense matrix
    weights = cell_mean_weights(regular_grid("30"), 1)
    field = np.random.default_rng(1).normal(size=npix(1))
    targets = np.array([5, 0, 71, 5, 30])
    np.testing.assert_array_equal(apply(target_rows(weights, targets), field), apply(weights, field)[targets])


@pytest.mark.parametrize(
    ("text", "lat", "lon", "shape"),
    [
        ("1.5", (-89.25, 89.25), (0, 358.5), (120, 240)),
        ("180x360", (-89.5, 89.5), (0, 359), (180, 360)),
        ("73x144", (-90, 90), (0, 357.5), (73, 144)),  # as the reanalysis, and as r144x73 of CDO
        ("0.75", (-89.625, 89.625), (0, 359.25), (240, 480)),
    ],
)
def test_grids_by_name(text: str, lat: tuple[float, float], lon: tuple[float, float], shape: tuple[int, int]) -> None:
    # oracle: the grids of CDO of the same numbers
    grid = regular_grid(text)
    assert grid.shape == shape
    np.testing.assert_allclose(grid.lat_deg[[0, -1]], lat)
    np.testing.assert_allclose(grid.lon_deg[[0, -1]], lon)
    assert np.ptp(np.diff(grid.lat_deg)) < 1e-9


def test_boxes_hold_points_on_their_edges() -> None:  # oracle: multiples of 15 degrees
    grid = tiny_grid()
    rows, columns, lon = rows_and_columns(grid, (-30, -45, 30, 45))
    assert grid.lat_deg[rows].tolist() == [45, 30, 15, 0, -15, -30, -45]  # in the order of the grid
    assert lon.tolist() == [-30, -15, 0, 15, 30]
    assert grid.lon_deg[columns].tolist() == [330, 345, 0, 15, 30]
    assert rows_and_columns(grid, (170, 0, 190, 0))[2].tolist() == [180]
    assert rows_and_columns(grid, (-180, 0, 180, 0))[2].tolist() == grid.lon_deg.tolist()
    assert rows_and_columns(grid, (330, 0, 15, 0))[2].tolist() == [-30, -15, 0, 15]
    west = LatLonGrid(lat_deg=grid.lat_deg, lon_deg=grid.lon_deg - 180)
    assert rows_and_columns(west, (165, 0, -165, 0))[2].tolist() == [165, 180, 195]
    assert cells_inside(1, (0, -90, 360, 90)).tolist() == list(range(48))


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (
            Selection(variables=["tas", "pr"]),
            "found the variables 'tas', 'pr', expected some of the model's.* tas, uas",
        ),
        (Selection(variables=["tas", "tas"]), "each once"),
        (Selection(bbox=(0.0, 10.0, 1.0, 5.0)), "south below north"),
        (Selection(bbox=(0.0, -100.0, 1.0, 5.0)), "found the box 0,-100,1,5"),
        (Selection(bbox=(-180.0, 0.0, 190.0, 5.0)), "at most once around"),
        (Selection(bbox=(float("nan"), 0.0, 1.0, 5.0)), "found the box nan"),
        (Selection(bbox=(1.0, 1.0, 2.0, 2.0)), "found no centre of a cell of zoom 2 in the box 1,1,2,2"),
        (Selection(grid="30", bbox=(1.0, 1.0, 2.0, 2.0)), "found no row and column of the 6 x 12 lat-lon grid"),
        (Selection(grid="cubed"), "found the grid 'cubed', expected native, training, like FILE, degrees such as 1.5"),
        (Selection(grid="0"), "found the grid '0'"),
        (Selection(grid="7"), "expected degrees that 90 is a whole multiple of"),
        (Selection(grid="-1.5"), "found the grid '-1.5'"),
        (Selection(grid="360x180"), "no fewer columns than rows"),
        (Selection(grid="1x1"), "4 rows or more"),
        (Selection(grid="0.001"), "at most 33554432 points"),
        (Selection(grid="30", regrid="nearest"), "found the regridding 'nearest', expected one of auto, bilinear"),
        (Selection(grid="30", centres=False), "found a lat-lon grid without centres, expected HEALPix cells"),
        (Selection(regrid="bilinear"), "a way of regridding for the native grid"),
    ],
)
def test_selections_that_make_no_sense_are_refused(tiny_bundle: Bundle, select: Selection, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        view_of(tiny_bundle, select)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,"])
def test_texts_that_are_no_box_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected west,south,east,north in degrees"):
        parse_bbox(text)


@pytest.mark.parametrize("text", ["1990", "1991/1990", "1990/soon", "/"])
def test_texts_that_are_no_period_are_refused(emulator: Emulator, text: str) -> None:
    with pytest.raises(UsageError, match=r"found the (times|date)"):
        emulator.generate(Request(members=1, select=Selection(times=text)))


def test_a_bundle_trained_on_healpix_has_no_source_grid(tiny_bundle: Bundle) -> None:
    tables = dataclasses.replace(tiny_bundle.tables, source_lat_deg=np.zeros(0), source_lon_deg=np.zeros(0))
    bundle = dataclasses.replace(tiny_bundle)
    bundle.__dict__["tables"] = tables
    with pytest.raises(UsageError, match=r"trained on HEALPix: use --grid native, or a lat-lon grid such as 1\.5"):
        view_of(bundle, Selection(grid="source"))
    assert isinstance(view_of(bundle, Selection(grid="30")).grid, LatLonGrid)


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_the_command_line_says_the_same(
    emulator: Emulator, command: Callable[..., tuple[int, str, str]], tmp_path: Path, suffix: str
) -> None:  # oracle: the Python interface
    path = tmp_path / f"out.{suffix}"
    words = ("--grid", "30", "--regrid", "bilinear", "--variables", "tas", "--bbox", "-60,-20,20,50")
    code, out, _ = command("generate", "--members", 2, "--times", "1990-11/1991-01", *words, "--out", path)
    assert code == 0
    assert "3 steps of tas on 3 x 3 in" in out
    select = Selection(
        grid="30", regrid="bilinear", variables=["tas"], bbox=(-60.0, -20.0, 20.0, 50.0), times="1990-11/1991-01"
    )
    with xr.open_dataset(path, engine="h5netcdf" if suffix == "nc" else "zarr") as found:
        ordered = found.load().transpose("realization", "time", ...)  # NetCDF has the time first
        xr.testing.assert_equal(ordered, emulator.generate(Request(members=2, select=select)))
    code, _, err = command("generate", "--members", 1, "--times", "1990/1991", "--steps", 3, "--out", tmp_path / "b.nc")
    assert code == 2
    assert "found --times and --start or --steps: give one or the other" in err
    code, out, _ = command("generate", "--members", 1, "--bbox", "-60,-20,20,50", "--out", tmp_path / "c.nc")
    assert f"12 steps of tas, uas on {cells_inside(ZOOM, ATLANTIC).size} cells of HEALPix zoom 2" in out


def test_a_part_goes_on_to_the_same_bytes(
    emulator: Emulator, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:  # oracle: refusal where the part is another one
    words = ("generate", "--members", 1, "--steps", 2, "--out", tmp_path / "a.zarr")
    assert command(*words, "--bbox", "0,0,90,90")[0] == 0
    assert "nothing was left to do" in command(*words, "--bbox", "0,0,90,90", "--resume")[2]
    code, _, err = command(*words, "--bbox", "0,0,90,80", "--resume")
    assert code == 7
    assert "request: bbox" in err


def test_source_is_another_word_for_training(tiny_bundle: Bundle) -> None:  # oracle: each other
    words = [view_of(tiny_bundle, Selection(grid=name)).grid for name in ("training", "source")]
    assert is_same(words[0], words[1])
    assert Selection(grid="source").record() == Selection(grid="training").record() == {"grid": "training"}


def test_a_grid_like_that_of_a_file(
    emulator: Emulator, command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # oracle: the points of the file, and for a global grid the same one by its numbers
    lat, lon = np.linspace(60, 33, 10), np.linspace(-12.0, 40.0, 27)
    europe = xr.Dataset({"t": (("j", "i"), np.zeros((10, 27)))})
    europe = europe.assign_coords(
        j=("j", lat, {"units": "degrees_north"}), i=("i", lon, {"axis": "X", "units": "degrees_east"})
    )
    europe.to_netcdf(tmp_path / "europe.nc", engine="h5netcdf")
    named = regular_grid("9x20")
    xr.Dataset(coords={"lat": named.lat_deg, "lon": named.lon_deg}).to_zarr(tmp_path / "g.zarr", consolidated=False)
    monkeypatch.chdir(tmp_path)
    words = ("generate", "--members", "1", "--steps", "1", "--seed", "3")
    assert command(*words, "--grid", "like", "europe.nc", "--out", "there.nc")[0] == 0
    drawn = emulator.generate(Request(members=1, steps=1, seed=3, select=Selection(grid=regular_grid("9x20"))))
    again = emulator.generate(Request(members=1, steps=1, seed=3, select=Selection(grid=grid_like("g.zarr"))))
    xr.testing.assert_equal(drawn, again)
    numbered = emulator.generate(Request(members=1, steps=1, seed=3, select=Selection(grid="9x20")))
    np.testing.assert_array_equal(drawn["tas"].values, numbered["tas"].values)
    cells = emulator.generate(Request(members=1, steps=1, seed=3))["tas"].values[0]
    places = np.meshgrid(lat, lon, indexing="ij")
    expected = apply(interpolation_weights(ZOOM, *(place.ravel() for place in places)), cells)
    with xr.open_dataset("there.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["lat"].values, lat)
        np.testing.assert_array_equal(found["lon"].values, lon)
        np.testing.assert_array_equal(found["tas"].values.reshape(1, -1), expected)
        assert "10 x 27 lat-lon grid, SHA-256 " in found.attrs["fsae_request"]
    for more, code, said in (
        (("--grid", "like", "europe.nc", "--regrid", "conservative", "--out", "x.nc"), 2, "--regrid bilinear"),
        (("--grid", "like", "europe.nc", "--out", "europe.nc", "--overwrite"), 7, "is the grid's file"),
        (("--grid", "like", "nowhere.nc", "--out", "x.nc"), 5, "nowhere.nc"),
    ):
        found_code, _, err = command(*words, *more)
        assert (found_code, said in err) == (code, True), err


def test_a_file_without_two_axes_gives_no_grid() -> None:
    for data in (
        xr.Dataset({"lat": (("y", "x"), np.zeros((4, 4))), "lon": (("y", "x"), np.zeros((4, 4)))}),
        xr.Dataset({"lat": ("cell", np.zeros(12)), "lon": ("cell", np.zeros(12))}),
        xr.Dataset(coords={"lat": [0.0, 1.0]}),
        xr.Dataset(coords={"lat": [0.0, 99.0], "lon": [0.0, 1.0]}),
        xr.Dataset(coords={"lat": [0.0, 1.0], "lon": [0.0, np.nan]}),
    ):
        with pytest.raises(UsageError, match="give --grid degrees such as"):
            grid_like(data)
