"""Scores as a table for people, and as a file of JSON."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fsae.runtime.errors import OutputError
from fsae.runtime.output.files import check_name, check_place, write_file
from fsae.runtime.ownership import MAKER, open_own

from .records import Scores, VariableScores

MARK = "fsae_mark"  # in the file, of what is replaced as ours
END = "\n}\n"  # of the JSON of an object
MOST_GROUPS = 10  # of ranks in a table
WIDTH = 200  # of a table at most; it is not fitted to the terminal, so that a pipe gets the same

COLUMNS: Mapping[str, Callable[[VariableScores], float | None]] = {
    "CRPS": lambda one: one.crps,
    "fair CRPS": lambda one: one.fair_crps,
    "RMSE": lambda one: one.rmse,
    "bias": lambda one: one.bias,
    "spread": lambda one: one.spread,
    "spread/error": lambda one: one.spread_error,
    "reliability index": lambda one: one.ranks.reliability_index,
    "outside/flat": lambda one: one.ranks.outside,
}


def as_table(scores: Scores) -> str:
    """The scores as text: a table of all variables, one of ranks, one of spectra, and what was compared."""
    lines = [f"{scores.ensemble} against {scores.reference}", ""]
    names = {name: f"{name} [{one.units}]" for name, one in scores.variables.items()}
    rows = {names[name]: [get(one) for get in COLUMNS.values()] for name, one in scores.variables.items()}
    lines += _table("", list(COLUMNS), rows)
    groups = {name: grouped(one.ranks.shares) for name, one in scores.variables.items()}
    titles = ["lowest", *[""] * (max(map(len, groups.values())) - 2), "highest"]
    lines += ["", *_table("rank histogram (1: flat)", titles, groups)]
    spectra = {name: one.spectra for name, one in scores.variables.items() if one.spectra is not None}
    if spectra:
        longest = max(spectra.values(), key=lambda one: len(one.bands)).bands
        bands = [f"{band.first}-{band.last}" for band in longest]
        ratios = {name: [band.ratio for band in one.bands] for name, one in spectra.items()}
        lines += ["", *_table("power over the reference's, by degree", bands, ratios)]
    for name, one in scores.variables.items():
        lines += ["", *_compared(name, one)]
    return "\n".join(lines) + "\n"


def grouped(shares: Sequence[float]) -> list[float]:
    """The shares of ranks over those of a flat histogram, of many ranks the means of groups.

    >>> grouped([0.5, 0.25, 0.25])
    [1.5, 0.75, 0.75]
    """
    parts = np.array_split(np.array(shares) * len(shares), min(MOST_GROUPS, len(shares)))
    return [float(part.mean()) for part in parts]


def _compared(name: str, one: VariableScores) -> list[str]:
    """Sentences on the steps, grids and values of a variable."""
    left = f"; {one.missing} values are missing" if one.missing else ""
    said = [
        f"{name}: {one.members} members x {one.steps} steps, {one.first} to {one.last}, on a {one.grid}{left}",
        f"  ensemble: {one.ensemble_grid}",
        f"  reference: {one.reference_variable}, {one.reference_grid}",
    ]
    if one.spectra is None:
        return [*said, "  no power spectrum, as no step has values everywhere"]
    return [*said, f"  power of {one.spectra.steps} of the steps, one member each"]


def _table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> list[str]:
    """The lines of a table with a row for each variable, numbers in four digits."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, numbers in rows.items():
        table.add_row(name, *("-" if number is None else f"{number:.4g}" for number in numbers))
    text = io.StringIO()
    Console(file=text, width=WIDTH, no_color=True, markup=False).print(table)
    return text.getvalue().splitlines()


def check_json(path: Path, overwrite: bool, inputs: Mapping[str, object]) -> None:
    """Raise OutputError if the scores may not or cannot be written: with `overwrite` only such scores may be there.

    They are known by their mark, and must be as we wrote them.
    """
    check_name(path)
    check_place(path, overwrite, inputs, _check_ours)


def _check_ours(path: Path) -> None:
    content = ""
    with contextlib.suppress(OSError, ValueError), open(open_own(path, os.O_RDONLY), encoding="utf-8") as file:
        content = file.read()  # of no pipe or device, which would never end
    begin, mark, _ = content.rpartition(f',\n  "{MARK}": ')
    if not mark or _marked(begin + END) != content:
        raise OutputError(
            f"{path} exists and holds no scores of fsae, or was changed since: it is not replaced",
            advice="move it away, or give another path",
        )


def _marked(text: str) -> str:
    """The JSON of an object with our mark as its last entry: a hash of the rest."""
    mark = hashlib.sha256(f"{MAKER}{text}".encode()).hexdigest()
    return f'{text.removesuffix(END)},\n  "{MARK}": "{mark}"{END}'


def write_json(path: Path, scores: Scores, overwrite: bool) -> None:
    """Write the scores as JSON, whole or not at all; OutputError if that fails."""
    write_file(path, _marked(scores.json()).encode(), overwrite, _check_ours)
