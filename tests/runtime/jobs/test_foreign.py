"""Files of others are left alone, links included, wherever an output, its folder or a file in it is to be written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from runs import SMALL, Command, Ensemble, interrupted_run
from small_output import layout_of

from fsae.runtime import ownership
from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.cli.main import main
from fsae.runtime.emulator import Emulator, write_climatology
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import OutputError
from fsae.runtime.jobs import resume
from fsae.runtime.jobs.job import Writing
from fsae.runtime.jobs.ledger import open_ledger
from fsae.runtime.output.layout import Unit
from fsae.runtime.output.selection import Selection
from fsae.runtime.output.target_grid import grid_like

FEW = Ensemble(members=2, steps=3, batch=2)
MODES = [(), ("--resume",), ("--overwrite",), ("--shard", "1/2")]


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below a folder: links by where they lead, files by content and time, folders by name."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name, status = str(path.relative_to(folder)), path.lstat()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = (path.read_bytes(), status.st_mtime_ns) if path.is_file() else status.st_mode
    return found


def _folder(path: Path, mine: Path) -> None:
    path.mkdir()
    (path / "chapter1.tex").write_text("years of work")
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (path / "run.json").write_text("{}")
    (path / "lock").write_text("mine")


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "folder": _folder,
    "empty folder": lambda path, mine: path.mkdir(),
    "file": lambda path, mine: path.write_text("years of work"),
    "link to a folder": lambda path, mine: path.symlink_to(mine),
    "link to a file": lambda path, mine: path.symlink_to(mine / "chapter1.tex"),
    "dangling link": lambda path, mine: path.symlink_to(mine / "nowhere"),
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's, elsewhere."""
    _folder(tmp_path / "mine", tmp_path)
    return tmp_path / "mine"


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("place", ["out.zarr", "out.nc", "out.zarr.partial", "out.nc.partial"])
def test_what_stands_in_the_way_stays(command: Command, tmp_path: Path, mine: Path, place: str, kind: str) -> None:
    # oracle: a snapshot of all that is there before
    PLANTED[kind](tmp_path / place, mine)
    before = snapshot(tmp_path)
    for more in MODES:
        said = command(*SMALL.words(tmp_path / place.removesuffix(".partial"), *more))
        assert said.code == OutputError.exit_code, said
        assert place in said.err.splitlines()[-1]
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", PLANTED)
def test_other_names_beside_the_output_are_nobody_elses_business(
    emulator: Emulator, tmp_path: Path, mine: Path, kind: str
) -> None:  # oracle: a snapshot of the user's things before
    names = ["out.zarr.replaced", "out.zarr.new", "out.zarr.lock", ".fsae-mine", ".fsae-" + "0" * 31]
    for name in names:
        PLANTED[kind](tmp_path / name, mine)
    before = snapshot(tmp_path)
    for overwrite in (False, True):
        SMALL.generate(emulator, tmp_path / "out.zarr", overwrite=overwrite, seed=int(overwrite))
        found = {name: was for name, was in snapshot(tmp_path).items() if not f"{name}/".startswith("out.zarr/")}
        assert found == before


@pytest.mark.parametrize(
    "inside", ["lock", "run.json", "fields.zarr", "shards", "fields.zarr/tas", "fields.zarr/tas/c"]
)
@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_links_in_our_own_folder_are_not_followed(
    emulator: Emulator, command: Command, tmp_path: Path, mine: Path, name: str, inside: str
) -> None:  # oracle: a snapshot of the folder that a link leads to
    interrupted_run(emulator, tmp_path / name, 4)
    place = tmp_path / f"{name}.partial" / inside
    target = mine if place.is_dir() else mine / "chapter1.tex"
    place.rename(tmp_path / "aside")
    place.symlink_to(target)
    before = snapshot(mine)
    for more in MODES:
        command(*SMALL.words(tmp_path / name, *more))
        assert snapshot(mine) == before


@pytest.mark.parametrize("name", ["theirs.zarr", "theirs.nc"])
def test_only_output_of_ours_is_replaced(emulator: Emulator, command: Command, tmp_path: Path, name: str) -> None:
    # oracle: what other programs write, from nothing or from our output, byte by byte
    data = xr.Dataset({"tas": ("x", np.arange(3.0))})
    ours = tmp_path / f"ours{Path(name).suffix}"
    SMALL.generate(emulator, ours)
    engine = "zarr" if name.endswith(".zarr") else "h5netcdf"
    with xr.open_dataset(ours, engine=engine) as found:
        again = found.load()

    def write(theirs: xr.Dataset) -> None:
        if engine == "zarr":
            theirs.to_zarr(tmp_path / name, mode="w", consolidated=False)
        else:
            theirs.to_netcdf(tmp_path / name, engine=engine)

    changed = again.assign_attrs(history="Mon Nov 2: cdo timmean in out\n" + again.attrs["history"])
    for theirs in (data, again, changed):
        write(theirs)
        before = snapshot(tmp_path)
        said = command(*SMALL.words(tmp_path / name, "--overwrite"))
        assert said.code == OutputError.exit_code, said
        assert "it is not replaced" in said.err
        assert snapshot(tmp_path) == before
    assert command(*SMALL.words(ours, "--overwrite")).code == 0


