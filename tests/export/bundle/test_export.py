"""From a run to a bundle: its content, golden vectors, tables and manifest, and how it replaces an older one."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from repository_engines import ENGINES, NAMES
from stand_in_gpu import an_engine, write_index
from tiny_run import SAMPLE, TAS, files_of, model_of
from torch import nn
from trees import tree

from fsae.export.bundle.card import model_card, to_toml
from fsae.export.bundle.place import replacing
from fsae.export.bundle.write import export_bundle, export_run
from fsae.export.certificate import certify
from fsae.export.certificate.originals import make_parts, original_run
from fsae.export.engines.layer_report import report_name
from fsae.runtime.backends.engine_index import INDEX, engine_folder, read_index
from fsae.runtime.backends.graphs import INPUTS, OUTPUTS
from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.bundle.manifest import NOT_RUN, Source
from fsae.runtime.checks.verify import check_files, check_graphs
from fsae.runtime.errors import DataError, OutputError, ToleranceError, UsageError
from fsae.runtime.ownership import write_mark
from fsae.runtime.sphere.healpix import pixel_centres
from fsae.runtime.sphere.weights import apply
from fsae.training.config import read_config
from fsae.training.fitting.run_folder import Run

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def test_bundle_is_whole_and_agrees_with_its_golden_vectors(bundle: Bundle) -> None:  # oracle: torch, by golden.npz
    graphs = [f"{graph}.{precision}.onnx" for graph in INPUTS for precision in PRECISIONS]
    names = ["tables.npz", "golden.npz", "MODEL_CARD.md", *graphs]
    assert sorted(bundle.manifest.files) == sorted(names)
    assert check_files(bundle) == len(names)
    for precision in ("fp32", "fp16", "int8"):
        assert all(check.good for check in check_graphs(bundle, OnnxGraphs(bundle, "cpu", precision)))
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
    assert not make_parts(original_run(run), (2012, 2014))["denoiser"].inputs["source"].any()


def test_certificate_has_every_graph_precision_variable_and_zoom(bundle: Bundle) -> None:
    # oracle: float32 rounding of fields near 300 K, and fewer bits in fewer places
    manifest = bundle.manifest
    assert set(manifest.parity) == set(PRECISIONS)
    for precision, graphs in manifest.parity.items():
        assert set(graphs) == set(INPUTS)
        for graph, parity in graphs.items():
            zooms = (0, 1, 2) if graph == "decoder" else (0, 1)
            assert [(row.variable, row.zoom) for row in parity.differences] == [("tas", zoom) for zoom in zooms]
            assert {row.units for row in parity.differences} == {"K" if graph in ("encoder", "decoder") else "1"}
            assert 0 < parity.worst.max_abs_error <= parity.worst.tolerance
            assert all(row.rmse is not None and row.rmse <= row.max_abs_error for row in parity.differences)
            assert parity.nodes == len(model_of(bundle, graph, precision).graph.node)
            assert parity.device == (NOT_RUN if precision == "bf16" else "cpu")
            if graph in ("encoder", "decoder"):  # means over base cells pass in float32
                assert parity.differences[0].max_abs_error < 1e-4
    found = {p: graphs["decoder"].differences[-1].rmse for p, graphs in manifest.parity.items()}
    assert found["fp32"] < 1e-5 < found["fp16"] < found["bf16"] < 0.1
    assert found["bf16"] / found["fp16"] == pytest.approx(8, rel=0.5)  # three bits fewer
    assert set(manifest.certificates) == set(PRECISIONS)
    for precision, certificate in manifest.certificates.items():
        assert certificate.reference == f"the trained model, torch {version('torch')}"
        assert certificate.data == (Source(name=SAMPLE, sha256="ab" * 32),)  # as the run has it
        assert certificate.period == ("2012-01-01", "2014-12-31")
        assert certificate.versions["torch"] == torch.__version__
        drawn = (0, 0, 0) if precision == "fp32" else (8, 24, 1)
        assert (certificate.members, certificate.ensemble_steps, len(certificate.ensembles)) == drawn
    drift = {precision: own.ensembles[0].rmse for precision, own in manifest.certificates.items() if own.ensembles}
    assert 0 < drift["fp16"] < drift["bf16"] < 0.1


def test_date_of_a_certificate_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: by hand
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(86400 * 365))
    assert certify.date_of_export() == "1971-01-01"


@pytest.mark.parametrize("seconds", ["", "yesterday", "1.5", "1e9", "99999999999999", "-99999999999999", "9" * 30])
def test_an_invalid_date_is_refused(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
    with pytest.raises(UsageError, match=f"SOURCE_DATE_EPOCH is '{seconds}', expected whole seconds since 1970"):
        certify.date_of_export()


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
    card = bundle.read("MODEL_CARD.md").decode()
    for words in ("# tiny-run", "4 to 1", "2005-01-01 to 2011-12-01", "public domain", "ab" * 32, "Not evaluated yet"):
        assert words in card
    (tmp_path / "config.toml").write_text(card.split("```toml\n")[1].split("```")[0])
    read = read_config(tmp_path / "config.toml")
    assert read == msgspec.structs.replace(run.config, data=msgspec.structs.replace(run.config.data, inputs=(SAMPLE,)))
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
    limits = bundle.manifest.distances["tas"]
    assert f"| {limits.q99:.4g} K | {limits.warn_above:.4g} K |" in re.sub(" +", " ", card)
    text = model_card(bundle.manifest, run.config, metrics=checked)
    assert "0.3142" in text
    assert "kept" in text
    assert "| loss.last |  0.25 |" in model_card(bundle.manifest, run.config, metrics={"loss": {"last": 0.25}})


@pytest.mark.parametrize("name", NAMES)
def test_shipped_cards_are_as_the_exporter_writes_them(name: str, tmp_path: Path) -> None:
    # oracle: a card made anew from the manifest and from the configuration in the card
    shipped = open_bundle(ENGINES / name)
    card = shipped.read("MODEL_CARD.md").decode()
    (tmp_path / "config.toml").write_text(card.split("```toml\n")[1].split("```")[0])
    again = model_card(shipped.manifest, read_config(tmp_path / "config.toml"), metrics=None)
    one, other = ({text.split("\n")[0]: text for text in each.split("\n## ")} for each in (card, again))
    assert list(one) == list(other)
    for title in set(one) - {"Figures", "How to reproduce it"}:  # what the run and older configurations say
        assert one[title] == other[title]


def test_toml_of_awkward_values() -> None:  # oracle: the standard library's reader
    import tomllib

    record = {"text": 'quote " and \\ and é', "list": [1.5, 2.0], "empty": [], "yes": True, "table": {"deep": {"a": 1}}}
    assert tomllib.loads("\n".join(to_toml(record))) == record


def quick(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, spoil: str | None = None) -> None:
    """Let the exporter give the graphs of `bundle` at once, the one named `spoil` with its weights 1 % off."""

    def ready(graph: str, module: nn.Module, inputs: dict[str, np.ndarray], opset: int) -> dict[str, bytes]:
        model = model_of(bundle, graph)
        for constant in model.graph.initializer if graph == spoil else ():
            if constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) == 2:
                array = numpy_helper.to_array(constant) * np.float32(1.01)
                constant.CopyFrom(numpy_helper.from_array(array, constant.name))
        return {f"{graph}.fp32.onnx": model.SerializeToString(deterministic=True)}

    monkeypatch.setattr(certify, "export_graph", ready)


@pytest.mark.parametrize("graph", INPUTS)
def test_above_tolerance_nothing_is_written(
    run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "tiny-run")
    before = tree(tmp_path)
    quick(monkeypatch, bundle, spoil=graph)
    with pytest.raises(ToleranceError, match=f"the fp32 {graph} differs from the trained one") as failure:
        export_run(run, tmp_path)
    assert failure.value.exit_code == 6
    assert tree(tmp_path) == before


def test_bundle_replaces_an_older_one_and_keeps_valid_engines(
    run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # oracle: the files that lay there; the content of engines does not matter here
    quick(monkeypatch, bundle)
    first = export_run(run, tmp_path, "other")
    older = open_bundle(first.folder)
    engines = [an_engine(older, graph, content=f"engine of the {graph}".encode()) for graph in INPUTS]
    write_index(older, *engines)
    reports = {report_name(engine.file): f"layers of {engine.file}".encode() for engine in engines[:3]}
    for name, report in reports.items():
        (engine_folder(older) / name).write_bytes(report)
    for stray in (first.folder / "stray", engine_folder(older) / "notes.txt"):  # not of the bundle: nothing is replaced
        stray.write_text("from before")
        before = tree(first.folder)
        with pytest.raises(OutputError, match=f"holds .*{stray.name}, which is no part of the bundle"):
            export_run(run, tmp_path, "other")
        assert tree(first.folder) == before
        stray.unlink()
    path = first.folder / "decoder.fp32.onnx"
    whole = path.read_bytes()
    export_run(run, tmp_path, "other")
    again = open_bundle(first.folder)
    assert again.manifest.files == first.manifest.files  # the whole bundle is the same bytes again
    assert path.read_bytes() == whole
    assert read_index(engine_folder(again)) == sorted(engines, key=lambda e: e.graph)
    assert {path.name: path.read_bytes() for path in engine_folder(again).glob("*.layers.json")} == reports
    (engine_folder(again) / engines[0].file).write_bytes(b"damaged")
    export_run(run, tmp_path, "other")
    assert any(f"{engines[0].file} is dropped: it is damaged" in line for line in caplog.messages)
    assert len(read_index(engine_folder(again))) == len(engines) - 1
    assert {path.name for path in engine_folder(again).glob("*.layers.json")} == set(list(reports)[1:])
    assert (engine_folder(again) / INDEX).exists()


def test_latents_are_tied_to_the_float32_graphs(bundle: Bundle) -> None:  # oracle: hashes of the files
    hashes = [bundle.manifest.files[f"{graph}.fp32.onnx"].sha256 for graph in ("encoder", "decoder")]
    assert bundle.manifest.latent.key == hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def test_a_bundle_gets_graphs_in_other_precisions(
    run: Run, bundle: Bundle, sample_data: Path, tmp_path: Path
) -> None:  # oracle: the graphs that the run itself gives
    text = bundle.read("MODEL_CARD.md").decode().split("```toml\n")[1].split("```")[0]
    (tmp_path / "data.toml").write_text(text.replace(SAMPLE, str(sample_data / SAMPLE)))
    done = export_bundle(bundle, tmp_path, "half", precisions=("fp32", "fp16"), data=tmp_path / "data.toml")
    found = open_bundle(done.folder)
    assert set(found.manifest.precisions) == set(PRECISIONS)  # what it had beside them it keeps
    assert found.manifest.latent == bundle.manifest.latent
    for graph in INPUTS:
        for precision in PRECISIONS:
            assert files_of(found, graph, precision) == files_of(bundle, graph, precision)
        own, theirs = (each.manifest.parity["fp16"][graph].worst.max_abs_error for each in (found, bundle))
        # from the float32 graph instead of PyTorch, and without PyTorch's own 16 bits, which round in other places
        assert 0.3 < own / theirs < 1.2
    for precision in ("fp32", "bf16", "int8"):  # of what was not measured again nothing changes
        assert found.manifest.parity[precision] == bundle.manifest.parity[precision]
        assert found.manifest.certificates[precision] == bundle.manifest.certificates[precision]
    certificate = found.manifest.certificates["fp16"]
    assert certificate.reference == f"its float32 graphs, onnxruntime {version('onnxruntime')}"
    sha256 = hashlib.sha256((sample_data / SAMPLE).read_bytes()).hexdigest()
    assert certificate.data == (Source(name=SAMPLE, sha256=sha256),)
    for name in ("tables.npz", "golden.npz"):
        assert found.read(name) == bundle.read(name)
    card = found.read("MODEL_CARD.md").decode()
    assert "encoder, fp16" in card
    assert f"| {certificate.date} | its float32 graphs, onnxruntime " in card
    assert card.count("## Fidelity of the graphs") == 1
    assert card.split("## Use")[1] == bundle.read("MODEL_CARD.md").decode().split("## Use")[1]
    check_files(found)
    assert all(check.good for check in check_graphs(found, OnnxGraphs(found, "cpu", "fp16")))
    with pytest.raises(UsageError, match="has its float32 graphs: give --precision fp16, bf16 or int8"):
        export_bundle(bundle, tmp_path, precisions=("fp32",))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_the_old_bundle_survives_an_end_between_the_renamings(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, failure: BaseException
) -> None:  # oracle: the files that stood there
    folder = Path(shutil.copytree(tiny_bundle_path, tmp_path / "mine"))
    before, rename = tree(folder), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if moment == "after" and path == folder:  # the old one was moved away
            rename(path, target)
            raise failure
        if moment == "before" and path.parent.parent == tmp_path:  # the new one would be put in its place
            raise failure
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((KeyboardInterrupt, OutputError)), replacing(folder) as new:
        shutil.copytree(tiny_bundle_path, new, dirs_exist_ok=True)
    assert tree(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_bundle_moved_away_by_an_export_that_was_killed_comes_back(
    tiny_bundle_path: Path, tmp_path: Path
) -> None:  # oracle: the files that stood there
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = platform.node()
    for process, host, comes_back in ((os.getppid(), here, False), (ended.pid, "x", False), (ended.pid, here, True)):
        aside = tmp_path / f".partial-{host}-{process}-x"
        shutil.copytree(tiny_bundle_path, aside / "old" / "mine")
        write_mark(aside, "0" * 32)
        with pytest.raises(UsageError, match="has its float32 graphs"):
            export_bundle(open_bundle(tiny_bundle_path), tmp_path, "mine", precisions=("fp32",))
        assert (tmp_path / "mine").exists() == comes_back
        assert aside.exists() != comes_back
    assert tree(tmp_path / "mine") == tree(tiny_bundle_path)


def test_a_place_that_cannot_be_written_is_reported_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: nothing is measured
    monkeypatch.setattr("fsae.export.bundle.write.certify", None)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write to .*file: choose another --out"):
        export_run(run, tmp_path / "file" / "engines")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(OutputError, match=f"cannot write to {tmp_path}: choose another --out"):
        export_run(run, tmp_path / "new" / "engines")


def test_only_bundles_are_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="exists and is not a bundle that can be read: it is not replaced"):
        export_run(run, tmp_path, "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(UsageError, match="not a plain name"):
            export_run(run, tmp_path, name)


def test_full_disk_leaves_the_old_bundle(
    run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "tiny-run")
    before = tree(tmp_path)
    quick(monkeypatch, bundle)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match="No space left"):
        export_run(run, tmp_path)
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-run"]


def test_damaged_figures_are_reported_first(
    run: Run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: nothing is measured
    monkeypatch.setattr("fsae.export.bundle.write.certify", None)
    copy = shutil.copytree(run_folder, tmp_path / "run")
    (copy / "metrics.json").write_text("{not json")
    with pytest.raises(DataError, match=r"cannot read the figures .*metrics\.json"):
        export_run(replace(run, path=copy), tmp_path / "engines")
    assert not (tmp_path / "engines").exists()
