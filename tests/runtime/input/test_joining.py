"""Several files as one input: patterns, lists, a file for each variable; gaps are mentioned, overlaps refused."""

import glob
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from damage import flip_last_bit
from monthly_input import MONTHS, SPECS, THIRDS, series, write
from tiny_bundle import ZOOM

import fsae.runtime
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.cli.main import main
from fsae.runtime.codec.encoder_input import open_fields
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.jobs.identity import identity, with_inputs
from fsae.runtime.output.layout import Cells, Layout
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.regrid import make_weights


def test_files_are_one_series(tmp_path: Path) -> None:  # oracle: the same data in one piece
    whole = series()
    paths = write(tmp_path, whole, THIRDS)
    plain = read_fields(whole, SPECS, finest_zoom=ZOOM)
    asked = []

    def weights(*arguments: object) -> object:
        asked.append(arguments)
        return make_weights(*arguments)  # type: ignore[arg-type]

    for source in (str(tmp_path / "part_*.nc"), [paths[2], paths[0], paths[1]], [tmp_path / "part_0?.nc"]):
        found = read_fields(source, SPECS, finest_zoom=ZOOM, make_weights=weights)  # type: ignore[arg-type]
        assert (found.times, found.step, found.zoom, found.notes) == (plain.times, "1 month", ZOOM, ())
        np.testing.assert_array_equal(found.read(), plain.read())
        np.testing.assert_array_equal(found.read(slice(5, 10)), plain.read(slice(5, 10)))
        found.close()
    assert len(asked) == 3  # the weights of their one grid, once for each
    assert read_fields(str(tmp_path / "part_*.nc"), SPECS, finest_zoom=ZOOM).source == (
        "part_00.nc to part_08.nc (3 files): 13 x 24 lat-lon grid, bilinear to HEALPix zoom 2"
    )


def test_a_name_with_the_letters_of_a_pattern_is_a_name(tmp_path: Path) -> None:
    whole = series()
    write(tmp_path, whole, [(0, 3)], name="part[1]")
    write(tmp_path, whole, [(3, 9)], name="part1")
    assert len(read_fields(tmp_path / "part[1]_00.nc", SPECS, finest_zoom=ZOOM).times) == 3


def test_variables_in_files_of_their_own(tmp_path: Path) -> None:  # oracle: the same data in one piece
    whole = series()
    write(tmp_path, whole[["tas"]], THIRDS, name="tas")
    write(tmp_path, whole[["uas"]].rename(uas="u10"), [(0, 12), (12, 22)], name="wind")
    found = read_fields(str(tmp_path / "*.nc"), SPECS, finest_zoom=ZOOM, names={"uas": "u10"})
    np.testing.assert_array_equal(found.read(), read_fields(whole, SPECS, finest_zoom=ZOOM).read(slice(0, 22)))
    assert found.notes == ("Only 22 of 24 steps are common to all variables: the others are left out.",)
    with pytest.raises(DataError, match="none of the 3 input files holds 'uas': add the file that does"):
        read_fields(str(tmp_path / "tas*.nc"), SPECS, finest_zoom=ZOOM)


def test_a_gap_is_mentioned(tmp_path: Path) -> None:
    paths = write(tmp_path, series(), [(0, 7), (9, 12), (14, MONTHS)])
    found = read_fields(paths, SPECS, finest_zoom=ZOOM)
    assert found.notes == (
        "The input has 2 gaps between the files, the first from 2001-07-16T00:00:00 (part_00.nc) to "
        "2001-10-16T00:00:00 (part_09.nc).",
    )
    assert len(found.times) == MONTHS - 4
    single = write(tmp_path, series(), [(8, 10)], name="near")  # one month is missing
    with_one = read_fields([paths[0], *single], SPECS, finest_zoom=ZOOM)
    assert with_one.notes[0].startswith("The input has a gap between the files, from 2001-07-16T00:00:00")


def test_what_does_not_join_is_refused(tmp_path: Path) -> None:
    whole = series()
    paths = write(tmp_path, whole, THIRDS)
    other = write(tmp_path, whole, [(20, MONTHS)], name="again")
    with pytest.raises(DataError, match=r"twice, in (part_08.nc and again_20.nc|again_20.nc and part_08.nc): leave"):
        read_fields([*paths, *other], SPECS, finest_zoom=ZOOM)
    of_360 = write(tmp_path, series("360_day"), [(20, MONTHS)], name="other")
    with pytest.raises(DataError, match="the files of tas have different calendars: 360_day, noleap"):
        read_fields([paths[0], *of_360], SPECS, finest_zoom=ZOOM)
    with pytest.raises(DataError, match=r"found no file that fits '.*none_\*\.nc': give the path of a file"):
        read_fields(str(tmp_path / "none_*.nc"), SPECS)
    with pytest.raises(DataError, match="none of the 3 input files holds 'uas'"):  # a given name is taken literally
        read_fields(paths, SPECS, names={"uas": "zz"})
    with pytest.raises(DataError, match="found an empty list of files"):
        read_fields([], SPECS)


