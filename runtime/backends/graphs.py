"""The interface of every backend: the calls of a bundle's graphs, their inputs and outputs, and padded batches."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from fsae.runtime.arrays import F32


class DenoiserInputs(NamedTuple):
    """Inputs of the denoisers, in the order of the graphs: T steps of a window, P before it, 2K season features."""

    noisy: F32  # (batch, T, variable, latent pixel)
    sigma: F32  # (batch,)
    noise_features: F32  # (batch, features)
    season: F32  # (batch, T, 2K)
    forcing: F32  # (batch, T)
    source: F32  # (batch,), place in the labels
    previous: F32  # (batch, P, variable, latent pixel)
    previous_valid: F32  # (batch, P)


INPUTS = {
    "encoder": ("field", "season", "level_mask"),
    "decoder": ("latent", "season"),
    "denoiser": DenoiserInputs._fields,
    "fast": DenoiserInputs._fields,
}
OUTPUTS = {"encoder": "latent", "decoder": "field", "denoiser": "denoised", "fast": "denoised"}

# A row's result must not depend on how many rows run beside it. On a CPU only a batch of one may use other kernels
# (matrix times vector) than a larger one; on a GPU every size may, so the graph always sees the same number of rows.
MIN_BATCH = 2


class Graphs(Protocol):
    """The graphs of a bundle on a backend; batch first, float32 in and out."""

    @property
    def device(self) -> str:
        """Name of the device in use: cpu, cuda, trt or trt-rtx."""
        ...

    @property
    def backend(self) -> str:
        """Library and version in use, such as "onnxruntime 1.22.0"."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the graphs: fp32, fp16, bf16 or int8."""
        ...

    def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
        """Latent (batch, variable, latent pixel) of a field (batch, variable, pixel) in physical units."""
        ...

    def decode(self, latent: F32, season: F32) -> F32:
        """Field (batch, variable, pixel) in physical units of a latent."""
        ...

    def denoise(self, inputs: DenoiserInputs, graph: str = "denoiser") -> F32:
        """Clean window (batch, T, variable, latent pixel) of a noisy one, in white space.

        `graph` is "denoiser" or "fast", the distilled one.
        """
        ...


def call_of(graphs: Graphs, graph: str) -> Callable[..., F32]:
    """The call of a graph, which takes its inputs in the order of `INPUTS`."""
    calls: dict[str, Callable[..., F32]] = {"encoder": graphs.encode, "decoder": graphs.decode}
    return calls.get(graph, lambda *inputs: graphs.denoise(DenoiserInputs(*inputs), graph))


def pad_batch(array: F32, rows: int) -> F32:
    """`array` with its last row repeated until the first axis has `rows` entries.

    >>> pad_batch(np.zeros((1, 3), np.float32), 2).shape
    (2, 3)
    """
    lacking = rows - array.shape[0]
    return array if lacking <= 0 else np.concatenate([array, np.repeat(array[-1:], lacking, axis=0)])


class GraphCalls:
    """The calls of `Graphs` in terms of one that takes the name of a graph and its inputs in the order of `INPUTS`."""

    def _run(self, graph: str, *arrays: F32) -> F32:
        raise NotImplementedError

    def encode(self, field: F32, season: F32, level_mask: F32) -> F32:
        """See `Graphs.encode`."""
        return self._run("encoder", field, season, level_mask)

    def decode(self, latent: F32, season: F32) -> F32:
        """See `Graphs.decode`."""
        return self._run("decoder", latent, season)

    def denoise(self, inputs: DenoiserInputs, graph: str = "denoiser") -> F32:
        """See `Graphs.denoise`."""
        return self._run(graph, *inputs)
