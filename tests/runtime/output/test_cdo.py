"""CDO reads the NetCDF that is written, and its field means are ours; without CDO, what it needs is there.

Tried with CDO 2.1.1 (Debian 12), 2.5.1 (Debian 13) and 2.6.0.
"""

import functools
import re
import shutil
import subprocess
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import xarray as xr
from outputs import CALENDARS, ENSEMBLES, VERBS, first_months, in_calendar, raw
from processes import python
from small_output import healpix_mapping
from tiny_bundle import LATENT_PIXELS, LATENT_ZOOM, PIXELS, ZOOM, tiny_grid

import fsae.runtime
from fsae.runtime.ensemble.request import Request
from fsae.runtime.output.netcdf import as_text
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.regrid import cell_areas, cell_edges

README = Path(__file__).parents[3] / "README.md"
SINGLE = [verb for verb in VERBS if not verb.startswith((*ENSEMBLES, "climatology"))]  # those without members
CDO_CALENDARS = [calendar for calendar in CALENDARS if calendar != "julian"]  # which CDO does not know

with_cdo = pytest.mark.skipif(shutil.which("cdo") is None, reason="there is no cdo here: apt-get install cdo")


# --- what CDO needs, by name ---


@pytest.mark.parametrize("verb", SINGLE)
def test_what_cdo_needs_is_there(verb: str, outputs: Path) -> None:
    # oracle: how CDO 2.1 to 2.6 find grids and times, from their sources and messages
    grid = ("lat", "lon") if verb.endswith("source") else ("cell",)
    with h5netcdf.File(outputs / f"{verb}.nc") as file:
        for name in ("tas", "uas"):
            assert file[name].dimensions == ("time", *grid)  # "Time must be the first dimension!"
            assert file[name].dtype == np.float32
            if grid == ("cell",):  # 2.1 and 2.5: a grid of cells by their centres
                assert {"lat", "lon"} <= set(file[name].attrs["coordinates"].split())
                assert file[name].attrs["grid_mapping"] == "crs"
        for name, letter, word in (("lat", "Y", "latitude"), ("lon", "X", "longitude")):
            attributes, compass = as_text(file[name].attrs), {"lat": "degrees_north", "lon": "degrees_east"}[name]
            assert file[name].dimensions == (grid if grid == ("cell",) else (name,))
            assert (attributes["standard_name"], attributes["units"]) == (word, compass)
            assert attributes.get("axis") == (letter if len(grid) == 2 else None)
        if grid == ("cell",):
            crs, expected = file["crs"].attrs, healpix_mapping(LATENT_ZOOM if verb == "compress" else ZOOM, netcdf=True)
            assert {key: crs[key] for key in expected} == expected
            # CDO 2.1 ignores 64-bit integers
            assert [crs[key].dtype for key in ("refinement_level", "healpix_nside")] == [np.int32] * 2
            assert file["cell"].attrs["standard_name"] == "healpix_index"
        time = as_text(file["time"].attrs)
        assert (time["axis"], time["calendar"], time["bounds"]) == ("T", "standard", "time_bnds")
        assert re.fullmatch(r"(days|seconds) since 1850-01-01 00:00:00", time["units"])
        assert file["time_bnds"].dimensions == ("time", "bnds")


