"""The Triton model repository: configurations in the server's schema, graphs that match them, safe writing."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from trees import tree

from fsae.export.cli.main import main
from fsae.export.triton.graph_models import read_tensors
from fsae.export.triton.repository import write_repository
from fsae.runtime.backends.graphs import OUTPUTS
from fsae.runtime.bundle.files import Bundle, open_bundle, write_manifest
from fsae.runtime.errors import BundleError, OutputError


@pytest.mark.parametrize("which", ["tiny_bundle", "default_bundle"])
def test_every_model_answers_as_its_configuration_says(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    # oracle: protobuf's strict parser with the server's schema, and the golden vectors through the server's shapes
    read_config = pytest.importorskip("triton_server", reason="tritonclient is not installed").read_config
    bundle: Bundle = request.getfixturevalue(which)
    names = write_repository(bundle, tmp_path / "repository")
    golden = bundle.arrays("golden.npz")
    assert sorted(p.name for p in (tmp_path / "repository").iterdir()) == sorted(names)
    assert names[-1] == f"fsae_{bundle.manifest.name}_generate"  # tested in test_generate_model.py
    for graph, name in zip(bundle.manifest.graphs, names, strict=False):  # fp32 comes first
        folder = tmp_path / "repository" / name
        assert sorted(tree(folder)) == ["1/model.onnx", "config.pbtxt"]
        config = read_config(folder)
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
    places = ("fsae_tiny_denoiser/1", "fsae_tiny_generate/1/bundle")
    assert beside == {f"{place}/denoiser.fp32.onnx.data": b"weights" for place in places}


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
    names = "fsae_tiny_encoder, fsae_tiny_decoder, fsae_tiny_denoiser, fsae_tiny_generate"
    assert capsys.readouterr().out == f"Triton repository models: {names}\n"
    assert main([model, "--triton", "models"]) == 7
    assert main([model, "--triton", "models", "--overwrite"]) == 0
    assert main([model, "--overwrite"]) == 2
    assert "--overwrite is for a Triton repository or a page" in capsys.readouterr().err
