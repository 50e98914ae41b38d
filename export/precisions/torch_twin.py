"""The trained module with the graph's 16-bit parts (half.py), as an independent reference.

PyTorch has its own kernels for both types on any CPU, so bfloat16 can be measured there; ONNX Runtime cannot run it.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn

from fsae.export.graphs.inputs import Inputs
from fsae.runtime.arrays import F32
from fsae.training.networks.autoencoder import CellMap
from fsae.training.networks.layers import FieldSpaceBlock

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def low_module(module: nn.Module, precision: str) -> nn.Module:
    """A copy of a module with its learned maps in "fp16" or "bf16"; results combined with float32 become float32.

    Products of attention have the type of their inputs; PyTorch computes its softmax in float32.
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
            each.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(dtype),))
    return low


def torch_runner(module: nn.Module, precision: str) -> Callable[[Inputs], F32]:
    """A runner of the module in 16 bits, see `fsae.export.certificate.runners`."""
    low = low_module(module, precision)

    def run(inputs: Inputs) -> F32:
        with torch.no_grad():
            found: F32 = low(*map(torch.from_numpy, inputs.values())).numpy()
        return found

    return run
