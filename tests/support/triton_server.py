"""A stand-in for the Triton server with one model of the Python backend, in this process and over HTTP.

Its contract is that of the README and of src/pb_stub.cc in triton-inference-server/python_backend: what `initialize`
and `execute` are given and must return. The configuration is read by the schema in tritonclient. The server itself
holds inputs against the configuration and refuses what does not fit; here outputs are checked as well.
"""

import contextlib
import importlib.util
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import triton_python_backend_utils
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype


class TritonModelException(Exception):
    """An error of the whole model."""


class TritonError:
    """The error of one request, with a code (since 23.09)."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    """A named array; strings are objects, of bytes when they come from a client."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        assert name
        assert values.dtype.kind != "U"
        self._name, self._values = name, np.ascontiguousarray(values)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


@dataclass
class InferenceRequest:
    """A request as `execute` gets it."""

    tensors: Sequence[Tensor]
    cancelled: bool = False

    def inputs(self) -> list[Tensor]:
        return list(self.tensors)

    def is_cancelled(self) -> bool:
        return self.cancelled


@dataclass
class InferenceResponse:
    """A response: tensors, or an error."""

    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


CLASSES = (TritonModelException, TritonError, Tensor, InferenceRequest, InferenceResponse)


def import_model(path: Path) -> ModuleType:
    """Import a model.py as the backend does: its module gets the classes of the backend afterwards."""
    for kind in CLASSES:
        triton_python_backend_utils.__dict__.pop(kind.__name__, None)
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for kind in CLASSES:
        setattr(triton_python_backend_utils, kind.__name__, kind)
    return module


def read_config(folder: Path) -> Any:
    """The configuration of a model, read by protobuf's strict parser with the server's schema."""
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())


def fits(tensor: Any, values: np.ndarray) -> bool:
    """True if an array is of the type and shape that the configuration of an input or output says."""
    datatype = DataType.Name(tensor.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
    dims = list(tensor.dims)
    same = len(dims) == values.ndim and all(d in (-1, n) for d, n in zip(dims, values.shape, strict=True))
    return same and values.dtype == triton_to_np_dtype(datatype)


class Server:
    """One instance of a model, loaded from its folder in a repository."""

    def __init__(self, folder: Path, kind: str = "CPU", number: str = "0") -> None:
        self.config = read_config(folder)
        assert self.config.backend == "python"
        assert self.config.name == folder.name
        self._model = import_model(folder / "1" / "model.py").TritonPythonModel()
        self._model.initialize(
            {
                "model_config": json_format.MessageToJson(self.config, preserving_proto_field_name=True),
                "model_instance_kind": kind,
                "model_instance_device_id": number,
                "model_repository": str(folder),
                "model_version": "1",
                "model_name": folder.name,
            }
        )

    def execute(self, several: Sequence[Mapping[str, np.ndarray]], cancelled: bool = False) -> list[InferenceResponse]:
        """Responses to requests that arrive together; AssertionError if the contract or the configuration is broken."""
        requests = []
        for given in several:
            known = {tensor.name: tensor for tensor in self.config.input}
            assert {name for name, tensor in known.items() if not tensor.optional} <= set(given) <= set(known)
            assert all(fits(known[name], values) for name, values in given.items()), given
            requests.append(InferenceRequest([Tensor(*pair) for pair in given.items()], cancelled))
        responses = self._model.execute(requests)
        assert isinstance(responses, list)
        assert len(responses) == len(requests)
        for response in responses:
            assert isinstance(response, InferenceResponse)
            found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}
            if response.error is None:
                assert set(found) == {tensor.name for tensor in self.config.output}
                assert all(fits(tensor, found[tensor.name]) for tensor in self.config.output)
        return responses

    def finalize(self) -> None:
        self._model.finalize()


# KServe's protocol 2 over HTTP, with the extension for binary tensors.


def decode(tensor: Mapping[str, Any], binary: bytes | None) -> np.ndarray:
    """The array of an input, from its JSON or from bytes."""
    dtype = triton_to_np_dtype(tensor["datatype"])
    if binary is None:
        values = [text.encode() for text in tensor["data"]] if dtype == np.object_ else tensor["data"]
        flat = np.array(values, dtype=dtype)
    else:
        flat = deserialize_bytes_tensor(binary) if dtype == np.object_ else np.frombuffer(binary, dtype)
    return flat.reshape(tensor["shape"])


def read_body(body: bytes, header: int) -> tuple[dict[str, np.ndarray], bool]:
    """The inputs of a request whose JSON takes `header` bytes, and whether the outputs are wanted in bytes."""
    asked, rest, given = json.loads(body[:header]), body[header:], {}
    for tensor in asked["inputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        given[tensor["name"]] = decode(tensor, None if size is None else rest[:size])
        rest = rest[size or 0 :]
    assert not rest
    return given, asked.get("parameters", {}).get("binary_data_output", False)


def write_body(tensors: Sequence[Tensor], datatypes: Mapping[str, str], binary: bool) -> tuple[bytes, int]:
    """The body of a response, and how many bytes of it are JSON."""
    outputs, rest = [], b""
    for tensor in tensors:
        name, values = tensor.name(), tensor.as_numpy()
        output: dict[str, Any] = {"name": name, "datatype": datatypes[name], "shape": values.shape}
        if binary:
            data = serialize_byte_tensor(values).item() if values.dtype == np.object_ else values.tobytes()
            output["parameters"] = {"binary_data_size": len(data)}
            rest += data
        else:
            flat = values.ravel().tolist()
            output["data"] = [text.decode() for text in flat] if values.dtype == np.object_ else flat
        outputs.append(output)
    header = json.dumps({"outputs": outputs}).encode()
    return header + rest, len(header)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[str]:
    """The address, without a scheme, at which a model answers on this machine while the block runs."""
    datatypes = {t.name: DataType.Name(t.data_type)[5:].replace("STRING", "BYTES") for t in server.config.output}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == f"/v2/models/{server.config.name}/infer"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            given, binary = read_body(body, int(self.headers.get("Inference-Header-Content-Length", len(body))))
            (response,) = server.execute([given])
            if response.error is not None:
                answer, header = json.dumps({"error": response.error.message()}).encode(), 0
            else:
                answer, header = write_body(response.output_tensors, datatypes, binary)
            self.send_response(200 if response.error is None else 400)
            if binary and header:
                self.send_header("Inference-Header-Content-Length", str(header))
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Keep stderr clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
