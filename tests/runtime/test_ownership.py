"""Folders of ours: they appear and go with their mark, whatever moment a process is killed at."""

import os
from pathlib import Path

import pytest

from fsae.runtime import ownership
from fsae.runtime.errors import OutputError
from fsae.runtime.ownership import MARK, check_ours, exchange, is_ours, make_folder, nonce_of, remove_folder, sweep


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_of_ours_comes_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert nonce_of(folder) is None
    nonce = make_folder(folder)
    assert (nonce_of(folder), names(folder), names(tmp_path)) == (nonce, [MARK], ["folder"])
    with pytest.raises(FileExistsError):
        make_folder(folder)
    (folder / "notes.txt").write_text("years of work")
    assert not remove_folder(folder, ("lock",))
    assert names(folder) == [MARK, "notes.txt"]
    (folder / "notes.txt").rename(folder / "lock")
    assert remove_folder(folder, ("lock",))
    assert names(tmp_path) == []


@pytest.mark.parametrize("mark", ["", "[]", "{}", '{"made_by": "fsae", "nonce": "1"}', "{" * 9000, None])
def test_other_marks_are_none(tmp_path: Path, mark: str | None) -> None:
    if mark is None:
        make_folder(tmp_path / "ours")
        (tmp_path / MARK).symlink_to(Path("ours") / MARK)
    else:
        (tmp_path / MARK).write_text(mark)
    assert not is_ours(tmp_path)
    with pytest.raises(OutputError, match="is a folder that fsae did not make: move it away"):
        check_ours(tmp_path)


@pytest.mark.parametrize("one_step", [True, False])
@pytest.mark.parametrize("killed", ["os.mkdir", "open", "rename"])
def test_a_killed_process_leaves_what_the_next_one_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str, one_step: bool
) -> None:  # oracle: a process that ends without a word after each of its steps, as by SIGKILL
    if not one_step:
        monkeypatch.setattr(ownership, "_rename", lambda source, target, flag: False)
    child = os.fork()
    if child == 0:
        holder, name = (os, "mkdir") if killed == "os.mkdir" else (ownership, "write_mark")
        if killed == "rename":
            name = "rename_new"
        done = getattr(holder, name)
        setattr(holder, name, lambda *given, **more: (done(*given, **more), os._exit(9)))
        make_folder(tmp_path / "folder")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (tmp_path / "folder").exists() == (killed == "rename")
    sweep(tmp_path)
    if killed == "rename":
        assert is_ours(tmp_path / "folder")
        assert remove_folder(tmp_path / "folder")
    assert names(tmp_path) == []
    make_folder(tmp_path / "folder")


def test_what_only_bears_such_a_name_keeps_it(tmp_path: Path) -> None:  # oracle: the names before
    mine = tmp_path / f".fsae-{'0' * 32}"
    mine.mkdir()
    (mine / "notes.txt").write_text("years of work")
    (tmp_path / f".fsae-{'1' * 32}").write_text("a file")
    (tmp_path / f".fsae-{'2' * 32}").symlink_to(mine)
    before = names(tmp_path)
    sweep(tmp_path, ("lock",))
    assert names(tmp_path) == before
    assert names(mine) == ["notes.txt"]


@pytest.mark.parametrize("one_step", [True, False])
def test_two_names_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_step: bool) -> None:
    if not one_step:
        monkeypatch.setattr(ownership, "_rename", lambda source, target, flag: False)
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "folder").mkdir()
    exchange(tmp_path / "file", tmp_path / "folder", tmp_path / "aside")
    assert (tmp_path / "folder").read_text() == "years of work"
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").is_dir()
