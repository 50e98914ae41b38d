"""The files that a configuration names, and where a configuration is found by its name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsae.runtime.errors import UsageError

from .config import DEFAULT, SHIPPED


@dataclass(frozen=True, kw_only=True)
class Files:
    """Paths of the files of a configuration: inputs, static fields, low-resolution sources one by one, the forcing.

    `cycle` are those that give the yearly cycle.
    """

    inputs: Sequence[Path]
    static: Sequence[Path] = ()
    low_resolution: Sequence[Sequence[Path]] = ()
    forcing: Path | None = None
    cycle: Sequence[Path] = ()

    @property
    def all(self) -> list[Path]:
        """Every file, in that order."""
        forcing = () if self.forcing is None else (self.forcing,)
        coarse = [path for part in self.low_resolution for path in part]
        return [*self.inputs, *self.static, *coarse, *forcing, *(path for path in self.cycle if path not in coarse)]


def find_config(name: Path | None) -> Path:
    """The configuration `name`, a file or a shipped one's name; the default without one.

    >>> find_config(Path("z5-ratio-64")).name
    'z5-ratio-64.toml'
    """
    if name is None:
        return DEFAULT
    shipped = SHIPPED / f"{name}.toml"
    if name.exists() or name.suffix == ".toml":
        return name
    if name.name == str(name) and shipped.exists():
        return shipped
    known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.toml")))
    advice = f"give a TOML file or one of the shipped names {known}"
    raise UsageError(f"found no configuration {str(name)!r}", advice=advice)


def input_files(names: Sequence[str], config: Path) -> list[Path]:
    """Paths of a configuration's inputs, relative to its folder; the sample data also to ./training of a checkout."""
    folders = [config.parent, Path("training") / SHIPPED.name]
    found = next((folder for folder in folders if all((folder / name).exists() for name in names)), config.parent)
    return [found / name for name in names]
