"""Files that are written aside and renamed."""

from pathlib import Path

import pytest

from fsae.runtime.atomic import write_aside


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:  # oracle: the folder
    path = tmp_path / "table.json"
    for text in ("old", "new"):
        with write_aside(path) as aside:
            aside.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_alone(tmp_path: Path, error: type[BaseException]) -> None:  # oracle: the folder
    path = tmp_path / "table.json"
    path.write_text("old")

    def fail() -> None:
        with write_aside(path) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("table.json", "old")]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:  # oracle: the last one to finish wins, whole
    with write_aside(tmp_path / "one") as first, write_aside(tmp_path / "one") as second:
        first.write_text("first")
        second.write_text("second")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["first"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_nothing_but_a_file_is_replaced(tmp_path: Path, kind: str) -> None:  # oracle: what is there before
    path, mine = tmp_path / "record.json", tmp_path / "mine.txt"
    mine.write_text("years of work")
    path.mkdir() if kind == "folder" else path.symlink_to(mine if kind == "link" else tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="a link or a folder has that name"), write_aside(path):
        raise AssertionError
    assert sorted(tmp_path.iterdir()) == before
    assert mine.read_text() == "years of work"
