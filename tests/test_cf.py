"""Output of every verb by the book: the CF checker, coordinates, HEALPix, provenance, calendars, and CDO."""

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cftime
import h5netcdf
import numpy as np
import pytest
import xarray as xr
from conftest import PIXELS, ZOOM, tiny_grid, tiny_manifest

import fsae.runtime
from fsae.runtime.bundle import write_manifest
from fsae.runtime.emulator import write_climatology
from fsae.runtime.errors import DataError
from fsae.runtime.grids import HealpixGrid, LatLonGrid, find_grid
from fsae.runtime.manifest import Manifest
from fsae.runtime.regrid import cell_areas, cell_edges

VERBS = (
    "generate-native",
    "generate-source",
    "forecast-native",  # with --initial and --forcing
    "forecast-source",
    "hourly-native",  # instantaneous values: no bounds
    "compress",
    "compress-members",
    "decompress-native",
    "decompress-source",
    "superres-native",
    "superres-source",
    "climatology",
)
# Each verb, each grid and each kind of extra coordinate once.
ZARR = ("generate-native", "forecast-source", "compress", "decompress-native", "superres-source", "climatology")
CHECKED = [f"{verb}.nc" for verb in VERBS] + [f"{verb}.zarr" for verb in ZARR]

# Runs the newest CF checker on copies of the files given, which say that they follow its version of CF; without any
# connection, so that it takes the table of standard names that it ships.
CHECKER = """
import json, socket, sys
import h5netcdf

def refuse(*arguments, **options):
    raise OSError("no connections in tests")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from compliance_checker.suite import CheckSuite

CheckSuite.load_all_available_checkers()
suite = CheckSuite()
version = max((name for name in suite.checkers if name.startswith("cf:")), key=lambda n: int(n.split(".")[-1]))
found = {}
for path in sys.argv[1:]:
    with h5netcdf.File(path, "a") as file:
        file.attrs["Conventions"] = version.replace("cf:", "CF-")
    dataset = suite.load_dataset(path)
    results, failures = suite.run_all(dataset, [version])[version]
    dataset.close()
    assert not failures, failures
    assert len(results) > 10, results  # by section
    lost = [result for result in results if result.value[0] < result.value[1]]  # points out of possible ones
    found[path] = [(result.weight, result.name, message) for result in lost for message in result.msgs]
print("REMARKS" + json.dumps(found))
"""
MEDIUM = 2  # 3 is high

# What the checker says and we leave so, with the reason; each must be said of some file.
LEFT = {
    r"standard_name healpix_index is not defined in Standard Name Table v\d+\.": (
        "CF 1.13, appendix F, asks for it; the table that the checker ships is older"
    ),
    r"healpix is not a valid grid_mapping_name\. See Appendix F for valid grid mappings": (
        "CF 1.13 has it in appendix F; the checker knows that of CF 1.11"
    ),
    r"(tas|uas)'s spatio-temporal dimensions are not in the recommended order .* are (realization \(U\), )?"
    r"time \(T\), cell \(U\) .*": (
        "the cells of HEALPix are latitude and longitude in one, which the checker does not know: they stand where "
        "those would"
    ),
    r"§2\.6\.2 global attribute history should exist and be a non-empty string": (
        "each of its lines should begin with the time of day, and equal requests must give equal bytes: what it would "
        "say stands in fsae_request and fsae_versions"
    ),
}

# Days of 50 years from 1850 on, and of January, February and March of 1900, without cftime.
CALENDARS = {
    "standard": (50 * 365 + 12, (31, 28, 31)),
    "proleptic_gregorian": (50 * 365 + 12, (31, 28, 31)),
    "julian": (50 * 365 + 12, (31, 29, 31)),
    "noleap": (50 * 365, (31, 28, 31)),
    "all_leap": (50 * 366, (31, 29, 31)),
    "360_day": (50 * 360, (30, 30, 30)),
}


def tiny_emulator(bundle: Path, folder: Path, manifest: Manifest) -> fsae.runtime.Emulator:
    """An emulator of a bundle's copy with another manifest."""
    shutil.copytree(bundle, folder)
    write_manifest(folder, manifest)
    return fsae.runtime.load(folder, device="cpu", threads=1)


def in_calendar(calendar: str) -> Manifest:
    manifest = tiny_manifest()
    return dataclasses.replace(manifest, time=dataclasses.replace(manifest.time, calendar=calendar))


def engine(path: Path) -> str:
    return "h5netcdf" if path.suffix == ".nc" else "zarr"


