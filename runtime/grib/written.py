"""Files of GRIB messages, made of a store field by field, and read again before they are published."""

import contextlib
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fsae.runtime.arrays import F32
from fsae.runtime.atomic import force
from fsae.runtime.errors import OutputError, UsageError
from fsae.runtime.formats.sections import messages_of
from fsae.runtime.formats.signed import ABOUT, digest, sign
from fsae.runtime.output.files import output_errors
from fsae.runtime.output.layout import Layout, global_attributes
from fsae.runtime.output.zarr import ZarrStore

from .grids import Keys
from .headers import field_keys, member_keys, time_keys, times_of
from .parameters import OTHER_OUTPUT

BLOCK_BYTES = 1 << 25  # of values that are read at once; while they are, those before them are still held
MISSING = 1e20  # a missing value for ecCodes; the file has a bitmap


def check_layout(layout: Layout) -> None:
    """Raise UsageError if GRIB cannot hold an output, or ecCodes is not installed."""
    api = _eccodes()
    if layout.codecs or "fsae_kind" in layout.attributes:
        raise UsageError("found an archive or latents for GRIB", "fields", OTHER_OUTPUT)
    times_of(layout)
    for row in range(layout.rows):
        member_keys(layout, row)
    for name in layout.variables:
        with _handle(api, field_keys(layout, name)):
            pass


def write_messages(parts: ZarrStore, layout: Layout, place: Path, path: Path) -> None:
    """Make a file of messages at `place` of a store, step by step; `path` is its name in messages.

    Each field is a message, whose values are those of the store to half a unit of the packing, which is 6e-8 of the
    range of the field at most. OutputError if what is read again is anything else.
    """
    api, times = _eccodes(), times_of(layout)
    shared = {name: field_keys(layout, name) for name in layout.variables}
    about = {"attributes": global_attributes(layout), "variables": layout.variables}
    mark, of = digest(about), layout.rows * layout.steps * len(shared)
    with output_errors(path, ""):
        file = place.open("xb")
    with file:
        for number, (name, row, step, values) in enumerate(_fields(parts, layout), 1):
            series = times[row % len(times)]
            message = _message(api, shared[name] | member_keys(layout, row) | time_keys(layout, series, step), values)
            (sections,) = messages_of(io.BytesIO(message))
            record = {"message": number, "of": of, **({ABOUT: about} if number == 1 else {})}
            with output_errors(path, ""):
                file.write(sign(message, sections, record, mark))
    with output_errors(path, ""):
        force(place)
        _check_values(api, parts, layout, place, path)


def _fields(parts: ZarrStore, layout: Layout) -> Iterator[tuple[str, int, int, F32]]:
    """The fields of a store in the order of their messages: name, row, step and values (point).

    Times come first, as CDO wants them; so many steps are read at once that all rows of them fit into `BLOCK_BYTES`.
    """
    starts = 1 if layout.reference_times is None else len(layout.time.values)
    at_once = BLOCK_BYTES // (4 * layout.points * layout.rows // starts * len(layout.variables))

    def read(name: str, row: int, steps: slice) -> F32:
        return parts.read(name, layout.place(slice(row, row + 1), steps)).reshape(-1, layout.points)

    for start in range(starts):
        places = [(name, row) for row in range(start, layout.rows, starts) for name in layout.variables]
        for first in range(0, layout.steps, max(1, at_once)):
            block = slice(first, min(first + max(1, at_once), layout.steps))
            held = {(name, row): read(name, row, block) for name, row in places} if at_once else {}
            for step in range(block.start, block.stop):
                for name, row in places:
                    if held:
                        yield name, row, step, held[name, row][step - first]
                    else:
                        yield name, row, step, read(name, row, slice(step, step + 1))[0]


def _message(api: Any, keys: Keys, values: F32) -> bytes:
    """A message of values (point), of which NaN are missing."""
    missing = np.isnan(values)
    with _handle(api, {**keys, "bitmapPresent": int(missing.any())}) as handle:
        api.codes_set(handle, "missingValue", MISSING)
        api.codes_set_values(handle, np.where(missing, MISSING, values.astype(np.float64)))
        made: bytes = api.codes_get_message(handle)
    return made


def _check_values(api: Any, parts: ZarrStore, layout: Layout, place: Path, path: Path) -> None:
    """Raise OutputError if a message of a file does not hold the values of the store."""
    with place.open("rb") as file:
        for number, (name, _, _, values) in enumerate(_fields(parts, layout), 1):
            with _errors():
                handle = api.codes_grib_new_from_file(file)
                api.codes_set(handle, "missingValue", MISSING)
                found = api.codes_get_values(handle)
                half = 2.0 ** (api.codes_get(handle, "binaryScaleFactor") - 1)
                api.codes_release(handle)
            found[found == MISSING] = np.nan
            near = np.abs(found - values) <= half * (1 + 1e-6)
            if not (near | (np.isnan(found) & np.isnan(values))).all():
                raise OutputError(
                    f"{path} was damaged while it was written (message {number}, of {name})",
                    advice="check the disk that it is on",
                )


@contextlib.contextmanager
def _handle(api: Any, keys: Keys) -> Iterator[int]:
    """A message of ecCodes with these keys, while the block runs."""
    with _errors():
        handle: int = api.codes_grib_new_from_samples("GRIB2")
        try:
            for key, value in keys.items():
                if value is None:
                    api.codes_set_missing(handle, key)
                else:
                    api.codes_set(handle, key, value)
            yield handle
        finally:
            api.codes_release(handle)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Failures of ecCodes as OutputError."""
    failures = importlib.import_module("gribapi.errors")
    try:
        yield
    except failures.GribInternalError as error:
        raise OutputError(f"ecCodes cannot write or read this as GRIB: {error}", advice=OTHER_OUTPUT) from None


def _eccodes() -> Any:
    """The module eccodes; UsageError that names the extra if it or its library is missing."""
    try:
        return importlib.import_module("eccodes")
    except (ImportError, OSError, RuntimeError) as error:
        found = f"GRIB output needs ecCodes ({error})"
        raise UsageError(found, advice=f'pip install "fsae[grib]", or {OTHER_OUTPUT}') from None
