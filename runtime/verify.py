"""Whether a bundle is whole and a device computes what the trained model did: hashes, and golden vectors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .bundle import Bundle
from .errors import BundleError
from .session import F32, INPUTS, OUTPUTS, DenoiserInputs, Graphs


@dataclass(frozen=True, kw_only=True)
class Check:
    """Largest distance of a graph's output from the golden one, in `units`, and what is allowed."""

    graph: str
    error: float
    tolerance: float
    units: str

    @property
    def good(self) -> bool:
        """Whether the error is inside the tolerance; NaN is not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{self.graph}: {self.error:.3g} {self.units}, allowed {self.tolerance:.3g}"


def check_files(bundle: Bundle) -> int:
    """Number of files whose hash was found right; BundleError for the first that is not."""
    for name in bundle.manifest.files:
        bundle.read(name)
    return len(bundle.manifest.files)


def check_graphs(bundle: Bundle, graphs: Graphs, precision: str = "fp32") -> list[Check]:
    """One check for each graph: the golden inputs through the device, against outputs of the trained model."""
    golden = bundle.arrays("golden.npz")
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
        limit = parity[graph]
        difference = found.astype(np.float64) - expected
        if graph == "encoder":
            difference *= bundle.tables.scale[:, None]  # latents are dimensionless, parity is in physical units
        error = float(np.abs(difference).max())
        checks.append(Check(graph=graph, error=error, tolerance=limit.tolerance, units=limit.units))
    return checks
