"""From a run to a bundle: graphs, parity, golden vectors, tables, manifest, and how it takes its place."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from fsae.export import bundle as export_bundle
from fsae.export.bundle import Exported, export_run
from fsae.export.card import model_card, to_toml
from fsae.export.engines import BuildOptions, build_engines
from fsae.export.graphs import check_graph, export_graph
from fsae.export.parity import check_batches, check_parity, compare
from fsae.export.samples import run_module
from fsae.runtime.bundle import Bundle, open_bundle
from fsae.runtime.climatology import anomaly_scale, fit, season
from fsae.runtime.engines import INDEX, engine_folder, read_index
from fsae.runtime.errors import BundleError, DataError, OutputError, ToleranceError, UsageError
from fsae.runtime.fields import read_fields
from fsae.runtime.grids import LatLonGrid
from fsae.runtime.healpix import pixel_centres
from fsae.runtime.manifest import Parity, Variable
from fsae.runtime.output import Layout, Unit, encode_times, open_output
from fsae.runtime.regrid import apply
from fsae.runtime.session import INPUTS, OUTPUTS, DenoiserInputs, OnnxGraphs
from fsae.runtime.verify import check_files, check_graphs
from fsae.training.autoencoder import AutoencoderConfig
from fsae.training.config import Config, DataConfig, FastConfig, FitConfig, VariableConfig
from fsae.training.denoiser import Denoiser, DenoiserConfig
from fsae.training.halo import spherical_harmonics
from fsae.training.run import (
    Facts,
    InputFile,
    Run,
    fast_levels,
    load_run,
    make_autoencoder,
    make_denoiser,
    save_weights,
    write_record,
    write_statistics,
)
from fsae.training.wiener import WAVES

TAS = Variable(
    name="tas",
    standard_name="air_temperature",
    long_name="near-surface air temperature",
    units="K",
    cell_methods="time: mean",
    valid_range=(150.0, 350.0),
)
SAMPLE = "ncep1-tas-mon-200501-201412.nc"
ROWS = 8


def tiny_config() -> Config:
    """A run as small as it can be that still has every part."""
    loop = FitConfig(steps=1, batch=1, learning_rate=1e-3)
    return Config(
        name="tiny-run",
        data=DataConfig(
            inputs=("/somewhere/on/this/machine/a.nc",),
            variables=(
                VariableConfig(
                    name=TAS.name,
                    standard_name=TAS.standard_name,
                    long_name=TAS.long_name,
                    units=TAS.units,
                    valid_range=TAS.valid_range,
                ),
            ),
            harmonics=2,
            training_years=(2005, 2011),
            evaluation_years=(2012, 2014),
            licence="public domain",
        ),
        autoencoder=AutoencoderConfig(
            zoom=2, latent_zoom=1, fine_token_zoom=1, coarse_token_zoom=0, width=8, heads=2, embedding=4
        ),
        autoencoder_fit=loop,
        diffusion=DenoiserConfig(window=3, previous=2, token_zooms=(1,), width=8, heads=2, embedding=4),
        diffusion_fit=loop,
        fast=FastConfig(steps=2, sigma_min=0.5),
        fast_fit=loop,
    )


def stir(module: nn.Module) -> None:
    """Move every weight, so that no part of the model is still the identity or zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))


def fit_linear_part(model: Denoiser) -> None:
    """Statistics of white noise with a memory for the denoiser's linear part."""
    noise = np.random.default_rng(3).standard_normal((60, 1, 48)).astype(np.float32)
    series = noise[1:] + 0.5 * noise[:-1]
    waves = spherical_harmonics(1, WAVES).T[:, None].astype(np.float32)
    model.wiener.fit([series], [np.linspace(-1, 1, len(series), dtype=np.float32)], waves)


