"""The scenarios of the forcing that a diffusion model is trained with: read from CSV, kept with a run's statistics."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.climate.scenarios import Scenarios
from fsae.runtime.errors import DataError
from fsae.training.config import Config

YEARS, VALUES = "forcing_years", "forcing_scenarios"  # as in tables.npz


def read_scenarios(path: Path, names: Sequence[str]) -> tuple[F32, F32]:
    """Years (year,) and values (scenario, year) of the named columns of a CSV file; DataError if it lacks some.

    Lines that begin with # are comments; the first other line names the columns, one of which is `year`.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({error})", advice="name a CSV file as forcing.file") from None
    rows = list(csv.DictReader(lines))
    columns = ("year", *names)
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        there = ", ".join(rows[0]) if rows else "no lines of values"
        raise DataError(f"{path} holds {there}", f"the columns {', '.join(columns)}", "change forcing.scenarios")
    table = np.empty((len(rows), len(columns)))
    for number, row in enumerate(rows):
        for place, name in enumerate(columns):
            try:
                table[number, place] = float(row[name])
            except (TypeError, ValueError):
                raise DataError(
                    f"{path} holds {row[name]!r} as {name}, after {number} lines of values", "a number", "correct it"
                ) from None
    if not np.isfinite(table).all() or len(table) < 2 or not (np.diff(table[:, 0]) == 1).all():
        raise DataError(
            f"{path} holds {len(table)} years with gaps, or values that are not finite",
            "consecutive years with a number each",
            "fill what is missing",
        )
    return table[:, 0].astype(np.float32), np.ascontiguousarray(table[:, 1:].T, dtype=np.float32)


def scenarios_of(config: Config, statistics: Mapping[str, F32]) -> Scenarios | None:
    """The scenarios of a run, from its statistics; None if its forcing is the calendar year."""
    if config.forcing is None:
        return None
    values = statistics[VALUES].astype(np.float64)
    return Scenarios(
        years=statistics[YEARS].astype(np.float64),
        values=dict(zip(config.forcing.scenarios, values, strict=True)),
        response_years=config.forcing.response_years,
    )
