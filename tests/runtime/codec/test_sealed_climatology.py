"""A climatology is sealed like other output: what somebody added to it stays, and damage shows when it is used."""

from collections.abc import Callable
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import zarr
from damage import flip_last_bit
from monthly_fields import field_layout, fields, write_fields

from fsae.runtime.cli.main import main
from fsae.runtime.output.seal import damage_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of fields."""
    return write_fields(tmp_path / "in.nc", fields(), field_layout())


def made(source: Path, out: Path, bundle: Path, *more: str) -> int:
    """The exit code of `fsae-run climatology`."""
    return main(["climatology", str(source), str(out), "--model", str(bundle), *more])


def contents(out: Path) -> dict[Path, bytes]:
    """The bytes of a file, or of all files in a folder."""
    return {path: path.read_bytes() for path in (out, *out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["climatology.nc", "climatology.zarr"])
def test_what_somebody_added_to_a_climatology_stays(
    source: Path, tiny_bundle_path: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: all bytes; without an addition it is replaced
    out = tmp_path / name
    assert made(source, out, tiny_bundle_path) == 0
    assert damage_of(out) == ""
    assert made(source, out, tiny_bundle_path, "--overwrite") == 0
    if out.is_dir():
        zarr.open_group(out, mode="r+").create_array("mine", data=np.arange(3.0))
    else:
        with h5netcdf.File(out, "r+") as file:
            file.create_variable("mine", ("cell",), "f8")[:] = 7.0
    before = contents(out)
    capsys.readouterr()
    assert made(source, out, tiny_bundle_path, "--overwrite") == 7
    assert "holds mine, which fsae did not write: it is not replaced" in capsys.readouterr().err
    assert contents(out) == before


@pytest.mark.parametrize("name", ["climatology.nc", "climatology.zarr"])
def test_a_damaged_climatology_is_refused(
    command: Callable[..., tuple[int, str, str]], source: Path, tiny_bundle_path: Path, tmp_path: Path, name: str
) -> None:  # oracle: the values that were changed, far less than what real fields differ by
    out = tmp_path / name
    assert made(source, out, tiny_bundle_path) == 0
    words = ("superres", source, tmp_path / "fine.zarr", "--zoom", "1", "--climatology", out)
    if out.is_dir():
        flip_last_bit(out / "lat" / "c" / "0")
    else:
        with h5netcdf.File(out, "r+") as file:
            file["tas"][0, 7] += 0.01
    code, _, err = command(*words)
    assert code == 5
    part = "lat" if out.is_dir() else "tas"
    assert f"{name}: {part} does not fit its checksum" in err
    assert made(source, out, tiny_bundle_path, "--overwrite") == 0
    assert command(*words)[0] == 0
