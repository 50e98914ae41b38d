"""The Triton model repository: configurations in the server's schema, graphs that match them, safe writing."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from trees import tree

from fsae.export.bundle.triton import read_tensors, write_repository
from fsae.export.cli.main import main
from fsae.runtime.backends.graphs import OUTPUTS
from fsae.runtime.bundle.files import Bundle, open_bundle, write_manifest
from fsae.runtime.errors import BundleError, OutputError

# The part of the server's model_config.proto (package inference) that is used, with its field numbers.
SCHEMA = """
name: "model_config.proto" package: "fsae_test" syntax: "proto3"
enum_type {
  name: "DataType" value { name: "TYPE_INVALID" number: 0 } value { name: "TYPE_FP16" number: 10 }
  value { name: "TYPE_FP32" number: 11 } value { name: "TYPE_BF16" number: 14 }
}
message_type { name: "ModelTensorReshape" field { name: "shape" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "ModelInput"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "data_type" number: 2 label: LABEL_OPTIONAL type: TYPE_ENUM type_name: ".fsae_test.DataType" }
  field { name: "dims" number: 4 label: LABEL_REPEATED type: TYPE_INT64 }
  field {
    name: "reshape" number: 5 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".fsae_test.ModelTensorReshape"
  }
}
message_type {
  name: "ModelOutput"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "data_type" number: 2 label: LABEL_OPTIONAL type: TYPE_ENUM type_name: ".fsae_test.DataType" }
  field { name: "dims" number: 3 label: LABEL_REPEATED type: TYPE_INT64 }
  field {
    name: "reshape" number: 5 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".fsae_test.ModelTensorReshape"
  }
}
message_type {
  name: "ModelInstanceGroup"
  enum_type {
    name: "Kind" value { name: "KIND_AUTO" number: 0 } value { name: "KIND_GPU" number: 1 }
    value { name: "KIND_CPU" number: 2 } value { name: "KIND_MODEL" number: 3 }
  }
  field { name: "count" number: 2 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field {
    name: "kind" number: 4 label: LABEL_OPTIONAL type: TYPE_ENUM type_name: ".fsae_test.ModelInstanceGroup.Kind"
  }
}
message_type {
  name: "ModelParameter" field { name: "string_value" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
}
message_type {
  name: "ModelConfig"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "platform" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "max_batch_size" number: 4 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field { name: "input" number: 5 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".fsae_test.ModelInput" }
  field { name: "output" number: 6 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".fsae_test.ModelOutput" }
  field {
    name: "instance_group" number: 7 label: LABEL_REPEATED type: TYPE_MESSAGE
    type_name: ".fsae_test.ModelInstanceGroup"
  }
  field { name: "default_model_filename" number: 8 label: LABEL_OPTIONAL type: TYPE_STRING }
  field {
    name: "parameters" number: 14 label: LABEL_REPEATED type: TYPE_MESSAGE
    type_name: ".fsae_test.ModelConfig.ParametersEntry"
  }
  nested_type {
    name: "ParametersEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".fsae_test.ModelParameter" }
  }
}
"""


@pytest.fixture(scope="module")
def model_config() -> type[Any]:
    """The class of the server's ModelConfig message."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("fsae_test.ModelConfig"))


@pytest.mark.parametrize("which", ["tiny_bundle", "default_bundle"])
def test_every_model_answers_as_its_configuration_says(
    which: str, request: pytest.FixtureRequest, model_config: type[Any], tmp_path: Path
) -> None:
    # oracle: protobuf's strict parser with the server's schema, and the golden vectors through the server's shapes
    bundle: Bundle = request.getfixturevalue(which)
    names = write_repository(bundle, tmp_path / "repository")
    golden = bundle.arrays("golden.npz")
    assert sorted(p.name for p in (tmp_path / "repository").iterdir()) == sorted(names)
    for graph, name in zip(bundle.manifest.graphs, names, strict=False):  # fp32 comes first
        folder = tmp_path / "repository" / name
        assert sorted(tree(folder)) == ["1/model.onnx", "config.pbtxt"]
        config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config())
        assert config.name == name == f"fsae_{bundle.manifest.name}_{graph}"
        assert (config.platform, config.default_model_filename) == ("onnxruntime_onnx", "model.onnx")
        assert config.parameters["fsae_manifest_sha256"].string_value == bundle.manifest_sha256
        assert config.max_batch_size >= 2
        assert [(group.count, group.kind) for group in config.instance_group] == [(1, 0)]  # KIND_AUTO

        session = onnxruntime.InferenceSession(folder / "1" / config.default_model_filename)
        inputs = {}
        for tensor in config.input:
            assert tensor.data_type == 11  # TYPE_FP32
            given = golden[f"{graph}.{tensor.name}"]
            asked = given.reshape(len(given), *tensor.dims)  # what a client sends
            inside = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            inputs[tensor.name] = asked.reshape(len(given), *inside)
        (output,) = config.output
        assert (output.name, output.data_type) == (OUTPUTS[graph], 11)
        (found,) = session.run([output.name], inputs)
        assert list(found.shape[1:]) == list(output.dims)
        np.testing.assert_allclose(found, golden[f"{graph}.{output.name}"], rtol=1e-5, atol=5e-4)  # as `verify`


def test_weights_beside_a_graph_come_along(tiny_bundle_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle_path, tmp_path / "copy")
    (folder / "denoiser.fp32.onnx.data").write_bytes(b"weights")
    write_manifest(folder, open_bundle(folder).manifest)
    write_repository(open_bundle(folder), tmp_path / "repository")
    beside = {path: data for path, data in tree(tmp_path / "repository").items() if path.endswith(".data")}
    assert beside == {"fsae_tiny_denoiser/1/denoiser.fp32.onnx.data": b"weights"}


def test_graphs_that_the_server_cannot_batch_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(tiny_bundle.read("decoder.fp32.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1  # a fixed batch
    onnx.save_model(model, tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"latent of .* has the shape \[1, 2, 48\]"):
        read_tensors(tmp_path / "model.onnx")


def test_what_is_there_is_replaced_only_on_request(tiny_bundle: Bundle, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()  # an empty folder is as good as none
    write_repository(tiny_bundle, repository)
    before = tree(repository)
    with pytest.raises(OutputError, match="holds fsae_tiny_decoder already: give --overwrite"):
        write_repository(tiny_bundle, repository)
    shutil.copytree(repository / "fsae_tiny_decoder", repository / "fsae_older_decoder")
    write_repository(tiny_bundle, repository, overwrite=True)
    assert tree(repository) == before  # the same bytes, and the older model is gone


def test_what_others_wrote_is_never_replaced(tiny_bundle: Bundle, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_repository(tiny_bundle, repository)
    (repository / "resnet").mkdir()
    (repository / "resnet" / "config.pbtxt").write_text('name: "resnet"\n')
    before = tree(repository)
    with pytest.raises(OutputError, match="holds resnet, which fsae-export did not write"):
        write_repository(tiny_bundle, repository, overwrite=True)
    assert tree(repository) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file, expected a folder"):
        write_repository(tiny_bundle, tmp_path / "file", overwrite=True)


def test_a_failure_leaves_the_older_repository(tiny_bundle_path: Path, tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(tiny_bundle_path, tmp_path / "copy"))
    write_repository(bundle, tmp_path / "repository")
    before = tree(tmp_path / "repository")
    (bundle.folder / "denoiser.fp32.onnx").write_bytes(b"damaged")  # the last that is read
    with pytest.raises(BundleError, match="truncated or altered"):
        write_repository(bundle, tmp_path / "repository", overwrite=True)
    assert tree(tmp_path / "repository") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "repository"]  # nothing half-written


def test_the_command_writes_it(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(tiny_bundle_path)
    assert main([model, "--triton", "models"]) == 0
    names = "fsae_tiny_encoder, fsae_tiny_decoder, fsae_tiny_denoiser"
    assert capsys.readouterr().out == f"Triton repository models: {names}\n"
    assert main([model, "--triton", "models"]) == 7
    assert main([model, "--triton", "models", "--overwrite"]) == 0
    assert main([model, "--overwrite"]) == 2
    assert "--overwrite is for a Triton repository or a page" in capsys.readouterr().err
