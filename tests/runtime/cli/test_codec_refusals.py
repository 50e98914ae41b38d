"""What the commands compress, decompress, superres and climatology refuse: bad data and latents, with exit code 5."""

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
import zarr
from commands import Run, one_sentence
from monthly_fields import STEPS, changed, field_layout, fields, write_fields
from tiny_bundle import (
    make_tiny_bundle,
    tiny_manifest,
)

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import write_manifest
from fsae.runtime.output.times import encode_times


def _edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """A change of an array of a store in place, as a script would make it."""

    def edit(path: Path) -> None:
        array = zarr.open_group(path, mode="r+")[name]
        array[:] = change(array[:])

    return edit


def _swap(path: Path) -> None:
    group = zarr.open_group(path, mode="r+")
    group["tas"][:], group["uas"][:] = group["uas"][:], group["tas"][:]


EDITED = {
    "values": (_edit("tas", lambda values: values * np.float32(5.3)), "tas does not fit its checksum"),
    "constant": (_edit("tas", lambda values: np.full_like(values, 5.3)), "tas does not fit its checksum"),
    "permuted": (_edit("uas", lambda values: values[..., ::-1]), "uas does not fit its checksum"),
    "swapped": (_swap, "tas does not fit its checksum"),
    "cells": (_edit("cell", lambda values: values[::-1]), "cells in another order than they were written in"),
    "phases": (
        _edit("year_phase", lambda values: np.full_like(values, 5.3)),
        "has the phase of the year 5.3 at 2005-01",
    ),
}


@pytest.mark.parametrize("kind", EDITED)
def test_edited_latents_are_refused(run: Run, source: Path, tmp_path: Path, kind: str) -> None:
    # oracle: what was changed
    edit, said = EDITED[kind]
    store = tmp_path / "latents.zarr"
    assert run("compress", source, store, "--climatology", "training")[0] == 0
    edit(store)
    code, _, err = run("decompress", store, tmp_path / "out.nc")
    assert code == 5
    assert said in one_sentence(err)
    assert not (tmp_path / "out.nc").exists()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _text(path: Path) -> Path:
    path.write_text("a,b\n1,2\n")
    return path


def _with_gaps(data: xr.Dataset) -> xr.Dataset:
    data["tas"][3, 7] = np.nan
    return data


def _in_units(units: str) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(data: xr.Dataset) -> xr.Dataset:
        data["tas"].attrs["units"] = units
        return data

    return change


def _ordered(order: str) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(data: xr.Dataset) -> xr.Dataset:
        del data["crs"].attrs["indexing_scheme"]
        data["crs"].attrs["healpix_order"] = order
        return data

    return change


BAD_DATA = {
    "no file": (lambda p: p / "missing.nc", "found no file"),
    "text": (lambda p: _text(p / "bad.nc"), "neither NetCDF nor Zarr"),
    "truncated": (lambda p: _cut(changed(p / "bad.nc", lambda d: d)), "cannot read"),
    "plain folder": (lambda p: _folder(p / "bad"), "not a Zarr store"),
    "no variable": (lambda p: changed(p / "bad.nc", lambda d: d.drop_vars("uas")), "has no variable 'uas'"),
    "wrong units": (lambda p: changed(p / "bad.nc", _in_units("m")), "cannot be converted to 'K'"),
    "unlikely values": (lambda p: changed(p / "bad.nc", _in_units("degC")), "expected within 150 to 350 K"),
    "part of a sphere": (lambda p: changed(p / "bad.nc", lambda d: d.isel(cell=slice(0, 48))), "192 cells for zoom 2"),
    "unknown order": (lambda p: changed(p / "bad.nc", _ordered("zigzag")), "expected nested or ring"),
    "missing values": (lambda p: changed(p / "bad.nc", _with_gaps), "1 missing values"),
    "no time": (lambda p: changed(p / "bad.nc", lambda d: d.drop_vars(["time", "time_bnds"])), "no time axis"),
}  # fmt: skip


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return path


@pytest.mark.parametrize("verb", ["compress", "superres", "climatology"])
@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_is_exit_code_5(run: Run, tmp_path: Path, verb: str, kind: str) -> None:
    make, message = BAD_DATA[kind]
    out = tmp_path / "out.zarr"
    code, stdout, err = run(verb, make(tmp_path), out)
    assert (code, stdout) == (5, ""), err
    assert message in one_sentence(err)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("out")]


def test_latents_of_another_bundle_and_other_files_are_refused(run: Run, source: Path, tmp_path: Path) -> None:
    latent = tmp_path / "latent.zarr"
    assert run("compress", source, latent, "--climatology", "training")[0] == 0
    other = make_tiny_bundle(tmp_path / "other")
    with (other / "encoder.fp32.onnx").open("ab") as file:
        file.write(b"\x72\x00")  # an empty unknown field: another file, the same graph
    write_manifest(other, tiny_manifest())
    code, _, err = run("decompress", latent, tmp_path / "out.nc", common=())
    assert code == 0, err
    code, _, err = run("decompress", latent, tmp_path / "out1.nc", model=other)
    assert code == 5
    error = one_sentence(err)
    assert "latent.zarr was compressed with bundle 'tiny' in another version than 'tiny' at" in error
    code, _, err = run("decompress", source, tmp_path / "out2.nc")
    assert code == 5
    assert "in.nc holds no latents: give what `fsae-run compress` wrote" in one_sentence(err)
    code, _, err = run("superres", source, tmp_path / "out3.nc", "--climatology", source)
    assert code == 5
    assert "holds no climatology: give a file made by `fsae-run climatology`" in one_sentence(err)
    group = zarr.open_group(latent, mode="r+")
    group["tas"][2, 5] = np.nan
    code, _, err = run("decompress", latent, tmp_path / "out4.nc")
    assert code == 5
    assert "holds latents of tas that are not finite" in one_sentence(err)
    assert not (tmp_path / "out4.nc").exists()


