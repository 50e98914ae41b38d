"""Input is held against the climatology of its time of year: real months pass, each kind of fault is named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import NDArray

from fsae.runtime import Emulator, Request
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.plausible import Plausible
from fsae.runtime.cli.main import main
from fsae.runtime.codec.encoder_input import Reading, open_input
from fsae.runtime.codec.plausibility import plausible
from fsae.runtime.emulator import climatology_file, write_climatology
from fsae.runtime.errors import DataError
from fsae.runtime.jobs.job import Writing
from fsae.runtime.sphere.healpix import ring_to_nested

Change = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@pytest.fixture(scope="module")
def months(sample_data: Path) -> xr.Dataset:
    """Real months that training never saw."""
    with xr.open_dataset(sample_data / "ncep1-tas-mon-200501-201412.nc") as data:
        return data[["tas"]].load()


@pytest.fixture(scope="module")
def default_emulator(default_bundle: Bundle) -> Emulator:
    """The shipped default engine on the CPU."""
    from fsae.runtime import load

    return load(default_bundle.folder, "cpu", threads=1)


def changed(months: xr.Dataset, change: Change) -> xr.Dataset:
    return months.assign(tas=(months["tas"].dims, change(months["tas"].values), months["tas"].attrs))


def notes_on(bundle: Bundle, data: xr.Dataset | Path, **reading: object) -> list[str]:
    given = open_input(bundle, "compress", data, Reading(climatology="training", **reading))  # type: ignore[arg-type]
    given.close()
    return [note for note in given.notes if "climatology" in note]


def test_real_months_pass_without_a_word(default_bundle: Bundle, months: xr.Dataset) -> None:
    # oracle: the data, which training never saw; a single month, and a coarse grid
    assert notes_on(default_bundle, months) == []
    assert notes_on(default_bundle, months.isel(time=[3])) == []
    assert notes_on(default_bundle, months, zoom=1) == []


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("csm-b003-ts-mon-100months.nc", "ts"),
        ("glosea4-ts-mon-2011-10members.nc", "ts"),
        ("mpi-esm-lr-tas-uas-vas-mon-2005.nc", "tas"),
        ("access-esm15-tas-mon-abrupt-4xCO2-010101-012512-10deg.nc", "tas"),
        ("eraint-5vars-mon-201702-201703.nc", "tas"),
    ],
)
def test_months_of_other_models_and_climates_are_not_refused(
    default_bundle: Bundle, shared_data: Path, name: str, called: str
) -> None:  # oracle: the data; without a climatology of their own they are far from it, by their bias
    notes_on(default_bundle, shared_data / name, names={"tas": called})


FAULTS: dict[str, tuple[Change, str]] = {
    "flipped": (lambda v: v[:, ::-1], "with its latitudes flipped it would be 1"),
    "half a turn": (lambda v: np.roll(v, 72, -1), "with its longitudes shifted by 180 degrees it would be 1"),
    "mirrored": (lambda v: v[:, :, ::-1], "with its longitudes mirrored it would be 1"),
    "half a year": (lambda v: np.roll(v, 6, 0), r"six months later it would be 1\.\d+ K, so"),
    "a month late": (lambda v: np.roll(v, 1, 0), r"one month earlier it would be 1\.\d+ K, so"),
    "a month early": (lambda v: np.roll(v, -1, 0), r"one month later it would be 1\.\d+ K, so"),
    "a constant": (lambda v: np.full_like(v, 288.0), "it has one value everywhere"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_values_in_wrong_places_are_refused_and_the_fault_is_named(
    default_bundle: Bundle, months: xr.Dataset, fault: str
) -> None:  # oracle: what was done to the data
    change, reason = FAULTS[fault]
    with pytest.raises(DataError, match=reason) as refused:
        notes_on(default_bundle, changed(months, change))
    assert "--force" in refused.value.advice
    if "month" not in fault and fault != "half a year":  # single months can be alike, as April and October are
        with pytest.raises(DataError, match=reason):
            notes_on(default_bundle, changed(months, change).isel(time=[0]))


def hours(months: xr.Dataset) -> xr.Dataset:
    """Januaries, as if they were six-hourly values of one January, with weather on top."""
    found = months.isel(time=slice(0, None, 12))
    stamps = np.datetime64("2005-01-02") + np.arange(found.sizes["time"]) * np.timedelta64(6, "h")
    lat, lon = np.radians(months["lat"].values)[:, None], np.radians(months["lon"].values)
    waves = 8 * np.sin(2 * lat) * np.cos(3 * lon + np.arange(len(stamps))[:, None, None])  # RMS of 4 K
    return changed(found.assign_coords(time=stamps), lambda v: v + waves)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if "month" not in fault and fault != "half a year"])
def test_hours_in_wrong_places_are_refused_as_months_are(
    default_bundle: Bundle, months: xr.Dataset, fault: str
) -> None:  # oracle: what was done to the data
    change, reason = FAULTS[fault]
    with pytest.raises(DataError, match=reason.removesuffix(" 1")):
        notes_on(default_bundle, changed(hours(months), change))


def test_hours_far_from_the_climatology_of_months_are_only_warned_of(
    default_bundle: Bundle, months: xr.Dataset
) -> None:  # oracle: 14 K added everywhere count half, which is more than months may have (5.9 K); no fault explains it
    assert len(notes_on(default_bundle, hours(months))) == 1
    (note,) = notes_on(default_bundle, changed(hours(months), lambda v: v + 14.0))
    assert "is it the right variable and time of year?" in note


def test_cells_in_ring_order_marked_nested_are_refused(default_bundle: Bundle) -> None:  # oracle: the index table
    bundle = default_bundle
    nested = bundle.tables.climatology[0, 0]
    ring = np.empty_like(nested)
    ring[ring_to_nested(bundle.manifest.grid.zoom)] = nested
    cells = ("time", "cell")
    data = xr.Dataset(
        {"tas": (cells, ring[None], {"units": "K", "grid_mapping": "crs"}), "crs": ((), 0, _mapping(bundle))},
        {"time": [np.datetime64("2005-04-16")], "cell": np.arange(nested.size)},
    )
    with pytest.raises(DataError, match="with its cells in ring order"):
        notes_on(bundle, data)


def _mapping(bundle: Bundle) -> dict[str, object]:
    level = bundle.manifest.grid.zoom
    return {"grid_mapping_name": "healpix", "refinement_level": level, "indexing_scheme": "nested"}


def test_a_warmer_world_is_a_real_one(default_bundle: Bundle, months: xr.Dataset) -> None:
    # oracle: 4xCO2 is 5 K warmer in the mean, and twice that in the Arctic: told, not refused
    lat = np.cos(np.radians(months["lat"].values))[:, None]
    (note,) = notes_on(default_bundle, changed(months, lambda v: v + 10 - 8 * lat))
    assert "99 % of them" in note


def test_one_wrong_month_among_many_is_found_where_it_is(default_emulator: Emulator, months: xr.Dataset) -> None:
    # oracle: its date; it is not among the months that are looked at first
    values = months["tas"].values.copy()
    values[37] = values[37, ::-1]
    with pytest.raises(DataError, match="2008-02"):
        default_emulator.compress(changed(months, lambda v: values), climatology="training")


def test_force_goes_on_and_the_output_says_so(
    default_emulator: Emulator, months: xr.Dataset, tmp_path: Path
) -> None:  # oracle: the attributes
    wrong = changed(months, lambda v: v[:, ::-1]).isel(time=slice(0, 3))
    default_emulator.compress_file(wrong, tmp_path / "latents.nc", climatology="training", writing=Writing(force=True))
    with xr.open_dataset(tmp_path / "latents.nc") as latents:
        assert '"force": true' in latents.attrs["fsae_request"]
        assert "--force" in latents.attrs["comment"]
    known = Request(members=1, steps=1, initial=wrong, climatology="training")
    with pytest.raises(DataError, match="latitudes flipped"):
        default_emulator.generate(known)
    forced = default_emulator.generate(dataclasses.replace(known, force=True))
    assert '"force": true' in forced.attrs["fsae_request"]


def test_a_climatology_is_checked_like_a_field(default_bundle: Bundle, months: xr.Dataset, tmp_path: Path) -> None:
    # oracle: what was done to the data, and to the file
    right, wrong = tmp_path / "right.nc", tmp_path / "wrong.nc"
    write_climatology(months, right, model=default_bundle.folder)
    flipped = changed(months, lambda v: v[:, ::-1])
    with pytest.raises(DataError, match=r"the climatology of .* with its latitudes flipped it would be 0\.\d+ K, so"):
        write_climatology(flipped, wrong, model=default_bundle.folder)
    assert not wrong.exists()
    climatology_file(flipped, wrong, model=default_bundle.folder, writing=Writing(force=True))
    with xr.open_dataset(wrong) as data:
        assert '"force": true' in data.attrs["fsae_request"]
        assert "(--force)" in data.attrs["comment"]
    open_input(default_bundle, "compress", months, Reading(climatology=right)).close()
    with pytest.raises(DataError, match=r"the climatology wrong\.nc .* latitudes flipped"):
        open_input(default_bundle, "compress", flipped, Reading(climatology=wrong))
    with xr.open_dataset(right) as data:
        harmonic = data.load()
    for other, found in (
        (harmonic.isel(coefficient=slice(None, None, -1)), "another order"),
        (harmonic.isel(cell=slice(None, None, -1)), "another order"),
        (harmonic.assign(tas=harmonic["tas"] * 2), "units|runs from"),
        (harmonic.assign(tas=harmonic["tas"].copy(data=harmonic["tas"].values * 2)), "runs from"),
        (
            harmonic.assign(tas=harmonic["tas"].where(harmonic["cell"] > 5).assign_attrs(harmonic["tas"].attrs)),
            "missing",
        ),
    ):
        with pytest.raises(DataError, match=found):
            open_input(default_bundle, "compress", months, Reading(climatology=other))


def test_the_command_refuses_a_wrong_climatology_and_takes_it_by_force(
    months: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the exit codes of the README; the data is turned upside down
    changed(months, lambda v: v[:, ::-1]).to_netcdf(tmp_path / "flipped.nc")
    words = ["--model", "default", "climatology", str(tmp_path / "flipped.nc"), str(tmp_path / "own.nc")]
    assert main(words) == 5
    assert "tas in the climatology of flipped.nc is" in capsys.readouterr().err
    assert not (tmp_path / "own.nc").exists()
    assert main([*words, "--force"]) == 0
    assert "the user went on with it (--force)" in capsys.readouterr().err


def test_a_bundle_without_distances_checks_nothing(default_bundle: Bundle, months: xr.Dataset) -> None:
    # oracle: no note, and no error
    old = dataclasses.replace(default_bundle, manifest=replace(default_bundle.manifest, plausible=UNSET))
    assert notes_on(old, changed(months, lambda v: v[:, ::-1])) == []


def test_limits_follow_from_the_distances() -> None:  # oracle: quantiles of 0 ... 100, and the stated factors
    found = plausible(np.arange(101.0))
    assert found == Plausible(median=50.0, q99=99.0, warn_above=173.2, refuse_above=297.0)


def test_the_shipped_distances_are_those_of_the_training_years(default_bundle: Bundle, sample_data: Path) -> None:
    # oracle: the plain root mean square of months minus their own monthly means, over the years of training; to 5 %, as
    # the bilinear way to HEALPix smooths, four harmonics are not twelve means, and the global mean counts half
    with xr.open_dataset(sample_data / "ncep1-tas-mon-194801-200412.nc") as data:
        tas = data["tas"].load()
    anomaly = tas.groupby("time.month") - tas.groupby("time.month").mean("time")
    weights = np.cos(np.radians(tas["lat"]))
    rms = np.sqrt((anomaly**2).weighted(weights).mean(("lat", "lon")))
    limits = default_bundle.manifest.distances["tas"]
    np.testing.assert_allclose(limits.median, float(rms.median()), rtol=0.05)
    np.testing.assert_allclose(limits.q99, float(rms.quantile(0.99)), rtol=0.05)


def test_strict_refuses_in_every_step_what_is_only_warned_of_otherwise(
    default_emulator: Emulator, months: xr.Dataset, tmp_path: Path
) -> None:  # oracle: 8 K added everywhere count half, which is between the two limits (3.4 K and 5.9 K)
    bundle = default_emulator.bundle
    warm = changed(months, lambda v: v + 8.0)
    assert any("from its climatology at" in note for note in notes_on(bundle, warm))
    with pytest.raises(DataError, match=r"is \d\.\d+ K \(RMS\) from its climatology at .* --strict"):
        notes_on(bundle, warm, strict=True)
    assert notes_on(bundle, months, strict=True) == []
    late = changed(
        months, lambda v: v + np.where(np.arange(len(v)) == 1, 8.0, 0.0)[:, None, None]
    )  # not looked at first
    default_emulator.compress_file(late, tmp_path / "a.nc", climatology="training")
    with pytest.raises(DataError, match=r"at 2005-02.* --strict"):
        default_emulator.compress_file(late, tmp_path / "b.nc", climatology="training", writing=Writing(strict=True))
    with pytest.raises(DataError, match="--strict"):
        default_emulator.generate(
            Request(members=1, steps=1, initial=warm.isel(time=[0, 1, 2]), climatology="training", strict=True)
        )
    own = tmp_path / "warm.nc"
    write_climatology(warm, own, model=bundle.folder)
    with pytest.raises(DataError, match=r"the climatology warm\.nc .* --strict"):
        open_input(bundle, "compress", warm, Reading(climatology=own, strict=True))


def test_the_commands_are_strict_and_no_force_with_it(
    months: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the exit codes of the README
    changed(months.isel(time=[0]), lambda v: v + 8.0).to_netcdf(tmp_path / "warm.nc")
    data, out = str(tmp_path / "warm.nc"), str(tmp_path / "out.zarr")
    for words in (
        ["compress", data, out, "--climatology", "training"],
        ["compress", data, out, "--ratio", "4"],
        ["superres", data, out, "--zoom", "3", "--climatology", "training"],
    ):
        assert main(["--model", "default", "--device", "cpu", *words, "--strict"]) == 5
        assert "--strict" in capsys.readouterr().err
    assert not (tmp_path / "out.zarr").exists()
    assert main(["--model", "default", "compress", data, out, "--strict", "--force"]) == 2
    assert "found both --force" in capsys.readouterr().err