def test_only_the_first_steps_are_read_at_first(tmp_path: Path) -> None:  # oracle: what is wrong later shows later
    whole = series()
    whole["tas"][20, 3, 3] = np.nan
    found = read_fields(write(tmp_path, whole, THIRDS), SPECS, finest_zoom=ZOOM)
    found.read(slice(0, 20))
    with pytest.raises(DataError, match=r"tas in part_08\.nc has 1 missing values in 4 steps"):
        found.read(slice(18, 22))


def run(model: Path, *words: str | Path) -> int:
    return main(["--model", str(model), "--device", "cpu", *map(str, words)])


def test_commands_take_a_pattern(
    tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the same commands with the data in one file
    whole = series()
    whole.to_netcdf(tmp_path / "whole.nc", engine="h5netcdf")
    write(tmp_path, whole, [(0, 7), (9, MONTHS)])
    whole.drop_isel(time=[7, 8]).to_netcdf(tmp_path / "holes.nc", engine="h5netcdf")
    pattern = tmp_path / "part_*.nc"
    for verb in ("compress", "superres"):
        assert run(tiny_bundle_path, verb, pattern, tmp_path / "a.nc", "--climatology", "training", "--overwrite") == 0
        assert "warning: The input has a gap between the files, from 2001-07-16" in capsys.readouterr().err
        one = tmp_path / "holes.nc"
        assert run(tiny_bundle_path, verb, one, tmp_path / "b.nc", "--climatology", "training", "--overwrite") == 0
        with xr.open_dataset(tmp_path / "a.nc") as many, xr.open_dataset(tmp_path / "b.nc") as single:
            assert many.equals(single)
            assert json.loads(many.attrs["fsae_request"])["input"].startswith("part_00.nc to part_09.nc (2 files): ")
    assert main(["--model", str(tiny_bundle_path), "climatology", str(pattern), str(tmp_path / "c.nc")]) == 0
    out, err = capsys.readouterr()
    assert "22 steps" in out
    assert "warning: The input has a gap between the files" in err
    assert run(tiny_bundle_path, "compress", tmp_path / "*.nc", tmp_path / "c.nc", "--overwrite") == 7
    error = capsys.readouterr().err
    assert "c.nc is one of the input files" in error
    assert error.endswith("give another path for the output\n")
    with xr.open_dataset(tmp_path / "c.nc") as kept:
        assert kept.attrs["fsae_kind"] == "climatology"
    assert run(tiny_bundle_path, "decompress", pattern, tmp_path / "d.nc") == 5
    assert "found part_00.nc to part_09.nc (2 files), expected one file here" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 3])
