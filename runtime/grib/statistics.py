"""A statistic over the members as a derived forecast of GRIB: WMO FM 92, templates 4.2 and 4.12, and code table 4.7."""

from fsae.runtime.errors import UsageError
from fsae.runtime.output.layout import Layout

from .parameters import OTHER_OUTPUT

DERIVED = {"mean": 0, "standard_deviation": 4, "minimum": 8, "maximum": 9}  # code table 4.7; 4 is the spread
OVER_MEMBERS = "realization: "  # in cell methods, before the method
UNKNOWN_NUMBER = 255  # an octet that is all one says missing


def statistic_keys(layout: Layout) -> dict[str, int]:
    """The keys that tell the statistic which all variables of a layout are; none if they are no statistics.

    UsageError for quantiles and for several statistics: of messages for the same variable and time, cfgrib reads the
    first only, and CDO takes the others for further times.
    """
    if layout.quantiles:
        what = "found quantiles over the members for GRIB, whose template for them is experimental"
        raise UsageError(what, f"one of {', '.join(DERIVED)}", OTHER_OUTPUT)
    found = {method_over_members(str(facts.get("cell_methods", ""))) for facts in layout.variables.values()}
    if found == {None}:
        return {}
    if len(found) > 1:
        what = f"found {len(found)} statistics over the members for GRIB, whose readers take them for one another"
        raise UsageError(what, "one in a file", f"give such as --statistics mean, or {OTHER_OUTPUT}")
    (method,) = found
    count = layout.of_members if 0 < layout.of_members < UNKNOWN_NUMBER else UNKNOWN_NUMBER
    return {"derivedForecast": DERIVED[str(method)], "numberOfForecastsInEnsemble": count}


def method_over_members(cell_methods: str) -> str | None:
    """The method over members that cell methods end in, such as "mean"; None if they name none.

    >>> method_over_members("time: mean realization: standard_deviation")
    'standard_deviation'
    """
    return cell_methods.partition(OVER_MEMBERS)[2] or None


def name_without_statistic(name: str, cell_methods: str) -> str:
    """The name of the variable that a statistic is of; any other name as it is.

    >>> name_without_statistic("tas_std", "time: mean realization: standard_deviation")
    'tas'
    """
    return name if method_over_members(cell_methods) is None else name.rpartition("_")[0]
