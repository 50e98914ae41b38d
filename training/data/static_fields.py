"""Fields that do not change: orography and land mask from CF files, on the model's HEALPix zoom."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F32, F64
from fsae.runtime.errors import DataError
from fsae.runtime.input.fields import converter
from fsae.runtime.input.grid_detection import locate
from fsae.runtime.input.sources import open_source
from fsae.runtime.input.variables import choose_variable, has_variable
from fsae.runtime.sphere.grids import supported_zoom
from fsae.runtime.sphere.regrid import once_a_grid

STANDARD_NAMES = {"orog": "surface_altitude", "lsm": "land_binary_mask"}  # [m], and land as 0 to 1


def read_static(files: Sequence[Path], zoom: int) -> dict[str, F64]:
    """Means over the pixels of `zoom` (pixel,) of `orog` [m] and `lsm` (land fraction), whichever the files have.

    A field comes from the first file that has it. DataError if there is none, or if a grid is coarser than the pixels.
    """
    found: dict[str, F64] = {}
    weights = once_a_grid()
    for path in files:
        with open_source(path) as (dataset, where):
            for name, standard_name in STANDARD_NAMES.items():
                if name in found or not has_variable(dataset, name, standard_name):
                    continue
                array = choose_variable(dataset, name, standard_name, where).squeeze(drop=True)
                place = locate(array, dataset)
                if supported_zoom(place.grid) < zoom:
                    raise DataError(
                        f"found {name} of {where} on a {place.grid}",
                        f"one fine enough for zoom {zoom}",
                        "give it on a finer grid, or a lower zoom",
                    )
                values = place.points(np.asarray(array.transpose(*place.dims).values, dtype=np.float64))
                if not np.isfinite(values).all():
                    raise DataError(
                        f"found missing values in {name} of {where}",
                        "a complete static field",
                        "fill them first, or give another file",
                    )
                found[name] = np.asarray(converter(place.grid, zoom, "conservative", weights)[0](values[None])[0])
    if not found:
        names = ", ".join(path.name for path in files)
        raise DataError(
            f"found no orog (surface_altitude) and no lsm (land_binary_mask) in {names}",
            advice="give a file that holds one of them in data.static",
        )
    return found


def static_inputs(files: Sequence[Path], zoom: int) -> F32:
    """The static fields as a network reads them, (field, pixel): of zero mean and unit variance."""
    fields = read_static(files, zoom)
    return np.stack([(field - field.mean()) / field.std() for field in fields.values()]).astype(np.float32)
