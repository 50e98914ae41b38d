"""Output in the layout of earlier versions: it is read as input, and unfinished runs of it go on."""

import json
from pathlib import Path

import numpy as np
from outputs import raw
from runs import SMALL, interrupted_run
from trees import assert_same

import fsae.runtime
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.output.marks import SEAL

OLDER = {"healpix_nside": 4, "healpix_order": "nested"}


def as_before(path: Path, place: Path) -> Path:
    """A copy of a NetCDF file in the earlier layout."""
    dataset = raw(path).transpose("realization", "time", ...)
    dataset["crs"].attrs["healpix_order"] = "nested"
    del dataset.attrs[SEAL]  # of the file that it was
    for variable in dataset.variables.values():
        variable.encoding = {"_FillValue": None}
    dataset.to_netcdf(place, engine="h5netcdf", unlimited_dims=())
    assert dataset["tas"].dims[:2] == ("realization", "time")
    return place


def test_earlier_latents_are_decoded(outputs: Path, tmp_path: Path) -> None:  # oracle: the latents of today
    emulator = fsae.runtime.load(outputs / "tiny", device="cpu", threads=1)
    assert raw(outputs / "compress-members.nc")["tas"].dims[:2] == ("time", "realization")
    now = emulator.decompress(outputs / "compress-members.nc")
    before = emulator.decompress(as_before(outputs / "compress-members.nc", tmp_path / "before.nc"))
    for name in ("tas", "uas"):
        assert before[name].dims == now[name].dims
        np.testing.assert_array_equal(before[name].values, now[name].values)


def test_earlier_states_are_continued(outputs: Path, tmp_path: Path) -> None:  # oracle: the states of today
    emulator = fsae.runtime.load(outputs / "tiny", device="cpu", threads=1)
    made = [
        emulator.generate(Request(members=2, steps=3, initial=path, climatology="training"))
        for path in (outputs / "generate-native.nc", as_before(outputs / "generate-native.nc", tmp_path / "before.nc"))
    ]
    np.testing.assert_array_equal(made[0]["tas"].values, made[1]["tas"].values)


def test_an_unfinished_run_of_before_goes_on(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the bytes of a run of today; the fields of a run have been a Zarr store all along
    SMALL.generate(emulator, tmp_path / "whole.zarr")
    interrupted_run(emulator, tmp_path / "out.zarr", 7)
    fields = tmp_path / "out.zarr.partial" / "fields.zarr"
    for name, change in (("zarr.json", {}), ("crs/zarr.json", OLDER)):
        found = json.loads((fields / name).read_text())
        found["attributes"] |= change
        for key in ("dggs", "zarr_conventions"):
            found["attributes"].pop(key, None)
        (fields / name).write_text(json.dumps(found))
    SMALL.generate(emulator, tmp_path / "out.zarr", resume=True)
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")
