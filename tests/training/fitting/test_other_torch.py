"""A run comes from elsewhere: trained by another minor version of torch, on a GPU that the exporting host lacks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fsae.export.bundle.write import export_run
from fsae.runtime.backends.graphs import INPUTS, OUTPUTS, DenoiserInputs
from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.sphere.healpix import coarsen
from fsae.training.fitting.run_folder import load_run

GOLDEN = Path(__file__).parents[2] / "golden" / "run-torch-2.6"  # made by golden/make_run.py with that torch
GRAPHS = ("encoder", "decoder", "denoiser")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """The outputs of the older torch, named as in a bundle's golden.npz."""
    with np.load(GOLDEN / "outputs.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The run's bundle, exported where no GPU can be used, from a folder that says it was trained on one."""

    def refuse() -> None:
        raise AssertionError("CUDA was started")

    folder = tmp_path_factory.mktemp("other")
    run = Path(shutil.copytree(GOLDEN, folder / "golden-run"))
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["trainer"] |= {"accelerator": "cuda", "precision": "bf16-mixed"}
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:  # what torch itself asks, and what everything on CUDA begins with
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "_lazy_init", refuse)
        loaded = load_run(run)
        assert (loaded.config.trainer.accelerator, loaded.config.trainer.precision) == ("cuda", "bf16-mixed")
        return open_bundle(export_run(loaded, folder / "engines").folder)


def test_the_run_is_of_another_torch(bundle: Bundle) -> None:  # oracle: what that training wrote, and torch here
    trained = json.loads((GOLDEN / "facts.json").read_text(encoding="utf-8"))["versions"]
    assert trained["torch"].split(".")[:2] == ["2", "6"]
    if torch.__version__.split(".")[:2] == ["2", "6"]:
        pytest.skip("the torch installed here is the one the run was trained with")
    assert dict(bundle.manifest.provenance.versions) == trained
    assert bundle.manifest.certificates["fp32"].versions["torch"] == torch.__version__


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_give_what_the_older_torch_gave(bundle: Bundle, golden: dict[str, np.ndarray], graph: str) -> None:
    # oracle: outputs of the torch that trained the model, whose denoiser left in what rounding its patterns adds
    graphs = OnnxGraphs(bundle)
    call = {
        "encoder": graphs.encode,
        "decoder": graphs.decode,
        "denoiser": lambda *inputs: graphs.denoise(DenoiserInputs(*inputs)),
    }[graph]
    expected = golden[f"{graph}.{OUTPUTS[graph]}"].astype(np.float64)
    assert np.ptp(expected) > 1
    difference = call(*(golden[f"{graph}.{name}"] for name in INPUTS[graph])) - expected
    assert difference.shape == expected.shape
    unit = bundle.tables.scale[0] if graph == "encoder" else 1.0  # latents are dimensionless, tolerances physical
    limits = bundle.manifest.parity["fp32"][graph].differences
    assert limits
    for limit in limits:
        error = unit * coarsen(difference[..., 0, :], bundle.manifest.output_zoom(graph) - limit.zoom)
        assert np.abs(error).max() <= (4 if graph == "denoiser" else 1) * limit.tolerance, limit


def test_a_run_of_a_gpu_is_read_to_the_cpu(bundle: Bundle) -> None:  # oracle: where tensors say they are
    assert sorted(name for name in bundle.manifest.files if name.endswith(".onnx")) == sorted(
        f"{graph}.fp32.onnx" for graph in GRAPHS
    )
    assert {parity.device for parity in bundle.manifest.parity["fp32"].values()} == {"cpu"}
    run = load_run(GOLDEN)
    for model in (run.autoencoder, run.denoiser):
        assert model is not None
        assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
