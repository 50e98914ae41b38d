"""Find a variable of the model in a dataset, by its name or CF standard name."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from fsae.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    import xarray as xr


MEMBER_NAMES = ("realization", "member", "number", "ensemble", "ensemble_member", "member_id")


def choose_variable(
    dataset: "xr.Dataset", name: str, standard_name: str, where: str, others: Collection[str] = ()
) -> "xr.DataArray":
    """The variable of that name, else the only one of that standard name; otherwise a DataError that lists all names.

    `others` are names of other variables that are asked for, which are not taken for this one.
    """
    if name in dataset.variables:
        return dataset[name]
    same = _of_standard_name(dataset, standard_name, others)
    if len(same) == 1:
        return dataset[same[0]]
    if same:
        raise DataError(
            f"{where} has {len(same)} variables of standard name {standard_name!r}: {', '.join(same)}; "
            f"expected one, or one called {name!r}"
        )
    there = [f"{n} ({standard(v)})" if standard(v) else str(n) for n, v in dataset.data_vars.items()]
    also = f" nor one of standard name {standard_name!r}" if standard_name else ""
    raise DataError(f"{where} has no variable {name!r}{also}; it has {', '.join(there) or 'no variables'}")


def has_variable(dataset: "xr.Dataset", name: str, standard_name: str, others: Collection[str] = ()) -> bool:
    """True if `choose_variable` would find something to choose."""
    return name in dataset.variables or bool(_of_standard_name(dataset, standard_name, others))


def _of_standard_name(dataset: "xr.Dataset", standard_name: str, others: Collection[str]) -> list[str]:
    """Names of the data variables of a standard name, except `others`."""
    same = [str(n) for n, v in dataset.data_vars.items() if standard_name and standard(v) == standard_name]
    return [name for name in same if name not in others]


def standard(variable: "xr.DataArray | xr.Variable") -> str:
    """The CF standard name of a variable, or an empty text."""
    return str(variable.attrs.get("standard_name", ""))


def member_dim(array: "xr.DataArray") -> str | None:
    """The dimension of ensemble members, or None."""
    for dim in map(str, array.dims):
        if dim.lower() in MEMBER_NAMES or (dim in array.coords and standard(array.coords[dim]) == "realization"):
            return dim
    return None


def name_pairs(names: tuple[str, ...]) -> dict[str, str]:
    """The input's names for variables, by the model's names.

    >>> name_pairs(("tas=ts",))
    {'tas': 'ts'}
    """
    pairs = dict(name.partition("=")[::2] for name in names)
    if not all(pairs) or not all(pairs.values()) or len(pairs) != len(names):
        raise UsageError(f"found --name {' '.join(names)}", "such as tas=ts, once for a variable")
    return pairs
