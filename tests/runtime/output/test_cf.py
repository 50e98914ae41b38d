"""Output of every command by the book: the CF checker, coordinates, HEALPix, provenance."""

import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from outputs import CALENDARS, NAMES, VERBS, ZARR, raw
from processes import python
from tiny_bundle import ZOOM

import fsae.runtime
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError
from fsae.runtime.input.grid_detection import find_grid
from fsae.runtime.output.marks import MARK, SEAL
from fsae.runtime.sphere.grids import HealpixGrid

CHECKED = (*NAMES, *(f"in-{calendar}.nc" for calendar in CALENDARS))

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
DGGS = ("dggs", "zarr_conventions")
MEDIUM = 2  # 3 is high

# What the checker says and we leave so, with the reason; each must be said of some file.
LEFT = {
    r"standard_name healpix_index is not defined in Standard Name Table v\d+\.": (
        "CF 1.13, appendix F, asks for it; the table that the checker ships is older"
    ),
    r"healpix is not a valid grid_mapping_name\. See Appendix F for valid grid mappings": (
        "CF 1.13 has it in appendix F; the checker knows that of CF 1.11"
    ),
    r"(tas|uas)(_[a-z]+)?'s spatio-temporal dimensions are not in the recommended order .* are "
    r"(realization \(U\), |quantile \(U\), )?"
    r"time \(T\), cell \(U\) .*": (
        "the cells of HEALPix are latitude and longitude in one, which the checker does not know: they stand where "
        "those would"
    ),
    r"(time|tas|uas)'s spatio-temporal dimensions are not in the recommended order .* are "
    r"forecast_reference_time \(T\), lead_time \(U\).*": (
        "the order that forecasts have wherever they come from; the checker takes the reference time for the time"
    ),
    r"(tas|uas)_[a-z]+'s cell_methods name component realization does not match .*": (
        "CF 1.13, section 7.3, takes a standard name there, which realization is: the members have no coordinate left"
    ),
}


# --- the checker ---


@pytest.fixture(scope="module")
def remarks(outputs: Path) -> dict[str, list[tuple[int, str, str]]]:
    """The findings of the checker for each file: weight, section, text. Zarr is checked as NetCDF written by xarray."""
    if importlib.util.find_spec("compliance_checker") is None:
        pytest.skip('the CF checker is not installed: pip install "fsae[dev]"')
    (outputs / "copies").mkdir()
    copies = {}
    for number, name in enumerate(CHECKED):
        copies[name] = outputs / "copies" / f"{number}.nc"
        if name.endswith(".nc"):
            shutil.copy(outputs / name, copies[name])
            continue
        dataset = without_dggs(raw(outputs / name))
        for variable in dataset.variables.values():
            variable.encoding = {"_FillValue": None}  # which xarray would add to coordinates
        dataset.to_netcdf(copies[name], engine="h5netcdf")
    done = python("-W", "ignore", "-c", CHECKER, *copies.values())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("REMARKS")[2])
    return {name: found[str(path)] for name, path in copies.items()}


@pytest.mark.parametrize("name", CHECKED)
def test_the_cf_checker_has_nothing_to_say(name: str, remarks: dict[str, list[tuple[int, str, str]]]) -> None:
    # oracle: compliance-checker, except for what LEFT gives a reason for
    serious = [remark for remark in remarks[name] if remark[0] >= MEDIUM]
    assert [remark for remark in serious if not any(re.fullmatch(left, remark[2]) for left in LEFT)] == []


def test_what_is_left_is_still_said(remarks: dict[str, list[tuple[int, str, str]]]) -> None:
    # a checker that no longer says it has caught up: the entry goes
    said = {message for found in remarks.values() for _, _, message in found}
    assert [left for left in LEFT if not any(re.fullmatch(left, message) for message in said)] == []


def without_dggs(dataset: xr.Dataset) -> xr.Dataset:
    """A Zarr store without what declares its cells, as NetCDF cannot hold it."""
    return dataset.drop_attrs(deep=False).assign_attrs({k: v for k, v in dataset.attrs.items() if k not in DGGS})


