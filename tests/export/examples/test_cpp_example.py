"""The C++ program of export/examples, built here, gives the results of the runtime."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import fsae.runtime
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.ensemble.request import Request

EXAMPLES = Path(__file__).parents[3] / "export" / "examples"
WRAPPER = "onnxruntime_cxx_api.h"
FIELD_ATOL_K = 1e-4  # what is promised; found: 3.1e-5, one unit in the last place of 300 K
LATENT_ATOL = 1e-5  # dimensionless, of about unit size


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, timeout=300)


def find_headers(folder: Path) -> Path:
    """The folder with the headers of ONNX Runtime: the one that is named, else out of the package of headers.txt."""
    if "ONNXRUNTIME_INCLUDE" in os.environ:
        return Path(os.environ["ONNXRUNTIME_INCLUDE"])
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    done = run(*pip, "--dest", folder, "--requirement", EXAMPLES / "headers.txt")
    if done.returncode:
        why = (done.stderr.strip() or "no reason").splitlines()[-1]
        pytest.skip(f"the headers of ONNX Runtime are not there and cannot be downloaded: {why}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if "/onnxruntime_" in name])
    return next(folder.rglob(WRAPPER)).parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built by CMake, or by g++ alone where there is no CMake."""
    folder = tmp_path_factory.mktemp("cpp")
    libraries = list(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"))
    if not libraries:
        pytest.skip("this onnxruntime has no shared library to link with")
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    headers = find_headers(folder)
    (folder / "build").mkdir()
    flags = ["-O0", "-Wall", "-Wextra", "-Werror"]  # compiled once, run for a second
    if shutil.which("cmake"):
        settings = [f"-DONNXRUNTIME_INCLUDE={headers}", f"-DONNXRUNTIME_LIBRARY={libraries[0]}"]
        settings += ["-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_FLAGS={' '.join(flags)}"]
        done = run("cmake", "-S", EXAMPLES, "-B", folder / "build", *settings)
        if "Could NOT find ZLIB" in done.stderr:
            pytest.skip("there are no headers of zlib")
        assert done.returncode == 0, done.stderr
        done = run("cmake", "--build", folder / "build")
    else:
        (folder / "build" / "libonnxruntime.so.1").symlink_to(libraries[0])
        out = ["-isystem", headers, EXAMPLES / "main.cpp", "-o", folder / "build" / "fsae_example", libraries[0], "-lz"]
        done = run("c++", "-std=c++17", *flags, *out, f"-Wl,-rpath,{folder / 'build'}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "fsae_example"


@pytest.mark.parametrize("which", ["default_bundle", "tiny_bundle", "other_bundle"])
def test_it_agrees_with_the_runtime(which: str, request: pytest.FixtureRequest, program: Path, tmp_path: Path) -> None:
    # oracle: the Python runtime, for a window of member 3 of seed 7 that crosses a year, and its last field and latent
    bundle: Bundle = request.getfixturevalue(which)
    emulator = fsae.runtime.load(bundle.folder, device="cpu")
    assert bundle.manifest.denoiser is not None
    steps = bundle.manifest.denoiser.window
    names = [variable.name for variable in bundle.manifest.variables]
    ensemble = emulator.generate(Request(members=[3], start="2003-11", steps=steps, seed=7)).isel(
        realization=0, drop=True
    )
    latents = emulator.compress(ensemble, climatology="training")
    fields = emulator.decompress(latents)

    done = run(program, bundle.folder, "generate", tmp_path / "window", "3", "7", "2003-11")
    assert done.returncode == 0, done.stderr
    expected = np.stack([ensemble[name].values for name in names], axis=1)  # (time, variable, pixel)
    found = np.fromfile(tmp_path / "window", dtype="<f4").reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=FIELD_ATOL_K)

    phase = repr(float(latents["year_phase"].values[-1]))
    expected[-1].astype("<f4").tofile(tmp_path / "field")
    done = run(program, bundle.folder, "compress", tmp_path / "field", tmp_path / "latent", phase)
    assert done.returncode == 0, done.stderr
    expected = np.stack([latents[name].values[-1] for name in names])
    found = np.fromfile(tmp_path / "latent", dtype="<f4").reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=LATENT_ATOL)

    expected.astype("<f4").tofile(tmp_path / "latent")
    done = run(program, bundle.folder, "decompress", tmp_path / "latent", tmp_path / "back", phase)
    assert done.returncode == 0, done.stderr
    expected = np.stack([fields[name].values[-1] for name in names])
    found = np.fromfile(tmp_path / "back", dtype="<f4").reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=FIELD_ATOL_K)


def test_mistakes_are_one_sentence(program: Path, tiny_bundle_path: Path, tmp_path: Path) -> None:
    def refused(*words: str | Path) -> str:
        done = run(program, *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        return done.stderr

    tiny, field, latent = tiny_bundle_path, tmp_path / "field", tmp_path / "latent"
    field.write_bytes(bytes(8))
    assert f"{field} holds 8 bytes, expected 1536" in refused(tiny, "compress", field, latent, "0.5")
    assert "cannot read" in refused(tiny, "compress", tmp_path / "nothing", latent, "0.5")
    field.write_bytes(bytes(1536))
    assert "found the phase 1.5, expected 0 to 1" in refused(tiny, "compress", field, latent, "1.5")
    assert "found '0.5x', expected 0 or more" in refused(tiny, "compress", field, latent, "0.5x")
    assert "expected a month such as 2005-01" in refused(tiny, "generate", field, "3", "7", "2005-13")
    assert not latent.exists()

    copy = shutil.copytree(tiny, tmp_path / "copy")
    text = (copy / "manifest.json").read_text(encoding="utf-8")
    (copy / "manifest.json").write_text(text.replace('"schema_version": 2', '"schema_version": 99'), encoding="utf-8")
    assert "newer schema version" in refused(copy, "compress", field, latent, "0.5")
    (copy / "manifest.json").write_text(text[:-40], encoding="utf-8")
    assert "manifest.json is damaged at byte" in refused(copy, "compress", field, latent, "0.5")
    (copy / "manifest.json").write_text(text, encoding="utf-8")
    tables = (copy / "tables.npz").read_bytes()
    at = tables.index(b"latent_cell_std.npy") + 150  # inside the packed numbers
    (copy / "tables.npz").write_bytes(tables[:at] + bytes([tables[at] ^ 1]) + tables[at + 1 :])
    assert "tables.npz cannot be used: an entry is damaged" in refused(copy, "generate", field, "3", "7", "2005-01")
    assert run(program, tiny, "dream", field).returncode == 2
