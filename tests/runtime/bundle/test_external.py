"""Weights beside a graph: how they are split off, and that a host takes them from nowhere else."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_bundle import HARMONICS, PIXELS, VARIABLES, tiny_encode

from fsae.export.graphs.external_data import (
    ALIGNMENT,
    INSIDE_BYTES,
    check_model_files,
    content_of,
    model_of,
    placed,
    split_weights,
)
from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.external_data import MESSAGES, external_locations, read_graph
from fsae.runtime.bundle.files import Bundle, open_bundle, write_manifest
from fsae.runtime.climate.climatology import season as season_of
from fsae.runtime.errors import BundleError

NAME = "encoder.fp32.onnx"
WEIGHTS = "encoder.fp32.onnx.data"
SIZE = 40  # of a square matrix of weights, 6400 bytes: more than a page, and no multiple of one
ROWS = np.random.default_rng(1).normal(size=(3, SIZE)).astype(np.float32)


def matrices(count: int = 2) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=(SIZE, SIZE)).astype(np.float32) for _ in range(count)]


def product(tables: list[np.ndarray], count: Callable[[], None] = lambda: None) -> onnx_ir.Model:
    """y = relu(x) times each of the tables, and a small bias; `count` is called whenever a table is looked at."""
    kind = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    shape = onnx_ir.Shape(["batch", SIZE])

    def lazy(name: str, table: np.ndarray) -> onnx_ir.LazyTensor:
        def look() -> onnx_ir.Tensor:
            count()
            return onnx_ir.Tensor(table, name=name)

        return onnx_ir.LazyTensor(look, dtype=onnx_ir.DataType.FLOAT, shape=onnx_ir.Shape(table.shape), name=name)

    start = value = onnx_ir.Value(name="x", type=kind, shape=shape)
    nodes, constants = [], []
    everything = {f"w{number}": table for number, table in enumerate(tables)} | {"bias": np.ones(SIZE, np.float32)}
    for name, table in everything.items():
        constant = onnx_ir.Value(name=name, type=kind, shape=onnx_ir.Shape(table.shape), const_value=lazy(name, table))
        node = onnx_ir.node("Add" if name == "bias" else "MatMul", [value, constant])
        value = node.outputs[0]
        value.name = f"after_{name}"
        nodes.append(node)
        constants.append(constant)
    value.type, value.shape = kind, shape
    graph = onnx_ir.Graph([start], [value], nodes=nodes, initializers=constants, opset_imports={"": 18}, name="product")
    return onnx_ir.Model(graph, ir_version=9)


def expected(tables: list[np.ndarray]) -> np.ndarray:
    result = ROWS.astype(np.float64)
    for table in tables:
        result = result @ table
    return result + 1


def entries(graph: bytes) -> dict[str, dict[str, str]]:
    """The entries of the graph about each constant outside it."""
    found = onnx.load_from_string(graph).graph.initializer
    return {c.name: {e.key: e.value for e in c.external_data} for c in found if c.external_data}


def run(files: dict[str, bytes]) -> np.ndarray:
    with placed(files) as path:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": ROWS})[0])


def test_below_the_limit_a_graph_is_one_file() -> None:  # oracle: protobuf
    model = product(matrices())
    whole = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    assert split_weights(model, NAME) == {NAME: whole}
    assert split_weights(whole, NAME, len(whole)) == {NAME: whole}
    assert list(split_weights(whole, NAME, len(whole) - 1)) == [NAME, WEIGHTS]


def test_above_it_the_weights_lie_beside() -> None:  # oracle: the products by NumPy, and the bytes of the tables
    tables = matrices()
    files = split_weights(product(tables), NAME, 2000)
    assert list(files) == [NAME, WEIGHTS]
    assert len(files[NAME]) < 2000
    found = entries(files[NAME])
    assert list(found) == ["w0", "w1"]  # the bias is small and stays inside
    assert SIZE * 4 < INSIDE_BYTES
    for entry, table in zip(found.values(), tables, strict=True):
        first, length = int(entry["offset"]), int(entry["length"])
        assert entry["location"] == WEIGHTS
        assert first % ALIGNMENT == 0
        assert files[WEIGHTS][first : first + length] == table.tobytes()
    np.testing.assert_allclose(run(files), expected(tables), rtol=1e-5, atol=1e-4)  # sums of 40 products of size 40
    np.testing.assert_array_equal(run(files), run(split_weights(product(tables), NAME)))
    for constant in onnx.load_from_string(files[NAME]).graph.initializer:
        assert len(content_of(constant, files[WEIGHTS])) == 4 * np.prod(constant.dims)


def test_splitting_is_deterministic_and_leaves_the_model() -> None:  # oracle: the first time
    looks: list[int] = []
    model = product(matrices(), lambda: looks.append(1))
    before = {value.name: value.const_value for value in model.graph.initializers.values()}
    files = split_weights(model, NAME, 2000)
    assert len(looks) == 3  # each table is made once: two for the file, the bias for the graph
    assert {value.name: value.const_value for value in model.graph.initializers.values()} == before
    assert split_weights(model, NAME, 2000) == files
    whole = split_weights(model, NAME)[NAME]
    assert split_weights(whole, NAME, 2000) == files
    moved = split_weights(model, "decoder.fp32.onnx", 2000)
    assert {e["location"] for e in entries(moved["decoder.fp32.onnx"]).values()} == {"decoder.fp32.onnx.data"}


def test_files_are_a_model_again() -> None:  # oracle: the tables, and the files themselves
    model = product(matrices())
    for value, kind in zip(list(model.graph.initializers.values())[:2], ("BFLOAT16", "INT8"), strict=True):
        table = np.round(matrices(1)[0] * 20).astype(onnx_ir.DataType[kind].numpy())
        value.const_value = onnx_ir.Tensor(table, dtype=onnx_ir.DataType[kind], name=value.name)
        value.dtype = onnx_ir.DataType[kind]
    files = split_weights(model, NAME, 2000)
    again = model_of(files)
    for name, value in model.graph.initializers.items():
        tensor, other = value.const_value, again.graph.initializers[name].const_value
        assert tensor is not None
        assert other is not None
        assert (other.dtype, other.name, other.tobytes()) == (tensor.dtype, tensor.name, tensor.tobytes())
        assert other.shape == tensor.shape
    assert split_weights(again, NAME, 2000) == files
    assert split_weights(model_of(split_weights(model, NAME)), NAME, 2000) == files


def test_nodes_that_are_too_large_alone_are_said() -> None:
    model = product(matrices())
    with pytest.raises(BundleError, match=r"the nodes of encoder.fp32.onnx are \d+ bytes without weights, expected 50"):
        split_weights(model, NAME, 50)
    assert all(isinstance(v.const_value, onnx_ir.LazyTensor) for v in model.graph.initializers.values())


def test_valid_files_pass_and_have_their_shapes_inferred() -> None:  # oracle: the shapes of matrix products
    files = split_weights(product(matrices()), NAME, 2000)
    for given in (files, split_weights(product(matrices()), NAME)):
        model = check_model_files(given)
        found = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
        for name in ("after_w0", "after_w1"):
            assert (found[name][0].dim_param, found[name][1].dim_value) == ("batch", SIZE)
    assert len(check_model_files(files).SerializeToString()) < 2000  # its weights were left out


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("location", "other.data", "w1 lies in 'other.data', expected encoder.fp32.onnx.data"),
        ("offset", "4096", "w1 takes the bytes 4096 to 10496 of 14592, which is not valid"),  # inside w0
        ("offset", "8191", "w1 takes the bytes 8191 to 14591"),  # on no page
        ("length", "6404", "w1 takes the bytes 8192 to 14596"),
    ],
)
def test_weights_in_a_wrong_place_are_refused(key: str, value: str, words: str) -> None:
    files = split_weights(product(matrices()), NAME, 2000)
    model = onnx.load_from_string(files[NAME])
    (table,) = (c for c in model.graph.initializer if c.name == "w1")
    next(entry for entry in table.external_data if entry.key == key).value = value
    files = {NAME: model.SerializeToString(), WEIGHTS: files[WEIGHTS], "other.data": files[WEIGHTS]}
    with pytest.raises(BundleError, match=words):
        check_model_files(files if key == "location" else {name: files[name] for name in (NAME, WEIGHTS)})


# The reader of a host, which has no onnx.


def test_messages_are_those_of_onnx() -> None:  # oracle: the descriptors of the onnx package
    names = {
        "ModelProto": "model",
        "GraphProto": "graph",
        "TrainingInfoProto": "training",
        "FunctionProto": "function",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
    }
    reached = {"TensorProto"}  # messages that lead to a tensor
    queue = [onnx.ModelProto.DESCRIPTOR]
    everything = {}
    while queue:
        kind = queue.pop()
        everything[kind.name] = kind
        queue += [f.message_type for f in kind.fields if f.message_type and f.message_type.name not in everything]
    for _ in everything:
        reached |= {
            name
            for name, kind in everything.items()
            if any(f.message_type and f.message_type.name in reached for f in kind.fields)
        }
    assert reached == set(names)
    for name in reached - {"TensorProto"}:
        leading = {
            f.number: names[f.message_type.name]
            for f in everything[name].fields
            if f.message_type and f.message_type.name in reached
        }
        assert MESSAGES[names[name]] == leading
    assert MESSAGES["tensor"] == {TensorProto.EXTERNAL_DATA_FIELD_NUMBER: "entry"}


def reader(location: str) -> TensorProto:
    """A tensor that lies at `location`."""
    tensor = TensorProto(name="w0", data_type=TensorProto.FLOAT, dims=[SIZE, SIZE])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * SIZE * SIZE))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def plant(location: str, where: str) -> bytes:
    """A model that wants to read `location`, said in one of the places where ONNX has tensors."""
    tensor = reader(location)
    empty = helper.make_graph([], "empty", [], [])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    model = helper.make_model(graph)
    constant = helper.make_node("Constant", [], ["w0"], value=tensor)
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "node":
        model.graph.node.append(constant)
    elif where == "branch":
        empty.node.append(constant)
        model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=empty, else_branch=empty))
    elif where == "list":
        model.graph.node.append(helper.make_node("Other", [], ["z"], tensors=[tensor, tensor]))
    elif where == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif where == "function":
        model.functions.add(name="f").node.append(constant)
    elif where == "training":
        model.training_info.add().algorithm.initializer.append(tensor)
    return model.SerializeToString()


@pytest.mark.parametrize("where", ["initializer", "node", "branch", "list", "sparse", "function", "training"])
def test_locations_are_found_wherever_they_stand(where: str) -> None:  # oracle: what was planted
    assert external_locations(plant("../../x", where)) == {"../../x"}


def test_graphs_without_external_data_are_read_at_once() -> None:
    assert external_locations(split_weights(product(matrices()), NAME)[NAME]) == set()
    named = helper.make_model(helper.make_graph([helper.make_node("Relu", ["location"], ["y"])], "g", [], []))
    assert external_locations(named.SerializeToString()) == set()  # a name that only looks like it


END = b"\x4a\x08location"  # a whole field that no message has, with the word that is looked for


@pytest.mark.parametrize(
    "data",
    [
        b"location",
        b"\x3a\x7f" + END,  # a graph longer than what is there
        END + b"\x08\x80",  # a number that stops short
        b"\x08" + b"\xff" * 11 + b"\x01" + END,  # a number of more than ten bytes
        b"\xba\x80\x80\x80\x10\x0a" + END,  # field 7 and 2**32 in its tag, which others cut off
        b"\x02\x00" + END,  # field 0
        b"\x0b\x0c" + END,  # a group
    ],
)
def test_what_is_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="it is not a protobuf message"):
        external_locations(data, NAME)


def test_numbers_of_fixed_width_are_passed_over() -> None:  # oracle: what was planted behind them
    assert external_locations(b"\x09" + b"\xff" * 8 + b"\x0d" + b"\xff" * 4 + plant("x", "node")) == {"x"}
    with pytest.raises(BundleError, match="it is not a protobuf message"):
        external_locations(plant("x", "node") + b"\x09" + b"\xff" * 7, NAME)


@pytest.fixture
def folder(tiny_bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle to change."""
    return Path(shutil.copytree(tiny_bundle_path, tmp_path / "copy"))


