"""The model `generate` of the repository gives the ensembles of the runtime, and refuses in one sentence."""

import json
import shutil
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import python
from repository_engines import ENGINES

import fsae.runtime
from fsae.export.triton.repository import write_repository
from fsae.runtime import Request
from fsae.runtime.bundle.files import Bundle, open_bundle

server = pytest.importorskip("triton_server", reason="tritonclient is not installed: pip install tritonclient[grpc]")
CLIENT = Path(__file__).parents[3] / "export" / "examples" / "triton_client.py"
Asked = dict[str, np.ndarray]


def asked(**changed: Any) -> Asked:
    """The tensors of a request: two members of four steps (a window of the tiny model has three), unless changed."""
    words = {"members": [5, 2], "seed": 2**64 - 1, "start": "2003-11", "steps": 4} | changed
    types = {"members": np.int64, "seed": np.uint64, "steps": np.int64}
    return {
        name: np.array(np.atleast_1d(value), dtype=types[name])
        if name in types
        else np.array([str(value).encode()], dtype=np.object_)
        for name, value in words.items()
    }


@pytest.fixture
def tiny_model(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """The folder of the model that draws with the tiny bundle."""
    write_repository(tiny_bundle, tmp_path / "models")
    return tmp_path / "models" / "fsae_tiny_generate"


def compare(response: Any, emulator: fsae.runtime.Emulator, request: Request) -> None:
    """The tensors of a response are what the emulator draws, to the bit."""
    assert response.error is None, response.error.message()
    found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}
    expected = emulator.generate(request)
    for variable in emulator.bundle.manifest.variables:
        np.testing.assert_array_equal(found[variable.name], expected[variable.name].values)
    times = [text.decode() for text in found["time"]]
    np.testing.assert_array_equal(np.array(times, dtype="datetime64[ns]"), expected["time"].values)
    attributes = json.loads(found["attributes"][0])
    assert attributes["fsae_seed"] == request.seed
    assert json.loads(attributes["fsae_request"]) == json.loads(expected.attrs["fsae_request"])


