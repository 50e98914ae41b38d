"""`fsae-run` on the tiny bundle, and a file of its fields."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from monthly_fields import field_layout, fields, write_fields

from fsae.runtime.cli.main import main


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
