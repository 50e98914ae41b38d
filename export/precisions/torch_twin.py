"""The trained module with the same parts in 16 bits as the exported graph (precision.py): a second opinion on it.

PyTorch has kernels of its own for both types on any CPU, so bfloat16 is measured where ONNX Runtime cannot run it.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsae.export.graphs.inputs import Inputs
from fsae.training.networks.autoencoder import CellMap
from fsae.training.networks.layers import FieldSpaceBlock

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def low_module(module: nn.Module, precision: str) -> nn.Module:
    """A copy of a module whose learned maps take and give "fp16" or "bf16"; where they meet float32 it is float32.

    Attention's products follow from their inputs; PyTorch keeps its softmax in float32.
    """
    low, dtype = copy.deepcopy(module), DTYPES[precision]
    for part in list(low.modules()):
        maps: list[nn.Module] = []
        if isinstance(part, FieldSpaceBlock):
            maps = [part.query_key_value, part.attention_out, part.mlp]
        elif isinstance(part, CellMap):
            maps = [part]
        for each in maps:
            each.to(dtype)
            each.register_forward_pre_hook(_caster(dtype))
    return low


def _caster(dtype: torch.dtype) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    """A hook that casts a module's only input."""

    def cast(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].to(dtype),)

    return cast


def torch_runner(module: nn.Module, precision: str) -> Callable[[Inputs], NDArray[np.float32]]:
    """The module in 16 bits as a runner, see `fsae.export.certificate.runners`."""
    low = low_module(module, precision)

    def run(inputs: Inputs) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = low(*map(torch.from_numpy, inputs.values())).numpy()
        return found

    return run