def raw(path: Path) -> xr.Dataset:
    """All that stands in a file, undecoded."""
    return _raw(path).copy(deep=True)


@functools.cache
def _raw(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine=engine(path), decode_cf=False) as dataset:
        return dataset.load()


@pytest.fixture(scope="module")
def folder(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the output of every verb stands, by name and suffix, with months.nc, from which it is made."""
    folder = tmp_path_factory.mktemp("outputs")
    manifest = tiny_manifest()
    emulator = tiny_emulator(tiny_bundle_path, folder / "tiny", manifest)
    hours = dataclasses.replace(
        manifest,
        time=dataclasses.replace(manifest.time, step="6 hours"),
        variables=tuple(dataclasses.replace(v, cell_methods="time: point") for v in manifest.variables),
    )
    hourly = tiny_emulator(tiny_bundle_path, folder / "hourly", hours)
    data, members = folder / "months.nc", folder / "generate-native.nc"
    months = emulator.generate(1, start="1990-01", steps=14).isel(realization=0, drop=True)
    months.drop_vars("forcing").to_netcdf(data, engine="h5netcdf")
    for name in CHECKED:
        verb, _, grid = name.rpartition(".")[0].partition("-")
        path = folder / name
        match verb:
            case "generate":
                emulator.generate_file(path, [0, 7], start="1990-11", steps=4, seed=5, grid=grid)
            case "forecast":
                emulator.generate_file(
                    path, 2, steps=4, forcing=1970.5, initial=data, grid=grid, climatology="training"
                )
            case "hourly":
                hourly.generate_file(path, 2, start="1990-11", steps=4, grid=grid)
            case "compress":
                emulator.compress_file(members if grid == "members" else data, path, climatology="training")
            case "decompress":
                emulator.decompress_file(folder / "compress.nc", path, grid=grid)
            case "superres":
                emulator.superres_file(data, path, zoom=1, grid=grid, climatology="training")
            case "climatology":
                write_climatology(data, path, model=emulator.bundle.folder)
    return folder


# --- the checker ---


@pytest.fixture(scope="module")
def remarks(folder: Path) -> dict[str, list[tuple[int, str, str]]]:
    """What the checker says of each file: weight, section, text. Zarr is checked as NetCDF written by xarray."""
    if importlib.util.find_spec("compliance_checker") is None:
        pytest.skip('the CF checker is not installed: pip install "fsae[dev]"')
    (folder / "copies").mkdir()
    copies = {}
    for number, name in enumerate(CHECKED):
        copies[name] = folder / "copies" / f"{number}.nc"
        if name.endswith(".nc"):
            shutil.copy(folder / name, copies[name])
            continue
        dataset = raw(folder / name)
        for variable in dataset.variables.values():
            variable.encoding = {"_FillValue": None}  # which xarray would add to coordinates
        dataset.to_netcdf(copies[name], engine="h5netcdf")
    command = [sys.executable, "-W", "ignore", "-c", CHECKER, *map(str, copies.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("REMARKS")[2])
    return {name: found[str(path)] for name, path in copies.items()}


@pytest.mark.parametrize("name", CHECKED)
def test_the_cf_checker_has_nothing_to_say(name: str, remarks: dict[str, list[tuple[int, str, str]]]) -> None:
    # oracle: compliance-checker, but for what LEFT gives a reason for
    serious = [remark for remark in remarks[name] if remark[0] >= MEDIUM]
    assert [remark for remark in serious if not any(re.fullmatch(left, remark[2]) for left in LEFT)] == []


def test_what_is_left_is_still_said(remarks: dict[str, list[tuple[int, str, str]]]) -> None:
    # a checker that no longer says it has caught up: the entry goes
    said = {message for found in remarks.values() for _, _, message in found}
    assert [left for left in LEFT if not any(re.fullmatch(left, message) for message in said)] == []


@pytest.mark.parametrize("verb", ZARR)
def test_zarr_and_netcdf_hold_the_same(verb: str, folder: Path) -> None:  # oracle: each other
    netcdf, zarr = raw(folder / f"{verb}.nc"), raw(folder / f"{verb}.zarr")
    xr.testing.assert_identical(netcdf, zarr)


# --- coordinates and HEALPix: what the checker does not look at ---


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("generate-native", "lat lon forcing"),
        ("generate-source", "forcing"),
        ("forecast-native", "lat lon forcing forecast_reference_time lead_time"),
        ("forecast-source", "forcing forecast_reference_time lead_time"),
        ("compress", "lat lon year_phase"),
        ("decompress-native", "lat lon"),
        ("decompress-source", None),
        ("climatology", "lat lon"),
    ],
)
def test_data_name_their_coordinates(verb: str, expected: str | None, folder: Path) -> None:
    # oracle: CF 5, every coordinate that no dimension is named after
    dataset = raw(folder / f"{verb}.nc")
    for name in ("tas", "uas"):
        assert dataset[name].attrs.get("coordinates") == expected
    with xr.open_dataset(folder / f"{verb}.nc", engine="h5netcdf") as decoded:
        assert set(decoded.data_vars) <= {"tas", "uas", "time_bnds", "crs"}


def test_forecasts_say_when_they_begin(folder: Path) -> None:  # oracle: dates by hand
    with xr.open_dataset(folder / "forecast-source.nc", engine="h5netcdf") as found:
        assert found["forecast_reference_time"].values == np.datetime64("1991-03-01")
        assert found["lead_time"].values.tolist() == [15.5, 46.0, 76.5, 107.0]
        assert found["lead_time"].attrs["units"] == "day"
        assert found["tas"].coords["lead_time"].dims == ("time",)


def test_healpix_in_both_forms(folder: Path) -> None:  # oracle: CF 1.13, appendix F, and the older attributes
    for suffix in (".nc", ".zarr"):
        crs = raw(folder / f"generate-native{suffix}")["crs"].attrs
        assert crs == {
            "grid_mapping_name": "healpix",
            "refinement_level": ZOOM,
            "indexing_scheme": "nested",
            "healpix_nside": 2**ZOOM,
            "healpix_order": "nested",
        }
    with h5netcdf.File(folder / "generate-native.nc") as file:  # 32 bits: CDO reads no longer ones
        assert [file["crs"].attrs[key].dtype for key in ("refinement_level", "healpix_nside")] == [np.int32] * 2


@pytest.mark.parametrize("order", ["nested", "ring"])
@pytest.mark.parametrize(
    "form",
    [
        {"grid_mapping_name": "healpix", "refinement_level": ZOOM, "indexing_scheme": ""},
        {"grid_mapping_name": "healpix", "healpix_nside": 2**ZOOM, "healpix_order": ""},
        {"healpix_nside": 2**ZOOM, "healpix_order": ""},
    ],
)
def test_either_form_is_read(form: dict[str, str | int], order: str, folder: Path) -> None:
    # oracle: the attributes themselves; nothing else tells of the order, and the number of cells must agree
    dataset = raw(folder / "generate-native.nc")[["tas", "time", "crs"]]
    dataset = dataset.drop_vars(("lat", "lon", "cell"), errors="ignore").rename_dims(cell="i")
    dataset["crs"].attrs = {key: value or order for key, value in form.items()}
    assert find_grid(dataset["tas"], dataset) == HealpixGrid(zoom=ZOOM, order=order)
    for key in {"refinement_level", "healpix_nside"} & set(form):
        dataset["crs"].attrs[key] *= 2
    with pytest.raises(DataError, match="192 cells"):
        find_grid(dataset["tas"], dataset)


# --- provenance ---


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "climatology"])
def test_provenance(verb: str, folder: Path) -> None:
    # oracle: the hash of the manifest, the versions of the packages, the request that was made
    attributes = raw(folder / f"{verb}.nc").attrs
    bundle = folder / ("hourly" if verb.startswith("hourly") else "tiny")
    request = json.loads(attributes["fsae_request"])
    assert attributes["fsae_request"] == json.dumps(request, sort_keys=True)
    assert attributes["fsae_manifest_sha256"] == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    versions = {package: importlib.metadata.version(package) for package in ("fsae", "numpy", "onnxruntime")}
    assert json.loads(attributes["fsae_versions"]) == versions
    assert (attributes["fsae_bundle"], attributes["fsae_device"], attributes["fsae_precision"]) == (
        "tiny",
        "cpu",
        "fp32",
    )
    assert attributes["license"] == "Apache-2.0"
    kind = verb.partition("-")[0]
    assert request["verb"] == {"forecast": "generate", "hourly": "generate"}.get(kind, kind)
    if kind == "generate":
        expected = {
            "members": [0, 7],
            "start": "1990-11-01T00:00:00",
            "steps": 4,
            "seed": 5,
            "forcing": "calendar year",
        }
        assert expected.items() <= request.items()
        assert attributes["fsae_seed"] == 5
    if kind == "forecast":
        assert (request["forcing"], request["initial"]["climatology"]) == (1970.5, "training")
        assert "months.nc" in request["initial"]["input"]


@pytest.mark.parametrize("verb", VERBS)
def test_no_attribute_tells_of_the_place_or_the_time(verb: str, folder: Path) -> None:
    dataset = raw(folder / f"{verb}.nc")
    told = repr([dataset.attrs, *(variable.attrs for variable in dataset.variables.values())])
    today = datetime.datetime.now(datetime.UTC).date()
    for word in (str(folder), "pytest", "/", str(Path.home()), today.isoformat(), today.strftime("%Y%m%d"), "batch"):
        assert word not in told


def test_attributes_are_those_of_the_request_alone(tmp_path: Path, folder: Path) -> None:
    # oracle: the same request elsewhere, later, in another batch, from a copy of the bundle
    shutil.copytree(folder / "tiny", tmp_path / "moved")
    emulator = fsae.runtime.load(tmp_path / "moved", device="cpu", threads=2)
    for suffix in (".nc", ".zarr"):
        path = tmp_path / f"other{suffix}"
        emulator.generate_file(path, [0, 7], start="1990-11", steps=4, seed=5, batch=1)
        xr.testing.assert_identical(raw(path), raw(folder / f"generate-native{suffix}"))


# --- calendars ---


def dates(calendar: str) -> tuple[list[tuple[cftime.datetime, cftime.datetime]], list[cftime.datetime]]:
    """Bounds and middles of the months January to March 1900."""
    starts = [cftime.datetime(1900, month, 1, calendar=calendar) for month in (1, 2, 3, 4)]
    bounds = list(itertools.pairwise(starts))
    return bounds, [start + (end - start) / 2 for start, end in bounds]


def check_times(path: Path, calendar: str) -> None:
    """The times and bounds of a file are those of January to March 1900."""
    first, months = CALENDARS[calendar]
    edges = first + np.cumsum([0, *months])
    plain = raw(path)
    assert plain["time"].attrs["units"] == "days since 1850-01-01 00:00:00"
    assert plain["time"].attrs["calendar"] == calendar
    np.testing.assert_array_equal(plain["time_bnds"].values, np.stack([edges[:-1], edges[1:]], axis=-1))
    np.testing.assert_array_equal(plain["time"].values, (edges[:-1] + edges[1:]) / 2)
    # CF 4.4.3: leap seconds are spoken of in three calendars and no other
    assert (plain["time"].attrs.get("units_metadata") is None) == (calendar in ("noleap", "all_leap", "360_day"))
    bounds, middles = dates(calendar)
    always = xr.coders.CFDatetimeCoder(use_cftime=True)
    with xr.open_dataset(path, engine=engine(path), decode_times=always) as found:
        assert found["time"].values.tolist() == middles
        assert [tuple(pair) for pair in found["time_bnds"].values.tolist()] == bounds
        assert {date.calendar for date in found["time"].values} == {calendar}
    with xr.open_dataset(path, engine=engine(path)) as found:  # as users do
        if calendar in ("standard", "proleptic_gregorian"):
            expected = [np.datetime64(date.isoformat()) for date in middles]
            np.testing.assert_array_equal(found["time"].values, np.array(expected))
        else:
            assert found["time"].values.tolist() == middles


@pytest.mark.parametrize("calendar", CALENDARS)
def test_times_in_every_calendar(calendar: str, tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: days counted by hand, and dates of cftime put together by hand
    emulator = tiny_emulator(tiny_bundle_path, tmp_path / "tiny", in_calendar(calendar))
    for suffix in (".nc", ".zarr"):
        emulator.generate_file(tmp_path / f"out{suffix}", 1, start="1900-01", steps=3)
        check_times(tmp_path / f"out{suffix}", calendar)


def test_other_names_of_a_calendar_are_not_written(tiny_bundle_path: Path, tmp_path: Path) -> None:  # oracle: CF 4.4.2
    emulator = tiny_emulator(tiny_bundle_path, tmp_path / "tiny", in_calendar("gregorian"))
    emulator.generate_file(tmp_path / "out.nc", 1, start="1900-01", steps=3)
    assert raw(tmp_path / "out.nc")["time"].attrs["calendar"] == "standard"


# --- CDO ---

cdo_alone = pytest.mark.skipif(shutil.which("cdo") is None, reason="there is no cdo here: apt-get install cdo")


def cdo(*arguments: object) -> tuple[str, str]:
    """What CDO prints and what it complains of."""
    done = subprocess.run(["cdo", "-s", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def great_circle_areas(grid: LatLonGrid) -> np.ndarray:
    """Share of the sphere of cells (lat * lon,) whose corners are joined by great circles, as CDO takes them."""
    lat, lon = (np.radians(edges) for edges in cell_edges(grid))
    half = (lon[0, 1] - lon[0, 0]) / 2
    # the solid angle between the equator and an edge whose two corners are at the latitude y, by spherical excess
    south, north = (2 * np.arctan(np.sin(y) * np.tan(half)) for y in lat.T)
    band = north - south
    return np.repeat(band / band.sum() / grid.lon_deg.size, grid.lon_deg.size)


def check_field_means(path: Path, native: bool) -> None:
    """CDO's field means are ours: of HEALPix, and of lat-lon with CDO's cells, to float32 rounding."""
    dataset = raw(path)
    for name in ("tas", "uas"):
        values = dataset[name].values.astype(np.float64).reshape(dataset.sizes["time"], -1)
        out, _ = cdo("outputf,%.9g,1", "-fldmean", f"-selname,{name}", path)
        found, rounding = np.array(out.split(), dtype=float), 2e-7 * np.abs(values).max()
        weights = np.full(values.shape[1], 1 / values.shape[1]) if native else great_circle_areas(tiny_grid())
        np.testing.assert_allclose(found, values @ weights, rtol=0, atol=rounding)
        if not native:  # our cells end at parallels: 1 % of the area of the polar ones at 15 degrees, 0.03 % at 2.5
            spread = np.abs(values - values.mean(axis=1, keepdims=True)).max()
            np.testing.assert_allclose(found, values @ cell_areas(tiny_grid()), rtol=0, atol=0.01 * spread)


@cdo_alone
@pytest.mark.parametrize("grid", ["native", "source"])
@pytest.mark.parametrize("verb", ["decompress", "superres"])
def test_cdo_reads_fields(verb: str, grid: str, folder: Path) -> None:  # oracle: CDO
    path = folder / f"{verb}-{grid}.nc"
    out, complaints = cdo("sinfon", path)
    assert "skipped" not in complaints
    points = PIXELS if grid == "native" else tiny_grid().size
    for name in ("tas", "uas"):
        assert re.search(rf"^ .* {points} .* F32z? *: {name} *$", out, re.MULTILINE), out
    assert ("healpix  nside=4  order=nested" if grid == "native" else "points=312 (24x13)") in out
    assert "time : 14 steps" in out
    assert re.search(r"Units = days +Calendar = standard +Bounds = true", out)
    check_field_means(path, grid == "native")


@cdo_alone
@pytest.mark.parametrize("grid", ["native", "source"])
@pytest.mark.parametrize("verb", ["generate", "forecast"])
def test_cdo_reads_a_member(verb: str, grid: str, tmp_path: Path, folder: Path) -> None:
    # oracle: CDO, which knows no members and wants time first; so one is taken out, as the README says
    with xr.open_dataset(folder / f"{verb}-{grid}.nc", engine="h5netcdf") as ensemble:
        ensemble.sel(realization=0).to_netcdf(tmp_path / "member.nc", engine="h5netcdf")
    out, complaints = cdo("sinfon", tmp_path / "member.nc")
    assert "skipped" not in complaints
    assert "healpix  nside=4  order=nested" in out or grid == "source"
    if verb == "forecast":
        assert re.search(r"ForecastRefTime = +1991-03-01", out)
    check_field_means(tmp_path / "member.nc", grid == "native")


@cdo_alone
@pytest.mark.parametrize("calendar", [calendar for calendar in CALENDARS if calendar != "julian"])  # CDO has no such
def test_cdo_reads_the_times(calendar: str, tiny_bundle_path: Path, tmp_path: Path) -> None:  # oracle: CDO's decoder
    emulator = tiny_emulator(tiny_bundle_path, tmp_path / "tiny", in_calendar(calendar))
    member = emulator.generate(1, start="1900-01", steps=3).isel(realization=0, drop=True)
    member.to_netcdf(tmp_path / "member.nc", engine="h5netcdf")
    emulator.compress_file(tmp_path / "member.nc", tmp_path / "latents.nc", climatology="training")
    out, _ = cdo("showtimestamp", tmp_path / "latents.nc")
    assert out.split() == [date.isoformat() for date in dates(calendar)[1]]
