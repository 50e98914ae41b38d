"""libfsae of export/examples/native, built and installed here, gives the results of the runtime, also in Fortran."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libfsae
import numpy as np
import onnxruntime
import pytest
import xarray as xr
from libfsae import RefusedError
from msgspec.structs import replace
from tiny_bundle import PIXELS, VARIABLES

import fsae.runtime
from fsae.runtime.bundle.files import Bundle, shipped_folder, write_manifest
from fsae.runtime.ensemble.request import Request

SOURCES = Path(__file__).parents[3] / "export" / "examples" / "native"
WRAPPER = "onnxruntime_cxx_api.h"
FIELD_ATOL_K = 1e-4  # what is promised; found: 3.1e-5, one unit in the last place of 300 K
LATENT_ATOL = 1e-5  # dimensionless, of about unit size
WARNINGS = "-O0 -Wall -Wextra -Werror"  # compiled once, run for seconds


def run(*words: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [*map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **settings)


def said_by(*words: str | Path, **settings: Any) -> str:
    """The output of a command that must succeed."""
    done = run(*words, **settings)
    assert done.returncode == 0, (words, done.stdout + done.stderr)
    return done.stdout


def find_headers(folder: Path) -> Path:
    """The folder with the headers of ONNX Runtime: the one that is named, else out of the package of headers.txt."""
    if "ONNXRUNTIME_INCLUDE" in os.environ:
        return Path(os.environ["ONNXRUNTIME_INCLUDE"])
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    done = run(*pip, "--dest", folder, "--requirement", SOURCES / "headers.txt")
    if done.returncode:
        why = (done.stderr.strip() or "no reason").splitlines()[-1]
        pytest.skip(f"the headers of ONNX Runtime are not there and cannot be downloaded: {why}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if "/onnxruntime_" in name])
    return next(folder.rglob(WRAPPER)).parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the library, its Fortran module and the program are installed in."""
    folder = tmp_path_factory.mktemp("native")
    libraries = list(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"))
    if not libraries:
        pytest.skip("this onnxruntime has no shared library to link with")
    if not (shutil.which("c++") and shutil.which("cmake")):
        pytest.skip("there is no C++ compiler or no CMake here: apt-get install g++ cmake")
    settings = {
        "ONNXRUNTIME_INCLUDE": find_headers(folder),
        "ONNXRUNTIME_LIBRARY": libraries[0],
        "CMAKE_BUILD_TYPE": "None",
        "CMAKE_CXX_FLAGS": WARNINGS,
        "CMAKE_Fortran_FLAGS": f"-std=f2018 -pedantic {WARNINGS}",
        "CMAKE_INSTALL_PREFIX": folder / "installed",
    }
    given = [f"-D{name}={value}" for name, value in settings.items()]
    done = run("cmake", "-S", SOURCES, "-B", folder / "build", *given)
    for package in ("nlohmann_json", "OpenSSL", "ZLIB"):
        if "Could" in done.stderr and package in done.stderr:
            pytest.skip(f"CMake does not find {package}: apt-get install nlohmann-json3-dev libssl-dev zlib1g-dev")
    assert done.returncode == 0, done.stderr
    said_by("cmake", "--build", folder / "build", "--parallel", "2")
    said_by("cmake", "--install", folder / "build")
    return folder / "installed"


@pytest.fixture(scope="module")
def library(installed: Path) -> Any:
    """The library, loaded into this process."""
    return libfsae.load(next(installed.glob("lib*/**/libfsae.so")))


@pytest.fixture
def opened(library: Any) -> Iterator[Any]:
    """A function that opens a bundle of a folder; all models are closed at the end."""
    models: list[libfsae.Model] = []

    def one(folder: Path, precision: str | None = None, threads: int = 1) -> libfsae.Model:
        models.append(libfsae.Model(library, folder, precision, threads))
        return models[-1]

    yield one
    for model in models:
        model.close()


def stacked(dataset: xr.Dataset, emulator: fsae.runtime.Emulator) -> np.ndarray:
    """The fields or latents (step, variable, pixel) of a dataset."""
    return np.stack([dataset[variable.name].values for variable in emulator.bundle.manifest.variables], axis=1)


def test_the_default_bundle_agrees_with_the_runtime(opened: Any) -> None:
    # oracle: the Python runtime, for two windows that cross a year, their latents, and the distilled denoiser
    folder = shipped_folder() / "default"
    emulator, model = fsae.runtime.load(folder, device="cpu"), opened(folder, "fp32", 2)
    asked = {"members": [3], "start": "2003-11", "steps": 8, "seed": 7, "alone": True}
    ensemble = emulator.generate(Request(**asked))
    expected = stacked(ensemble, emulator)
    found = model.draw("2003-11", 8, member=3, seed=7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=FIELD_ATOL_K)
    fast = emulator.generate(Request(**{**asked, "steps": 2, "sampler": "fast"}))
    found = model.draw("2003-11", 2, member=3, seed=7, fast=1)
    np.testing.assert_allclose(found, stacked(fast, emulator), rtol=0, atol=FIELD_ATOL_K)

    latents = emulator.compress(ensemble, climatology="training")
    phases = np.array([model.phase(str(stamp)[:10]) for stamp in latents["time"].values])
    np.testing.assert_allclose(phases, latents["year_phase"].values, rtol=0, atol=1e-12)
    found = model.encode(phases, expected)
    np.testing.assert_allclose(found, stacked(latents, emulator), rtol=0, atol=LATENT_ATOL)
    back = stacked(emulator.decompress(latents), emulator)
    np.testing.assert_allclose(model.decode(phases, found), back, rtol=0, atol=FIELD_ATOL_K)


STEPS = [
    ("1 month", "standard", "time: mean", "dpm2m", "2003-11-30"),
    ("1 day", "noleap", "area: mean time: maximum", "euler", "2004-02-27"),
    ("6 hours", "proleptic_gregorian", "time: point", "heun", "2000-12-31T20:59"),
    ("5 hours", "360_day", "time: point", "euler", "1990-02-30T07:30:10"),
    ("30 minutes", "gregorian", "time: point", "euler", "2000-03-01 00:29"),
    ("3 months", "julian", "time: mean", "euler", "1989-12"),
    ("1 year", "all_leap", "time: mean", "euler", "1990-07"),
]


@pytest.mark.parametrize(("step", "calendar", "methods", "sampler", "start"), STEPS)
def test_other_steps_and_calendars(
    step: str,
    calendar: str,
    methods: str,
    sampler: str,
    start: str,
    opened: Any,
    other_bundle: Bundle,
    tmp_path: Path,
) -> None:
    # oracle: the Python runtime; seven steps are two windows and a part of one. A forcing of one's own, and known steps
    folder, manifest = shutil.copytree(other_bundle.folder, tmp_path / "other"), other_bundle.manifest
    assert manifest.sampler is not None
    changed = replace(
        manifest,
        variables=tuple(replace(v, cell_methods=methods) for v in manifest.variables),
        time=replace(manifest.time, calendar=calendar, step=step),
        sampler=replace(manifest.sampler, name=sampler),
    )
    write_manifest(folder, changed)
    emulator, model = fsae.runtime.load(folder, device="cpu"), opened(folder)
    request = Request(members=[2**40], start=start, steps=7, seed=2**63 + 5, alone=True)
    ensemble = emulator.generate(request)
    found = model.draw(start, 7, member=2**40, seed=2**63 + 5)
    np.testing.assert_allclose(found, stacked(ensemble, emulator), rtol=0, atol=FIELD_ATOL_K)

    forced = Request(members=[0], steps=4, forcing=1999.5, initial=ensemble, climatology="training", alone=True)
    expected = emulator.generate(forced)
    after = json.loads(expected.attrs["fsae_request"])["start"]
    initial = stacked(ensemble, emulator)[-model.facts.previous :]
    found = model.draw(after, 4, forcing=np.full(4, 1999.5), initial=initial)
    np.testing.assert_allclose(found, stacked(expected, emulator), rtol=0, atol=FIELD_ATOL_K)


def test_threads_share_a_model(opened: Any, tiny_bundle_path: Path) -> None:  # oracle: the same draws, one by one
    alone = opened(tiny_bundle_path)
    expected = [alone.draw("2003-11", 5, member=member) for member in range(8)]
    shared = opened(tiny_bundle_path, threads=2)  # its graphs are loaded while the threads ask for them
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda member: shared.draw("2003-11", 5, member=member), range(8)))
    np.testing.assert_array_equal(found, expected)


