"""The commands compress, decompress, superres and climatology: what they give."""

import dataclasses
import importlib.metadata
import itertools
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from commands import Run, one_sentence
from monthly_fields import STEPS, changed, field_layout, fields, phases, values_of, write_fields
from tiny_bundle import (
    tiny_decode,
    tiny_encode,
    tiny_grid,
)

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.climate.climatology import season
from fsae.runtime.output.layout import to_dataset
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.healpix import coarsen, refine
from fsae.runtime.sphere.weights import apply


def test_compress_is_the_encoder_and_decompress_the_decoder(run: Run, source: Path, tmp_path: Path) -> None:
    # oracle: the closed forms of the tiny graphs
    code, out, err = run("compress", source, tmp_path / "latent.zarr", "--climatology", "training")
    assert code == 0
    assert "warning" not in err
    assert out.startswith("compressed 14 steps of tas, uas on HEALPix zoom 1 in ")
    assert out.count("\n") == 1
    seasons = season(phases(), 2)
    latent = tiny_encode(fields()[0], seasons)
    np.testing.assert_allclose(values_of(tmp_path / "latent.zarr"), latent, atol=1e-4)
    code, out, _ = run("decompress", tmp_path / "latent.zarr", tmp_path / "back.nc")
    assert code == 0
    assert out.startswith("decompressed 14 steps of tas, uas on HEALPix zoom 2 in ")
    np.testing.assert_allclose(values_of(tmp_path / "back.nc"), tiny_decode(latent, seasons), atol=2e-3)
    with xr.open_dataset(source, engine="h5netcdf") as before, xr.open_dataset(tmp_path / "back.nc") as after:
        np.testing.assert_array_equal(before["time"].values, after["time"].values)
        np.testing.assert_array_equal(before["time_bnds"].values, after["time_bnds"].values)
        assert after["tas"].attrs["standard_name"] == "air_temperature"


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_members_and_calendars_survive_compression(run: Run, tmp_path: Path, calendar: str) -> None:
    # oracle: the closed forms, with the phases of that calendar
    layout = field_layout(calendar, members=(3, 8))
    source = write_fields(tmp_path / "in.zarr", fields(2, calendar), layout)
    assert run("compress", source, tmp_path / "latent.nc", "--climatology", "training")[0] == 0
    assert run("decompress", tmp_path / "latent.nc", tmp_path / "back.zarr")[0] == 0
    seasons = season(phases(calendar), 2)
    expected = np.stack([tiny_decode(tiny_encode(one, seasons), seasons) for one in fields(2, calendar)])
    np.testing.assert_allclose(values_of(tmp_path / "back.zarr"), expected, atol=2e-3)
    with xr.open_dataset(tmp_path / "back.zarr", engine="zarr") as found:
        assert found["realization"].values.tolist() == [3, 8]
        assert found["time"].values[1] == cftime.datetime(
            2005, 2, 15 if calendar == "noleap" else 16, calendar=calendar
        )


def test_superres_masks_what_the_input_does_not_resolve(run: Run, source: Path, tmp_path: Path) -> None:
    # oracle: the tiny encoder without its finest residual gives the block means of zoom 0
    code, out, _ = run("superres", source, tmp_path / "fine.zarr", "--zoom", "0", "--climatology", "training")
    assert code == 0
    assert out.startswith("super-resolved 14 steps of tas, uas on HEALPix zoom 2")
    seasons = season(phases(), 2)
    means = coarsen(fields()[0], 2)
    normal = coarsen(tiny_encode(refine(means, 2), seasons), 1)
    np.testing.assert_allclose(values_of(tmp_path / "fine.zarr"), tiny_decode(refine(normal, 1), seasons), atol=2e-3)