def replaced(folder: Path, files: dict[str, bytes]) -> Bundle:
    """The bundle with these files, its manifest complete: as someone would publish it."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    write_manifest(folder, open_bundle(folder).manifest)
    return open_bundle(folder)


def split_encoder(folder: Path) -> dict[str, bytes]:
    return split_weights((folder / NAME).read_bytes(), NAME, 3000)


def encode(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The latent of the encoder, and that of its closed form."""
    season = season_of(np.array([0.1, 0.6]), HARMONICS)
    field = np.random.default_rng(4).normal(270, 5, size=(2, VARIABLES, PIXELS)).astype(np.float32)
    return OnnxGraphs(bundle).encode(field, season, np.ones((2, 3), np.float32)), tiny_encode(field, season)


def refuse_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", never)


def test_a_split_graph_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = split_encoder(folder)
    assert list(files) == [NAME, WEIGHTS]
    bundle = replaced(folder, files)
    (tmp_path / WEIGHTS).write_bytes(bytes(len(files[WEIGHTS])))  # a decoy in the working folder
    monkeypatch.chdir(tmp_path)
    found, closed_form = encode(bundle)
    np.testing.assert_allclose(found, closed_form, rtol=0, atol=1e-3)  # float32 of 270 K over a scale of 0.5
    assert bundle.manifest.precisions == ("fp32",)
    assert read_graph(bundle, NAME) == (files[NAME], folder / NAME)
    assert read_graph(bundle, "decoder.fp32.onnx")[1] is None


