"""Every exit code of every command: what is wrong gets its code, one sentence at the end of stderr, and no files.

CASES holds the wrong words that each command can be given cheaply. Elsewhere: 2 to 5 of `fsae-run` in all their forms,
6, and 7 of a full disk, in the other files of this folder; 2, 3, 4, 6 and 7 of `fsae-export` in test_cli_export.py,
test_upgrade.py and test_triton.py; 5 of `fsae-train` in test_cli_train.py; 3 and 4 of `doctor` in test_doctor.py; 75,
training stopped, in test_scale.py (test_sigterm_ends_all_processes_and_one_device_goes_on) and a run interrupted, in
test_generate.py; 130, interrupted, in test_start.py and test_upgrade.py.
"""

import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from processes import run_blocked
from tiny_bundle import make_tiny_bundle, tiny_manifest

from fsae.export.cli import main as export_cli
from fsae.runtime import errors
from fsae.runtime.bundle.exported import remember
from fsae.runtime.bundle.files import fingerprint, write_manifest
from fsae.runtime.cli import main as run_cli
from fsae.runtime.cli.start import INTERRUPTED
from fsae.runtime.errors import FsaeError
from fsae.training.cli import main as train_cli

ROOT = Path(__file__).parents[3]
MAINS = {"fsae-run": run_cli.main, "fsae-export": export_cli.main, "fsae-train": train_cli.main}
# The arguments of each verb of `fsae-run`, its output in place of OUT.
VERBS = {
    "info": "",
    "verify": "",
    "doctor": "",
    "compress": "fields.nc OUT.zarr",
    "decompress": "latents.zarr OUT.nc",
    "superres": "fields.nc OUT.zarr --zoom 1 --climatology training",
    "generate": "--members 1 --steps 1 --out OUT.zarr",
    "climatology": "fields.nc OUT.nc",
    "plot": "fields.nc --out OUT.png",
    "score": "fields.nc fields.nc --json OUT.json",
    "fetch": "engines/tiny",
}
BUNDLED = [verb for verb in VERBS if verb not in ("plot", "score", "fetch")]  # what reads a bundle
COMPUTING = ("compress", "decompress", "superres", "generate")
WRITING = (*COMPUTING, "climatology")
FIGURES = {  # subcommands of fsae-train that take --json, with what they need beside it
    "evaluate": "",
    "hindcast": "",
    "decades": "",
    "samplers": "",
    "sources": "run",
    "superres": "model in.nc",
    "compare": "run",
}
MODELS = ("evaluate nowhere", "hindcast nowhere", "decades nowhere", "samplers nowhere", "superres nowhere in.nc")
Case = tuple[str, int, str]


def each(verbs: Iterable[str], options: str, code: int, words: str, out: str = "out") -> list[Case]:
    """A case for each verb of `fsae-run`, with the same options, code and words of its error."""
    return [(f"fsae-run {verb} {VERBS[verb].replace('OUT', out)} {options}", code, words) for verb in verbs]


CASES = [
    *each(("info", "verify", "doctor", "generate"), "--model tiny", 0, ""),
    *each(VERBS, "--nonsense", 2, "No such option '?--nonsense"),
    *each(("verify", *COMPUTING), "--device trt", 3, "device trt"),
    *each(BUNDLED, "--model nowhere", 4, "found no bundle 'nowhere'"),
    *each(BUNDLED, "--model damaged", 4, "not JSON"),
    *each(("compress", "superres", "climatology"), "--model tiny", 5, "fields.nc is neither NetCDF nor Zarr"),
    *each(("plot", "score"), "", 5, "fields.nc is neither NetCDF nor Zarr"),
    *each(("decompress",), "--model tiny", 5, "latents.zarr is a folder but not a Zarr store"),
    *each(("generate",), "--model tiny --forcing fields.nc", 5, "fields.nc"),
    *each(("generate",), "--model tiny --initial fields.nc", 5, "fields.nc"),
    *each(("verify",), "--model other-golden-vectors", 6, "misses the golden vectors.* the decoder by 1 K"),
    *each((*WRITING, "plot", "score"), "", 7, r"there\.\w+ exists: give another path or --overwrite", out="there"),
    *each((*WRITING, "plot", "score"), "", 7, "there is no folder .*nowhere", out="nowhere/out"),
    ("fsae-run fetch https://127.0.0.1/tiny", 2, "a URL without a hash"),
    ("fsae-run fetch nowhere", 4, "nowhere is not a bundle"),
    ("fsae-run fetch engines/tiny --name default", 7, "default is the name of a bundle that comes with fsae"),
    ("fsae-export nowhere", 4, "found no bundle 'nowhere'"),
    ("fsae-export engines/damaged --trt", 4, "not JSON"),
    ("fsae-export engines/tiny --triton there.nc", 7, "there.nc is a file, expected a folder"),
    *((f"fsae-train {name} --nonsense", 2, "No such option '?--nonsense") for name in sorted(train_cli.cli.commands)),
    *((f"fsae-train {words}", 4, "nowhere") for words in MODELS),
    *((f"fsae-train {name} {words} --json nowhere/x.json", 7, "no folder nowhere") for name, words in FIGURES.items()),
    ("fsae-train CONFIG --out there.nc", 7, "there.nc"),
]
CONFIG = ROOT / "training" / "configs" / "default.toml"  # beside its sample data