def test_a_climatology_of_its_own_removes_the_bias_of_a_source(run: Run, tmp_path: Path) -> None:
    # oracle: a source with a bias and a wave of its own gives, with its climatology, what the unbiased one gives
    biased = fields()
    wave = 3.0 * season(phases(), 1)[:, 0]  # cosine of one cycle a year
    biased[0, :, 0] += 7.0 + wave[:, None]
    biased_path = write_fields(tmp_path / "biased.nc", biased, field_layout())
    plain_path = write_fields(tmp_path / "plain.nc", fields(), field_layout())
    for name, path in (("biased", biased_path), ("plain", plain_path)):
        code, out, _ = run("climatology", path, tmp_path / f"{name}-climatology.zarr", "--zoom", "1")
        assert code == 0
        assert out.startswith("made the climatology of 14 steps: ")
        climatology = tmp_path / f"{name}-climatology.zarr"
        done = run("superres", path, tmp_path / f"{name}-fine.zarr", "--zoom", "1", "--climatology", climatology)
        assert done[0] == 0
        assert "warning" not in done[2]
    np.testing.assert_allclose(
        values_of(tmp_path / "biased-fine.zarr"), values_of(tmp_path / "plain-fine.zarr"), atol=2e-3
    )
    with xr.open_dataset(tmp_path / "biased-climatology.zarr", engine="zarr") as found:
        with xr.open_dataset(tmp_path / "plain-climatology.zarr", engine="zarr") as other:
            difference = (found["tas"] - other["tas"]).values
        assert found["tas"].attrs["units"] == "K"
        expected = np.array([7.0, 3.0, 0.0, 0.0, 0.0])[:, None]
        np.testing.assert_allclose(difference, np.broadcast_to(expected, difference.shape), atol=1e-3)


def test_variables_of_another_name_are_found_when_told(run: Run, source: Path, tmp_path: Path) -> None:
    with xr.open_dataset(source, engine="h5netcdf") as data:
        other = data.rename(tas="ts")
        other["ts"].attrs["standard_name"] = "surface_temperature"
        other.to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    for path, arguments in ((source, ()), (tmp_path / "other.nc", ("--name", "tas=ts"))):
        out = tmp_path / f"{path.stem}.zarr"
        assert run("compress", path, out, "--climatology", "training", *arguments)[0] == 0
    np.testing.assert_array_equal(values_of(tmp_path / "in.zarr"), values_of(tmp_path / "other.zarr"))
    code, _, err = run("compress", source, tmp_path / "wrong.zarr", "--name", "tas=zz")
    assert code == 5
    assert "has no variable 'zz'; it has " in one_sentence(err)
    for wrong in ("tas", "tas=", "pr=ts"):
        code, _, err = run("compress", source, tmp_path / "wrong.zarr", "--name", wrong)
        assert code == 2
        assert "expected" in one_sentence(err)


def test_without_a_climatology_the_user_and_the_file_are_told(run: Run, source: Path, tmp_path: Path) -> None:
    _, _, err = run("compress", source, tmp_path / "latent.zarr")
    assert "fsae-run: warning: No climatology of the input's own source was given" in err
    run("decompress", tmp_path / "latent.zarr", tmp_path / "back.zarr")
    with xr.open_dataset(tmp_path / "back.zarr", engine="zarr") as found:
        assert found.attrs["comment"].startswith("No climatology of the input's own source was given")


