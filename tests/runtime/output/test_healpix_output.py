"""HEALPix output says what it is: by CF 1.13, in Zarr by the DGGS convention, in NetCDF by the names that CDO needs."""

from pathlib import Path

import h5netcdf
import healpy
import numpy as np
import pytest
import xarray as xr
from outputs import raw
from small_output import healpix_mapping, layout_of, values_of, write_in_units
from tiny_bundle import LATENT_ZOOM, ZOOM

from fsae.runtime.output.files import check_output
from fsae.runtime.output.layout import to_dataset

NATIVE = {"generate-native": ZOOM, "compress": LATENT_ZOOM, "decompress-native": ZOOM, "climatology": ZOOM}


@pytest.mark.parametrize("verb", NATIVE)
def test_the_grid_mapping_is_that_of_cf(verb: str, outputs: Path) -> None:  # oracle: CF 1.13, appendix F
    assert raw(outputs / f"{verb}.zarr")["crs"].attrs == healpix_mapping(NATIVE[verb])
    assert raw(outputs / f"{verb}.nc")["crs"].attrs == healpix_mapping(NATIVE[verb], netcdf=True)
    with h5netcdf.File(outputs / f"{verb}.nc") as file:  # 32 bits: CDO reads no longer ones
        assert [file["crs"].attrs[key].dtype for key in ("refinement_level", "healpix_nside")] == [np.int32] * 2


@pytest.mark.parametrize("convention", ["zarr", "cf"])
@pytest.mark.parametrize("verb", NATIVE)
def test_xdggs_decodes_zarr(verb: str, convention: str, outputs: Path) -> None:  # oracles: xdggs, healpy
    xdggs = pytest.importorskip("xdggs", reason='xdggs is not installed: pip install "fsae[dev]"')
    with xr.open_zarr(outputs / f"{verb}.zarr") as dataset:
        found = xdggs.decode(dataset, convention=convention, name="cell")
        check_cells(found, NATIVE[verb])


def test_xdggs_decodes_a_result_in_memory() -> None:  # oracles: xdggs, healpy
    xdggs = pytest.importorskip("xdggs", reason='xdggs is not installed: pip install "fsae[dev]"')
    layout = layout_of(zoom=2)
    check_cells(xdggs.decode(to_dataset(layout, values_of(layout)), convention="cf"), 2)


def check_cells(decoded: xr.Dataset, zoom: int) -> None:
    """The cells that xdggs sees, their numbers and their centres, are those of healpy."""
    assert (decoded.dggs.grid_info.level, decoded.dggs.grid_info.indexing_scheme) == (zoom, "nested")
    np.testing.assert_array_equal(decoded.dggs.coord.values, np.arange(healpy.nside2npix(1 << zoom)))
    lon, lat = healpy.pix2ang(1 << zoom, decoded.dggs.coord.values, nest=True, lonlat=True)
    centres = decoded.dggs.cell_centers()
    np.testing.assert_allclose(centres["latitude"].values, lat, rtol=0, atol=1e-9)  # [degrees]
    np.testing.assert_allclose((centres["longitude"].values - lon + 180) % 360 - 180, 0, rtol=0, atol=1e-9)


def test_a_store_that_declares_its_cells_is_ours(tmp_path: Path) -> None:  # oracle: what was written, by its mark
    layout = layout_of()
    write_in_units(tmp_path / "out.zarr", layout, values_of(layout))
    check_output(tmp_path / "out.zarr", overwrite=True)


@pytest.mark.parametrize("verb", ["generate-source", "superres-source"])
def test_lat_lon_declares_no_cells(verb: str, outputs: Path) -> None:
    for path in outputs.glob(f"{verb}.*"):
        assert not {"dggs", "zarr_conventions"} & set(raw(path).attrs)
