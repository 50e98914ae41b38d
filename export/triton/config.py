"""The config.pbtxt of a model: Triton's ModelConfig message (model_config.proto) in protobuf's text format."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CONFIG, VERSION = "config.pbtxt", "1"  # names that Triton prescribes; versions are integers
MARK = "# Written by fsae-export "


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a model, its shape `dims` without a batch; -1 is a length that varies."""

    name: str
    dims: tuple[int, ...]
    data_type: str = "TYPE_FP32"
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The configuration of a model. Without batches (`max_batch_size` 0) `dims` are whole shapes."""

    name: str
    runs_on: str  # the line that names the platform or the backend
    max_batch_size: int
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    instances: str  # kind of the instance group
    parameters: Mapping[str, str] = field(default_factory=dict)


def config_text(config: ModelConfig, bundle: str) -> str:
    """The text of config.pbtxt for a model of the bundle of that name.

    Dynamic batching is off: the server would join requests into batches whose size depends on the traffic, and members
    are reproducible only if the size of their batch does not matter.
    """
    sides = "".join(
        f"{side} [\n" + ",\n".join(_tensor_text(tensor) for tensor in tensors) + "\n]\n"
        for side, tensors in (("input", config.inputs), ("output", config.outputs))
    )
    parameters = "".join(
        f"parameters {{\n  key: {_quoted(key)}\n  value {{ string_value: {_quoted(value)} }}\n}}\n"
        for key, value in config.parameters.items()
    )
    return (
        f"{MARK}from the bundle {bundle}, whose manifest.json says what goes in and comes out.\n"
        f"name: {_quoted(config.name)}\n"
        f"{config.runs_on}\n"
        f"max_batch_size: {config.max_batch_size}\n"
        f"{sides}"
        f"instance_group [\n  {{\n    count: 1\n    kind: {config.instances}\n  }}\n]\n"
        f"{parameters}"
    )


def _tensor_text(tensor: Tensor) -> str:
    """One input or output; Triton takes one number per row as an axis of length one, which it then removes."""
    lines = [f"name: {_quoted(tensor.name)}", f"data_type: {tensor.data_type}"]
    lines.append(f"dims: [ {', '.join(map(str, tensor.dims)) or '1'} ]")
    if not tensor.dims:
        lines.append("reshape: { shape: [ ] }")
    if tensor.optional:
        lines.append("optional: true")
    return "  {\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def _quoted(text: str) -> str:
    """A string of the text format, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