@pytest.mark.parametrize("which", ["tiny_bundle", "default_bundle"])
def test_members_are_those_of_the_runtime(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    # oracle: Emulator.generate on the original bundle, which fsae-run calls; several requests arrive together
    bundle: Bundle = request.getfixturevalue(which)
    write_repository(bundle, tmp_path / "models")
    model = server.Server(tmp_path / "models" / f"fsae_{bundle.manifest.name}_generate")
    emulator = fsae.runtime.load(bundle.folder, "cpu")
    held = float(bundle.manifest.denoiser.forcing.range[1]) if bundle.manifest.denoiser else 0.0
    first, second = model.execute([asked(), asked(members=[0], seed=3, steps=1, forcing=held)])
    compare(first, emulator, Request(members=[5, 2], seed=2**64 - 1, start="2003-11", steps=4))
    compare(second, emulator, Request(members=1, seed=3, start="2003-11", steps=1, forcing=held))
    if bundle.tables.scenarios is not None:
        (third,) = model.execute([asked(start="2030-01", steps=1, forcing="ssp245")])
        compare(third, emulator, Request(members=[5, 2], seed=2**64 - 1, start="2030-01", steps=1, forcing="ssp245"))
    units = {variable.name: variable.units for variable in bundle.manifest.variables}
    told = {name: value.string_value for name, value in model.config.parameters.items()}
    assert {name.removeprefix("units_"): told[name] for name in told if name.startswith("units_")} == units
    model.finalize()


def test_an_error_is_one_sentence_and_leaves_other_requests(tiny_model: Path, tmp_path: Path) -> None:
    # oracle: the sentences; a path as forcing is not read, although the file is there
    series = tmp_path / "series.csv"
    series.write_text("2000-01-01,2000\n2010-01-01,2010\n")
    wrong = {
        "the date '2003-13' does not exist": asked(start="2003-13"),
        "found the members [-1], expected one or more, 0 or above": asked(members=[-1]),
        "found the members []": asked(members=np.empty(0, dtype=np.int64)),
        "found 0 steps, expected 1 to": asked(steps=0),
        f"found the forcing '{series}', expected a number: leave it out": asked(forcing=series),
        "found the forcing nan, expected a finite number": asked(forcing="nan"),
        "found 1000 members of 1000 steps, 1465 MiB of fields, expected 1024 MiB at most": asked(
            members=np.arange(1000), steps=1000
        ),
    }
    model = server.Server(tiny_model)
    responses = model.execute([*wrong.values(), asked()])
    for sentence, response in zip(wrong, responses, strict=False):
        assert sentence in response.error.message()
        assert "\n" not in response.error.message()
        assert response.error.code() == server.TritonError.INVALID_ARG
    assert responses[-1].error is None
    (cancelled,) = model.execute([asked()], cancelled=True)
    assert cancelled.error.code() == server.TritonError.CANCELLED


def altered(folder: Path) -> None:
    with (folder / "1" / "bundle" / "decoder.fp32.onnx").open("r+b") as file:
        file.write(b"damaged")


def another_manifest(folder: Path) -> None:
    with (folder / "1" / "bundle" / "manifest.json").open("a") as file:
        file.write("\n")


@pytest.mark.parametrize(
    ("damage", "instance", "sentence"),
    [
        (altered, ("CPU", "0"), "decoder.fp32.onnx is altered"),
        (another_manifest, ("CPU", "0"), "as config.pbtxt says: write the repository again"),
        (None, ("GPU", "1"), "found an instance of KIND_GPU on device 1, expected KIND_CPU, or KIND_GPU with gpus"),
        (None, ("MODEL", "0"), "found an instance of KIND_MODEL"),
    ],
)
def test_a_model_that_is_not_whole_is_not_served(
    damage: Callable[[Path], None] | None, instance: tuple[str, str], sentence: str, tiny_model: Path
) -> None:  # oracle: the sentences
    if damage is not None:
        damage(tiny_model)
    with pytest.raises(server.TritonModelException, match=sentence):
        server.Server(tiny_model, *instance)


def post(address: str, given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The response to a request in plain JSON, as `curl` sends it: outputs by name."""
    types = {np.dtype(np.int64): "INT64", np.dtype(np.uint64): "UINT64", np.dtype(np.object_): "BYTES"}
    tensors = [
        {
            "name": name,
            "shape": values.shape,
            "datatype": types[values.dtype],
            "data": [v.decode() if isinstance(v, bytes) else v for v in values.tolist()],
        }
        for name, values in given.items()
    ]
    url = f"http://{address}/v2/models/fsae_tiny_generate/infer"
    with urllib.request.urlopen(url, json.dumps({"inputs": tensors}).encode(), timeout=60) as answer:
        return {output["name"]: output for output in json.loads(answer.read())["outputs"]}


def test_the_example_of_a_client_gets_the_fields(tiny_model: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    # oracle: Emulator.generate; the requests and responses are read and written by tritonclient
    pytest.importorskip("geventhttpclient", reason="tritonclient cannot speak HTTP: pip install tritonclient[http]")
    expected = fsae.runtime.load(tiny_bundle.folder, "cpu").generate(
        Request(members=[5, 2], seed=2**64 - 1, start="2003-11", steps=4)
    )
    words = ("--members", 5, 2, "--seed", 2**64 - 1, "--start", "2003-11", "--steps", 4)
    out = tmp_path / "members.npz"
    with server.serving(server.Server(tiny_model)) as address:
        call = (CLIENT, out, "--server", address, "--model", "fsae_tiny_generate", *words)
        done = python(*call)
        refused = python(*call, "--forcing", "x")
        plain = post(address, asked())
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        for variable in tiny_bundle.manifest.variables:
            fields = expected[variable.name].values
            np.testing.assert_array_equal(found[variable.name], fields)
            np.testing.assert_array_equal(np.reshape(plain[variable.name]["data"], fields.shape), fields)
        assert found["time"].tolist() == plain["time"]["data"]
        assert json.loads(str(found["attributes"][0]))["fsae_bundle"] == "tiny"
    assert refused.returncode == 1
    assert refused.stderr == "error: found the forcing 'x', expected a number: leave it out for the past\n"


def test_a_model_that_was_served_is_replaced(tiny_model: Path, tiny_bundle: Bundle) -> None:
    # oracle: Python leaves its cache beside model.py; anything else stays
    cache = tiny_model / "1" / "__pycache__"
    cache.mkdir()
    (cache / f"model.{sys.implementation.cache_tag}.pyc").write_bytes(b"")
    write_repository(tiny_bundle, tiny_model.parent, overwrite=True)
    assert not cache.exists()
    for number, place in enumerate(("1/bundle/notes.txt", "1/__pycache__/notes.txt", "environment.tar.gz")):
        stranger = tiny_model / place
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_text(str(number))
        with pytest.raises(fsae.runtime.OutputError, match="which fsae-export did not write"):
            write_repository(tiny_bundle, tiny_model.parent, overwrite=True)
        stranger.unlink()
        shutil.rmtree(cache, ignore_errors=True)


def test_a_bundle_without_a_diffusion_model_has_none(tmp_path: Path) -> None:  # oracle: the manifest of ratio-64
    names = write_repository(open_bundle(ENGINES / "ratio-64"), tmp_path / "models")
    assert sorted(names) == ["fsae_ratio-64_decoder", "fsae_ratio-64_encoder"]