@pytest.fixture(scope="module")
def taken(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders forecast-native, ... of an ensemble.nc and what the README makes of it."""
    code = next(part for part in README.read_text(encoding="utf-8").split("```python\n") if '"member.nc"' in part)
    lines = code.split("```")[0].splitlines()
    folder = tmp_path_factory.mktemp("taken")
    program = ["import os"]
    for verb in ("forecast-native", "forecast-source", "generate-native", "generate-source"):
        (folder / verb).mkdir()
        shutil.copy(outputs / f"{verb}.nc", folder / verb / "ensemble.nc")
        program.append(f"os.chdir({str(folder / verb)!r})")
        program += [line for line in lines if "drop_vars" not in line or verb.endswith("native")]
    done = python("-c", "\n".join(program))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("verb", ["forecast-native", "generate-source"])
def test_the_readme_takes_a_member(verb: str, taken: Path, outputs: Path) -> None:  # oracle: the ensemble itself
    ensemble = raw(outputs / f"{verb}.nc")
    names = ["member", *(["member-for-2.6"] if verb.endswith("native") else [])]
    for name in names:
        found = raw(taken / verb / f"{name}.nc")
        for variable in ("tas", "uas"):
            assert found[variable].dims[0] == "time"
            expected = ensemble[variable].isel(realization=0)
            np.testing.assert_array_equal(found[variable].transpose(*expected.dims).values, expected.values)
            assert found[variable].attrs["units"] == expected.attrs["units"]
    if verb.endswith("native"):
        assert not {"lat", "lon"} & set(raw(taken / verb / "member-for-2.6.nc").variables)


# --- CDO ---


def cdo(*arguments: object) -> tuple[str, str]:
    """The output and the complaints of CDO."""
    done = subprocess.run(["cdo", "-s", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@functools.cache
def wants_no_centres() -> bool:
    """True if this CDO takes HEALPix by its indices alone, as 2.6 does."""
    done = subprocess.run(["cdo", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout + done.stderr)
    assert found is not None, done
    return (int(found[1]), int(found[2])) >= (2, 6)


def without_centres(path: Path, place: Path) -> Path:
    """The file, or for a CDO that wants them gone a copy of it at the place without the cells' centres."""
    if not wants_no_centres():
        return path
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        dataset.drop_vars(["lat", "lon"]).to_netcdf(place, engine="h5netcdf")
    return place


def check_grid(said: str, zoom: int | None) -> None:
    """The grid that sinfon prints is HEALPix of the zoom, or the training data's grid."""
    if zoom is None:
        assert "points=312 (24x13)" in said
    elif wants_no_centres():
        assert f"refinement_level={zoom}  indexing_scheme=nested" in said
    else:
        assert f"healpix  nside={2**zoom}  order=nest" in said  # 2.1 prints what its buffer held before behind it


def great_circle_areas(grid: LatLonGrid) -> np.ndarray:
    """Share of the sphere of cells (lat * lon,) whose corners are joined by great circles, as CDO takes them."""
    lat, lon = (np.radians(edges) for edges in cell_edges(grid))
    half = (lon[0, 1] - lon[0, 0]) / 2
    # the solid angle between the equator and an edge whose two corners are at the latitude y, by spherical excess
    south, north = (2 * np.arctan(np.sin(y) * np.tan(half)) for y in lat.T)
    band = north - south
    return np.repeat(band / band.sum() / grid.lon_deg.size, grid.lon_deg.size)


def check_field_means(path: Path, native: bool) -> None:
    """CDO's field means are ours: plain ones of HEALPix, and of lat-lon with CDO's cells, to float32 rounding."""
    dataset = raw(path)
    for name in ("tas", "uas"):
        points = ("cell",) if native else ("lat", "lon")
        levels = [dim for dim in ("realization",) if dim in dataset[name].dims]
        ordered = dataset[name].transpose("time", *levels, *points).values.astype(np.float64)
        values = ordered.reshape(-1, np.prod(ordered.shape[-len(points) :]))  # (time and level, point)
        out, _ = cdo("outputf,%.9g,1", "-fldmean", f"-selname,{name}", path)
        found, rounding = np.array(out.split(), dtype=float), 2e-7 * np.abs(values).max()
        weights = np.full(values.shape[1], 1 / values.shape[1]) if native else great_circle_areas(tiny_grid())
        np.testing.assert_allclose(found, values @ weights, rtol=0, atol=rounding)
        if not native:  # our cells end at parallels: 1 % of the area of the polar ones at 15 degrees, 0.03 % at 2.5
            spread = np.abs(values - values.mean(axis=1, keepdims=True)).max()
            np.testing.assert_allclose(found, values @ cell_areas(tiny_grid()), rtol=0, atol=0.01 * spread)


@with_cdo
@pytest.mark.parametrize("verb", SINGLE)
def test_cdo_reads_fields(verb: str, outputs: Path, tmp_path: Path) -> None:  # oracle: CDO
    native = not verb.endswith("source")
    path = outputs / f"{verb}.nc"
    if native:
        path = without_centres(path, tmp_path / "indices.nc")
    said, complaints = cdo("sinfon", path)
    assert "skipped" not in complaints
    points = LATENT_PIXELS if verb == "compress" else PIXELS if native else tiny_grid().size
    for name in ("tas", "uas"):
        assert re.search(rf"^ .* {points} .* F32z? *: {name} *$", said, re.MULTILINE), said
    check_grid(said, (LATENT_ZOOM if verb == "compress" else ZOOM) if native else None)
    assert "time : 14 steps" in said
    assert re.search(r"Units = days +Calendar = standard +Bounds = true", said)
    check_field_means(path, native)


@with_cdo
@pytest.mark.parametrize("verb", ["decompress-native", "superres-source", "generate-source"])
def test_cdo_remaps(verb: str, outputs: Path, tmp_path: Path) -> None:
    # oracle: the value of the nearest point of ours, by great circles
    path = outputs / f"{verb}.nc"
    dataset = raw(path)
    field = dataset["tas"].isel(time=0)
    field = field.isel(realization=0) if "realization" in field.dims else field
    lat, lon = dataset["lat"].values, dataset["lon"].values
    lat, lon = (lat, lon) if verb.endswith("native") else (v.ravel() for v in np.meshgrid(lat, lon, indexing="ij"))
    path = without_centres(path, tmp_path / "indices.nc") if verb.endswith("native") else path
    for lon_deg, lat_deg in ((10.5, 50.2), (200.3, -33.1), (300.1, 5.7)):
        grid = f"-remapnn,lon={lon_deg}_lat={lat_deg}"
        out, _ = cdo("outputf,%.9g,1", grid, "-sellevidx,1", "-selname,tas", "-seltimestep,1", path)
        near = np.sin(np.radians(lat)) * np.sin(np.radians(lat_deg))
        near += np.cos(np.radians(lat)) * np.cos(np.radians(lat_deg)) * np.cos(np.radians(lon - lon_deg))
        np.testing.assert_allclose(float(out), field.values.ravel()[near.argmax()], rtol=1e-6)  # the digits printed


@with_cdo
@pytest.mark.parametrize("grid", ["native", "source"])
@pytest.mark.parametrize("verb", ["generate", "forecast"])
def test_cdo_reads_a_member(verb: str, grid: str, taken: Path) -> None:  # oracle: CDO
    native = grid == "native"
    name = "member-for-2.6.nc" if native and wants_no_centres() else "member.nc"
    said, complaints = cdo("sinfon", taken / f"{verb}-{grid}" / name)
    assert "skipped" not in complaints
    check_grid(said, ZOOM if native else None)
    if verb == "forecast":
        assert re.search(r"ForecastRefTime = +1991-03-01", said)
    check_field_means(taken / f"{verb}-{grid}" / name, native)


@with_cdo
@pytest.mark.parametrize("verb", ["generate", "forecast"])
def test_cdo_reads_members_as_levels(verb: str, outputs: Path) -> None:  # oracle: CDO
    path = outputs / f"{verb}-source.nc"
    said, complaints = cdo("sinfon", path)
    assert "skipped" not in complaints
    assert "levels=2" in said
    assert re.search(rf"realization : 0 to {7 if verb == 'generate' else 1}", said)
    check_field_means(path, native=False)


@with_cdo
@pytest.mark.parametrize("calendar", CDO_CALENDARS)
def test_cdo_reads_the_times(calendar: str, tiny_bundle_path: Path, tmp_path: Path) -> None:  # oracle: CDO's decoder
    emulator = in_calendar(fsae.runtime.load(tiny_bundle_path, device="cpu", threads=1), calendar)
    member = emulator.generate(Request(members=1, start="1900-01", steps=3)).isel(realization=0, drop=True)
    member.to_netcdf(tmp_path / "member.nc", engine="h5netcdf")
    emulator.compress_file(tmp_path / "member.nc", tmp_path / "latents.nc", climatology="training")
    said, _ = cdo("showtimestamp", tmp_path / "latents.nc")
    assert said.split() == [date.isoformat() for date in first_months(calendar)[1]]