@pytest.mark.parametrize(
    "location", ["../../x", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "", "./" + WEIGHTS, WEIGHTS + "\0"]
)
def test_other_locations_are_refused_before_any_session(
    folder: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = split_encoder(folder)
    model = onnx.load_from_string(files[NAME])
    next(c for c in model.graph.initializer if c.external_data).external_data[0].value = location
    bundle = replaced(folder, {NAME: model.SerializeToString(), WEIGHTS: files[WEIGHTS]})
    refuse_sessions(monkeypatch)
    with pytest.raises(BundleError, match=r"wants to read its weights from .*, expected encoder\.fp32\.onnx\.data"):
        encode(bundle)


def test_files_of_the_working_folder_are_no_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # onnxruntime alone would take them for a graph given as bytes
    files = split_encoder(folder)
    bundle = replaced(folder, {NAME: files[NAME]})
    (tmp_path / WEIGHTS).write_bytes(files[WEIGHTS])
    monkeypatch.chdir(tmp_path)
    refuse_sessions(monkeypatch)
    with pytest.raises(BundleError, match=r"has no file encoder\.fp32\.onnx\.data"):
        encode(bundle)


@pytest.mark.parametrize("name", [NAME, WEIGHTS])
def test_altered_files_are_refused_before_any_session(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = replaced(folder, split_encoder(folder))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    refuse_sessions(monkeypatch)
    with pytest.raises(BundleError, match=f"{name} is altered"):
        encode(bundle)


def test_only_onnx_is_read(
    folder: Path, tmp_path: Path
) -> None:  # oracle: onnxruntime takes the file, the host does not
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "encoder.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    data = (folder / NAME).read_bytes()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    own_format = (tmp_path / "encoder.ort").read_bytes()
    onnxruntime.InferenceSession(own_format, providers=["CPUExecutionProvider"])
    with pytest.raises(BundleError, match=rf"cannot load {NAME}"):
        encode(replaced(folder, {NAME: own_format}))
