"""CF attributes and provenance of an output."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Variable
from fsae.runtime.input.meaning import Origin

from .layout import normalised
from .store import Attribute, Coordinate
from .times import LEAD, REFERENCE

if TYPE_CHECKING:
    import xarray as xr


READ = "fsae_input_"


def versions(graphs: Graphs | None) -> dict[str, str]:
    """Versions of what the numbers depend on; without graphs that is NumPy alone."""
    found = {"fsae": importlib.metadata.version("fsae"), "numpy": np.__version__}
    if graphs is not None:
        name, version = graphs.backend.rsplit(" ", 1)
        found[name] = version
    return found


LONGEST_HISTORY = 20_000  # characters of the input's own that are kept


def history(bundle: Bundle, request: Mapping[str, Any], before: str = "") -> str:
    """The CF attribute `history`: this command as the first line, and below it the history of its input.

    Without the time of day that other tools begin a line with: the same command writes the same bytes. Long values are
    cut, such as the members; `fsae_request` has them in full.
    """
    texts = {key: json.dumps(value) for key, value in request.items() if key != "verb"}
    options = " ".join(f"{key}={text if len(text) <= 100 else f'{text[:97]}...'}" for key, text in texts.items())
    program = f"fsae {importlib.metadata.version('fsae')}, bundle {bundle.manifest.name}"
    return "\n".join(filter(None, [f"{program}: {request['verb']} {options}", before.strip()[:LONGEST_HISTORY]]))


def origin(bundle: Bundle, graphs: Graphs | None, request: Mapping[str, Any], before: str = "") -> dict[str, Attribute]:
    """Global attributes of every kind of output: bundle and its hash, request and versions; no clock, no batch size.

    `before` is the history of the input.
    """
    return {
        "history": history(bundle, request, before),
        "fsae_bundle": bundle.manifest.name,
        "fsae_manifest_sha256": bundle.manifest_sha256,
        "fsae_request": normalised(request),
        "fsae_versions": normalised(versions(graphs)),
    }


def provenance(
    bundle: Bundle, graphs: Graphs, request: Mapping[str, Any], notes: tuple[str, ...], before: str = ""
) -> dict[str, Attribute]:
    """Global attributes that say how the numbers were made: enough to make them again; `before` as in `origin`."""
    attributes: dict[str, Attribute] = {
        "title": f"{request['verb']} with {bundle.manifest.name}",
        "source": f"fsae bundle {bundle.manifest.name}",
        "license": bundle.manifest.licence,
        **origin(bundle, graphs, request, before),
        "fsae_device": graphs.device,
        "fsae_precision": graphs.precision,
    }
    return attributes | ({"comment": " ".join(notes)} if notes else {})


def cf_attributes(
    variables: Sequence[Variable], read: Mapping[str, Mapping[str, Attribute]] | None = None
) -> dict[str, dict[str, Attribute]]:
    """CF attributes of variables of the model, by their names, and those that say what was `read` of them."""
    return {
        variable.name: _cf_attributes(variable) | dict((read or {}).get(variable.name, {})) for variable in variables
    }


def read_attributes(origins: Mapping[str, Origin]) -> dict[str, dict[str, Attribute]]:
    """Attributes of variables, by their names, that say what was read of them: file, level, units, statistic, grid.

    They are texts that begin with `fsae_input_`, without a clock, and the fields made of latents keep those of these.
    """
    return {name: {f"{READ}{part}": text for part, text in origin.record().items()} for name, origin in origins.items()}


def kept_attributes(dataset: "xr.Dataset") -> dict[str, dict[str, Attribute]]:
    """The attributes that say what the variables of an output were made of, by their names."""
    return {
        str(name): {key: str(text) for key, text in variable.attrs.items() if str(key).startswith(READ)}
        for name, variable in dataset.data_vars.items()
    }


def _cf_attributes(variable: Variable) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {
        "standard_name": variable.standard_name,
        "long_name": variable.long_name,
        "units": variable.units,
        "cell_methods": variable.cell_methods,
    }
    # CF 3.1.2: a temperature must be marked as one, and not a difference of two
    return attributes | ({"units_metadata": "temperature: on_scale"} if variable.units == "K" else {})


def phase_coordinate(phase: np.ndarray) -> Coordinate:
    """The phases of the year of a latent's steps, (time) or (forecast, time), which the decoder needs.

    They do not follow from the stamps alone.
    """
    attributes: dict[str, Attribute] = {
        "long_name": "fraction of the year at the middle of the averaging period",
        "units": "1",
    }
    dims = ("time",) if phase.ndim == 1 else (REFERENCE, LEAD)
    return Coordinate(name="year_phase", dims=dims, values=phase.astype(np.float64), attributes=attributes)