@pytest.mark.parametrize("verb", ZARR)
def test_zarr_and_netcdf_hold_the_same(verb: str, outputs: Path) -> None:  # oracle: each other
    netcdf, zarr = raw(outputs / f"{verb}.nc"), raw(outputs / f"{verb}.zarr")
    for found in (netcdf, zarr):  # checksums: of the files of the one, of the values of the other
        found.attrs = {key: value for key, value in found.attrs.items() if key not in (SEAL, MARK, *DGGS)}
    for name in set(netcdf.variables) & {"tas", "uas"}:  # NetCDF has the time first
        netcdf[name] = netcdf[name].transpose(*zarr[name].dims)
    if "crs" in netcdf:
        netcdf["crs"].attrs = {key: netcdf["crs"].attrs[key] for key in zarr["crs"].attrs}
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
def test_data_name_their_coordinates(verb: str, expected: str | None, outputs: Path) -> None:
    # oracle: CF 5, every coordinate that no dimension is named after
    dataset = raw(outputs / f"{verb}.nc")
    for name in ("tas", "uas"):
        assert dataset[name].attrs.get("coordinates") == expected
    with xr.open_dataset(outputs / f"{verb}.nc", engine="h5netcdf") as decoded:
        assert set(decoded.data_vars) <= {"tas", "uas", "time_bnds", "crs"}


def test_forecasts_say_when_they_begin(outputs: Path) -> None:  # oracle: dates by hand
    with xr.open_dataset(outputs / "forecast-source.nc", engine="h5netcdf") as found:
        assert found["forecast_reference_time"].values == np.datetime64("1991-03-01")
        assert found["lead_time"].values.tolist() == [15.5, 46.0, 76.5, 107.0]
        assert found["lead_time"].attrs["units"] == "day"
        assert found["tas"].coords["lead_time"].dims == ("time",)


@pytest.mark.parametrize("order", ["nested", "ring"])
@pytest.mark.parametrize(
    "form",
    [
        {"grid_mapping_name": "healpix", "refinement_level": ZOOM, "indexing_scheme": ""},
        {"grid_mapping_name": "healpix", "healpix_nside": 2**ZOOM, "healpix_order": ""},
        {"healpix_nside": 2**ZOOM, "healpix_order": ""},
    ],
)
def test_either_form_is_read(form: dict[str, str | int], order: str, outputs: Path) -> None:
    # oracle: the attributes themselves; nothing else tells of the order, and the number of cells must agree
    dataset = raw(outputs / "generate-native.nc")[["tas", "time", "crs"]]
    dataset = dataset.drop_vars(("lat", "lon", "cell"), errors="ignore").rename_dims(cell="i")
    dataset["crs"].attrs = {key: value or order for key, value in form.items()}
    assert find_grid(dataset["tas"], dataset) == HealpixGrid(zoom=ZOOM, order=order)
    for key in {"refinement_level", "healpix_nside"} & set(form):
        dataset["crs"].attrs[key] *= 2
    with pytest.raises(DataError, match="192 cells"):
        find_grid(dataset["tas"], dataset)


# --- provenance ---


@pytest.mark.parametrize("verb", VERBS)
def test_provenance(verb: str, outputs: Path) -> None:
    # oracle: the hash of the manifest, the versions of the packages, the request that was made
    attributes = raw(outputs / f"{verb}.nc").attrs
    bundle = outputs / ("hourly" if verb.startswith("hourly") else "tiny")
    request = json.loads(attributes["fsae_request"])
    assert attributes["fsae_request"] == json.dumps(request, sort_keys=True)
    assert attributes["fsae_manifest_sha256"] == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    packages = ("fsae", "numpy") if verb == "climatology" else ("fsae", "numpy", "onnxruntime")
    assert json.loads(attributes["fsae_versions"]) == {name: importlib.metadata.version(name) for name in packages}
    assert attributes["fsae_bundle"] == "tiny"
    if verb != "climatology":  # which no graph has made, and whose data have a licence of their own
        assert (attributes["fsae_device"], attributes["fsae_precision"]) == ("cpu", "fp32")
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
def test_no_attribute_mentions_the_place_or_the_time(verb: str, outputs: Path) -> None:
    dataset = raw(outputs / f"{verb}.nc")
    text = repr([dataset.attrs, *(variable.attrs for variable in dataset.variables.values())])
    today = datetime.datetime.now(datetime.UTC).date()
    for word in (str(outputs), "pytest", "/", str(Path.home()), today.isoformat(), today.strftime("%Y%m%d"), "batch"):
        assert word not in text


def test_attributes_are_those_of_the_request_alone(tmp_path: Path, outputs: Path) -> None:
    # oracle: the same request elsewhere, later, in another batch, from a copy of the bundle
    shutil.copytree(outputs / "tiny", tmp_path / "moved")
    emulator = fsae.runtime.load(tmp_path / "moved", device="cpu", threads=2)
    for suffix in (".nc", ".zarr"):
        path = tmp_path / f"other{suffix}"
        emulator.generate_file(path, Request(members=[0, 7], start="1990-11", steps=4, seed=5), batch=1)
        xr.testing.assert_identical(raw(path), raw(outputs / f"generate-native{suffix}"))