def refusal(work: Any, *arguments: Any, **entries: Any) -> tuple[int, str]:
    """The status and the sentence of a call that must fail."""
    with pytest.raises(RefusedError) as caught:
        work(*arguments, **entries)
    assert caught.value.sentence.isprintable()
    return caught.value.status, caught.value.sentence


def test_mistakes_have_a_status_and_a_sentence(opened: Any, tiny_bundle_path: Path) -> None:
    # oracle: the exit codes of fsae-run
    model, phases = opened(tiny_bundle_path), np.array([0.5])
    fields = np.full((1, VARIABLES, PIXELS), 280.0, dtype=np.float32)
    fields[:, 1] = 1
    latents = model.encode(phases, fields)

    status, sentence = refusal(model.encode, phases, fields[..., :-1])
    assert (status, "found 382 numbers of fields, expected 1 steps of 384" in sentence) == (5, True), sentence
    status, sentence = refusal(model.decode, phases, latents[..., 1:])
    assert (status, "of latents" in sentence) == (5, True), sentence
    celsius = fields - 273
    status, sentence = refusal(model.encode, phases, celsius)
    assert (status, "hold tas = 7 at step 0, pixel 0" in sentence) == (5, True), sentence
    fields[0, 1, 5] = np.nan
    status, sentence = refusal(model.encode, phases, fields)
    assert (status, "uas = nan at step 0, pixel 5" in sentence) == (5, True), sentence
    status, sentence = refusal(model.decode, phases, latents + np.float32(1e4))
    assert (status, "the model gave tas" in sentence) == (6, True), sentence
    assert refusal(model.encode, np.array([1.5]), fields)[0] == 2
    assert refusal(model.phase, "2005-02-29") == (
        5,
        "found the date '2005-02-29', expected one of the calendar standard from 1583 on",
    )
    assert refusal(model.phase, "last year")[0] == 2
    assert refusal(model.draw, "2003-11", 4, member=-1)[0] == 2
    assert refusal(model.draw, "2003-11", 4, fast=1)[0] == 4
    status, sentence = refusal(model.draw, "2003-11", 4, forcing=np.full(4, 3000.0))
    assert (status, "found the forcing 3000" in sentence) == (2, True), sentence
    model.close()
    assert refusal(model.phase, "2005-01") == (2, "found no model, expected one that is not NULL")