@pytest.mark.parametrize("day", [1, 16, 28])
@pytest.mark.parametrize("with_bounds", [True, False])
def test_months_are_stamped_as_generated_ones(run: Run, tmp_path: Path, day: int, with_bounds: bool) -> None:
    # oracle: the time axis of `generate` for the same months, whatever the stamps of the input
    months = [cftime.datetime(2005 + m // 12, m % 12 + 1, 1, calendar="standard") for m in range(STEPS + 1)]
    bounds = list(itertools.pairwise(months)) if with_bounds else None
    time = encode_times([month.replace(day=day) for month in months[:-1]], bounds, "standard")
    source = write_fields(tmp_path / "in.nc", fields(), dataclasses.replace(field_layout(), time=time))
    assert run("compress", source, tmp_path / "latents.zarr", "--climatology", "training")[0] == 0
    assert run("decompress", tmp_path / "latents.zarr", tmp_path / "again.nc")[0] == 0
    assert run("superres", source, tmp_path / "fine.nc", "--zoom", "1", "--climatology", "training")[0] == 0
    words = ("--members", "1", "--start", "2005-01", "--steps", str(STEPS), "--out", tmp_path / "drawn.nc")
    assert run("generate", *words)[0] == 0
    with xr.open_dataset(tmp_path / "drawn.nc", engine="h5netcdf") as drawn:
        for name in ("again.nc", "fine.nc"):
            with xr.open_dataset(tmp_path / name, engine="h5netcdf") as found:
                for axis in ("time", "time_bnds"):
                    np.testing.assert_array_equal(found[axis].values, drawn[axis].values)


def test_a_part_of_latents_written_by_xarray_is_taken(run: Run, source: Path, tmp_path: Path) -> None:
    # oracle: the same steps of the whole; and the phases and members, which no checksum tells then
    assert run("compress", source, tmp_path / "latents.zarr", "--climatology", "training")[0] == 0
    assert run("decompress", tmp_path / "latents.zarr", tmp_path / "whole.nc")[0] == 0
    with xr.open_zarr(tmp_path / "latents.zarr", consolidated=False) as whole:
        part = whole.isel(time=slice(2, 5)).load()
    for name in ("dggs", "zarr_conventions"):  # objects, which NetCDF cannot hold
        del part.attrs[name]
    part.to_netcdf(tmp_path / "part.nc", engine="h5netcdf")
    assert run("decompress", tmp_path / "part.nc", tmp_path / "again.nc")[0] == 0
    with (
        xr.open_dataset(tmp_path / "whole.nc", engine="h5netcdf") as expected,
        xr.open_dataset(tmp_path / "again.nc", engine="h5netcdf") as found,
    ):
        np.testing.assert_allclose(found["tas"].values, expected["tas"].values[2:5], atol=1e-4)
    wrong, later = (part.assign(year_phase=part["year_phase"] + by) for by in (5.3, 0.2))
    twice = part.assign({name: part[name].expand_dims(realization=[1, 1]) for name in ("tas", "uas")})
    for name, data, said in (
        ("phase.nc", wrong, "has the phase of the year"),
        ("later.nc", later, "has the phase of the year"),
        ("twice.nc", twice, "has the members 1, 1, expected each member once"),
    ):
        data.to_netcdf(tmp_path / name, engine="h5netcdf")
        code, _, err = run("decompress", tmp_path / name, tmp_path / "out.nc")
        assert (code, said in err) == (5, True), err


def test_history_grows_from_command_to_command(run: Run, source: Path, tmp_path: Path) -> None:
    # oracle: the requests of the commands, newest first, then the history of the input
    given = changed(tmp_path / "in.nc", lambda data: data.assign_attrs(history="Mon Nov 2: ncks a b\nMon Nov 1: made"))
    assert run("compress", given, tmp_path / "latents.zarr", "--climatology", "training")[0] == 0
    assert run("decompress", tmp_path / "latents.zarr", tmp_path / "again.nc", "--variables", "tas")[0] == 0
    with xr.open_dataset(tmp_path / "again.nc", engine="h5netcdf") as found:
        newest, older, *before = found.attrs["history"].split("\n")
    begin = f"fsae {importlib.metadata.version('fsae')}, bundle tiny: "
    assert newest == f'{begin}decompress input="latents.zarr" grid="native" variables=["tas"]'
    assert older.startswith(f'{begin}compress input="in.nc: ')
    assert before == ["Mon Nov 2: ncks a b", "Mon Nov 1: made"]


def test_lat_lon_goes_in_and_comes_out_by_the_bundles_own_weights(
    run: Run, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    # oracle: weights of the bundle, then the closed forms
    grid, tables = tiny_grid(), tiny_bundle.tables
    values = apply(tables.to_source, fields()[0]).astype(np.float32)[None]
    layout = dataclasses.replace(field_layout(), grid=grid)
    source = write_fields(tmp_path / "in.nc", values, layout)
    arguments = ("--climatology", "training", "--grid", "source")
    code, out, err = run("superres", source, tmp_path / "out.nc", *arguments)
    assert code == 0
    assert "warning: The input is at zoom 2 already" in err
    assert "on 13 x 24 in " in out
    seasons = season(phases(), 2)
    inside = apply(tables.to_healpix, values[0])
    expected = apply(tables.to_source, tiny_decode(tiny_encode(inside, seasons), seasons))
    with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf") as found:
        assert found["tas"].dims == ("time", "lat", "lon")
        np.testing.assert_allclose(found["tas"].values, expected[:, 0].reshape(STEPS, 13, 24), atol=3e-3)
        np.testing.assert_array_equal(found["lat"].values, grid.lat_deg)


@pytest.mark.parametrize("day", [1, 28])
def test_one_month_without_bounds_is_a_month_whatever_its_stamp(run: Run, tmp_path: Path, day: int) -> None:
    # oracle: the closed forms in the season of the middle of that month
    month, values = 6, fields()[0, 6]  # July
    data = to_dataset(field_layout(), fields()).isel(time=[month]).drop_vars("time_bnds")
    data = data.assign_coords(time=[np.datetime64(f"2005-07-{day:02}", "ns")])
    data["time"].encoding.clear()
    data.to_netcdf(tmp_path / "july.nc", engine="h5netcdf")
    code, _, err = run("compress", tmp_path / "july.nc", tmp_path / "latent.nc", "--climatology", "training")
    assert code == 0
    assert "warning" not in err
    expected = tiny_encode(values[None], season(phases()[month : month + 1], 2))
    np.testing.assert_allclose(values_of(tmp_path / "latent.nc"), expected, atol=1e-4)


def test_one_month_of_every_year_is_monthly_data(run: Run, tmp_path: Path) -> None:  # oracle: the bounds
    times = [cftime.datetime(1990 + year, 1, 16, calendar="noleap") for year in range(STEPS)]
    pairs = [(t.replace(day=1), t.replace(month=2, day=1)) for t in times]
    layout = dataclasses.replace(field_layout("noleap"), time=encode_times(times, pairs, "noleap"))
    source = write_fields(tmp_path / "in.nc", fields(), layout)
    code, _, err = run("compress", source, tmp_path / "latent.nc", "--climatology", "training")
    assert code == 0
    assert "warning" not in err


def test_a_group_is_read_from_the_command_line(run: Run, source: Path, tmp_path: Path) -> None:
    # oracle: the file whose variables are at its root
    with xr.open_dataset(source, decode_times=False) as data:
        data.to_netcdf(tmp_path / "groups.nc", engine="h5netcdf", group="fields/monthly")
    inside, training = ("--group", "fields/monthly"), ("--climatology", "training")
    for verb, more in (("compress", ()), ("superres", ("--zoom", "0"))):
        assert run(verb, source, tmp_path / f"{verb}-1.nc", *training, *more)[0] == 0
        assert run(verb, tmp_path / "groups.nc", tmp_path / f"{verb}-2.nc", *inside, *training, *more)[0] == 0
        np.testing.assert_array_equal(values_of(tmp_path / f"{verb}-2.nc"), values_of(tmp_path / f"{verb}-1.nc"))
    few = ("--members", "1", "--steps", "1", *training)
    assert run("generate", "--initial", source, *few, "--out", tmp_path / "g1.nc")[0] == 0
    assert run("generate", "--initial", tmp_path / "groups.nc", *inside, *few, "--out", tmp_path / "g2.nc")[0] == 0
    np.testing.assert_array_equal(values_of(tmp_path / "g2.nc"), values_of(tmp_path / "g1.nc"))
    code, _, err = run("generate", *inside, "--members", "1", "--steps", "1", "--out", tmp_path / "g3.nc")
    assert code == 2
    assert "found --group without the file that it is of: give --initial too" in one_sentence(err)
