"""Ensembles that go on from known steps: the state is the encoder's, whitened, and what does not fit is refused."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import cftime
import msgspec
import numpy as np
import pytest
import xarray as xr
from tiny_bundle import (
    LATENT_ZOOM,
    PIXELS,
    PREVIOUS,
    VARIABLES,
    ZOOM,
    tiny_encode,
    tiny_manifest,
    tiny_mean,
)

import fsae.runtime
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Time
from fsae.runtime.cli.main import main
from fsae.runtime.climate.calendar import decimal_year
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.codec.encoder_input import Reading, open_fields
from fsae.runtime.diffusion.whitening import whiten
from fsae.runtime.emulator import write_climatology
from fsae.runtime.ensemble.generate import timeline
from fsae.runtime.ensemble.initial import last_steps, read_initial
from fsae.runtime.ensemble.members import Initial, Plan, generate, latent_model
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import BundleError
from fsae.runtime.output.layout import Cells, Layout, to_dataset
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.healpix import coarsen, refine, zoom_of

MONTHS = 14  # from January 1990


def month_edges(calendar: str = "standard") -> list[cftime.datetime]:
    return [cftime.datetime(1990 + m // 12, m % 12 + 1, 1, calendar=calendar) for m in range(MONTHS + 1)]


def months(values: np.ndarray, calendar: str = "standard", members: tuple[int, ...] | None = None) -> xr.Dataset:
    """A dataset of monthly means (member, time, variable, pixel) from January 1990 on."""
    bounds = list(itertools.pairwise(month_edges(calendar)))
    layout = Layout(
        variables={v.name: {"standard_name": v.standard_name, "units": v.units} for v in tiny_manifest().variables},
        attributes={},
        time=encode_times([start + (end - start) / 2 for start, end in bounds], bounds, calendar),
        grid=Cells(zoom=zoom_of(values.shape[-1])),
        members=members,
    )
    return to_dataset(layout, values)


def seasons(calendar: str = "standard") -> np.ndarray:
    """Season features (time, 2K) of the months, counted in days."""
    edges = [decimal_year([date])[0] for date in month_edges(calendar)]
    return season(np.array([(a + b) / 2 % 1 for a, b in itertools.pairwise(edges)]), 2)


def weather(members: int = 1) -> np.ndarray:
    """Climatology and noise, (member, time, variable, pixel)."""
    noise = np.random.default_rng(1).normal(size=(members, MONTHS, VARIABLES, PIXELS))
    return (tiny_mean(seasons()) + noise).astype(np.float32)


def white_of(latent: np.ndarray, bundle: Bundle) -> np.ndarray:
    tables = bundle.tables
    return whiten(latent, range(LATENT_ZOOM + 1), tables.latent_cell_std, tables.latent_level_std)


# --- the state ---


def test_the_state_is_the_last_steps_encoded_and_whitened(emulator: fsae.runtime.Emulator) -> None:
    # oracle: the closed form of the tiny encoder
    known = read_initial(emulator.bundle, emulator.graphs, months(weather()), Reading(climatology="training"))
    latent = tiny_encode(weather()[0], seasons())[-PREVIOUS:]
    np.testing.assert_allclose(known.initial.white[0], white_of(latent, emulator.bundle), atol=1e-3)  # float32 at 300 K
    assert known.initial.valid.tolist() == [1.0] * PREVIOUS
    assert known.start.isoformat() == known.reference.isoformat() == "1991-03-01T00:00:00"
    assert known.notes == ()


def test_members_go_on_from_it(emulator: fsae.runtime.Emulator) -> None:
    # oracle: the state made by hand from the graph and the tables, bitwise
    bundle, graphs = emulator.bundle, emulator.graphs
    data = weather()[0, -PREVIOUS:]
    mask = np.ones((PREVIOUS, ZOOM + 1), dtype=np.float32)
    white = white_of(graphs.encode(data, seasons()[-PREVIOUS:], mask), bundle).astype(np.float32)
    initial = Initial(white=white[None], valid=np.ones(PREVIOUS, dtype=np.float32))
    model = latent_model(bundle)
    start = cftime.datetime(1991, 3, 1, calendar="standard")
    line = timeline(bundle.manifest.time, model.window, "time: mean", start, 4, None)
    expected = np.full((2, 4, len(bundle.manifest.variables), data.shape[-1]), np.nan, dtype=np.float32)
    plan = Plan(members=[0, 5], steps=line.steps, count=4, seed=2, initial=initial)
    for unit in generate(model, graphs, plan, batch=2):
        expected[unit.members, unit.times] = unit.values
    found = emulator.generate(
        Request(members=[0, 5], steps=4, seed=2, initial=months(weather()), climatology="training")
    )
    np.testing.assert_array_equal(found["tas"].values, expected[:, :, 0])
    np.testing.assert_array_equal(found["uas"].values, expected[:, :, 1])
    without = emulator.generate(Request(members=[0, 5], start="1991-03", steps=4, seed=2))
    assert np.abs(without["tas"].values - expected[:, :, 0]).max() > 0.1


def test_an_ensemble_goes_on_from_its_own_output(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: the longer ensemble, as the tiny encoder undoes the tiny decoder
    whole = emulator.generate(Request(members=[4], start="1990-11", steps=6))
    emulator.generate_file(tmp_path / "first.nc", Request(members=[4], start="1990-11", steps=3))
    rest = emulator.generate(Request(members=[4], steps=3, initial=tmp_path / "first.nc", climatology="training"))
    np.testing.assert_array_equal(rest["time"].values, whole["time"].values[3:])
    np.testing.assert_allclose(rest["tas"].values, whole["tas"].values[:, 3:], atol=2e-3)  # K, float32 at 300


def test_a_member_alone_is_that_of_five(emulator: fsae.runtime.Emulator) -> None:  # bitwise
    data = months(weather())
    five = emulator.generate(Request(members=5, steps=5, initial=data, climatology="training"), batch=5)
    alone = emulator.generate(Request(members=[3], steps=5, initial=data, climatology="training"), batch=1)
    for name in ("tas", "uas"):
        np.testing.assert_array_equal(alone[name].values[0], five[name].values[3])


def test_a_start_takes_the_steps_before_it(emulator: fsae.runtime.Emulator) -> None:
    # oracle: a file that ends there
    data = months(weather())
    given = emulator.generate(Request(members=1, start="1990-06-20", steps=2, initial=data, climatology="training"))
    short = emulator.generate(Request(members=1, steps=2, initial=data.isel(time=slice(0, 5)), climatology="training"))
    np.testing.assert_array_equal(given["tas"].values, short["tas"].values)
    np.testing.assert_array_equal(given["time"].values, short["time"].values)
    kept = [json.loads(one.attrs["fsae_request"])["initial"] for one in (given, short)]
    assert kept[0] == kept[1]
    assert kept[0]["times"] == ["1990-04-16T00:00:00", "1990-05-16T12:00:00"]


@pytest.mark.parametrize("zoom", [0, 1])
def test_a_coarser_state_enters_with_its_finer_levels_masked(emulator: fsae.runtime.Emulator, zoom: int) -> None:
    # oracle: the tiny encoder, which masks the residual of zoom 1 alone
    means = coarsen(weather(), ZOOM - zoom)
    known = read_initial(emulator.bundle, emulator.graphs, months(means), Reading(climatology="training"))
    latent = tiny_encode(refine(means[0], ZOOM - zoom), seasons())[-PREVIOUS:]
    if zoom == 0:
        latent = refine(coarsen(latent, 1), 1)
    np.testing.assert_allclose(known.initial.white[0], white_of(latent, emulator.bundle), atol=1e-3)


def test_a_climatology_of_its_own_removes_the_bias(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: the same source without its bias
    states = []
    for name, bias in (("plain", 0.0), ("biased", 7.0)):
        data = months(weather() + np.array([bias, -bias], dtype=np.float32)[:, None])
        path = tmp_path / f"{name}.nc"
        data.to_netcdf(path, engine="h5netcdf")
        write_climatology(path, tmp_path / f"{name}-climatology.nc", model=emulator.bundle.folder, harmonics=1)
        climatology = tmp_path / f"{name}-climatology.nc"
        states.append(read_initial(emulator.bundle, emulator.graphs, path, Reading(climatology=climatology)))
    np.testing.assert_allclose(states[1].initial.white, states[0].initial.white, atol=2e-3)
    assert states[1].record["climatology"] == "biased-climatology.nc"
    assert states[1].record["values_sha256"] != states[0].record["values_sha256"]


def test_names_are_those_of_the_input(emulator: fsae.runtime.Emulator) -> None:
    data = months(weather())
    plain = read_initial(emulator.bundle, emulator.graphs, data, Reading(climatology="training"))
    other = data.rename(tas="ts")
    other["ts"].attrs["standard_name"] = "surface_temperature"  # else that finds it
    found = read_initial(emulator.bundle, emulator.graphs, other, Reading(climatology="training", names={"tas": "ts"}))
    np.testing.assert_array_equal(found.initial.white, plain.initial.white)
    said = ("names", "read")  # what the data calls its variables
    assert {k: v for k, v in found.record.items() if k not in said} == {
        k: v for k, v in plain.record.items() if k not in said
    }
    assert found.record["names"] == {"tas": "ts"}
    assert found.record["read"]["tas"]["variable"] == "ts"


# --- time ---


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_months_of_another_calendar_are_months(emulator: fsae.runtime.Emulator, calendar: str) -> None:
    # oracle: the closed form in the season of that calendar
    data = months(weather(), calendar)
    known = read_initial(emulator.bundle, emulator.graphs, data, Reading(climatology="training"))
    latent = tiny_encode(weather()[0], seasons(calendar))[-PREVIOUS:]
    np.testing.assert_allclose(known.initial.white[0], white_of(latent, emulator.bundle), atol=1e-3)
    assert (known.start.isoformat(), known.start.calendar) == ("1991-03-01T00:00:00", "standard")


@pytest.mark.parametrize(
    ("step", "edges", "expected"),
    [
        ("3 months", [(1990, 1, 1), (1990, 4, 1), (1990, 7, 1), (1990, 10, 1)], "1990-10-01T00:00:00"),
        ("1 year", [(1990, 1, 1), (1991, 1, 1), (1992, 1, 1), (1993, 1, 1)], "1993-01-01T00:00:00"),
        ("1 day", [(1992, 2, 27), (1992, 2, 28), (1992, 2, 29), (1992, 3, 1)], "1992-03-01T00:00:00"),
        ("6 hours", [(1992, 2, 29, 6), (1992, 2, 29, 12), (1992, 2, 29, 18), (1992, 3, 1)], "1992-03-01T00:00:00"),
    ],
)
def test_other_steps_follow_each_other(tiny_bundle: Bundle, step: str, edges: list, expected: str) -> None:
    # oracle: the calendar; stamps stand anywhere in their period
    dates = [cftime.datetime(*edge, calendar="standard") for edge in edges]
    fields = dataclasses.replace(
        open_fields(tiny_bundle, months(weather())), times=tuple(dates[1:]), bounds=tuple(itertools.pairwise(dates))
    )
    known = Time(calendar="standard", step=step, harmonics=2)
    assert [last_steps(fields, known, 2, date, "x")[0] for date in (None, dates[2])] == [slice(1, 3), slice(0, 2)]
    assert last_steps(fields, known, 2, None, "x")[1].isoformat() == expected


def test_leads_are_counted_from_the_end_of_what_is_known(emulator: fsae.runtime.Emulator, tmp_path: Path) -> None:
    # oracle: the days of March to May 1991
    request = Request(members=1, steps=3, initial=months(weather()), climatology="training")
    emulator.generate_file(tmp_path / "a.nc", request)
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as found:
        assert found["forecast_reference_time"].values.astype("datetime64[h]").astype(str) == "1991-03-01T00"
        assert found["forecast_reference_time"].attrs["standard_name"] == "forecast_reference_time"
        assert found["lead_time"].values.tolist() == [15.5, 31 + 15, 61 + 15.5]
        assert found["lead_time"].attrs["standard_name"] == "forecast_period"
        assert found["lead_time"].attrs["units"] == "day"
        request = json.loads(found.attrs["fsae_request"])
        assert request["start"] == "1991-03-01T00:00:00"
        assert request["initial"]["input"] == "dataset: HEALPix grid of zoom 2 (nested), cells by their numbers in cell"
    plain = emulator.generate(Request(members=1, steps=1))
    assert not {"forecast_reference_time", "lead_time"} & set(plain.variables)
    assert "initial" not in json.loads(plain.attrs["fsae_request"])


def test_instantaneous_values_are_known_at_their_stamp(emulator: fsae.runtime.Emulator) -> None:
    # oracle: the stamps; what the model gives is instantaneous too
    manifest = emulator.bundle.manifest
    variables = tuple(msgspec.structs.replace(v, cell_methods="time: point") for v in manifest.variables)
    bundle = dataclasses.replace(emulator.bundle, manifest=msgspec.structs.replace(manifest, variables=variables))
    data = months(weather()).drop_vars("time_bnds").assign_coords(time=month_edges()[:MONTHS])
    data["time"].attrs.pop("bounds", None)
    other = fsae.runtime.Emulator(bundle, emulator.graphs)
    found = other.generate(Request(members=1, steps=2, initial=data, climatology="training"))
    assert found["forecast_reference_time"].values.astype("datetime64[D]").astype(str) == "1991-02-01"
    assert found["lead_time"].values.tolist() == [28.0, 28.0 + 31.0]


# --- what is said and refused ---


def test_without_a_climatology_the_user_and_the_file_are_told(
    tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    months(weather()).to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    common = ["--model", str(tiny_bundle_path), "--device", "cpu", "generate", "--members", "1", "--steps", "1"]
    for name, more in (("told", []), ("quiet", ["--climatology", "training"])):
        out = tmp_path / f"{name}.nc"
        assert main([*common, "--initial", str(tmp_path / "in.nc"), "--out", str(out), *more]) == 0
        err = capsys.readouterr().err
        with xr.open_dataset(out, engine="h5netcdf") as found:
            sentence = "No climatology of the input's own source was given"
            assert (f"warning: {sentence}" in err) == found.attrs.get("comment", "").startswith(sentence) == (not more)


@pytest.mark.parametrize("batch", [1, 3])
def test_members_go_on_from_the_members_of_the_initial_data(
    emulator: fsae.runtime.Emulator, batch: int
) -> None:  # oracle: each started alone from its own state, the one at its number modulo theirs
    data = months(weather(3), members=(3, 8, 5))
    found = emulator.generate(
        Request(members=[0, 1, 2, 4, 9], initial=data, climatology="training", steps=4), batch=batch
    )
    assert found["initial_member"].values.tolist() == [3, 8, 5, 8, 3]
    for place, (number, state) in enumerate(zip([0, 1, 2, 4, 9], [0, 1, 2, 1, 0], strict=True)):
        one = data.isel(realization=state, drop=True)
        alone = emulator.generate(Request(members=[number], initial=one, climatology="training", steps=4))
        assert "initial_member" not in alone
        for name in ("tas", "uas"):
            np.testing.assert_array_equal(found[name].values[place], alone[name].values[0])
    record = json.loads(found.attrs["fsae_request"])["initial"]
    assert record["members"] == [3, 8, 5]
    spread = emulator.generate(Request(members=3, initial=data, climatology="training", steps=4, statistics=["std"]))
    assert "initial_member" not in spread
    whole = emulator.generate(Request(members=3, initial=data, climatology="training", steps=4))
    np.testing.assert_allclose(spread["tas_std"], whole["tas"].values.std(0), rtol=1e-4, atol=1e-5)


def _daily(data: xr.Dataset) -> xr.Dataset:
    days = [cftime.datetime(1990, 3, day, calendar="standard") for day in range(1, MONTHS + 1)]
    return _stamped(data, days)


def _stamped(data: xr.Dataset, times: list[cftime.datetime]) -> xr.Dataset:
    data = data.drop_vars("time_bnds").assign_coords(time=times)
    data["time"].attrs.pop("bounds", None)
    return data


def _missing(data: xr.Dataset) -> xr.Dataset:
    data["tas"][-1, 7] = np.nan
    return data


def _of_month_ends(data: xr.Dataset) -> xr.Dataset:
    return _stamped(data, [cftime.datetime(1990 + m // 12, m % 12 + 1, 30, calendar="360_day") for m in range(MONTHS)])


INITIAL = ("--initial", "in.nc")
REFUSED: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], tuple[str, ...], int, str]] = {
    "daily": (_daily, INITIAL, 5, "in.nc has the time step 1 day, expected 1 month as the model"),
    "too few": (lambda d: d.isel(time=slice(0, 1)), INITIAL, 5, "in.nc holds 1 of the steps to start from, expected 2"),
    "start too early": (lambda d: d, (*INITIAL, "--start", "1990-02"), 5, "in.nc holds 1 of the steps to start from"),
    "start too late": (
        lambda d: d, (*INITIAL, "--start", "1991-05"), 5,
        "in.nc has a gap between 1991-02-01T00:00:00 and 1991-05-01T00:00:00, expected 2 consecutive steps of 1 month",
    ),
    "gap": (
        lambda d: d.isel(time=[0, 1, 2, 5, 7]), INITIAL, 5, "in.nc has a gap between 1990-06-01T00:00:00 and 1990-08-01"
    ),
    "missing values": (_missing, INITIAL, 5, "tas in in.nc has 1 missing values in 2 steps, expected none"),
    "no such date": (_of_month_ends, INITIAL, 5, "in.nc has the date 1990-02-30T00:00:00 of the calendar '360_day'"),
    "no variable": (lambda d: d.drop_vars("uas"), INITIAL, 5, "has no variable 'uas'"),
    "no file": (lambda d: d, ("--initial", "nowhere.nc"), 5, "found no file nowhere.nc"),
    "no climatology": (lambda d: d, (*INITIAL, "--climatology", "in.nc"), 5, "in.nc holds no climatology"),
    "a bad start": (lambda d: d, (*INITIAL, "--start", "soon"), 2, "found the date 'soon'"),
    "a climatology of nothing": (lambda d: d, ("--climatology", "training"), 2, "give --initial"),
    "a name of nothing": (lambda d: d, ("--name", "tas=ts"), 2, "give --initial"),
    "onto itself": (lambda d: d, (*INITIAL, "--out", "in.nc", "--overwrite"), 7, "in.nc is the initial file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused(
    kind: str,
    tiny_bundle_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change, words, expected, message = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    change(months(weather())).to_netcdf("in.nc", engine="h5netcdf")
    code = main(["--model", str(tiny_bundle_path), "--device", "cpu", "generate", "--out", "out.zarr", *words])
    out, err = capsys.readouterr()
    assert (code, out) == (expected, ""), err
    assert err.splitlines()[-1].startswith("fsae-run: error: ")
    assert message in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["in.nc"]


def test_a_model_of_single_windows_has_no_start(emulator: fsae.runtime.Emulator) -> None:
    manifest = emulator.bundle.manifest
    alone = msgspec.structs.replace(manifest, denoiser=msgspec.structs.replace(manifest.denoiser, previous=0))
    bundle = dataclasses.replace(emulator.bundle, manifest=alone)
    with pytest.raises(BundleError, match="bundle tiny draws every window alone, so it cannot start from known steps"):
        read_initial(bundle, emulator.graphs, months(weather()), Reading())


# --- the default engine ---


def first_anomalies(engine: fsae.runtime.Emulator, ensemble: xr.Dataset) -> np.ndarray:
    """Anomalies (member, pixel) of January 2005."""
    features = season(np.array([15.5 / 365]), engine.bundle.manifest.time.harmonics)
    return ensemble["tas"].values[:, 0] - evaluate(engine.bundle.tables.climatology, features)[0, 0]


def test_a_warm_start_is_nearer_to_what_was_known(default_bundle: Bundle, sample_data: Path) -> None:
    # oracle: persistence of the reanalysis' last anomalies; members without a start know nothing of them
    engine = fsae.runtime.load(default_bundle.folder, device="cpu", threads=1)
    path = sample_data / "ncep1-tas-mon-194801-200412.nc"
    fields = open_fields(default_bundle, path)
    december = season(fields.phase[-1:], default_bundle.manifest.time.harmonics)
    persisted = fields.read(slice(-1, None))[0, 0, 0] - evaluate(default_bundle.tables.climatology, december)[0, 0]
    warm = engine.generate(Request(members=4, steps=1, initial=path, climatology="training"))
    cold = engine.generate(Request(members=4, steps=1, start="2005-01"))
    assert warm["time"].values[0] == cold["time"].values[0]
    kinship = [
        np.array([np.corrcoef(one, persisted)[0, 1] for one in first_anomalies(engine, ensemble)])
        for ensemble in (warm, cold)
    ]
    distance = [np.abs(first_anomalies(engine, ensemble) - persisted).mean() for ensemble in (warm, cold)]
    assert kinship[0].mean() > kinship[1].mean() + 0.1
    assert distance[0] < distance[1]
