"""Whether a bundle is whole and a device computes what the trained model did: hashes, and golden vectors."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .bundle import Bundle
from .errors import BundleError
from .healpix import coarsen
from .manifest import NOT_RUN, Difference, worst_of
from .session import F32, INPUTS, OUTPUTS, DenoiserInputs, Graphs


@dataclass(frozen=True, kw_only=True)
class Check:
    """How far a graph's output is from the golden one here, at the variable and zoom closest to their tolerance."""

    graph: str
    precision: str
    worst: Difference
    first: bool  # of this precision on any device: the bundle's own measurement was "not run on a device"

    @property
    def good(self) -> bool:
        """Whether the error is inside the tolerance; NaN is not."""
        return self.worst.good

    def __str__(self) -> str:
        outcome = "pass" if self.good else "FAIL"
        first = ", which the exporter could not run on a device" if self.first else ""
        return f"{self.graph} {self.precision}: {outcome}, {self.worst}{first}"


def check_files(bundle: Bundle) -> int:
    """Number of files whose hash was found right; BundleError for the first that is not."""
    for name in bundle.manifest.files:
        bundle.check(name)
    return len(bundle.manifest.files)


def check_graphs(bundle: Bundle, graphs: Graphs) -> list[Check]:
    """One check for each graph: the golden inputs through the device, against outputs of the trained model."""
    golden = bundle.arrays("golden.npz")
    precision = graphs.precision
    parity = bundle.manifest.parity.get(precision, {})
    calls: dict[str, Callable[..., F32]] = {
        "encoder": graphs.encode,
        "decoder": graphs.decode,
        "denoiser": lambda *inputs: graphs.denoise(DenoiserInputs(*inputs)),
        "fast": lambda *inputs: graphs.denoise(DenoiserInputs(*inputs), "fast"),
    }
    checks = []
    for graph in bundle.manifest.graphs:
        names = [f"{graph}.{name}" for name in (*INPUTS[graph], OUTPUTS[graph])]
        missing = [name for name in names if name not in golden]
        if missing or graph not in parity:
            lacking = missing or f"a {precision} tolerance for the {graph}"
            raise BundleError(f"bundle {bundle.manifest.name} cannot be verified, it lacks {lacking}: export it again")
        *inputs, expected = (golden[name].astype(np.float32) for name in names)
        found = calls[graph](*inputs)
        if found.shape != expected.shape:
            raise BundleError(f"the {graph} gives the shape {found.shape}, expected {expected.shape}: export it again")
        difference = found.astype(np.float64) - expected  # (row, [step,] variable, pixel)
        if graph == "encoder":
            difference *= bundle.tables.scale[:, None]  # latents are dimensionless, parity is in physical units
        places = {variable.name: place for place, variable in enumerate(bundle.manifest.variables)}
        zoom, found_here = bundle.manifest.output_zoom(graph), []
        for limit in parity[graph].differences:  # means over coarser cells too: those of the coarsest are conserved
            means = coarsen(difference[..., places[limit.variable], :], zoom - limit.zoom)
            found_here.append(replace(limit, max_abs_error=float(np.abs(means).max()), rmse=None))
        first = parity[graph].device == NOT_RUN
        checks.append(Check(graph=graph, precision=precision, worst=worst_of(found_here), first=first))
    return checks
