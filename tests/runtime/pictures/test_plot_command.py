"""`fsae-run plot`: pictures of files of any origin, and refusals in one sentence."""

import struct
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from commands import one_sentence
from monthly_fields import field_layout, fields, write_fields
from picture_files import lat_lon_dataset, write

from fsae.runtime.cli.main import main
from fsae.runtime.input.sources import Source
from fsae.runtime.pictures import PANELS
from fsae.runtime.pictures.field import Shown, open_field
from fsae.runtime.pictures.layout import make_layout
from fsae.runtime.pictures.picture import DPI

Plot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plot:
    """A function that draws a file, in a folder with one on a lat-lon grid; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    write(lat_lon_dataset(), tmp_path / "in.nc")

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = main(["plot", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def test_all_panels_of_an_ensemble_as_png(plot: Plot, tmp_path: Path) -> None:
    # oracle: the PNG specification: signature, size in the header, closing chunk
    code, told, _ = plot("in.nc")
    assert code == 0
    assert told.startswith("drew map, mean, spread, series, spectrum of tas: in.png (")
    content = (tmp_path / "in.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content.endswith(b"IEND\xaeB`\x82")
    size = make_layout(PANELS[:3], PANELS[3:], 1.3523 / (0.8487 * np.pi)).size
    np.testing.assert_allclose(struct.unpack(">II", content[16:24]), np.array(size) * DPI, atol=1)
    from matplotlib.image import imread

    pixels = imread(tmp_path / "in.png")
    assert len(np.unique(pixels[:, :, :3].reshape(-1, 3), axis=0)) > 500  # colours of maps


def test_svg_is_xml_that_holds_its_words(plot: Plot, tmp_path: Path) -> None:  # oracle: an XML parser
    words = ("--out", "july.svg", "--member", "r7i1p1f1", "--time", "2002-06", "--units", "degC")
    assert plot("in.nc", "--panel", "map", "--panel", "spread", *words)[0] == 0
    texts = [one.text for one in ET.parse(tmp_path / "july.svg").iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314
    for expected in (
        "near-surface air temperature (tas)",
        "2002-06, member r7i1p1f1, in.nc",
        "near-surface air temperature [degC]",
        "standard deviation [K]",
    ):
        assert expected in texts
    first = (tmp_path / "july.svg").read_bytes()
    assert plot("in.nc", "--panel", "map", "--panel", "spread", *words, "--overwrite")[0] == 0
    assert (tmp_path / "july.svg").read_bytes() == first  # no date, no random names


def test_output_of_fsae_on_healpix(plot: Plot, tmp_path: Path) -> None:  # oracle: what was written
    values = fields(3)
    for name, panels in (("made.nc", ("series", "spectrum")), ("made.zarr", ("map", "mean", "spread"))):
        write_fields(tmp_path / name, values, field_layout(members=(0, 4, 9)))
        asked = [word for panel in panels for word in ("--panel", panel)]
        code, told, _ = plot(name, "--variable", "uas", "--out", f"{name}.png", "--projection", "orthographic", *asked)
        assert code == 0
        assert f"drew {', '.join(panels)} of uas" in told
        shown = Shown(variable="uas", member="9", time="2005-03", select={})
        with open_field(Source.of(tmp_path / name), shown) as field:
            np.testing.assert_allclose(field.shown_values(), values[2, 2, 1], rtol=1e-6)


def test_an_archive_is_drawn(plot: Plot, sample_data: Path, tmp_path: Path) -> None:
    # oracle: its own engine of xarray
    source = tmp_path / "two-years.nc"
    with xr.open_dataset(sample_data / "ncep1-tas-mon-200501-201412.nc", decode_times=False) as ten:
        ten.isel(time=slice(24)).to_netcdf(source, engine="h5netcdf")
    assert main(["--model", "default", "compress", str(source), str(tmp_path / "archive.zarr")]) == 0
    code, told, _ = plot(tmp_path / "archive.zarr", "--time", "2006-12")
    assert code == 0
    assert "drew map, series, spectrum of tas" in told
    with (
        xr.open_dataset(tmp_path / "archive.zarr", engine="fsae") as archive,
        open_field(Source.of(tmp_path / "archive.zarr"), Shown(time="2006-12", select={})) as field,
    ):
        np.testing.assert_allclose(field.shown_values(), archive.tas.values[23].ravel(), rtol=1e-6)


def test_a_map_reads_no_other_chunk(plot: Plot, tmp_path: Path) -> None:
    # oracle: all other chunks are damaged, so that reading one would fail
    store = write(lat_lon_dataset(), tmp_path / "in.zarr")
    for chunk in (store / "tas" / "c").rglob("*"):
        if chunk.is_file() and chunk.relative_to(store / "tas" / "c").parts[:2] != ("1", "2"):
            chunk.write_bytes(b"damaged")
    asked = ("--member", "1", "--time", "2001-03", "--out", "one.png")
    assert plot("in.zarr", "--panel", "map", *asked)[0] == 0
    code, _, err = plot("in.zarr", "--panel", "series", *asked, "--overwrite")
    assert code == 5
    assert "cannot read tas in in.zarr" in one_sentence(err)


def with_levels() -> xr.Dataset:
    two = lat_lon_dataset().tas.isel(member=0, drop=True).expand_dims(plev=[85000.0, 50000.0])
    return two.to_dataset().assign_coords(plev=("plev", [85000.0, 50000.0], {"units": "Pa"}))


def test_an_entry_of_a_further_dimension_is_selected(plot: Plot, tmp_path: Path) -> None:  # oracle: the advice itself
    write(with_levels(), tmp_path / "levels.nc")
    code, _, err = plot("levels.nc")
    assert code == 5
    assert "has the dimensions plev (2) too" in one_sentence(err)
    assert plot("levels.nc", *err.rpartition("as in ")[2].split(), "--panel", "map")[0] == 0


def test_a_field_with_gaps_has_no_spectrum(plot: Plot, tmp_path: Path) -> None:  # oracle: the panels it supports
    dataset = lat_lon_dataset()[["mask"]]
    dataset.mask[3, 4] = np.nan
    write(dataset, tmp_path / "gaps.nc")
    assert "drew map of mask" in plot("gaps.nc")[1]
    assert "drew map, spectrum of mask" in plot("in.nc", "--variable", "mask", "--out", "whole.png")[1]


def test_names_are_no_formulas(plot: Plot, tmp_path: Path) -> None:  # oracle: a name that TeX cannot read
    dataset = lat_lon_dataset().isel(member=0, drop=True)
    dataset.tas.attrs["long_name"] = r"price in $\bad{ $ \n"
    write(dataset, tmp_path / "odd.nc")
    assert plot("odd.nc", "--panel", "map", "--out", "odd.svg")[0] == 0
    assert r"price in $\bad{ $ \n (tas)" in (tmp_path / "odd.svg").read_text()


REFUSED = [
    ("in.nc --panel map --variable pr", 5, "in.nc has no variable 'pr' of numbers; it has tas, mask"),
    ("in.nc --member r9", 2, "found --member r9 for in.nc, expected one of its members r1i1p1f1, r2i1p1f1"),
    ("in.nc --time 1999-01", 2, "expected a date of its steps, 2001-01 to 2003-06: give such as --time 2001-01"),
    ("in.nc --time 2001", 2, "expected the date of one step; 12 fit, 2001-01, 2001-02, ..."),
    ("in.nc --time soon", 2, "found the date 'soon'"),
    ("in.nc --units m", 5, "found the units 'K', which cannot be converted to 'm'"),
    ("in.nc --variable mask --panel series", 2, "found --panel series for in.nc, which has 1 member and 1 step"),
    ("in.nc --variable mask --panel spread", 2, "expected two or more members"),
    ("in.nc --variable mask --member 0", 2, "expected none, as it has no members: leave it out"),
    ("in.nc --variable mask --time 2001", 2, "expected none, as it has no times: leave it out"),
    ("in.nc --select plev=5", 2, "expected one of its dimensions"),
    ("in.nc --select lev", 2, "expected such as plev=85000"),
    ("in.nc --centre 0,10", 2, "found --centre 0,10 for the projection robinson, expected the latitude 0"),
    ("in.nc --panel nonsense", 2, "'nonsense' is not one of"),
    ("in.nc --out picture.pdf", 2, "found the output picture.pdf, expected a name that ends in .png or .svg"),
    ("in.nc --out theirs.png", 7, "theirs.png exists: give another path or --overwrite"),
    (
        "in.nc --out theirs.png --overwrite",
        7,
        "is not what fsae wrote, or was changed since: it is not replaced",
    ),
    (
        "in.nc --out theirs.svg --overwrite",
        7,
        "is not what fsae wrote, or was changed since: it is not replaced",
    ),
    ("in.nc --out nowhere/x.png", 7, "there is no folder"),
    (
        "gaps.nc --panel series --panel spectrum",
        5,
        "tas in gaps.nc has 36 missing values, expected none for an angular power spectrum",
    ),
    ("gone.nc", 5, "found no file gone.nc"),
    ("theirs.png --out x.png", 5, "theirs.png is neither NetCDF nor Zarr nor GRIB"),
    ("rows.nc", 5, "none of which is a l"),
]


@pytest.mark.parametrize(("line", "code", "words"), REFUSED, ids=[line for line, _, _ in REFUSED])
def test_refusals(plot: Plot, tmp_path: Path, line: str, code: int, words: str) -> None:
    # oracle: the exit codes of the README; one sentence; and no file is new or changed
    gaps = lat_lon_dataset()
    gaps.tas[:, :, 4] = np.nan
    write(gaps, tmp_path / "gaps.nc")
    write(lat_lon_dataset().mean("lon"), tmp_path / "rows.nc")
    (tmp_path / "theirs.png").write_bytes(b"\x89PNG\r\n\x1a\n somebody's work")
    (tmp_path / "theirs.svg").write_text("<svg>somebody's work</svg>")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found, out, err = plot(*line.split())
    assert (found, out) == (code, "")
    assert words in (err if found == 2 and "Usage" in err else one_sentence(err))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_an_unchanged_picture_of_ours_is_replaced(plot: Plot, tmp_path: Path) -> None:  # oracle: the bytes
    for suffix in ("png", "svg"):
        picture = tmp_path / f"map.{suffix}"
        asked = ("in.nc", "--panel", "map", "--out", picture)
        assert plot(*asked)[0] == 0
        assert plot(*asked)[0] == 7
        assert plot(*asked, "--member", "r2i1p1f1", "--overwrite")[0] == 0
        changed = picture.read_bytes().replace(b"fsae 0", b"fsae 1")
        picture.write_bytes(changed)
        assert plot(*asked, "--overwrite")[0] == 7
        assert picture.read_bytes() == changed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nc", "map.png", "map.svg"]


def test_without_matplotlib_the_extra_is_named(
    plot: Plot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: an interpreter that cannot import it
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = plot("in.nc")
    assert code == 3
    assert one_sentence(err).endswith('pip install "fsae[plot]"')
    assert not (tmp_path / "in.png").exists()