def test_nothing_that_a_command_reads_is_replaced(
    emulator: Emulator, command: Command, tmp_path: Path, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: a snapshot of all inputs; each is an output of ours, so that only its use protects it
    for name in ("fields.zarr", "fields.nc", "forcing.nc"):
        emulator.generate_file(tmp_path / name, Request(members=1, start="1990-01", steps=12))
    emulator.compress_file(tmp_path / "fields.nc", tmp_path / "latents.zarr", climatology="training")
    write_climatology(tmp_path / "fields.nc", tmp_path / "climatology.nc", model=tiny_bundle_path)
    os.link(tmp_path / "fields.nc", tmp_path / "hard.nc")
    (tmp_path / "soft.nc").symlink_to("fields.nc")
    (tmp_path / "folder").symlink_to(tmp_path)
    known = ("--climatology", "climatology.nc")
    before = snapshot(tmp_path)
    monkeypatch.chdir(tmp_path)
    for words in (
        ("compress", "fields.zarr", "fields.zarr", *known),
        ("compress", "fields.zarr", "folder/fields.zarr", *known),
        ("compress", "fields.zarr", "fields.zarr/tas.zarr", *known),
        ("compress", "fields.nc", "hard.nc", *known),
        ("compress", "soft.nc", "fields.nc", *known),
        ("compress", "fields.nc", "soft.nc", *known),
        ("compress", "f*.nc", "forcing.nc", *known),
        ("compress", "fields.nc", "climatology.nc", *known),
        ("superres", "fields.nc", "climatology.nc", "--zoom", "1", *known),
        ("decompress", "latents.zarr", "latents.zarr"),
        ("generate", "--forcing", "forcing.nc", "--start", "1990-01", "--out", "forcing.nc"),
        ("generate", "--initial", "fields.nc", *known, "--out", "fields.nc"),
        ("generate", "--initial", "fields.nc", *known, "--out", "climatology.nc"),
    ):
        for more in ((), ("--overwrite",)):
            said = command(*words, *more)
            assert said.code == OutputError.exit_code, (words, said)
            assert snapshot(tmp_path) == before, words
    for out in ("fields.nc", "hard.nc"):
        words = ["climatology", "fields.nc", out, "--overwrite", "--model", str(tiny_bundle_path)]
        assert main(words) == OutputError.exit_code
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("as_dataset", [False, True])
def test_the_file_that_the_grid_is_like_is_not_replaced(
    emulator: Emulator, tmp_path: Path, as_dataset: bool
) -> None:  # oracle: a snapshot; it is output of ours, so that only its use protects it
    path = tmp_path / "grid.nc"
    emulator.generate_file(path, Request(members=1, steps=1, select=Selection(grid="30")))
    with xr.open_dataset(path) as data:
        request = Request(members=1, steps=1, select=Selection(grid=grid_like(data if as_dataset else path)))
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match=r"grid\.nc is the grid's file: give another path"):
        emulator.generate_file(path, request, writing=Writing(overwrite=True))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("one_step", [True, False], ids=["one step", "by way of another name"])
@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_what_comes_while_an_output_is_made_stays(
    emulator: Emulator,
    tmp_path: Path,
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    one_step: bool,
) -> None:  # oracle: a snapshot of what came at the last moment, after all checks; the output can be had afterwards
    out, publish = tmp_path / name, resume.publish
    if not one_step:  # as of file systems that cannot rename with a condition, nor exchange two names
        monkeypatch.setattr(ownership, "_rename", lambda source, target, flag: False)
    for overwrite in (False, True):
        before: list[dict[str, object]] = []

        def planted(*given: Any, before: list[dict[str, object]] = before) -> None:
            if out.exists():
                out.rename(tmp_path / f"earlier-{name}")
            PLANTED[kind](out, mine)
            before.append(
                {key: was for key, was in snapshot(tmp_path).items() if not key.startswith(f"{name}.partial")}
            )
            publish(*given)

        if overwrite:
            FEW.generate(emulator, out, seed=1)
        with monkeypatch.context() as patch:
            patch.setattr(resume, "publish", planted)
            with pytest.raises(OutputError, match=rf"{name} exists.*; 6 of 6 fields are kept"):
                FEW.generate(emulator, out, overwrite=overwrite)
        found = snapshot(tmp_path)
        assert {key: was for key, was in found.items() if not key.startswith(f"{name}.partial")} == before[0]
        shutil.rmtree(out) if out.is_dir() and not out.is_symlink() else out.unlink()
        FEW.generate(emulator, out, resume=True)
        shutil.rmtree(out) if out.is_dir() else out.unlink()


