"""The variables of an ensemble: those on a grid of the globe, with times."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fsae.runtime.errors import DataError
from fsae.runtime.input.dates import find_dates
from fsae.runtime.input.forecasts import on_valid_times
from fsae.runtime.input.grid_detection import locate
from fsae.runtime.input.sources import Opened
from fsae.runtime.input.variables import member_dim, member_label

if TYPE_CHECKING:
    import xarray as xr


ANY = (-3.4e38, 3.4e38)  # values that float32 holds
TEXTS = ("standard_name", "long_name", "cell_methods")


@dataclass(frozen=True, kw_only=True)
class EnsembleVariable:
    """A variable by what its ensemble says of it, as it is looked for in the reference."""

    name: str
    units: str
    standard_name: str = ""
    long_name: str = ""
    cell_methods: str = ""
    valid_range: tuple[float, float] = ANY
    missing: bool = True  # such values may be missing


def ensemble_variables(opened: Sequence[Opened], asked: Sequence[str]) -> list[EnsembleVariable]:
    """The variables of an ensemble's files that are asked for, by default those with members, or all if none has any.

    DataError if there is no field, or not one that is asked for.
    """
    found: dict[str, EnsembleVariable] = {}
    there: dict[str, bool] = {}  # of each field, whether it has members
    for file in opened:
        dataset = on_valid_times(file.dataset, file.name)
        for array in dataset.data_vars.values():
            if _is_field(array, dataset, file.name):
                name = str(array.name)
                has_members = member_dim(array) is not None or bool(member_label(dataset))
                there[name] = there.get(name, False) or has_members
                found.setdefault(name, _described(array))
    where = opened[0].name
    if absent := [name for name in asked if name not in there]:
        listed = ", ".join(there) or "none"
        raise DataError(f"{where} has no field {absent[0]!r}; its fields are {listed}", advice="name one of them")
    if not there:
        raise DataError(f"{where} has no field on a grid of the globe with times", advice="give a file of an ensemble")
    wanted = asked or [name for name, has_members in there.items() if has_members] or list(there)
    return [found[name] for name in wanted]


def without_members(name: str, where: str, count: int = 0) -> DataError:
    """The error that a variable has too few members for the scores of an ensemble."""
    has = f"{count} member" if count else "no dimension of members"
    return DataError(
        f"{name} in {where} has {has}",
        "two or more, along a dimension such as realization or number",
        "give the members themselves, in one file or by a pattern of a file for each",
    )


def _is_field(array: "xr.DataArray", dataset: "xr.Dataset", where: str) -> bool:
    """True if a variable is on a grid of the globe and has times."""
    if array.dtype.kind not in "fiu" or array.ndim == 0:
        return False
    try:
        locate(array, dataset)
        find_dates(array, dataset, where)
    except DataError:
        return False
    return True


def _described(array: "xr.DataArray") -> EnsembleVariable:
    texts = {name: str(array.attrs.get(name, "")) for name in TEXTS}
    plain = EnsembleVariable(name=str(array.name), units=str(array.attrs.get("units", "1")))
    return dataclasses.replace(plain, **texts)  # type: ignore[arg-type]