@pytest.mark.parametrize("name", ["year_phase", "realization", "time", "tas"])
def test_damaged_chunks_of_latents_are_said(run: Run, tmp_path: Path, name: str) -> None:
    source = write_fields(tmp_path / "in.zarr", fields(2), field_layout(members=(3, 8)))
    latent = tmp_path / "latent.zarr"
    assert run("compress", source, latent, "--climatology", "training")[0] == 0
    chunk = next(path for path in sorted((latent / name / "c").rglob("*")) if path.is_file())
    chunk.write_bytes(b"damaged")
    code, _, err = run("decompress", latent, tmp_path / "out.nc")
    assert code == 5, err
    assert re.search("error: cannot read .*latent.zarr: .* damaged or incomplete", one_sentence(err))
    assert not (tmp_path / "out.nc").exists()


def test_latents_without_a_phase_for_every_step_are_refused(run: Run, source: Path, tmp_path: Path) -> None:
    assert run("compress", source, tmp_path / "latent.zarr", "--climatology", "training")[0] == 0
    zarr.open_group(tmp_path / "latent.zarr", mode="r+")["year_phase"][5] = np.nan
    code, _, err = run("decompress", tmp_path / "latent.zarr", tmp_path / "out.nc")
    assert code == 5
    assert "has no phase of the year for every step" in one_sentence(err)


@pytest.mark.parametrize("bounds", [True, False])
def test_data_of_another_step_is_said(run: Run, tmp_path: Path, bounds: bool) -> None:
    days = [cftime.datetime(2005, 3, day, calendar="standard") for day in range(1, STEPS + 2)]
    pairs = list(itertools.pairwise(days)) if bounds else None
    layout = dataclasses.replace(field_layout(), time=encode_times(days[:STEPS], pairs, "standard"))
    source = write_fields(tmp_path / "in.nc", fields(), layout)
    _, _, err = run("compress", source, tmp_path / "latent.zarr", "--climatology", "training")
    sentence = "The input's time step is 1 day, the model was trained on 1 month"
    assert f"fsae-run: warning: {sentence}" in err
    with xr.open_dataset(tmp_path / "latent.zarr", engine="zarr") as found:
        assert found.attrs["comment"].startswith(sentence)


def test_a_climatology_at_an_address_is_refused(run: Run, source: Path) -> None:  # oracle: what the command writes
    code, _, err = run("climatology", source, "s3://bucket/climatology.nc")
    assert code == 2
    assert "the address of a store, expected the path of a file" in one_sentence(err)


def test_a_climatology_coarser_than_the_input_is_refused(run: Run, source: Path, tmp_path: Path) -> None:
    assert run("climatology", source, tmp_path / "clim.nc", "--zoom", "0")[0] == 0
    code, _, err = run("superres", source, tmp_path / "out.nc", "--zoom", "1", "--climatology", tmp_path / "clim.nc")
    assert code == 5
    assert "clim.nc is at zoom 0, coarser than the input at zoom 1" in one_sentence(err)


@pytest.mark.parametrize("verb", ["decompress", "superres", "generate"])
@pytest.mark.parametrize(("wrong", "said"), [(2e30, r"2e\+30"), (-np.inf, "-inf"), (np.nan, "nan")])
def test_impossible_values_are_never_published(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, wrong: float, said: str
) -> None:  # oracle: the place and the value that the decoder is made to give
    assert run("compress", source, tmp_path / "latent.zarr", "--climatology", "training")[0] == 0
    decode = OnnxGraphs.decode

    def broken(self: OnnxGraphs, latent: np.ndarray, seasons: np.ndarray) -> np.ndarray:
        values = decode(self, latent, seasons)
        values[1, 1, 7] = wrong
        return values

    monkeypatch.setattr(OnnxGraphs, "decode", broken)
    words = {
        "decompress": (tmp_path / "latent.zarr", tmp_path / "out.nc"),
        "superres": (source, tmp_path / "out.nc", "--climatology", "training"),
        "generate": ("--members", "2", "--steps", "3", "--start", "2005-01", "--out", tmp_path / "out.nc"),
    }
    code, _, err = run(verb, *words[verb])
    assert code == 6, err
    where = " in member 0" if verb == "generate" else ""
    assert re.search(rf"the model gave uas = {said}{where} at 2005-02-\d\d", one_sentence(err))
    assert not (tmp_path / "out.nc").exists()
    assert run(verb, *words[verb], "--variables", "tas", "--overwrite")[0] == 0  # what is wrong is not asked for