def test_damaged_bundles_are_refused(opened: Any, tiny_bundle_path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle_path, tmp_path / "copy\n")
    status, sentence = refusal(opened, tmp_path / "nowhere")
    assert (status, "is it there" in sentence) == (4, True), sentence
    assert refusal(opened, copy, "fp16")[0] == 4
    assert refusal(opened, copy, "bf16")[0] == 4
    assert refusal(opened, copy, None, -1)[0] == 2

    manifest = (copy / "manifest.json").read_text(encoding="utf-8")
    for old, new, sentence in (
        (
            '"schema_version": 2',
            '"schema_version": 99',
            "the manifest has schema version 99, expected versions up to 2",
        ),
        ('"window": 3', '"window": -3', "window is -3, expected a whole number from 1 to 10000"),
        ('"zoom": 2', '"zoom": 40', "zoom is 40, expected a whole number from 0 to 12"),
        ('"harmonics"', '"harmonies"', "manifest.json is not as it should be"),
        ("}", "", "manifest.json is damaged at byte"),
    ):
        assert old in manifest
        (copy / "manifest.json").write_text(manifest.replace(old, new), encoding="utf-8")
        status, found = refusal(opened, copy)
        assert (status, sentence in found) == (4, True), found
    (copy / "manifest.json").write_text(manifest, encoding="utf-8")

    fields = np.full((1, VARIABLES, PIXELS), 1.0, dtype=np.float32)
    fields[:, 0] = 280
    for file, call in (("encoder.fp32.onnx", "encode"), ("tables.npz", "draw")):
        whole = (copy / file).read_bytes()
        (copy / file).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        model = opened(copy)
        arguments = (np.array([0.5]), fields) if call == "encode" else ("2003-11", 4)
        status, sentence = refusal(getattr(model, call), *arguments)
        assert (status, f"{file} is altered: its SHA-256 differs" in sentence) == (4, True), sentence
        (copy / file).write_bytes(whole[:-1])
        status, sentence = refusal(opened, copy)
        assert (status, f"found {len(whole) - 1} bytes, expected {len(whole)}" in sentence) == (4, True), sentence
        (copy / file).write_bytes(whole)