@pytest.fixture(scope="module")
def run_folder(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on real fields, its weights not trained but stirred."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-run"
    folder.mkdir()
    config = tiny_config()
    source = read_fields(sample_data / SAMPLE, [TAS], zoom=2)
    values = source.read()[0]
    layout = Layout(
        variables={"tas": {"standard_name": TAS.standard_name, "units": "K", "cell_methods": TAS.cell_methods}},
        attributes={"Conventions": "CF-1.12"},
        time=encode_times(source.times, None, source.calendar),
        zoom=2,
        time_chunk=12,
    )
    with open_output(folder / "data.zarr", layout) as write:
        write(Unit(members=slice(0, 1), times=slice(0, len(values)), values=values[None]))
    waves = season(source.phase, config.data.harmonics)
    climatology = fit(values, source.phase, config.data.harmonics)
    generator = np.random.default_rng(2)
    statistics = {
        "climatology": climatology,
        "scale": anomaly_scale(values, climatology, waves),
        "latent_cell_std": generator.uniform(0.5, 1.5, (1, 48)).astype(np.float32),
        "latent_season_std": generator.uniform(-0.3, 0.3, (1, 2, 48)).astype(np.float32),
        "latent_level_std": generator.uniform(0.5, 1.5, (1, 2)).astype(np.float32),
    }
    assert isinstance(source.grid, LatLonGrid)
    write_record(folder / "config.json", config)
    write_record(
        folder / "facts.json",
        Facts(
            inputs=(InputFile(name=SAMPLE, sha256="ab" * 32),),
            calendar=source.calendar,
            step="1 month",
            period=("2005-01-01", "2011-12-01"),
            source_lat_deg=tuple(map(float, source.grid.lat_deg)),
            source_lon_deg=tuple(map(float, source.grid.lon_deg)),
            versions={"torch": torch.__version__},
        ),
    )
    write_statistics(folder, statistics)
    models = {
        "autoencoder": make_autoencoder(config, statistics),
        "denoiser": make_denoiser(config),
        "fast": make_denoiser(config, fast_levels(config)),
    }
    for name, model in models.items():
        stir(model)
        if isinstance(model, Denoiser):
            fit_linear_part(model)
        save_weights(model, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(run_folder: Path) -> Run:
    return load_run(run_folder)


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The run's bundle; tests that change it copy it first."""
    return export_run(run, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    return open_bundle(exported.folder)


def model_of(bundle: Bundle, graph: str) -> onnx.ModelProto:
    return onnx.load_from_string(bundle.read(f"{graph}.fp32.onnx"))


def rows_of(bundle: Bundle, graph: str, count: int) -> dict[str, np.ndarray]:
    """Inputs of a graph: golden rows in turn, each moved a little."""
    golden = bundle.arrays("golden.npz")
    shift = np.linspace(0, 1, count, dtype=np.float32)
    found = {}
    for name in INPUTS[graph]:
        array = golden[f"{graph}.{name}"]
        rows = np.resize(array, (count, *array.shape[1:]))
        found[name] = rows + shift.reshape(-1, *[1] * (array.ndim - 1))
    return found


def test_bundle_is_whole_and_agrees_with_its_golden_vectors(bundle: Bundle) -> None:  # oracle: torch, by golden.npz
    names = [
        "encoder.fp32.onnx",
        "decoder.fp32.onnx",
        "denoiser.fp32.onnx",
        "fast.fp32.onnx",
        "tables.npz",
        "golden.npz",
        "MODEL_CARD.md",
    ]
    assert sorted(bundle.manifest.files) == sorted(names)
    assert check_files(bundle) == len(names)
    assert all(check.good for check in check_graphs(bundle, OnnxGraphs(bundle, "cpu")))
    assert [p.name for p in bundle.folder.parent.iterdir()] == [bundle.folder.name]  # nothing is left beside it


def test_golden_vectors_are_what_torch_computes(run: Run, bundle: Bundle) -> None:  # oracle: the trained modules
    golden = {name: torch.from_numpy(array) for name, array in bundle.arrays("golden.npz").items()}
    inputs = {graph: [golden[f"{graph}.{name}"] for name in INPUTS[graph]] for graph in INPUTS}
    assert run.denoiser is not None
    with torch.no_grad():
        for graph, module in (("encoder", run.autoencoder.encode), ("decoder", run.autoencoder.decode)):
            torch.testing.assert_close(module(*inputs[graph]), golden[f"{graph}.{OUTPUTS[graph]}"], rtol=0, atol=0)
        torch.testing.assert_close(run.denoiser(*inputs["denoiser"]), golden["denoiser.denoised"], rtol=0, atol=0)
    mask = golden["encoder.level_mask"]
    assert mask[0].all()
    assert not mask[1].all()  # the second row enters at a coarser zoom
    assert golden["denoiser.previous_valid"].numpy().tolist() == [[0, 0], [1, 1]]
    assert not golden["denoiser.source"].any()  # training knows one source
    assert not export_bundle._parts(run, export_bundle._stretches(run))["denoiser"].inputs["source"].any()


def test_parity_is_measured_and_small(bundle: Bundle) -> None:  # oracle: float32 rounding of fields near 300 K
    parity = bundle.manifest.parity["fp32"]
    assert {graph: p.units for graph, p in parity.items()} == {
        "encoder": "K",
        "decoder": "K",
        "denoiser": "1",
        "fast": "1",
    }
    assert all(p.max_abs_error <= p.tolerance for p in parity.values())
    assert 0 < parity["encoder"].max_abs_error < 1e-5  # not compared with itself
    assert parity["decoder"].max_abs_error < 2e-4
    assert parity["decoder"].tolerance < 1e-3


@pytest.mark.parametrize("graph", INPUTS)
def test_rows_are_the_same_bits_in_every_batch(bundle: Bundle, graph: str) -> None:  # oracle: the rows of a batch of 8
    graphs = OnnxGraphs(bundle, "cpu")
    call = {
        "encoder": graphs.encode,
        "decoder": graphs.decode,
        "denoiser": lambda *inputs: graphs.denoise(DenoiserInputs(*inputs)),
        "fast": lambda *inputs: graphs.denoise(DenoiserInputs(*inputs), "fast"),
    }[graph]
    inputs = list(rows_of(bundle, graph, ROWS).values())
    whole = call(*inputs)
    assert len(np.unique(whole.reshape(ROWS, -1), axis=0)) == ROWS
    for size in (1, 2, 3, 4):
        parts = [call(*(array[i : i + size] for array in inputs)) for i in range(0, ROWS, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    # any other host may run a single row, for which some processors take another kernel
    session = onnxruntime.InferenceSession(bundle.read(f"{graph}.fp32.onnx"), providers=["CPUExecutionProvider"])
    (single,) = session.run(None, {name: array[:1] for name, array in zip(INPUTS[graph], inputs, strict=True)})
    np.testing.assert_allclose(single, whole[:1], rtol=0, atol=bundle.manifest.parity["fp32"][graph].tolerance)


@pytest.mark.parametrize("graph", INPUTS)
def test_graphs_keep_the_rules(bundle: Bundle, graph: str) -> None:  # oracle: the rules of graphs.py, read anew
    model = onnx.shape_inference.infer_shapes(model_of(bundle, graph), strict_mode=True, data_prop=True)
    assert model.opset_import[0].version in (18, 20)
    assert {node.domain for node in model.graph.node} == {""}
    assert not {node.op_type for node in model.graph.node} & {"Sin", "Cos", "Log", "Loop", "If", "Scan", "GatherND"}
    for value in (*model.graph.input, *model.graph.output):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(size.dim_value > 0 for size in others)
    for value in model.graph.value_info:
        assert len(value.type.tensor_type.shape.dim) <= 6
    large = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer if np.prod(c.dims) > 16}
    assert large
    assert {array.dtype for array in large.values()} <= {np.dtype("int32"), np.dtype("float32")}
    contents = [array.tobytes() for array in large.values()]
    assert len(set(contents)) == len(contents)  # one copy of each
    if graph in ("encoder", "decoder"):
        tables = [array for array in large.values() if array.dtype == np.int32]
        assert tables  # the halo
        assert max(int(table.max()) for table in tables) == 191


def test_climatology_is_inside(run: Run, bundle: Bundle) -> None:  # oracle: decode(0) - decode(0) of another season
    graphs = OnnxGraphs(bundle, "cpu")
    waves = season(np.array([0.1, 0.6]), 2)
    mean = run.autoencoder.mean(torch.from_numpy(waves)).numpy()
    assert np.abs(mean[0] - mean[1]).max() > 5
    found = graphs.decode(np.zeros((2, 1, 48), np.float32), waves)
    anomaly = (found - mean) / run.statistics["scale"][:, None]
    assert np.abs(anomaly).max() < 1.5  # what is left is the stirred network's own


def test_no_trace_of_this_machine(bundle: Bundle, run: Run) -> None:  # oracle: the folders we are in
    for name in bundle.manifest.files:
        data = bundle.read(name)
        for word in (str(run.path), str(Path(__file__).parents[1]), str(Path.home()), "site-packages", "/somewhere"):
            assert word.encode() not in data, f"{name} holds {word}"
        if name.endswith(".onnx"):
            assert b".py" not in data


def test_same_weights_give_the_same_bytes(run: Run, bundle: Bundle) -> None:  # oracle: the bytes of the first time
    rows = {name: array[:2] for name, array in rows_of(bundle, "encoder", 2).items()}
    again = export_graph("encoder", export_bundle.EncoderGraph(run.autoencoder), rows)
    assert again == bundle.read("encoder.fp32.onnx")  # other examples of the same shapes change nothing


def test_tables_turn_a_smooth_field_round(bundle: Bundle) -> None:  # oracle: the field itself, linear in sin(lat)
    tables = bundle.tables
    lat, lon = pixel_centres(2)
    np.testing.assert_allclose(tables.lat_deg, lat)
    np.testing.assert_allclose(tables.lon_deg, lon)
    assert tables.source_shape == (73, 144)
    on_grid = np.repeat(np.sin(np.radians(tables.source_lat_deg)), 144)
    np.testing.assert_allclose(apply(tables.to_healpix, on_grid), np.sin(np.radians(lat)), atol=0.01)
    np.testing.assert_allclose(apply(tables.to_source, np.sin(np.radians(lat))), on_grid, atol=0.12)  # cells of 15 deg
    assert not any(array.dtype.hasobject for array in bundle.arrays("tables.npz").values())


def test_manifest_says_what_the_run_is(run: Run, bundle: Bundle) -> None:  # oracle: the configuration
    manifest = bundle.manifest
    assert (manifest.name, manifest.zooms, manifest.grid.zoom) == ("tiny-run", (0, 1, 2), 2)
    assert (manifest.latent.zoom, manifest.latent.ratio, manifest.latent.shape) == (1, 4, (1, 48))
    assert (manifest.time.step, manifest.time.harmonics) == ("1 month", 2)
    assert manifest.denoiser is not None
    assert (manifest.denoiser.window, manifest.denoiser.previous) == (3, 2)
    assert manifest.denoiser.sources == ("hr",)
    assert manifest.denoiser.forcing.range == tuple(run.denoiser.forcing_range.tolist()) == (2005, 2012)
    assert manifest.sampler is not None
    assert manifest.sampler.steps == run.config.sampler.steps
    assert manifest.variables == (TAS,)
    assert manifest.provenance.data[0].name == SAMPLE
    assert manifest.provenance.versions["torch"] == torch.__version__
    assert manifest.licence == "public domain"


def test_card_says_it_and_can_be_trained_from(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    # oracle: the configuration, read back from the card
    from fsae.training.config import read_config

    card = bundle.read("MODEL_CARD.md").decode()
    for words in ("# tiny-run", "4 to 1", "2005-01-01 to 2011-12-01", "public domain", "ab" * 32, "Not evaluated yet"):
        assert words in card
    (tmp_path / "config.toml").write_text(card.split("```toml\n")[1].split("```")[0])
    read = read_config(tmp_path / "config.toml")
    assert read == replace(run.config, data=replace(run.config.data, inputs=(SAMPLE,)))
    checked = {
        "evaluation": ["2012-01", "2014-12"],
        "variables": [
            {
                "name": "tas",
                "units": "K",
                "reconstruction": [{"name": "model", "numbers": 48, "rmse": 0.31416}],
                "checks": [{"name": "rmse", "value": 0.31416, "limit": "<= 0.33", "passed": True}],
            }
        ],
    }
    text = model_card(bundle.manifest, run.config, metrics=checked)
    assert "0.3142" in text
    assert "kept" in text
    assert "| loss.last |  0.25 |" in model_card(bundle.manifest, run.config, metrics={"loss": {"last": 0.25}})


def test_toml_of_awkward_values() -> None:  # oracle: the standard library's reader
    import tomllib

    record = {"text": 'quote " and \\ and é', "list": [1.5, 2.0], "empty": [], "yes": True, "table": {"deep": {"a": 1}}}
    assert tomllib.loads("\n".join(to_toml(record))) == record


def fingerprint(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def quick(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, spoil: str | None = None) -> None:
    """Let the exporter give the graphs of `bundle` at once, the one named `spoil` with its weights 1 % off."""

    def ready(graph: str, module: nn.Module, inputs: dict[str, np.ndarray]) -> bytes:
        model = model_of(bundle, graph)
        for constant in model.graph.initializer if graph == spoil else ():
            if constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) == 2:
                array = numpy_helper.to_array(constant) * np.float32(1.01)
                constant.CopyFrom(numpy_helper.from_array(array, constant.name))
        return model.SerializeToString(deterministic=True)

    monkeypatch.setattr(export_bundle, "export_graph", ready)


@pytest.mark.parametrize("graph", INPUTS)
def test_above_tolerance_nothing_is_written(
    run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "tiny-run")
    before = fingerprint(tmp_path)
    quick(monkeypatch, bundle, spoil=graph)
    with pytest.raises(ToleranceError, match=f"the exported {graph} differs from the trained one") as failure:
        export_run(run, tmp_path)
    assert failure.value.exit_code == 6
    assert fingerprint(tmp_path) == before


def test_bundle_replaces_an_older_one_and_keeps_valid_engines(
    run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'fsae[trt-rtx]'")
    quick(monkeypatch, bundle)
    first = export_run(run, tmp_path, "other")
    engines = build_engines(open_bundle(first.folder), "trt-rtx", BuildOptions(profile=(1, 1, 2)))
    (first.folder / "stray").write_text("from before")
    path = first.folder / "decoder.fp32.onnx"
    whole = path.read_bytes()
    said: list[str] = []
    export_run(run, tmp_path, "other", say=said.append)
    again = open_bundle(first.folder)
    assert again.manifest.files == first.manifest.files  # the whole bundle is the same bytes again
    assert path.read_bytes() == whole
    assert not (first.folder / "stray").exists()
    assert read_index(engine_folder(again)) == sorted(engines, key=lambda e: e.graph)
    (engine_folder(again) / engines[0].file).write_bytes(b"damaged")
    export_run(run, tmp_path, "other", say=said.append)
    assert any(f"engine {engines[0].file} is dropped" in line for line in said)
    assert len(read_index(engine_folder(again))) == len(engines) - 1
    assert (engine_folder(again) / INDEX).exists()


def test_what_is_no_bundle_is_not_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="exists and is no bundle"):
        export_run(run, tmp_path, "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(UsageError, match="no plain name"):
            export_run(run, tmp_path, name)


def test_full_disk_leaves_the_old_bundle(
    run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "tiny-run")
    before = fingerprint(tmp_path)
    quick(monkeypatch, bundle)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match="No space left"):
        export_run(run, tmp_path)
    assert fingerprint(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-run"]


def test_damaged_figures_are_said(run: Run, run_folder: Path, bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    quick(monkeypatch, bundle)
    copy = shutil.copytree(run_folder, tmp_path / "run")
    (copy / "metrics.json").write_text("{not json")
    with pytest.raises(DataError, match=r"cannot read the figures .*metrics\.json"):
        export_run(replace(run, path=copy), tmp_path / "engines")
    assert list((tmp_path / "engines").iterdir()) == []


def simple(op: str, constants: dict[str, np.ndarray] | None = None, to: int = 4, **attributes: object) -> bytes:
    """A graph y = op(field) for the checks; named as the decoder's so that only what is wrong in it is reported."""
    value = helper.make_tensor_value_info
    node = helper.make_node(op, ["latent", *(constants or {})], ["field"], **attributes)
    tables = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    inputs = [value("latent", 1, ["batch", 4])]
    graph = helper.make_graph([node], "g", inputs, [value("field", 1, ["batch", to])], tables)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.mark.parametrize(
    ("data", "shape", "words"),
    [
        (simple("Sin"), (4,), r"operators \['Sin'\]"),
        (simple("Gather", {"table": np.arange(20) % 4}, axis=1, to=20), (4,), "the table table is int64"),
        (simple("Relu"), (5,), r"latent has the shape \('batch', 4\)"),
        (simple("Relu", doc_string="made at /home/me"), (4,), "metadata"),
        (simple("NoSuchOperator"), (4,), "not valid ONNX"),
    ],
)
def test_graphs_that_break_a_rule_are_refused(data: bytes, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        check_graph("decoder", data, {"latent": shape})


def test_second_copies_are_refused() -> None:
    value, table = helper.make_tensor_value_info, np.arange(4, dtype=np.float32)
    nodes = [helper.make_node("Add", ["latent", "a"], ["x"]), helper.make_node("Mul", ["x", "b"], ["field"])]
    tables = [numpy_helper.from_array(table, name) for name in ("a", "b")]
    ends = [value("latent", 1, ["batch", 4])], [value("field", 1, ["batch", 4])]
    graph = helper.make_graph(nodes, "g", *ends, tables)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(BundleError, match="b is a second copy of a"):
        check_graph("decoder", model.SerializeToString(), {"latent": (4,)})


def test_parity_is_in_physical_units_and_for_every_variable() -> None:  # oracle: by hand
    wind = replace(TAS, name="uas", units="m s-1", valid_range=(-100.0, 100.0))
    fields = np.stack([np.full((3, 8), 300.0), np.full((3, 8), 8.0)], axis=1).astype(np.float32)
    scale = np.array([2.0, 0.5], dtype=np.float32)
    expected = np.zeros((3, 2, 8), dtype=np.float32)
    found = expected.copy()
    found[1, 0, 2], found[2, 1, 3] = 1e-4, -3e-4
    encoder = compare("encoder", expected, found, fields=fields, scale=scale, variables=(TAS, wind))
    assert [p.units for p in encoder] == ["K", "m s-1"]
    np.testing.assert_allclose([p.max_abs_error for p in encoder], [2e-4, 1.5e-4], rtol=1e-6)
    # 8 units in the last place of 300 (2**-15) and 8 (2**-20), and 2e-4 of the scales
    np.testing.assert_allclose([p.tolerance for p in encoder], [8 * 2.0**-15 + 4e-4, 8 * 2.0**-20 + 1e-4], rtol=1e-6)
    with pytest.raises(ToleranceError, match="m s-1"):
        check_parity("encoder", encoder)
    assert check_parity("encoder", encoder[:1]) == encoder[0]
    with pytest.raises(ToleranceError):
        check_parity("denoiser", [Parity(max_abs_error=float("nan"), tolerance=1.0, units="1")])


def test_batch_dependence_is_noticed() -> None:  # oracle: an operator over the whole batch
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceMean", ["latent"], ["mean"], keepdims=1),
        helper.make_node("Add", ["latent", "mean"], ["field"]),
    ]
    ends = [value("latent", 1, ["batch", 4])], [value("field", 1, ["batch", 4])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    rows = {"latent": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)}
    with pytest.raises(ToleranceError, match="gives another result in batches of"):
        check_batches("decoder", model.SerializeToString(), rows)


def test_modules_run_in_parts(run: Run) -> None:  # oracle: all rows at once
    rows = {"latent": np.random.default_rng(0).normal(size=(19, 1, 48)).astype(np.float32)}
    rows["season"] = season(np.linspace(0, 1, 19), 2)
    with torch.no_grad():
        whole = run.autoencoder.decode(*map(torch.from_numpy, rows.values())).numpy()
    found = run_module(export_bundle.DecoderGraph(run.autoencoder), rows)
    np.testing.assert_allclose(found, whole, rtol=0, atol=2e-4)  # sum order, at 300 K
