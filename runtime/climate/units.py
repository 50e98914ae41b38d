"""Linear conversion between the units of climate data; DataError for all others.

Our own table, as pint takes a second to load, converts what is refused here ("degree" or "dB" to 1, "10 m" to m) and
reads "mb" as millibarns and "0-1" as -1.
"""

import re
import unicodedata

from fsae.runtime.errors import DataError

# Powers of kilogram, metre, second, kelvin and mole.
Dimension = tuple[int, int, int, int, int]
NONE: Dimension = (0, 0, 0, 0, 0)

# A layer of water of one metre weighs 1000 kg m-2: precipitation is given as either.
WATER_DENSITY_KG_M3 = 1000.0
WATER: Dimension = (1, -3, 0, 0, 0)

# Symbol -> (its size in SI units, dimension); CF takes them from UDUNITS.
SYMBOLS: dict[str, tuple[float, Dimension]] = {
    "1": (1.0, NONE),
    "%": (0.01, NONE),
    "percent": (0.01, NONE),
    "kg": (1.0, (1, 0, 0, 0, 0)),
    "g": (1e-3, (1, 0, 0, 0, 0)),
    "mg": (1e-6, (1, 0, 0, 0, 0)),
    "m": (1.0, (0, 1, 0, 0, 0)),
    "gpm": (1.0, (0, 1, 0, 0, 0)),
    "km": (1e3, (0, 1, 0, 0, 0)),
    "cm": (1e-2, (0, 1, 0, 0, 0)),
    "mm": (1e-3, (0, 1, 0, 0, 0)),
    "s": (1.0, (0, 0, 1, 0, 0)),
    "ms": (1e-3, (0, 0, 1, 0, 0)),
    "us": (1e-6, (0, 0, 1, 0, 0)),
    "ns": (1e-9, (0, 0, 1, 0, 0)),
    "min": (60.0, (0, 0, 1, 0, 0)),
    "h": (3600.0, (0, 0, 1, 0, 0)),
    "day": (86_400.0, (0, 0, 1, 0, 0)),
    "K": (1.0, (0, 0, 0, 1, 0)),
    "mol": (1.0, (0, 0, 0, 0, 1)),
    "Pa": (1.0, (1, -1, -2, 0, 0)),
    "hPa": (1e2, (1, -1, -2, 0, 0)),
    "mbar": (1e2, (1, -1, -2, 0, 0)),
    "kPa": (1e3, (1, -1, -2, 0, 0)),
    "bar": (1e5, (1, -1, -2, 0, 0)),
    "N": (1.0, (1, 1, -2, 0, 0)),
    "J": (1.0, (1, 2, -2, 0, 0)),
    "W": (1.0, (1, 2, -3, 0, 0)),
    "knot": (1852.0 / 3600.0, (0, 1, -1, 0, 0)),
}
ALIASES = {
    "metre": "m", "metres": "m", "meter": "m", "meters": "m", "millimeter": "mm", "millimetre": "mm",
    "kilometer": "km", "kilometre": "km", "gram": "g", "kilogram": "kg",
    "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns",
    "millisecond": "ms", "microsecond": "us", "nanosecond": "ns",
    "sec": "s", "second": "s", "seconds": "s", "minute": "min", "minutes": "min",
    "hr": "h", "hour": "h", "hours": "h", "d": "day", "days": "day",
    "kelvin": "K", "Kelvin": "K", "degK": "K", "deg_K": "K", "degree_K": "K", "degrees_K": "K", "kelvins": "K",
    "pascal": "Pa", "Pascal": "Pa", "pascals": "Pa", "mb": "mbar", "millibar": "mbar", "millibars": "mbar",
    "hectopascal": "hPa", "hectopascals": "hPa",
    "knots": "knot", "kt": "knot", "kts": "knot", "kn": "knot",
    "kph": "km h-1", "kmh": "km h-1", "mps": "m s-1", "joule": "J", "watt": "W", "mole": "mol",
    "fraction": "1", "dimensionless": "1", "unitless": "1", "none": "1", "(0 - 1)": "1", "0-1": "1",
}  # fmt: skip

