"""`fsae-run` from the outside: what the verbs give, and one sentence and the right exit code for everything wrong."""

import dataclasses
import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import cftime
import msgspec
import numpy as np
import onnxruntime
import pytest
import xarray as xr
import zarr
from damage import damage
from stand_in_gpu import install_stand_ins, obstacle, take_the_cpu_always
from tiny_bundle import (
    PIXELS,
    SCALE,
    VARIABLES,
    make_tiny_bundle,
    tiny_decode,
    tiny_encode,
    tiny_grid,
    tiny_manifest,
    tiny_mean,
)
from trees import tree

import fsae.runtime
import fsae.runtime.backends.tensorrt
from fsae.runtime.backends.onnx import import_onnxruntime
from fsae.runtime.bundle.files import Bundle, hash_files, open_bundle, write_manifest
from fsae.runtime.bundle.manifest import NOT_RUN
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.runtime.checks.verify import VERIFIED, read_records
from fsae.runtime.cli.main import main
from fsae.runtime.climate.climatology import season
from fsae.runtime.ensemble.request import Request
from fsae.runtime.output import files as stores
from fsae.runtime.output.layout import Cells, Layout, Unit, open_output, to_dataset
from fsae.runtime.output.selection import Selection
from fsae.runtime.output.times import encode_times
from fsae.runtime.sphere.healpix import coarsen, refine
from fsae.runtime.sphere.regrid import apply

STEPS = 14  # more than one chunk of time