def test_each_file_is_opened_once(
    count: int, tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the number of files, and one pattern
    write(tmp_path, series(), THIRDS[:count])
    calls: list[str] = []

    def counted(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *words, **options: (calls.append(what), function(*words, **options))[1]

    monkeypatch.setattr(xr, "open_dataset", counted("open", xr.open_dataset))
    monkeypatch.setattr(glob, "glob", counted("glob", glob.glob))
    words = ("--climatology", "training", "--threads", "1")
    assert run(tiny_bundle_path, "compress", tmp_path / "part_*.nc", tmp_path / "out.zarr", *words) == 0
    assert sorted(calls) == ["glob", *["open"] * count]


def test_a_forecast_from_several_files(tiny_bundle_path: Path, tmp_path: Path) -> None:  # oracle: one file
    whole = series()
    paths = write(tmp_path, whole, THIRDS)
    emulator = fsae.runtime.load(tiny_bundle_path, device="cpu", threads=1)
    several = emulator.generate(Request(members=2, initial=paths, climatology="training", steps=4))
    assert several.equals(emulator.generate(Request(members=2, initial=whole, climatology="training", steps=4)))


def test_a_run_goes_on_only_with_the_same_files(tmp_path: Path) -> None:  # oracle: a byte of one of them
    layout = Layout(
        variables={},
        attributes={},
        time=encode_times([cftime.datetime(2001, 1, 1)], None, "standard"),
        grid=Cells(zoom=0),
    )
    paths = write(tmp_path, series(), THIRDS)
    layouts: list[Callable[[], dict[str, str]]] = [
        lambda: identity(with_inputs(layout, {"input": str(tmp_path / "part_*.nc")})),
        lambda: identity(with_inputs(layout, {"input": paths})),
    ]
    before = [one() for one in layouts]
    assert [one() for one in layouts] == before
    assert before[0] == before[1]
    flip_last_bit(paths[1])
    assert all(one() != earlier for one, earlier in zip(layouts, before, strict=True))


def test_only_what_was_opened_here_is_closed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    # oracle: the calls that close the user's dataset
    whole, closed = series(), []
    path = write(tmp_path, whole, [(0, MONTHS)])[0]
    whole.set_close(lambda: closed.append("dataset"))
    one, other = open_fields(tiny_bundle, whole), open_fields(tiny_bundle, path)
    np.testing.assert_array_equal(one.read(), other.read())
    one.close()
    assert closed == []
    other.close()


def member_files(folder: Path, labels: tuple[str, ...], edges: list[tuple[int, int]]) -> dict[str, xr.Dataset]:
    """Files of each member, which their attribute variant_label names, cut along time; and the members in memory."""
    members = {label: series() + 0.5 * place for place, label in enumerate(labels)}
    for label, data in members.items():
        for name in ("tas", "uas"):
            data[name].attrs = series()[name].attrs
        data["time"].attrs = series()["time"].attrs
        data.attrs = {"variant_label": label, "source_id": "M"}
        write(folder, data, edges, name=f"tas_{label}")
    return members


def test_members_in_files_of_their_own(tmp_path: Path) -> None:  # oracle: the same members in memory
    members = member_files(tmp_path, ("r1i1p1f1", "r3i1p1f1", "r10i1p1f1"), [(0, 9), (9, 24)])
    found = read_fields(str(tmp_path / "tas_*.nc"), SPECS, finest_zoom=ZOOM)
    assert found.members == (10, 1, 3)  # by name, as the pattern gives them
    assert found.origins[0].members == ("r10i1p1f1", "r1i1p1f1", "r3i1p1f1")
    assert (found.step, len(found.times)) == ("1 month", 24)
    for place, label in enumerate(found.origins[0].members):
        plain = read_fields(members[label], SPECS, finest_zoom=ZOOM)
        np.testing.assert_array_equal(found.read(slice(5, 12))[place], plain.read(slice(5, 12))[0])
        np.testing.assert_array_equal(found.read(slice(5, 12), member=place)[0], plain.read(slice(5, 12))[0])
    found.close()


def test_members_of_other_kinds_are_numbered(tmp_path: Path) -> None:
    member_files(tmp_path, ("r1i1p1f1", "r1i1p1f2"), [(0, 24)])
    found = read_fields(str(tmp_path / "tas_*.nc"), SPECS, finest_zoom=ZOOM)
    assert found.members == (0, 1)
    assert found.origins[0].members == ("r1i1p1f1", "r1i1p1f2")
    found.close()


def test_members_must_be_of_one_model_and_period(tmp_path: Path) -> None:
    member_files(tmp_path, ("r1i1p1f1", "r2i1p1f1"), [(0, 9), (9, 24)])
    paths = sorted(tmp_path.glob("tas_*.nc"))
    with pytest.raises(DataError, match=r"the members of tas differ in their times: .* give the same period of each"):
        read_fields(paths[1:], SPECS, finest_zoom=ZOOM)
    with xr.load_dataset(paths[0], engine="h5netcdf", decode_times=False) as one:
        one.attrs |= {"variant_label": "r5i1p1f1", "source_id": "N"}
        one.to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="the files of tas are of different models: M, N: give those of one"):
        read_fields([paths[0], tmp_path / "other.nc"], SPECS, finest_zoom=ZOOM)
    one_member = read_fields(paths[:2], SPECS, finest_zoom=ZOOM)
    assert one_member.members is None  # one member, in two files
    one_member.close()


def test_members_shared_among_files(tmp_path: Path) -> None:  # oracle: all of them in one file
    parts = [(series() + 0.5 * place).expand_dims(number=[place]) for place in range(4)]
    whole = xr.concat(parts, "number").assign_coords(time=series()["time"])
    for name in ("tas", "uas"):
        whole[name].attrs = series()[name].attrs
    for first in (0, 2):
        whole.isel(number=slice(first, first + 2)).to_netcdf(tmp_path / f"some_{first}.nc", engine="h5netcdf")
    found, plain = (read_fields(source, SPECS, finest_zoom=ZOOM) for source in (str(tmp_path / "some_*.nc"), whole))
    assert found.members == plain.members == (0, 1, 2, 3)
    np.testing.assert_array_equal(found.read(slice(3, 8)), plain.read(slice(3, 8)))
    found.close()


@pytest.mark.parametrize("dim", ["ens", "ensemble", "sample", "realisation", "weird"])
def test_dimensions_of_members(dim: str) -> None:  # oracle: the members themselves; CF marks what no name tells
    data = xr.concat([series(), series() + 1], dim).assign_coords(time=series()["time"])
    for name in ("tas", "uas"):
        data[name].attrs = series()[name].attrs
    if dim == "weird":
        data = data.assign(run=(dim, np.array([4.0, 9.0]), {"standard_name": "realization"}))
    found = read_fields(data, SPECS, finest_zoom=ZOOM)
    assert found.members == ((4, 9) if dim == "weird" else (0, 1))
    np.testing.assert_allclose(found.read()[1] - found.read()[0], 1, atol=1e-4)
    twice = data.assign_coords({dim: [3, 3]})
    if dim != "weird":
        with pytest.raises(DataError, match="has the member 3 twice: leave one of them out"):
            read_fields(twice, SPECS, finest_zoom=ZOOM)
