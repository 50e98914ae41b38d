"""Engines built by TensorRT-RTX, which needs no GPU for it: indexed, kept, and complete even after interruptions."""

import json
import os
import shutil
import signal
import sys
import time
import types
from dataclasses import replace
from unittest.mock import MagicMock

import msgspec
import pytest
from stand_in_gpu import HERE, Logger, an_engine, install_cuda, write_index
from trees import tree

from fsae.export.engines import build as export_engines
from fsae.export.engines import compile as builder
from fsae.export.engines.build import TIMINGS, build_engines, build_target, pick_flavour
from fsae.export.engines.compile import BuildOptions, Built, OnnxGraph, build_engine, workspace_bytes
from fsae.export.graphs.external_data import split_weights
from fsae.runtime.backends.engine_index import (
    INDEX,
    TimingCache,
    engine_folder,
    find_engine,
    graph_hash,
    index_text,
    load_index,
    read_engine,
    read_index,
)
from fsae.runtime.bundle.files import COMPILED, Bundle, file_entry, open_bundle, write_manifest
from fsae.runtime.errors import DeviceError, OutputError, UsageError

SMALL = BuildOptions(profile=(2, 2, 2))


def rewritten(bundle: Bundle) -> Bundle:
    """The bundle after its files were changed: its manifest written anew."""
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, parity={}))
    return open_bundle(bundle.folder)


