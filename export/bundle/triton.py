"""Write a bundle's graphs as a model repository for the Triton inference server, one model per graph and precision.

A model is DIR/fsae_NAME_GRAPH/1/model.onnx and DIR/fsae_NAME_GRAPH/config.pbtxt; names for precisions other than fp32
end in _PRECISION. Clients compute the season and noise features and run the sampler, as export/examples does.
"""

import contextlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import graph_file
from fsae.runtime.errors import BundleError, DeviceError, OutputError

from .place import replacing

log = logging.getLogger("fsae.export.bundle")
CONFIG, VERSION, MODEL = "config.pbtxt", "1", "model.onnx"  # names that Triton prescribes; versions are integers
MARK = "# Written by fsae-export "
MAX_BATCH = 32  # rows of one request: the largest batch that engines are built for by default


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a graph: float32, its shape `dims` without the batch, which comes first."""

    name: str
    dims: tuple[int, ...]


def model_name(bundle: str, graph: str, precision: str) -> str:
    """Name of a graph's model and of its folder in the repository.

    >>> model_name("default", "encoder", "fp32"), model_name("default", "encoder", "fp16")
    ('fsae_default_encoder', 'fsae_default_encoder_fp16')
    """
    return f"fsae_{bundle}_{graph}" + ("" if precision == "fp32" else f"_{precision}")


def check_place(folder: Path, overwrite: bool) -> None:
    """Raise OutputError unless `folder` may be written: only what fsae-export wrote is ever replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file", "a folder for the Triton repository", "choose another")
    why, entries = foreign_to_repository(folder), sorted(folder.iterdir())
    if why:
        raise OutputError(
            f"{folder} {why}",
            advice="choose another folder for --triton (the server accepts several --model-repository)",
        )
    if entries and not overwrite:
        raise OutputError(
            f"{folder} holds {entries[0].name} already", advice="give --overwrite, or choose another folder"
        )


def foreign_to_repository(folder: Path) -> str:
    """Why a folder is not taken for a repository of ours, in words; empty if all its models are, or if it is empty."""
    foreign = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
    return f"holds {foreign[0]}, which fsae-export did not write" if foreign else ""


def write_repository(bundle: Bundle, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Write the repository aside and put it in place as a whole; return the names of its models."""
    check_place(folder, overwrite)
    names = []
    with replacing(folder.resolve(), foreign_to_repository) as new:
        for precision in bundle.manifest.precisions:
            for graph in bundle.manifest.graphs:
                name = model_name(bundle.manifest.name, graph, precision)
                log.info("%s %s: writing %s", graph, precision, name)
                _write_model(bundle, graph_file(graph, precision), new / name)
                names.append(name)
    return names


def read_tensors(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of an ONNX file; BundleError unless all are float32 with the batch as their only free axis."""
    try:
        import onnx
    except ImportError as error:
        raise DeviceError(
            f"a Triton repository needs {error.name or 'onnx'}, which cannot be imported",
            advice='pip install "fsae[export]"',
        ) from None
    graph = onnx.load_model(path, load_external_data=False).graph
    sides: list[list[Tensor]] = []
    for values in (graph.input, graph.output):
        side = []
        for value in values:
            kind = value.type.tensor_type
            dims = tuple(dim.dim_value for dim in kind.shape.dim)  # 0: a free axis
            if kind.elem_type != onnx.TensorProto.FLOAT or not dims or dims[0] != 0 or not all(dims[1:]):
                raise BundleError(
                    f"{value.name} of {path.parent.parent.name} has the shape {list(dims)} (0: free or empty)",
                    "float32 with the batch first and no other free or empty axis, as Triton requires for batches",
                    "export the bundle again",
                )
            side.append(Tensor(name=value.name, dims=dims[1:]))
        sides.append(side)
    return sides[0], sides[1]


def config_text(name: str, bundle: Bundle, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> str:
    """The config.pbtxt of a model: Triton's ModelConfig message in protobuf's text format.

    Dynamic batching is off: the server would join requests into batches whose size depends on the traffic, and members
    are reproducible only if the size of their batch does not matter.
    """
    sides = "".join(
        f"{side} [\n" + ",\n".join(_tensor_text(tensor) for tensor in tensors) + "\n]\n"
        for side, tensors in (("input", inputs), ("output", outputs))
    )
    return (
        f"{MARK}from the bundle {bundle.manifest.name}, whose manifest.json says what goes in and comes out.\n"
        f'name: "{name}"\n'
        'platform: "onnxruntime_onnx"\n'
        f'default_model_filename: "{MODEL}"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f"{sides}"
        "instance_group [\n  {\n    count: 1\n    kind: KIND_AUTO\n  }\n]\n"
        f'parameters {{\n  key: "fsae_manifest_sha256"\n  value {{ string_value: "{bundle.manifest_sha256}" }}\n}}\n'
    )


def _tensor_text(tensor: Tensor) -> str:
    """One input or output; Triton takes one number per row as an axis of length one, which it then removes."""
    lines = [f'name: "{tensor.name}"', "data_type: TYPE_FP32", f"dims: [ {', '.join(map(str, tensor.dims)) or '1'} ]"]
    if not tensor.dims:
        lines.append("reshape: { shape: [ ] }")
    return "  {\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def _write_model(bundle: Bundle, file: str, folder: Path) -> None:
    """Write one model: the graph, any weights beside it, and its configuration."""
    version = folder / VERSION
    version.mkdir(parents=True)
    (version / MODEL).write_bytes(bundle.read(file))
    for other in bundle.manifest.files:
        if other.startswith(f"{file}."):  # weights of a graph above 2 GB, which refers to them by this name
            shutil.copyfile(bundle.check(other), version / other)
    inputs, outputs = read_tensors(version / MODEL)
    text = config_text(folder.name, bundle, inputs, outputs)
    (folder / CONFIG).write_text(text, encoding="utf-8", newline="\n")


def _is_ours(path: Path) -> bool:
    """True if a path is the folder of a model that fsae-export wrote, and holds nothing else."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.is_symlink() or not (path / CONFIG).read_text(encoding="utf-8").startswith(MARK):
            return False
        others = {entry.name for entry in path.iterdir()} - {CONFIG, VERSION}
        weights = (path / VERSION).iterdir() if (path / VERSION).is_dir() else ()
        return not others and all(entry.name == MODEL or ".onnx." in entry.name for entry in weights)
    return False