def month_axis(calendar: str) -> tuple[list[cftime.datetime], list[tuple[cftime.datetime, cftime.datetime]]]:
    edges = [cftime.datetime(2005 + m // 12, m % 12 + 1, 1, calendar=calendar) for m in range(STEPS + 1)]
    bounds = list(itertools.pairwise(edges))
    return [start + (end - start) / 2 for start, end in bounds], bounds


def field_layout(calendar: str = "standard", zoom: int = 2, members: tuple[int, ...] | None = None) -> Layout:
    times, bounds = month_axis(calendar)
    return Layout(
        variables={v.name: {"standard_name": v.standard_name, "units": v.units} for v in tiny_manifest().variables},
        attributes={},
        time=encode_times(times, bounds, calendar),
        grid=Cells(zoom=zoom),
        members=members,
    )


def phases(calendar: str = "standard") -> np.ndarray:
    """Fraction of the year at the middle of each month, counted in days."""
    times, bounds = month_axis(calendar)
    year = [cftime.datetime(t.year, 1, 1, calendar=calendar) for t in times]
    length = [(y.replace(year=y.year + 1) - y).total_seconds() for y in year]
    middle = [(b[0] - y).total_seconds() + (b[1] - b[0]).total_seconds() / 2 for b, y in zip(bounds, year, strict=True)]
    return np.array(middle) / np.array(length)


def fields(members: int = 1, calendar: str = "standard") -> np.ndarray:
    """Climatology and noise, (member, time, variable, pixel)."""
    noise = np.random.default_rng(1).normal(size=(members, STEPS, VARIABLES, PIXELS))
    return (tiny_mean(season(phases(calendar), 2)) + noise).astype(np.float32)


def write_fields(path: Path, values: np.ndarray, layout: Layout) -> Path:
    with open_output(path, layout) as write:
        write(Unit(members=slice(0, len(values)), times=slice(0, STEPS), values=values))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fields(tmp_path / "in.nc", fields(), field_layout())


@pytest.fixture
def run(tiny_bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs a command on a bundle, the tiny one by default; gives exit code, stdout and stderr."""

    def command(
        *words: str | Path, model: Path = tiny_bundle_path, common: Sequence[str] = ("--device", "cpu")
    ) -> tuple[int, str, str]:
        if words[0] in ("info", "climatology"):  # run nothing on a device
            common = ()
        code = main(["--model", str(model), *common, *map(str, words)])
        return code, *capsys.readouterr()

    return command


Run = Callable[..., tuple[int, str, str]]


def values_of(path: Path) -> np.ndarray:
    """(…, time, variable, point) of a file."""
    with xr.open_dataset(path, engine="h5netcdf" if path.suffix == ".nc" else "zarr") as data:
        return np.stack([data["tas"].values, data["uas"].values], axis=-2)


# --- what the verbs give ---


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


def test_generate_writes_members_times_and_provenance(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out_path = tmp_path / "ensemble.zarr"
    code, out, err = run("generate", "--members", "3", "--steps", "4", "--start", "1990-11", "--out", out_path)
    assert code == 0
    assert out.startswith("generated 3 members x 4 steps of tas, uas on HEALPix zoom 2 in ")
    assert f"fsae-run: bundle tiny ({tiny_bundle.folder})" in err
    with xr.open_dataset(out_path, engine="zarr") as found:
        assert found["tas"].dims == ("realization", "time", "cell")
        assert found["realization"].values.tolist() == [0, 1, 2]
        months = found["time"].values.astype("datetime64[M]").astype(str).tolist()
        assert months == ["1990-11", "1990-12", "1991-01", "1991-02"]
        assert json.loads(found.attrs["fsae_request"]) == {
            "verb": "generate", "members": [0, 1, 2], "start": "1990-11-01T00:00:00", "steps": 4, "seed": 0,
            "grid": "native", "forcing": "calendar year", "sampler": "default",
        }  # fmt: skip
        assert found.attrs["fsae_manifest_sha256"] == tiny_bundle.manifest_sha256
        assert found.attrs["fsae_seed"] == 0
        assert set(json.loads(found.attrs["fsae_versions"])) == {"fsae", "numpy", "onnxruntime"}
        assert np.isfinite(found["tas"].values).all()
    assert (
        run("generate", "--member-ids", "2", "--steps", "4", "--start", "1990-11", "--out", tmp_path / "two.nc")[0] == 0
    )
    np.testing.assert_array_equal(values_of(tmp_path / "two.nc")[0], values_of(out_path)[2])


def test_defaults_follow_the_training_period(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the documented defaults
    monkeypatch.chdir(tmp_path)
    assert run("generate", "--members", "1")[0] == 0
    with xr.open_dataset("ensemble.zarr", engine="zarr") as found:
        times = found["time"].values.astype("datetime64[M]").astype(str)
        assert (times[0], times[-1], times.size) == ("2004-01", "2004-12", 12)
    code, _, err = run("generate", "--members", "1")
    assert (code, err.splitlines()[-1]) == (
        7,
        "fsae-run: error: ensemble.zarr exists: give another path or --overwrite",
    )
    assert run("generate", "--members", "1", "--overwrite")[0] == 0


def test_the_same_request_gives_the_same_bytes_in_any_batch(run: Run, tmp_path: Path) -> None:
    for name, batch in (("a", "1"), ("b", "3")):
        arguments = ("--members", "3", "--steps", "3", "--seed", "5", "--batch", batch)
        assert run("generate", *arguments, "--out", tmp_path / f"{name}.zarr")[0] == 0
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")


def test_info_and_verify_report(run: Run, tiny_bundle: Bundle) -> None:
    code, out, _ = run("info")
    assert code == 0
    facts = ("tas [K]", "uas [m s-1]", "zooms 0, 1, 2", "4x, latents at zoom 1", "1948-01-01 to 2004-12-31")
    facts += (
        "cpu     onnxruntime",
        "decoder fp32: 0.0001 K in tas at zoom 2, allowed 0.001",
        "1 month, calendar standard",
    )
    facts += ("denoiser fp32: 1e-05 in tas at zoom 1, allowed 0.0001", "precision     fp32\n")
    for fact in facts:
        assert fact in out
    assert f"{tiny_bundle.size / 1e3:.1f} kB in 6 files" in out
    code, out, err = run("verify")
    assert code == 0
    assert (
        out
        == f"verified tiny: 6 files, 3 fp32 graphs within tolerance on cpu (onnxruntime {onnxruntime.__version__})\n"
    )
    lines = [line for line in err.splitlines() if "pass" in line]
    assert [line.split(",")[0] for line in lines] == [
        f"fsae-run: {graph} fp32: pass" for graph in ("encoder", "decoder", "denoiser")
    ]
    assert [line.split(", allowed ")[1] for line in lines] == ["0.0001", "0.001", "0.0001"]


def with_precisions(folder: Path, precisions: Sequence[str], device: str = "cpu") -> Path:
    """The tiny bundle with the same graphs under other precisions, their parity measured on `device`."""
    bundle, manifest = make_tiny_bundle(folder), tiny_manifest()
    for graph in manifest.graphs:
        data = (bundle / f"{graph}.fp32.onnx").read_bytes()
        (bundle / f"{graph}.fp32.onnx").unlink()
        for precision in precisions:
            (bundle / f"{graph}.{precision}.onnx").write_bytes(data)
    parity = {
        graph: msgspec.structs.replace(entry, device=device) for graph, entry in dict(manifest.parity["fp32"]).items()
    }
    files = hash_files(bundle)
    write_manifest(bundle, msgspec.structs.replace(manifest, files=files, parity=dict.fromkeys(precisions, parity)))
    return bundle


def test_the_precision_is_the_one_asked_for_else_fp32_else_the_first(run: Run, tmp_path: Path) -> None:
    # oracle: the golden fields of one precision's own graphs, which lie under its name
    both = with_precisions(tmp_path / "both", ("fp16", "fp32", "int8"))
    other = with_precisions(tmp_path / "other", ("int8", "fp16"))
    for bundle, words, expected in ((both, [], "fp32"), (both, ["--precision", "int8"], "int8"), (other, [], "fp16")):
        code, out, err = run("verify", *words, model=bundle)
        assert code == 0
        assert out.startswith("verified tiny: ")
        assert err.count(f" {expected}: pass") == 3
    assert fsae.runtime.load(both, "cpu", precision="fp16").graphs.precision == "fp16"
    code, _, err = run("verify", "--precision", "fp32", model=other)
    assert code == 4
    assert "bundle tiny has no precision fp32, it has fp16, int8" in one_sentence(err)
    assert run("verify", "--precision", "fp8", model=other, common=())[0] == 2


def test_only_the_graphs_of_the_precision_are_run(run: Run, tmp_path: Path) -> None:
    # oracle: a file that is no graph fails where it is opened, and nowhere else
    bundle = with_precisions(tmp_path / "bundle", ("fp16", "fp32"))
    (bundle / "decoder.fp16.onnx").write_bytes(b"not a graph")
    write_manifest(bundle, open_bundle(bundle).manifest)
    assert run("--precision", "fp32", "verify", model=bundle)[0] == 0
    code, _, err = run("--precision", "fp16", "verify", model=bundle)
    assert code == 4
    assert "decoder.fp16.onnx" in err.splitlines()[-1]


def test_bf16_is_not_run_on_a_cpu(run: Run, tmp_path: Path) -> None:
    bundle = with_precisions(tmp_path / "bundle", ("bf16", "fp32"))
    for words in (["verify"], ["generate", "--out", tmp_path / "out.zarr"]):
        code, _, err = run("--precision", "bf16", *words, model=bundle)
        assert code == 3
        assert "device cpu cannot run bf16: ONNX Runtime has no kernels for it there" in one_sentence(err)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_verify_completes_what_the_exporter_could_not_run(run: Run, tmp_path: Path) -> None:
    bundle = with_precisions(tmp_path / "bundle", ("fp16",), device=NOT_RUN)
    differences = "decoder fp16: 0.0001 K in tas at zoom 2, allowed 0.001 (not run on a device)"
    assert differences in run("info", model=bundle)[1]
    code, _, err = run("verify", model=bundle)
    assert code == 0
    assert err.count(", which the exporter could not run on a device\n") == 3
    assert f"recorded in {bundle / VERIFIED}" in err
    raw = json.loads((bundle / VERIFIED).read_text())
    assert [(r["precision"], r["device"], sorted(r["worst"])) for r in raw["records"]] == [
        ("fp16", "cpu", ["decoder", "denoiser", "encoder"])
    ]
    assert run("verify", model=bundle)[0] == 0  # replaces its own record
    assert len(json.loads((bundle / VERIFIED).read_text())["records"]) == 1
    assert f"fp16 verified on {raw['records'][0]['date']} on cpu (onnxruntime " in run("info", model=bundle)[1]
    assert [record.precision for record in read_records(open_bundle(bundle))] == ["fp16"]
    graph = bundle / "decoder.fp16.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")  # what was found of another graph says nothing
    write_manifest(bundle, open_bundle(bundle).manifest)
    code, out, _ = run("info", model=bundle)
    assert code == 0
    assert "verified on" not in out


def test_options_stand_before_or_after_the_verb(tiny_bundle_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, device = ["--model", str(tiny_bundle_path)], ["--device", "cpu"]
    for words in ([*model, *device, "verify"], ["verify", *model, *device], [*device, "verify", *model]):
        assert main(words) == 0
    assert main([*device, "verify", *model, "--device", "cuda"]) == 2
    assert "found --device twice, cpu and cuda: give it once" in capsys.readouterr().err
    assert main([*device, "--precision", "fp32", "verify", *model, "--precision", "fp32"]) == 0
    assert main([*device, "--precision", "fp32", "verify", *model, "--precision", "fp16"]) == 2
    assert "found --precision twice, fp32 and fp16: give it once" in capsys.readouterr().err


def test_verbs_that_run_nothing_take_no_device(
    run: Run, tiny_bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: an option is used or refused
    for option in (["--device", "cpu"], ["--threads", "1"], ["--precision", "fp32"]):
        for words in (["info"], ["climatology", "in.nc", str(tmp_path / "out.nc")]):
            assert main([*option, *words, "--model", str(tiny_bundle_path)]) == 2
            assert f"{words[0]} takes no --device, --precision or --threads: leave them out" in one_sentence(
                capsys.readouterr().err
            )
            assert main([*words, *option, "--model", str(tiny_bundle_path)]) == 2
            assert "No such option" in capsys.readouterr().err
    assert main(["info", "--model", str(tiny_bundle_path)]) == 0


def test_auto_says_what_it_chose_and_why(run: Run) -> None:
    code, out, err = run("verify", common=())
    assert code == 0
    if "on cpu" in out:  # no GPU here
        assert "fsae-run: device cpu: no other can be used (trt " in err
        assert "; cuda " in err


def test_python_interface_equals_the_command_line(
    run: Run, tiny_bundle_path: Path, source: Path, tmp_path: Path
) -> None:  # oracle: each other
    emulator = fsae.runtime.load(tiny_bundle_path, device="cpu")
    assert run("generate", "--members", "2", "--steps", "4", "--out", tmp_path / "g.nc")[0] == 0
    assert run("compress", source, tmp_path / "c.nc", "--climatology", "training")[0] == 0
    with xr.open_dataset(tmp_path / "g.nc", engine="h5netcdf") as found:
        xr.testing.assert_identical(emulator.generate(Request(members=2, steps=4)), found.load())
    with xr.open_dataset(source, engine="h5netcdf") as data:
        latents = emulator.compress(data, climatology="training")
        again = emulator.decompress(latents)
        fine = emulator.superres(data, zoom=1, climatology="training", select=Selection(grid="source"))
        np.testing.assert_array_equal(again["time"].values, data["time"].values)
    with xr.open_dataset(tmp_path / "c.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["tas"].values, latents["tas"].values)
    assert fine["uas"].dims == ("time", "lat", "lon")
    assert all(check.good for check in emulator.verify())


# --- what can be wrong: code and sentence ---


def _text(path: Path) -> Path:
    path.write_text("a,b\n1,2\n")
    return path


def _changed(path: Path, change: Callable[[xr.Dataset], xr.Dataset]) -> Path:
    change(to_dataset(field_layout(), fields())).to_netcdf(path, engine="h5netcdf")
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
    "truncated": (lambda p: _cut(_changed(p / "bad.nc", lambda d: d)), "cannot read"),
    "plain folder": (lambda p: p, "not a Zarr store"),
    "no variable": (lambda p: _changed(p / "bad.nc", lambda d: d.drop_vars("uas")), "has no variable 'uas'"),
    "wrong units": (lambda p: _changed(p / "bad.nc", _in_units("m")), "cannot be converted to 'K'"),
    "unlikely values": (lambda p: _changed(p / "bad.nc", _in_units("degC")), "expected within 150 to 350 K"),
    "part of a sphere": (lambda p: _changed(p / "bad.nc", lambda d: d.isel(cell=slice(0, 48))), "192 cells for zoom 2"),
    "unknown order": (lambda p: _changed(p / "bad.nc", _ordered("zigzag")), "expected nested or ring"),
    "missing values": (lambda p: _changed(p / "bad.nc", _with_gaps), "1 missing values"),
    "no time": (lambda p: _changed(p / "bad.nc", lambda d: d.drop_vars(["time", "time_bnds"])), "no time axis"),
}  # fmt: skip


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return path


def one_sentence(err: str) -> str:
    """The error line, which must be the only one and no traceback."""
    lines = [line for line in err.splitlines() if "error:" in line]
    assert "Traceback" not in err
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]
    return lines[0]


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
    assert re.search("error: cannot read .*latent.zarr: .*; is .* damaged or incomplete", one_sentence(err))
    assert not (tmp_path / "out.nc").exists()


def test_latents_without_a_phase_for_every_step_are_refused(run: Run, source: Path, tmp_path: Path) -> None:
    assert run("compress", source, tmp_path / "latent.zarr", "--climatology", "training")[0] == 0
    zarr.open_group(tmp_path / "latent.zarr", mode="r+")["year_phase"][5] = np.nan
    code, _, err = run("decompress", tmp_path / "latent.zarr", tmp_path / "out.nc")
    assert code == 5
    assert "has no phase of the year for every step" in one_sentence(err)


def test_the_source_grid_of_a_model_of_healpix_fields_is_refused(run: Run, source: Path, tmp_path: Path) -> None:
    # oracle: what the exporter writes for such a run
    bundle = make_tiny_bundle(tmp_path / "bundle")
    tables = dict(np.load(bundle / "tables.npz"))
    for name in ("source_lat_deg", "source_lon_deg", *(n for n in tables if n.startswith("to_") and "indptr" not in n)):
        tables[name] = tables[name][:0]
    tables |= {"to_healpix_indptr": np.zeros(PIXELS + 1, np.int32), "to_source_indptr": np.zeros(1, np.int32)}
    np.savez(bundle / "tables.npz", **tables)
    write_manifest(bundle, tiny_manifest())
    latent = tmp_path / "latent.zarr"
    assert run("compress", source, latent, model=bundle)[0] == 0
    before = sorted(tmp_path.iterdir())
    for words in (["generate", "--out"], ["superres", source], ["decompress", latent]):
        code, _, err = run(*words, tmp_path / "out.nc", "--grid", "source", model=bundle)
        assert code == 2
        assert "bundle tiny was trained on HEALPix: use --grid native" in one_sentence(err)
    assert sorted(tmp_path.iterdir()) == before


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


def test_one_month_of_every_year_is_monthly_data(run: Run, tmp_path: Path) -> None:  # oracle: the bounds
    times = [cftime.datetime(1990 + year, 1, 16, calendar="noleap") for year in range(STEPS)]
    pairs = [(t.replace(day=1), t.replace(month=2, day=1)) for t in times]
    layout = dataclasses.replace(field_layout("noleap"), time=encode_times(times, pairs, "noleap"))
    source = write_fields(tmp_path / "in.nc", fields(), layout)
    code, _, err = run("compress", source, tmp_path / "latent.nc", "--climatology", "training")
    assert code == 0
    assert "warning" not in err


def test_a_climatology_coarser_than_the_input_is_refused(run: Run, source: Path, tmp_path: Path) -> None:
    assert run("climatology", source, tmp_path / "clim.nc", "--zoom", "0")[0] == 0
    code, _, err = run("superres", source, tmp_path / "out.nc", "--zoom", "1", "--climatology", tmp_path / "clim.nc")
    assert code == 5
    assert "clim.nc is at zoom 0, coarser than the input at zoom 1" in one_sentence(err)


BAD_USAGE = [
    (("generate", "--start", "soon"), 2, "found the date 'soon'"),
    (("generate", "--start", "2005-02-30"), 5, "does not exist in the calendar 'standard'"),
    (("generate", "--start", "0000-01"), 5, "'0000-01' does not exist in the calendar 'standard'"),
    (("generate", "--out", "out.nc4"), 2, "use .nc for NetCDF-4"),
    (("compress", "in.nc", "latent.h5"), 2, "use .nc for NetCDF-4"),
    (("climatology", "in.nc", "climatology.netcdf"), 2, "use .nc for NetCDF-4"),
    (("generate", "--out", "OUT.NC"), 2, "use .nc for NetCDF-4"),
    (("generate", "--members", "0"), 2, "Invalid value"),
    (("generate", "--members", "2", "--member-ids", "1"), 2, "give one of them"),
    (("generate", "--member-ids", "5-3"), 2, "expected numbers and rising ranges"),
    (("generate", "--steps", "many"), 2, "Invalid value"),
    (("generate", "--seed", "-1"), 2, "Invalid value"),
    (("generate", "--grid", "cubed"), 2, "found the grid 'cubed', expected native, source, degrees"),
    (("generate", "--nonsense",), 2, "No such option"),
    (("frobnicate",), 2, "No such command"),
    (("compress",), 2, "Missing argument"),
    (("compress", "in.nc", "latent.zarr", "--zoom", "3"), 5, "supports zoom 2 at most"),
    (("compress", "in.nc", "in.nc", "--overwrite"), 7, "in.nc is the input"),
    (("compress", "in.nc", "nowhere/latent.zarr"), 7, "there is no folder"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected", "message"), BAD_USAGE, ids=[" ".join(words) for words, _, _ in BAD_USAGE]
)
def test_bad_usage(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: int, message: str
) -> None:
    monkeypatch.chdir(source.parent)
    code, out, err = run(*words)
    assert (code, out) == (expected, ""), err
    assert message in err
    assert "Traceback" not in err
    assert [p.name for p in source.parent.iterdir()] == ["in.nc"]


BAD_BUNDLES = {
    "newer schema": f"has schema version {SCHEMA_VERSION + 1}, this fsae reads versions up to {SCHEMA_VERSION}",
    "unknown key": "unknown keys ['colour']",
    "truncated manifest": "not JSON",
    "truncated graph": "is truncated or altered",
    "altered graph": "is altered",
    "missing graph": "No such file",
    "no graph at all": "cannot load decoder.fp32.onnx",
    "no manifest": "is not a bundle",
}


@pytest.mark.parametrize("what", BAD_BUNDLES)
def test_bad_bundles_are_exit_code_4(run: Run, tmp_path: Path, what: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    damage(bundle, what)
    for words in (["verify"], ["generate", "--out", tmp_path / "out.zarr"]):
        code, _, err = run(*words, model=bundle)
        assert code == 4
        assert BAD_BUNDLES[what] in one_sentence(err)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def shifted_golden(bundle: Path, **shifts: tuple[int, float]) -> None:
    """Move golden values of a variable in a bundle, as if the device computed otherwise."""
    golden = dict(np.load(bundle / "golden.npz"))
    for name, (variable, shift) in shifts.items():
        golden[name.replace("_", ".")][0, ..., variable, 5] += shift
    np.savez(bundle / "golden.npz", **golden)
    write_manifest(bundle, open_bundle(bundle).manifest)


def verified_wrong(run: Run, bundle: Path) -> str:
    """The errors of `verify` on a bundle whose golden vectors the device misses."""
    code, out, err = run("verify", model=bundle)
    assert (code, out) == (6, "")
    return err


def test_a_device_that_computes_otherwise_is_exit_code_6(run: Run, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    shifted_golden(bundle, decoder_field=(1, 0.1))
    lines = verified_wrong(run, bundle).splitlines()
    sentence = "device cpu misses the golden vectors of the trained model: the decoder by 0.1 m s-1 in uas at zoom 2,"
    assert f"{sentence} allowed 0.001;" in lines[-1]
    verdicts = [line.split(",")[0] for line in lines if " fp32: " in line]  # all of them, and then the error
    assert verdicts == [
        "fsae-run: encoder fp32: pass",
        "fsae-run: decoder fp32: FAIL",
        "fsae-run: denoiser fp32: pass",
    ]


def test_what_is_not_a_number_is_a_failure(run: Run, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    shifted_golden(bundle, decoder_field=(0, np.nan))
    assert "fsae-run: decoder fp32: FAIL, nan K in tas at zoom 2, allowed 0.001\n" in verified_wrong(run, bundle)


@pytest.mark.parametrize(("name", "variable", "units"), [("tas", 0, "K"), ("uas", 1, "m s-1")])
def test_latents_are_compared_in_physical_units(run: Run, tmp_path: Path, name: str, variable: int, units: str) -> None:
    # oracle: the tiny scale of each variable, 2 K and 0.5 m s-1
    bundle = make_tiny_bundle(tmp_path / "bundle")
    shifted_golden(bundle, encoder_latent=(variable, 1.0), denoiser_denoised=(variable, 1.0))
    sentence = verified_wrong(run, bundle).splitlines()[-1]
    assert f"the encoder by {float(SCALE[variable]):.2g} {units} in {name} at zoom 1, allowed 0.0001" in sentence
    assert f"the denoiser by 1 in {name} at zoom 1, allowed 0.0001" in sentence


def test_the_variable_nearest_to_its_own_tolerance_is_named(run: Run, tmp_path: Path) -> None:
    # oracle: 0.5 K of 1 K is good and 0.1 m s-1 of 0.001 m s-1 is not, though it is less
    bundle = make_tiny_bundle(tmp_path / "bundle")
    shifted_golden(bundle, decoder_field=(0, 0.5))
    shifted_golden(bundle, decoder_field=(1, 0.1))
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["parity"]["fp32"]["decoder"]["differences"][0]["tolerance"] = 1.0
    (bundle / "manifest.json").write_text(json.dumps(raw))
    sentence = verified_wrong(run, bundle).splitlines()[-1]
    assert "the decoder by 0.1 m s-1 in uas at zoom 2, allowed 0.001" in sentence


def test_means_over_coarse_cells_are_verified_too(run: Run, tmp_path: Path) -> None:
    # oracle: a bias that every pixel may have and a mean may not
    bundle = make_tiny_bundle(tmp_path / "bundle")
    golden = dict(np.load(bundle / "golden.npz"))
    golden["decoder.field"][:, 0] += 0.5
    np.savez(bundle / "golden.npz", **golden)
    manifest = open_bundle(bundle).manifest
    decoder = manifest.parity["fp32"]["decoder"]
    fine = [msgspec.structs.replace(each, tolerance=1.0) for each in decoder.differences]
    base = msgspec.structs.replace(fine[0], variable="tas", zoom=0, tolerance=1e-3)
    changed = msgspec.structs.replace(decoder, differences=(base, *fine))
    parity = {"fp32": {**manifest.parity["fp32"], "decoder": changed}}
    write_manifest(bundle, msgspec.structs.replace(manifest, parity=parity))
    sentence = verified_wrong(run, bundle).splitlines()[-1]
    assert "the decoder by 0.5 K in tas at zoom 0, allowed 0.001" in sentence


@pytest.mark.parametrize("device", ["cuda", "trt", "trt-rtx"])
def test_a_device_that_is_not_there_is_exit_code_3(run: Run, tmp_path: Path, device: str) -> None:  # never a fallback
    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine may have CUDA")
    if device != "cuda" and obstacle(device) is None:
        pytest.skip(f"this machine has {device}")
    code, out, err = run("generate", "--out", tmp_path / "out.zarr", common=("--device", device))
    assert (code, out) == (3, "")
    assert f"device {device}" in one_sentence(err)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_device_is_named_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # what a missing package looks like to import
    sentence = one_sentence(run("verify", common=("--device", "trt"))[2])
    assert sentence.startswith("fsae-run: error: device trt needs tensorrt, which cannot be imported")
    install_stand_ins(monkeypatch, driver_error="cudaErrorUnknown")
    code, _, err = run("verify", common=("--device", "trt"))
    assert code == 3
    assert one_sentence(err).startswith(
        "fsae-run: error: device trt cannot be used: CUDA failed in cudaGetDeviceCount: cudaErrorUnknown ("
    )


@pytest.mark.parametrize("knows", [True, False], ids=["telemetry", "none of it"])
def test_onnxruntime_sends_nothing_home(monkeypatch: pytest.MonkeyPatch, knows: bool) -> None:
    # oracle: what a stand-in for the library is told
    library, told = types.ModuleType("onnxruntime"), []
    library.InferenceSession = object
    if knows:
        library.disable_telemetry_events = lambda: told.append("nothing")
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    assert import_onnxruntime("cpu") is library
    assert told == ["nothing"] * knows


def test_no_backend_at_all_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what a missing package looks like to import
    for common in (("--device", "cpu"), ()):
        code, _, err = run("verify", common=common)
        assert code == 3
        assert 'pip install "fsae[cpu]"' in err.splitlines()[-1]
        assert "Traceback" not in err


def test_a_silent_fallback_of_the_library_is_caught(
    tiny_bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: a library that takes the CPU whatever was asked for, as onnxruntime does without cuDNN
    take_the_cpu_always(monkeypatch)
    code, _, err = run("verify", common=("--device", "cuda"))
    assert code == 3
    assert "device cuda cannot be used: onnxruntime took CPUExecutionProvider instead" in one_sentence(err)


def test_a_full_disk_is_exit_code_7(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, name: str, place: tuple[slice, ...], values: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stores.ZarrStore, "write", full)
    code, _, err = run("generate", "--members", "1", "--out", tmp_path / "out.zarr")
    assert code == 7
    assert "No space left on device; nothing was left there" in one_sentence(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_keeps_what_is_finished(tiny_bundle_path: Path, tmp_path: Path, number: int) -> None:
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # background jobs ignore it
    program = f"{listen}; import sys; from fsae.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program]
    command += ["--model", str(tiny_bundle_path), "--device", "cpu", "--threads", "1"]
    command += ["generate", "--members", "5000", "--steps", "3", "--out", str(tmp_path / "out.zarr")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.partial/fields.zarr/tas/c")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    sentence = r"fsae-run: stopped; \d+ of 15000 fields are kept in \S+out\.zarr\.partial: the same command "
    assert re.fullmatch(sentence + "with --resume goes on", err.splitlines()[-1])
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr.partial"]


def test_help_has_examples_for_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("", "info", "verify", "compress", "decompress", "superres", "generate", "climatology"):
        assert main([*verb.split(), "--help"]) == 0
        assert "Examples:\n    fsae-run" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fsae-run, version {fsae.runtime.__version__}\n"
    assert main([]) == 2