@pytest.fixture
def here(tmp_path: Path, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with bundles, whole and not, with input that is no data, and with outputs that are there."""
    engines = tmp_path / "engines"
    shutil.copytree(tiny_bundle_path, engines / "tiny")
    shutil.copytree(tiny_bundle_path, engines / "damaged")
    (engines / "damaged" / "manifest.json").write_text('{"schema_version": 2, ')
    other = make_tiny_bundle(engines / "other-golden-vectors")
    golden = dict(np.load(other / "golden.npz"))
    golden["decoder.field"] += 1.0
    np.savez(other / "golden.npz", **golden)
    write_manifest(other, tiny_manifest())
    for folder in engines.iterdir():
        remember(fingerprint(folder))
    (tmp_path / "fields.nc").write_text("not data")
    (tmp_path / "latents.zarr").mkdir()
    (tmp_path / "there.nc").write_text("somebody's work")
    (tmp_path / "there.png").write_text("somebody's work")
    (tmp_path / "there.json").write_text("somebody's work")
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "there.zarr" / "zarr.json").write_text("somebody's work")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # what a missing package looks like to import
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with a file's content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(("line", "code", "words"), CASES, ids=[f"{code} {line}" for line, code, _ in CASES])
def test_exit_codes(here: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, words: str) -> None:
    # oracle: the table in README.md, which the test below holds to the classes of errors
    before = contents(here)
    program, *arguments = (str(CONFIG) if word == "CONFIG" else word for word in line.split())
    assert MAINS[program](arguments) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    if code == 0:
        assert out
        assert "error" not in err
        return
    assert contents(here) == before
    assert "doctor" in arguments or not out
    check_last_line(program, err, words)


def check_last_line(program: str, err: str, words: str) -> None:
    """The last line of stderr, and no other, is the error's sentence: it holds `words`."""
    *others, last = err.splitlines()
    form = rf"(Error|{program}: error|{program}): (?P<sentence>\S.*)"
    found = re.fullmatch(form, last)
    assert found is not None, err
    assert re.search(words, found["sentence"]), err
    assert not [line for line in others if re.match(rf"Error|{program}: error|Traceback", line)], err


def test_training_without_its_libraries(here: Path) -> None:  # oracle: an interpreter that cannot import them
    before = contents(here)
    done = run_blocked(module="fsae.training.cli.main")
    assert done.returncode == 3, done.stderr
    check_last_line("fsae-train", done.stderr, r'is not installed: pip install "fsae\[train\]"')
    assert contents(here) == before


def test_exporting_a_run_whose_data_are_gone(
    here: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the table in README.md
    shutil.copytree(run_folder, here / "run")
    shutil.rmtree(here / "run" / "data.zarr")
    before = contents(here)
    assert export_cli.main(["run"]) == 5
    check_last_line("fsae-export", capsys.readouterr().err, "data.zarr")
    assert contents(here) == before


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        (None, "is missing or empty"),
        ("scale", "lacks scale, expected"),
        ("climatology", "lacks climatology, expected"),
        ("latent_season_std", "lacks latent_season_std, expected"),
    ],
)
def test_exporting_a_run_without_its_tables(
    here: Path, run_folder: Path, dropped: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the table in README.md, and what was taken away
    path = shutil.copytree(run_folder, here / "run") / "statistics.npz"
    with np.load(path) as tables:
        kept = {name: tables[name] for name in tables.files if name != dropped}
    path.unlink()
    if dropped is not None:
        np.savez(path, **kept)
    before = contents(here)
    assert export_cli.main(["run"]) == 5
    check_last_line("fsae-export", capsys.readouterr().err, rf"run/statistics\.npz {words}")
    assert contents(here) == before


def test_too_little_memory(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: what NumPy raises
    from fsae.runtime import emulator

    def too_large(*arguments: object, **options: object) -> None:
        raise MemoryError("Unable to allocate 1 TiB")

    monkeypatch.setattr(emulator, "generate_job", too_large)
    before = contents(here)
    assert run_cli.main(["--model", "tiny", "--device", "cpu", "generate", *VERBS["generate"].split()]) == 1
    check_last_line("fsae-run", capsys.readouterr().err, "not enough memory: give a smaller --batch")
    assert contents(here) == before


def test_all_verbs_are_in_the_table() -> None:  # oracle: the command itself
    assert set(VERBS) == set(run_cli.cli.commands)


def classes(base: type[FsaeError] = FsaeError) -> dict[str, int]:
    """Exit codes of all our errors by name."""
    found = {base.__name__: base.exit_code}
    for error in base.__subclasses__():
        if error.__module__ == errors.__name__:
            found |= classes(error)
    return found


def table(text: str, row: str) -> list[tuple[str, ...]]:
    """The groups that the pattern `row` finds in each line of a text."""
    return [found.groups() for line in text.splitlines() if (found := re.fullmatch(row, line)) is not None]


def test_the_table_in_the_readme_is_that_of_the_classes() -> None:  # oracle: `exit_code` of the classes
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Exit codes\n")[1].split("\n## ")[0]
    rows = table(section, r"\| (\d+) \| (?:`(\w+)`)? ?\| (.+) \|")
    codes = [int(code) for code, _, _ in rows]
    assert codes == sorted(set(codes))
    assert {name: int(code) for code, name, _ in rows if name and name != "KeyboardInterrupt"} == classes()
    others = {int(code): name for code, name, _ in rows if name not in classes()}
    assert others == {0: None, INTERRUPTED: "KeyboardInterrupt"}
    assert INTERRUPTED == 130
    assert {code for _, code, _ in CASES} <= set(codes)


def test_the_tree_in_the_module_is_that_of_the_classes() -> None:  # oracle: `exit_code` of the classes
    rows = table(errors.__doc__ or "", r"    [├└]── (\w+) +(\d+) +\S.*")
    assert {name: int(code) for name, code in rows} == {k: v for k, v in classes().items() if k != "FsaeError"}