def test_the_fortran_program_post_processes_a_field(installed: Path, tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: the Python runtime, which wrote the file that the program reads; the program reads it by netCDF-Fortran
    if shutil.which("gfortran") is None or shutil.which("nf-config") is None:
        pytest.skip("there is no netCDF-Fortran here: apt-get install gfortran libnetcdff-dev")
    if shutil.which("pkg-config") is None:
        pytest.skip("there is no pkg-config here: apt-get install pkg-config")
    place = {"PKG_CONFIG_PATH": str(next(installed.glob("lib*/**/fsae.pc")).parent), "PATH": os.environ["PATH"]}
    flags = shlex.split(said_by("pkg-config", "--cflags", "--libs", "fsae", env=place))
    flags += shlex.split(said_by("nf-config", "--fflags")) + shlex.split(said_by("nf-config", "--flibs"))
    flags += [f"-Wl,-rpath,{flag[2:]}" for flag in flags if flag.startswith("-L")]
    source, program = Path(__file__).with_name("post_process.f90"), tmp_path / "post_process"
    said_by("gfortran", "-std=f2018", *WARNINGS.split(), "-o", program, "-J", tmp_path, source, *flags)

    emulator = fsae.runtime.load(tiny_bundle_path, device="cpu")
    emulator.generate_file(tmp_path / "fields.nc", Request(members=[1], start="2003-10", steps=4, seed=1, alone=True))
    done = run(program, tiny_bundle_path, tmp_path / "fields.nc", tmp_path / "out.nc")
    assert done.returncode == 4, done.stdout + done.stderr
    with xr.open_dataset(tmp_path / "fields.nc") as file:
        fields = file.load()
    latents = emulator.compress(fields, climatology="training")
    member = emulator.generate(
        Request(members=[3], steps=4, seed=7, initial=fields, climatology="training", alone=True)
    )
    with xr.open_dataset(tmp_path / "out.nc") as out:
        np.testing.assert_allclose(out["latents"], stacked(latents, emulator), rtol=0, atol=LATENT_ATOL)
        back = stacked(emulator.decompress(latents), emulator)
        np.testing.assert_allclose(out["back"], back, rtol=0, atol=FIELD_ATOL_K)
        np.testing.assert_allclose(out["member"], stacked(member, emulator), rtol=0, atol=FIELD_ATOL_K)
    assert done.stdout.splitlines() == [
        "5 found the date '2004-13', expected one of the calendar standard from 1583 on",
        "5 found fields of the shape (191, 2, 4), expected (192, 2, 4): pixels, variables and steps",
        "2 found an open model, expected a closed one: close it first",
        "2 found no model, expected one that is not NULL",
        "tiny, 1 month, tas, K",
    ]
    assert "fsae: cannot read /nowhere/manifest.json: is it there, and may you read it?" in done.stderr


def test_the_module_of_the_readme_compiles(installed: Path, tmp_path: Path) -> None:  # oracle: gfortran
    modules = list(installed.rglob("fsae.mod"))
    if not modules:
        pytest.skip("there is no Fortran compiler here: apt-get install gfortran")
    text = (SOURCES / "README.md").read_text(encoding="utf-8")
    (tmp_path / "output.f90").write_text(text.split("```fortran\n")[1].split("```")[0])
    flags = ["-std=f2018", *WARNINGS.split(), f"-I{modules[0].parent}", "-J", tmp_path, "-fsyntax-only"]
    said_by("gfortran", *flags, tmp_path / "output.f90")


def test_a_program_in_c_finds_the_package(installed: Path, tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: the manifest; CMake finds headers and library, and the compiler takes fsae.h as strict C99
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(client LANGUAGES C)\nset(CMAKE_C_STANDARD 99)\n"
        "set(CMAKE_C_EXTENSIONS OFF)\nfind_package(fsae 0.1 REQUIRED)\n"
        f"add_executable(client {Path(__file__).with_name('client.c')})\ntarget_link_libraries(client fsae::fsae)\n"
    )
    settings = [f"-DCMAKE_PREFIX_PATH={installed}", f"-DCMAKE_C_FLAGS=-pedantic {WARNINGS}"]
    said_by("cmake", "-S", tmp_path, "-B", tmp_path / "build", *settings)
    said_by("cmake", "--build", tmp_path / "build")
    client = tmp_path / "build" / "client"
    assert said_by(client, tiny_bundle_path) == "tiny fp32 2 192 48\nuas [m s-1] 100\n"
    done = run(client, tmp_path)
    assert (done.returncode, done.stdout) == (4, "")


def test_the_program_converts_raw_files(installed: Path, tiny_bundle_path: Path, opened: Any, tmp_path: Path) -> None:
    # oracle: the library, whose results the program writes; each mistake is one sentence, and the status its exit code
    program, model = installed / "bin" / "fsae_example", opened(tiny_bundle_path)
    drawn, latent, back = tmp_path / "drawn", tmp_path / "latent", tmp_path / "back"
    assert said_by(program, tiny_bundle_path, "describe").splitlines()[1] == "tas [K] air_temperature, time: mean"
    said_by(program, tiny_bundle_path, "generate", drawn, "3", "7", "2003-12", "1")
    said_by(program, tiny_bundle_path, "compress", drawn, latent, "2003-12")
    said_by(program, tiny_bundle_path, "decompress", latent, back, "2003-12")
    fields, phases = model.draw("2003-12", 1, member=3, seed=7), np.array([model.phase("2003-12")])
    latents = model.encode(phases, fields)
    for path, expected in ((drawn, fields), (latent, latents), (back, model.decode(phases, latents))):
        np.testing.assert_array_equal(np.fromfile(path, "<f4"), expected.ravel())

    drawn.write_bytes(bytes(8))
    for status, words, sentence in (
        (5, ("compress", drawn, latent, "2003-12"), "found 2 numbers of fields, expected 1 steps of 384"),
        (5, ("compress", tmp_path / "nothing", latent, "2003-12"), "cannot read"),
        (2, ("generate", drawn, "3", "7x", "2003-12", "1"), "found '7x', expected 0 or more"),
        (7, ("generate", tmp_path / "no" / "where", "3", "7", "2003-12", "1"), "cannot write"),
        (2, ("dream", drawn), "usage: "),
    ):
        done = run(program, tiny_bundle_path, *words)
        assert (done.returncode, done.stdout) == (status, "")
        assert sentence in done.stderr
