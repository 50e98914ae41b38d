"""A file for each member: the member of a common output, without a dimension of its own."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import fsae.runtime
from fsae.runtime.cli.main import main
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import UsageError


def test_each_file_holds_its_member(tiny_bundle_path: Path, tmp_path: Path) -> None:  # oracle: one output of all
    words = ["--model", str(tiny_bundle_path), "--device", "cpu", "generate", "--member-ids", "0,3,12", "--steps", "5"]
    assert main([*words, "--out", str(tmp_path / "all.nc")]) == 0
    template = str(tmp_path / "m_{realization:03d}.nc")
    assert main([*words, "--out", template]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.nc", "m_000.nc", "m_003.nc", "m_012.nc"]
    with xr.open_dataset(tmp_path / "all.nc") as whole:
        for member in (0, 3, 12):
            with xr.open_dataset(tmp_path / f"m_{member:03d}.nc") as alone:
                assert alone["tas"].dims == ("time", "cell")
                xr.testing.assert_identical(alone.drop_attrs(), whole.sel(realization=member).drop_attrs())
                assert alone["realization"].attrs == whole["realization"].attrs
    # finished files are left as they are, a missing one is made again
    (tmp_path / "m_003.nc").unlink()
    kept = (tmp_path / "m_012.nc").stat().st_mtime_ns
    assert main([*words, "--out", template]) == 7
    assert main([*words, "--out", template, "--resume"]) == 0
    assert (tmp_path / "m_003.nc").exists()
    assert (tmp_path / "m_012.nc").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("out", "more", "words"),
    [
        ("{realization}_{time}.nc", [], "the field realization alone in braces"),
        ("{realization:q}.nc", [], "a format of whole numbers"),
        ("{realization:03d}.nc", ["--statistics", "mean"], "statistics over the members, expected a single output"),
    ],
)
def test_other_templates_are_refused(  # oracle: the fault
    tiny_bundle_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    out: str,
    more: list[str],
    words: str,
) -> None:
    command = ["--model", str(tiny_bundle_path), "generate", "--members", "2", "--out", str(tmp_path / out), *more]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_braces_of_another_kind_are_a_name(tiny_bundle_path: Path, tmp_path: Path) -> None:  # oracle: the file
    out = tmp_path / "a{b}.nc"
    command = ["--model", str(tiny_bundle_path), "--device", "cpu", "generate", "--members", "2", "--steps", "1"]
    assert main([*command, "--out", str(out)]) == 0
    with xr.open_dataset(out) as data:
        assert np.array_equal(data["realization"], [0, 1])


def test_a_member_alone_is_one(emulator: fsae.runtime.Emulator) -> None:  # oracle: the member of an ensemble
    alone = emulator.generate(Request(members=[3], steps=2, alone=True))
    assert alone["tas"].dims == ("time", "cell")
    several = emulator.generate(Request(members=[1, 3], steps=2))
    np.testing.assert_array_equal(alone["tas"], several["tas"].sel(realization=3))
    with pytest.raises(UsageError, match="found 2 members, expected one member, which has no dimension of its own"):
        Request(members=2, alone=True)
