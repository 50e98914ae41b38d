"""`fsae-run` from the outside: options, devices, bad usage, bad bundles and help; the commands are tested beside."""

import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import xarray as xr
from commands import Run, one_sentence
from damage import damage
from stand_in_gpu import install_stand_ins, obstacle, take_the_cpu_always
from tiny_bundle import (
    PIXELS,
    make_tiny_bundle,
    tiny_manifest,
)

import fsae.runtime
import fsae.runtime.backends.tensorrt
from fsae.runtime.backends.onnx import import_onnxruntime
from fsae.runtime.bundle.files import Bundle, write_manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.runtime.cli.main import main
from fsae.runtime.ensemble.request import Request
from fsae.runtime.output.marks import SEAL
from fsae.runtime.output.selection import Selection


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
            sentence = f"{words[0]} takes no --device, --precision or --threads: leave them out"
            assert sentence in one_sentence(capsys.readouterr().err)
            assert main([*words, *option, "--model", str(tiny_bundle_path)]) == 2
            assert "No such option" in capsys.readouterr().err
    assert main(["info", "--model", str(tiny_bundle_path)]) == 0


def test_auto_says_in_one_line_what_it_chose(run: Run) -> None:  # oracle: the device that the summary names
    code, out, err = run("verify", common=())
    assert code == 0
    device = out.split(" on ")[1].split(" ")[0]
    lines = [line for line in err.splitlines() if line.startswith("fsae-run: device ")]
    why = " (fsae-run doctor says what a GPU would need)" if device == "cpu" else ""
    assert lines == [f"fsae-run: device {device}{why}"]


def test_python_interface_equals_the_command_line(
    run: Run, tiny_bundle_path: Path, source: Path, tmp_path: Path
) -> None:  # oracle: each other
    emulator = fsae.runtime.load(tiny_bundle_path, device="cpu")
    assert run("generate", "--members", "2", "--steps", "4", "--out", tmp_path / "g.nc")[0] == 0
    assert run("compress", source, tmp_path / "c.nc", "--climatology", "training")[0] == 0
    with xr.open_dataset(tmp_path / "g.nc", engine="h5netcdf") as found:
        written = found.load()
        del written.attrs[SEAL]  # the checksum of what is in the file
        for name in ("healpix_nside", "healpix_order"):  # for CDO, in NetCDF alone
            del written["crs"].attrs[name]
        written = written.transpose("realization", "time", ...)
        xr.testing.assert_identical(emulator.generate(Request(members=2, steps=4)), written)
    with xr.open_dataset(source, engine="h5netcdf") as data:
        latents = emulator.compress(data, climatology="training")
        again = emulator.decompress(latents)
        fine = emulator.superres(data, zoom=1, climatology="training", select=Selection(grid="source"))
        np.testing.assert_array_equal(again["time"].values, data["time"].values)
    with xr.open_dataset(tmp_path / "c.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["tas"].values, latents["tas"].values)
    assert fine["uas"].dims == ("time", "lat", "lon")
    assert all(check.good for check in emulator.verify())


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


BAD_USAGE = [
    (("generate", "--start", "soon"), 2, "found the date 'soon'"),
    (("generate", "--start", "2005-02-30"), 5, "does not exist in the calendar 'standard'"),
    (("generate", "--start", "0000-01"), 5, "'0000-01' does not exist in the calendar 'standard'"),
    (("generate", "--out", "out.nc4"), 2, "ends in .nc for NetCDF-4, in .zarr for Zarr, or in .grib2"),
    (("compress", "in.nc", "latent.h5"), 2, "ends in .nc for NetCDF-4, in .zarr for Zarr, or in .grib2"),
    (("climatology", "in.nc", "climatology.netcdf"), 2, "ends in .nc for NetCDF-4, in .zarr for Zarr, or in .grib2"),
    (("generate", "--out", "-"), 2, "ends in .nc for NetCDF-4, in .zarr for Zarr, or in .grib2"),
    (("compress", "in.nc", "x.tif"), 2, "ends in .nc for NetCDF-4, in .zarr for Zarr, or in .grib2"),
    (("decompress", "in.nc", "x.grib1"), 2, "ends in .nc for NetCDF-4, in .zarr for Zarr, or in .grib2"),
    (("generate", "--out", "OUT.NC"), 2, "ends in .nc for NetCDF-4, in .zarr for Zarr, or in .grib2"),
    (("generate", "--members", "0"), 2, "Invalid value"),
    (("generate", "--members", "2", "--member-ids", "1"), 2, "give one of them"),
    (("generate", "--member-ids", "5-3"), 2, "expected numbers and rising ranges"),
    (("generate", "--steps", "many"), 2, "Invalid value"),
    (("generate", "--seed", "-1"), 2, "Invalid value"),
    (("generate", "--grid", "cubed"), 2, "found the grid 'cubed', expected native, training, like FILE, degrees"),
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


def test_help_has_examples_for_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("", "info", "verify", "compress", "decompress", "superres", "generate", "climatology"):
        assert main([*verb.split(), "--help"]) == 0
        assert "Examples:\n    fsae-run" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fsae-run, version {fsae.runtime.__version__}\n"
    assert main([]) == 2
