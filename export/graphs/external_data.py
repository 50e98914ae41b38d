"""Graphs above protobuf's limit of 2 GB: their weights go into a second file, which ONNX calls external data.

The files of a graph are a dict from name to content: "encoder.fp32.onnx" alone, or with "encoder.fp32.onnx.data". Hosts
find the second one by the rule in `fsae.runtime.bundle.external_data` and accept no other.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import numpy_helper

from fsae.runtime.bundle.external_data import weights_file
from fsae.runtime.errors import BundleError

from .scratch import scratch_errors, scratch_folder

LIMIT_BYTES = 2**31 - 2**20  # protobuf's limit is 2**31 - 1, and libraries that copy a graph add a little
INSIDE_BYTES = 1024  # smaller constants, such as shapes and axes, stay inside, for shape inference
Files = Mapping[str, bytes]  # the graph first
ALIGNMENT = 4096  # bytes, as onnx.proto recommends, so that weights can be mapped into memory


def split_weights(model: bytes | onnx_ir.Model, name: str, limit_bytes: int = LIMIT_BYTES) -> dict[str, bytes]:
    """Files of the graph `name`: one if it stays within `limit_bytes`, else the graph and its weights.

    The same weights give the same bytes, and `model` is not changed. A model with lazy tensors is held in memory once,
    as the content of the file. BundleError if the nodes alone are too large.
    """
    if isinstance(model, bytes):
        if len(model) <= limit_bytes:
            return {name: model}
        model = onnx_ir.from_proto(onnx.load_from_string(model))
    inside = {value: value.const_value for value in model.graph.initializers.values()}
    outside = _places(model, weights_file(name))
    try:
        for value, place in outside.items():
            value.const_value = place
        graph = _serialised(model)
    finally:
        for value, tensor in inside.items():
            value.const_value = tensor
    if len(graph) + sum(place.length or 0 for place in outside.values()) <= limit_bytes:
        return {name: _serialised(model)}
    if not outside or len(graph) > limit_bytes:
        raise BundleError(
            f"the nodes of {name} are {len(graph)} bytes without weights",
            f"{limit_bytes} at most",
            "export a smaller network",
        )
    content = io.BytesIO()
    for value, place in outside.items():
        tensor = inside[value]
        assert tensor is not None
        content.write(bytes((place.offset or 0) - content.tell()))
        content.write(tensor.tobytes())
    return {name: graph, weights_file(name): content.getvalue()}


def model_of(files: Mapping[str, bytes]) -> onnx_ir.Model:
    """The model in the files of a graph, which comes first; its weights are views of the files' content."""
    name = next(iter(files))
    model = onnx_ir.from_proto(onnx.load_from_string(files[name]))
    weights = memoryview(files.get(weights_file(name), b""))
    for value in model.graph.initializers.values():
        place = value.const_value
        if isinstance(place, onnx_ir.ExternalTensor):
            first = place.offset or 0
            content = weights[first : first + (place.length or 0)]
            numbers = np.frombuffer(content, place.dtype.numpy()).reshape(place.shape.numpy())
            value.const_value = onnx_ir.Tensor(numbers, dtype=place.dtype, name=place.name)
    return model


def check_model_files(files: Mapping[str, bytes]) -> onnx.ModelProto:
    """The graph, without external weights and with all shapes inferred; BundleError if the files are not valid ONNX.

    The graph is the first of `files`. External constants must lie in the graph's own weights file, aligned, and must
    not overlap.
    """
    name = next(iter(files))
    try:
        with placed(files) as path:
            onnx.checker.check_model(path, full_check=True)
        model = onnx.load_from_string(files[name])
        problem = _misplaced(model, weights_file(name), len(files.get(weights_file(name), b"")))
        del model.graph.value_info[:]  # shapes that a file declares need not be those a backend can infer
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(
            f"{name} is not valid ONNX: {error}", advice="update torch and onnx, then export the run again"
        ) from None
    if problem is not None or len(files) > 2:
        raise BundleError(
            f"{name} cannot be shipped: {problem or f'it has {len(files)} files, expected at most two'}",
            advice="export the run again",
        )
    return model


def content_of(constant: onnx.TensorProto, weights: bytes = b"") -> memoryview:
    """The bytes of a constant, from the graph or from its weights file."""
    if constant.data_location != onnx.TensorProto.EXTERNAL:
        return memoryview(constant.raw_data or numpy_helper.to_array(constant).tobytes())
    _, offset, length = _entry(constant)
    return memoryview(weights)[offset : offset + length]


@contextlib.contextmanager
def placed(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Path of the graph, the first of `files`, in a temporary folder with all of them.

    For libraries that find weights only by path. OutputError if the files cannot be written.
    """
    with scratch_folder() as folder:
        with scratch_errors():
            for name, data in files.items():
                (folder / name).write_bytes(data)
        yield folder / next(iter(files))


def _places(model: onnx_ir.Model, file: str) -> dict[onnx_ir.Value, onnx_ir.ExternalTensor]:
    """The place of each large constant in the weights file, in the order of the graph."""
    found: dict[onnx_ir.Value, onnx_ir.ExternalTensor] = {}
    end = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype == onnx_ir.DataType.STRING or tensor.nbytes <= INSIDE_BYTES:
            continue
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        end = offset + tensor.nbytes
        found[value] = onnx_ir.ExternalTensor(
            file,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=onnx_ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
            base_dir="",
        )
    return found


def _serialised(model: onnx_ir.Model) -> bytes:
    """A model as protobuf; the same model gives the same bytes."""
    data: bytes = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _misplaced(model: onnx.ModelProto, file: str, size: int) -> str | None:
    """The first problem with a graph's external constants, or None."""
    end = 0
    for constant in sorted((c for c in model.graph.initializer if c.external_data), key=lambda c: _entry(c)[1]):
        location, offset, length = _entry(constant)
        if location != file:
            return f"{constant.name} lies in {location!r}, expected {file}"
        if offset < end or offset % ALIGNMENT or offset + length > size:
            return f"{constant.name} takes the bytes {offset} to {offset + length} of {size}, which is not valid"
        end = offset + length
    return None


def _entry(constant: onnx.TensorProto) -> tuple[str, int, int]:
    """Location, offset and length of an external constant."""
    entry = {pair.key: pair.value for pair in constant.external_data}
    return entry.get("location", ""), int(entry.get("offset", "0")), int(entry.get("length", "0"))
