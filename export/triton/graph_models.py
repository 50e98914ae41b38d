"""The model of a graph: its ONNX file, which Triton runs with ONNX Runtime."""

import shutil
from pathlib import Path

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.errors import BundleError, DeviceError

from .config import CONFIG, VERSION, ModelConfig, Tensor, config_text

GRAPH = "model.onnx"
MAX_BATCH = 32  # rows of one request: the largest batch that engines are built for by default


def write_graph_model(bundle: Bundle, file: str, folder: Path) -> None:
    """Write the model of the graph in `file`: the graph, any weights beside it, and its configuration."""
    version = folder / VERSION
    version.mkdir(parents=True)
    (version / GRAPH).write_bytes(bundle.read(file))
    for other in bundle.manifest.files:
        if other.startswith(f"{file}."):  # weights of a graph above 2 GB, which refers to them by this name
            shutil.copyfile(bundle.check(other), version / other)
    inputs, outputs = read_tensors(version / GRAPH)
    config = ModelConfig(
        name=folder.name,
        runs_on=f'platform: "onnxruntime_onnx"\ndefault_model_filename: "{GRAPH}"',
        max_batch_size=MAX_BATCH,
        inputs=inputs,
        outputs=outputs,
        instances="KIND_AUTO",
        parameters={"fsae_manifest_sha256": bundle.manifest_sha256},
    )
    (folder / CONFIG).write_text(config_text(config, bundle.manifest.name), encoding="utf-8", newline="\n")


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