# Spelling in lower case, size of a degree [K], zero of the scale [K].
DEGREE = r"(deg(ree|rees|\.)?[_ ]?|[°o] ?)"
SCALES = (
    (re.compile(rf"celsius|celcius|centigrade|{DEGREE}c(el[sc]ius)?"), 1.0, 273.15),
    (re.compile(rf"fahrenheit|{DEGREE}f(ahrenheit)?"), 5 / 9, 459.67 * 5 / 9),
    (re.compile(rf"{DEGREE}k(elvins?)?"), 1.0, 0.0),
)
MOST_LETTERS, MOST_POWER = 100, 20  # in units of measured quantities

IN_ANY_CASE = {text.lower(): text for text in SYMBOLS if len(text) > 2}
IN_ANY_CASE |= {text.lower(): symbol for text, symbol in ALIASES.items() if len(text) > 2}

TERM = re.compile(r"([A-Za-z%]+(?:_[A-Za-z]+)?|1(?![\d.]))(?:(?:\*\*|\^)?\(?([+-]?\d+)\)?)?")


def parse(units: str) -> tuple[float, float, Dimension]:
    """Factor, offset and dimension: a value in `units` is factor * value + offset in SI units.

    >>> parse("hPa"), parse("m s**-1") == parse("m/s") == parse("m.s-1")
    ((100.0, 0.0, (1, -1, -2, 0, 0)), True)
    """
    text = unicodedata.normalize("NFKC", units[: MOST_LETTERS + 1]).strip()  # a sign for degree Celsius is two then
    if len(text) > MOST_LETTERS:
        raise _unknown(units)
    for spelling, size, zero in SCALES:
        if spelling.fullmatch(text.lower()):
            return size, zero, SYMBOLS["K"][1]
    factor, dimension = 1.0, NONE
    text = _plain(text) or "1"
    for i, part in enumerate(text.split("/")):  # each part after a slash divides
        rest = re.sub(r"(?<!\*)\*(?!\*)|(?<=[A-Za-z\d])\.(?=[A-Za-z])|[\s·]+", " ", part.strip())
        for term in rest.split() or [""]:
            found = TERM.fullmatch(term)
            symbol = found[1] if found else ""
            symbol = _plain(symbol)
            if found is None or symbol not in SYMBOLS or abs(int(found[2] or 1)) > MOST_POWER:
                raise _unknown(units)
            power = int(found[2] or 1) * (-1 if i else 1)
            size, powers = SYMBOLS[symbol]
            factor *= size**power
            dimension = _add(dimension, powers, power)
    return factor, 0.0, dimension


def _plain(text: str) -> str:
    """The symbol that a spelling stands for; of spelled-out words, capitals do not matter."""
    if text in ALIASES or text in SYMBOLS:
        return ALIASES.get(text, text)
    return IN_ANY_CASE.get(text.lower(), text)


def _unknown(units: str) -> DataError:
    shown = units if len(units) <= MOST_LETTERS else f"{units[:MOST_LETTERS]}..."
    return DataError(
        f"found the units {shown!r}, which are not known here", advice="convert the data to SI units first"
    )


def _add(one: Dimension, other: Dimension, times: int) -> Dimension:
    """The dimension of `one` times a power of `other`."""
    a, b, c, d, e = (p + times * q for p, q in zip(one, other, strict=True))
    return a, b, c, d, e


def conversion(found: str, wanted: str) -> tuple[float, float]:
    """Factor and offset: a value in `found` is factor * value + offset in `wanted`.

    Lengths of water count as mass per area: 1 mm is 1 kg m-2. DataError for unknown or incompatible units.

    >>> conversion("degC", "K"), conversion("mm/day", "kg m-2 s-1")[0] * 86400
    ((1.0, 273.15), 1.0)
    """
    if found.strip() == wanted.strip():
        return 1.0, 0.0
    factor, offset, dimension = parse(found)
    wanted_factor, wanted_offset, wanted_dimension = parse(wanted)
    if dimension != wanted_dimension:
        if _add(dimension, WATER, 1) == wanted_dimension:
            factor *= WATER_DENSITY_KG_M3
        elif _add(wanted_dimension, WATER, 1) == dimension:
            factor /= WATER_DENSITY_KG_M3
        else:
            raise DataError(
                f"found the units {found!r}, which cannot be converted to {wanted!r}",
                advice="is it the right variable?",
            )
    return factor / wanted_factor, (offset - wanted_offset) / wanted_factor