@pytest.mark.parametrize("place", [".", "fields.zarr", "fields.zarr/tas/c"])
def test_what_somebody_put_in_our_folder_stays(
    emulator: Emulator, command: Command, tmp_path: Path, place: str
) -> None:  # oracle: the file itself
    interrupted_run(emulator, tmp_path / "out.zarr", 4)
    notes = tmp_path / "out.zarr.partial" / place / "notes.txt"
    notes.write_text("years of work")
    command(*SMALL.words(tmp_path / "out.zarr", "--seed", "4", "--overwrite"))
    command(*SMALL.words(tmp_path / "out.zarr", "--resume"))
    assert [path.read_text() for path in tmp_path.rglob("notes.txt")] == ["years of work"]


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("place", ["out.nc", "out.zarr", "out.nc.partial", "out.zarr.partial"])
def test_a_climatology_spares_them_too(
    source_fields: Path, tmp_path: Path, mine: Path, tiny_bundle_path: Path, place: str, kind: str
) -> None:  # oracle: a snapshot of all that is there before
    PLANTED[kind](tmp_path / place, mine)
    before = snapshot(tmp_path)
    for more in ((), ("--overwrite",)):
        out = tmp_path / place.removesuffix(".partial")
        words = ["climatology", str(source_fields), str(out), *more, "--model", str(tiny_bundle_path)]
        assert main(words) == OutputError.exit_code
        assert snapshot(tmp_path) == before


@pytest.fixture(scope="module")
def source_fields(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of fields."""
    path = tmp_path_factory.mktemp("fields") / "fields.nc"
    emulator = Emulator(tiny_bundle, OnnxGraphs(tiny_bundle, threads=1))
    emulator.generate_file(path, Request(members=1, start="1990-01", steps=12))
    return path


def test_data_that_xarray_opened_protects_its_file(emulator: Emulator, source_fields: Path, tmp_path: Path) -> None:
    # oracle: the bytes before
    path = Path(shutil.copy(source_fields, tmp_path / "in.nc"))
    before = path.read_bytes()
    with (
        xr.open_dataset(path, engine="h5netcdf") as data,
        pytest.raises(OutputError, match=r"in\.nc is the input: give another path"),
    ):
        emulator.compress_file(data, path, climatology="training", writing=Writing(overwrite=True))
    assert path.read_bytes() == before


def test_a_pipe_in_the_place_of_metadata_is_not_waited_for(command: Command, tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    os.mkfifo(tmp_path / "out.zarr" / "zarr.json")
    os.mkfifo(tmp_path / "out.nc")
    for name in ("out.zarr", "out.nc"):
        for more in MODES:
            assert command(*SMALL.words(tmp_path / name, *more)).code == OutputError.exit_code


@pytest.mark.parametrize(
    "name", ["..", "here/..", "loop/out.zarr", "long" * 70 + ".zarr", "loop.zarr", "file/out.zarr", "../here"]
)
def test_paths_that_are_no_place_for_an_output(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # oracle: a sentence and an exit code of the table, and everything as before
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "loop").symlink_to("loop")
    (tmp_path / "here" / "loop.zarr").symlink_to("loop.zarr")
    (tmp_path / "here" / "file").write_text("years of work")
    monkeypatch.chdir(tmp_path / "here")
    before = snapshot(tmp_path)
    for more in MODES:
        said = command(*SMALL.words(Path(name), *more))
        assert said.code in (2, OutputError.exit_code), said
        assert "should not" not in said.err
        assert snapshot(tmp_path) == before


def test_no_link_is_followed_that_takes_the_place_of_a_ledger_file(tmp_path: Path) -> None:
    # oracle: the content of the file it leads to; the link comes when the run has been looked at already
    folder, mine = tmp_path / "shard", tmp_path / "mine"
    folder.mkdir()
    mine.write_bytes(b"mine")
    ledger = open_ledger(folder, tmp_path / "fields", layout_of())
    state = np.zeros(3, np.float32)
    unit = Unit(members=slice(0, 1), times=slice(0, 1), values=np.zeros((1, 1, 1, 1), np.float32), state=state)
    for name in ("units.log", "states/0-1.npy"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(mine)
        with pytest.raises(OSError, match=r"[Ll]ink"):
            ledger.record(unit, {0: ("",)})
        assert mine.read_bytes() == b"mine"
        (folder / name).unlink()