def test_engines_are_built_indexed_and_kept(
    rtx: types.ModuleType, tiny_copy: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    # oracle: the library's own header check, and the rules in build_engines's docstring
    built = build_engines(tiny_copy, "trt-rtx", BuildOptions(profile=(1, 2, 4)))
    assert [engine.graph for engine in built] == list(tiny_copy.manifest.graphs)
    assert sum("building with tensorrt_rtx" in line for line in caplog.messages) == 3
    assert sorted(read_index(engine_folder(tiny_copy)), key=lambda e: e.key) == sorted(built, key=lambda e: e.key)
    _, target = build_target("trt-rtx")
    for engine in built:
        assert engine.target == target
        assert find_engine(tiny_copy, engine.graph, "fp32", target) == engine
        assert len(read_engine(tiny_copy, engine)) == engine.size > 1000
    # again: nothing is built; another batch: beside the first; a graph that changed: the old engine goes
    caplog.clear()
    assert build_engines(tiny_copy, "trt-rtx", BuildOptions(profile=(1, 2, 4))) == built
    assert caplog.messages == [f"{graph} fp32: up to date" for graph in tiny_copy.manifest.graphs]
    wider = build_engines(tiny_copy, "trt-rtx", BuildOptions(profile=(1, 4, 8)))
    assert len(read_index(engine_folder(tiny_copy))) == 6
    path = engine_folder(tiny_copy) / wider[0].file
    path.write_bytes(path.read_bytes()[:-1])
    caplog.clear()
    build_engines(tiny_copy, "trt-rtx", BuildOptions(profile=(1, 4, 8)))
    assert f"dropping {wider[0].file}: missing or altered" in caplog.messages
    assert {p.name for p in engine_folder(tiny_copy).iterdir()} == {
        INDEX,
        *(engine.file for engine in read_index(engine_folder(tiny_copy))),
    }


def test_another_workspace_is_another_engine(
    rtx: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tiny_copy: Bundle
) -> None:  # oracle: what the library gets, and what the index says
    limits: list[int] = []
    build = export_engines.build_engine

    def spied(trt, graph, target, options, **more):
        limits.append(options.workspace_bytes)
        return build(trt, graph, target, options, **more)

    monkeypatch.setattr(export_engines, "build_engine", spied)
    build_engines(tiny_copy, "trt-rtx", SMALL)
    less = replace(SMALL, workspace_bytes=1 << 30)
    built = build_engines(tiny_copy, "trt-rtx", less)
    assert limits == [2 << 30] * 3 + [1 << 30] * 3
    assert {engine.workspace_bytes for engine in built} == {1 << 30}
    listed = read_index(engine_folder(tiny_copy))
    assert sorted(listed, key=lambda e: e.key) == sorted(built, key=lambda e: e.key)  # in the older ones' place
    for engine in built:
        assert find_engine(tiny_copy, engine.graph, "fp32", engine.target) == engine
    assert build_engines(tiny_copy, "trt-rtx", less) == built
    assert len(limits) == 6
    # of an older index nobody knows it
    raw = json.loads((engine_folder(tiny_copy) / INDEX).read_text()) | {"schema_version": 2}
    for entry in raw["engines"]:
        del entry["workspace_bytes"]
    (engine_folder(tiny_copy) / INDEX).write_text(json.dumps(raw))
    assert build_engines(tiny_copy, "trt-rtx", less) == built
    assert len(limits) == 9


def test_two_builds_do_not_meet(rtx: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tiny_copy: Bundle) -> None:
    # oracle: the kernel's lock; files are written aside and then renamed
    folder, build, refused = engine_folder(tiny_copy), export_engines.build_engine, []
    half = "decoder.fp32.trt-rtx.0123456789abcdef.engine.partial-1-01234567"

    def interrupted(*given, **more):
        if not refused:
            (folder / half).write_bytes(b"half")
            with pytest.raises(OutputError, match=rf"is being written by process {os.getpid()} on ") as failure:
                build_engines(tiny_copy, "trt-rtx", BuildOptions(profile=(1, 1, 1)))
            refused.append(failure)
            assert [path.name for path in folder.iterdir()] == [half]
        return build(*given, **more)

    monkeypatch.setattr(export_engines, "build_engine", interrupted)
    built = build_engines(tiny_copy, "trt-rtx", SMALL)
    assert refused
    # what a killed build left is removed, and neither the lock nor its folder stays
    assert {p.name for p in folder.iterdir()} == {INDEX, *(engine.file for engine in built)}
    assert {p.name for p in tiny_copy.folder.iterdir()} == {"manifest.json", COMPILED, *tiny_copy.manifest.files}
    assert len(build_engines(tiny_copy, "trt-rtx", BuildOptions(profile=(1, 1, 1)))) == 3


def test_engines_of_an_older_graph_are_dropped(
    rtx: types.ModuleType, tiny_copy: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    old = an_engine(tiny_copy, target=build_target("trt-rtx")[1])
    write_index(tiny_copy, msgspec.structs.replace(old, graph_sha256="1" * 64))
    build_engines(tiny_copy, "trt-rtx", BuildOptions(profile=(2, 2, 2)))
    assert f"dropping {old.file}: it was built from an older graph" in caplog.messages
    assert not (engine_folder(tiny_copy) / old.file).exists()


def test_weights_beside_a_graph_belong_to_it(
    rtx: types.ModuleType, tiny_copy: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    # oracle: the graph with its weights inside, and the rule that an engine belongs to all of its graph
    name = "denoiser.fp32.onnx"
    inside = build_engines(tiny_copy, "trt-rtx", SMALL)
    for file, data in split_weights(tiny_copy.read(name), name, limit_bytes=9000).items():
        (tiny_copy.folder / file).write_bytes(data)
    tiny_copy = rewritten(tiny_copy)
    assert f"{name}.data" in tiny_copy.manifest.files
    caplog.clear()
    beside = build_engines(tiny_copy, "trt-rtx", SMALL)
    assert caplog.messages[0] == f"dropping {inside[2].file}: it was built from an older graph"
    assert beside[2].graph_sha256 == graph_hash(tiny_copy.manifest, "denoiser", "fp32") != inside[2].graph_sha256
    weights = tiny_copy.folder / f"{name}.data"
    weights.write_bytes(bytes(weights.stat().st_size))
    tiny_copy = rewritten(tiny_copy)
    with pytest.raises(DeviceError, match="older graph"):
        find_engine(tiny_copy, "denoiser", "fp32", beside[2].target)


def test_graphs_for_cpus_are_left_out(
    rtx: types.ModuleType, tiny_copy: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    for graph in tiny_copy.manifest.graphs:
        shutil.copy(tiny_copy.folder / f"{graph}.fp32.onnx", tiny_copy.folder / f"{graph}.int8.onnx")
    tiny_copy = rewritten(tiny_copy)
    assert tiny_copy.manifest.precisions == ("fp32", "int8")
    built = build_engines(tiny_copy, "trt-rtx", SMALL)
    assert [engine.precision for engine in built] == ["fp32"] * 3
    assert caplog.messages[0] == "int8 graphs are for CPUs: no engine"
    for graph in tiny_copy.manifest.graphs:
        (tiny_copy.folder / f"{graph}.fp32.onnx").unlink()
    with pytest.raises(UsageError, match="has only int8 graphs, which are for CPUs"):
        build_engines(rewritten(tiny_copy), "trt-rtx", SMALL)


@pytest.mark.parametrize("first", [True, False], ids=["new folder", "old folder"])
def test_an_interrupted_build_leaves_the_folder_as_it_was(
    rtx: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tiny_copy: Bundle, first: bool
) -> None:  # oracle: what lay there before
    if not first:
        build_engines(tiny_copy, "trt-rtx", BuildOptions(profile=(1, 1, 1), layers=True))
    before = tree(tiny_copy.folder)
    seen: list[str] = []
    monkeypatch.setattr(builder, "WAKE_S", 0.05)

    def interrupt(phase: str, done: int, total: int) -> None:
        seen.append(phase)
        if phase == "decoder fp32: Building engine" and done == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # for the other thread to see it

    with pytest.raises(KeyboardInterrupt):
        build_engines(tiny_copy, "trt-rtx", replace(SMALL, layers=True), progress=interrupt)
    assert "encoder fp32: Building engine" in seen
    assert seen[-1] == "decoder fp32: Building engine"  # nothing after the step it was in
    assert seen.count(seen[-1]) == 2
    assert tree(tiny_copy.folder) == before
    assert engine_folder(tiny_copy).exists() != first


def test_what_progress_raises_ends_the_build(rtx: types.ModuleType, tiny_copy: Bundle) -> None:
    seen: list[str] = []

    def broken(phase: str, done: int, total: int) -> None:
        seen.append(phase)
        raise OSError("stderr is gone")

    with pytest.raises(OSError, match="stderr is gone"):
        build_engines(tiny_copy, "trt-rtx", SMALL, progress=broken)
    assert len(seen) < 10
    assert not engine_folder(tiny_copy).exists()


@pytest.mark.filterwarnings("ignore:Use Deprecated:DeprecationWarning")
def test_timings_are_kept_for_the_next_build(
    rtx: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tiny_copy: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    # oracle: what each build is given; TensorRT-RTX stands in for TensorRT, whose calls it has
    install_cuda(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    given: list[bytes] = []
    build = export_engines.build_engine

    def spied(*arguments, timings: bytes, **options):
        given.append(timings)
        return build(*arguments, timings=timings, **options)

    monkeypatch.setattr(export_engines, "build_engine", spied)
    engines = build_engines(tiny_copy, "trt", SMALL)
    (cache,) = load_index(engine_folder(tiny_copy)).timing_caches
    content = read_engine(tiny_copy, cache)
    assert cache.target == engines[0].target
    assert cache.file.startswith(f"trt-{rtx.__version__}-8.9.")
    assert given == [b"", content, content]  # each graph profits from those before
    build_engines(tiny_copy, "trt", BuildOptions(profile=(3, 3, 3)))
    assert given[3:] == [content] * 3
    path = engine_folder(tiny_copy) / cache.file
    path.write_bytes(content[:-1])  # damaged: the library never sees it
    build_engines(tiny_copy, "trt", BuildOptions(profile=(4, 4, 4)))
    assert f"dropping {cache.file}: missing or altered" in caplog.messages
    assert given[6] == b""
    entry = file_entry(b"garbage" * 20)
    (engine_folder(tiny_copy) / f"garbage{TIMINGS}").write_bytes(b"garbage" * 20)
    listed = TimingCache(target=cache.target, file=f"garbage{TIMINGS}", sha256=entry.sha256, size=entry.size)
    (engine_folder(tiny_copy) / INDEX).write_text(index_text(read_index(engine_folder(tiny_copy)), [listed]))
    build_engines(tiny_copy, "trt", BuildOptions(profile=(5, 5, 5)))  # listed, but the library refuses it
    assert given[9:] == [b"garbage" * 20, content, content]
    assert [path.name for path in engine_folder(tiny_copy).glob(f"*{TIMINGS}")] == [cache.file]


@pytest.mark.parametrize(("refused", "kept"), [(None, b" new"), (b"old", b" new"), (b"other", b"old new")])
def test_timings_the_library_refuses_are_replaced(refused: bytes | None, kept: bytes) -> None:
    # oracle: the library's two ways to refuse, no cache at all and a cache that is not taken
    class Config(MagicMock):
        def create_timing_cache(self, content: bytes) -> MagicMock | None:
            return None if content and refused is None else MagicMock(serialize=lambda: content + b" new")

        def set_timing_cache(self, cache: MagicMock, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            return cache.serialize() != (refused or b"") + b" new" or refused is None

    trt = MagicMock(ILogger=Logger, IProgressMonitor=object)
    library = trt.Builder.return_value
    library.create_network.return_value.num_inputs = 0
    library.create_builder_config.return_value = Config(add_optimization_profile=lambda profile: 0)
    library.build_serialized_network.return_value = b"engine"
    graph = OnnxGraph(name="encoder", model=b"")
    assert build_engine(trt, graph, HERE, SMALL, timings=b"old") == Built(engine=b"engine", timings=kept)


def test_tensorrt_rtx_keeps_no_timings(rtx: types.ModuleType, tiny_copy: Bundle) -> None:
    build_engines(tiny_copy, "trt-rtx", SMALL)
    assert load_index(engine_folder(tiny_copy)).timing_caches == ()


def test_neither_library_names_both_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DeviceError, match=r"fsae\[trt\].*fsae\[trt-rtx\]"):
        pick_flavour()


def test_tensorrt_is_preferred_where_both_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    assert pick_flavour() == "trt"


@pytest.mark.parametrize("profile", [(0, 1, 2), (2, 1, 4), (1, 8, 4)])
def test_batches_must_rise(profile: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="rising"):
        BuildOptions(profile=profile)


@pytest.mark.parametrize("size", [0, -1, 2**63])
def test_the_workspace_must_be_a_size(size: int) -> None:
    with pytest.raises(UsageError, match="workspace is"):
        BuildOptions(workspace_bytes=size)


@pytest.mark.parametrize("gib", [0.0, -2.0, 1e-12, float("nan"), float("inf")])
def test_the_workspace_of_the_command_line_must_be_a_size(gib: float) -> None:
    with pytest.raises(UsageError, match="found a workspace of"):
        workspace_bytes(gib)
