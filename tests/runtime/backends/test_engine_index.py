"""The index of engines: what it holds, what is refused, and which engine is the one for here."""

import json
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace
from stand_in_gpu import HERE, an_engine, write_index

from fsae.runtime.backends.engine_index import (
    INDEX,
    PORTABLE,
    Index,
    TimingCache,
    engine_folder,
    find_engine,
    graph_hash,
    index_text,
    load_index,
    read_engine,
    read_index,
)
from fsae.runtime.bundle.files import Bundle, open_bundle
from fsae.runtime.bundle.manifest import FileEntry
from fsae.runtime.errors import BundleError, DeviceError

A_CACHE = TimingCache(target=HERE, file="trt-10.9.0-8.9.timings", sha256="0" * 64, size=1)


@pytest.fixture
def bundle(tiny_bundle_path: Path, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle to list engines in."""
    return open_bundle(shutil.copytree(tiny_bundle_path, tmp_path / "tiny"))


def test_key_depends_on_everything_an_engine_depends_on(bundle: Bundle) -> None:  # oracle: the definition of the key
    engine = an_engine(bundle)
    same = replace(engine, file="other.engine", sha256="0" * 64, size=1)
    assert same.key == engine.key
    targets = [replace(HERE, **{name: "other"}) for name in ("flavour", "version", "compute_capability", "platform")]
    others = [replace(engine, target=target) for target in targets]
    others += [replace(engine, **{name: "other"}) for name in ("graph", "precision", "graph_sha256")]
    others.append(replace(engine, profile=(1, 3, 5)))
    assert len({engine.key, *(other.key for other in others)}) == 1 + len(others)


def test_index_comes_back_as_it_was(bundle: Bundle) -> None:  # oracle: round trip
    engines = [an_engine(bundle, graph) for graph in ("decoder", "encoder")]
    path = engine_folder(bundle) / INDEX
    path.write_text(index_text(engines[::-1], [A_CACHE]))
    assert load_index(engine_folder(bundle)) == Index(engines=tuple(engines), timing_caches=(A_CACHE,))
    assert read_index(engine_folder(bundle)) == engines
    assert read_index(bundle.folder / "nowhere") == []


def test_an_index_of_the_first_schema_is_read(bundle: Bundle) -> None:  # oracle: it had engines and nothing else
    engine = an_engine(bundle)
    raw = json.loads(index_text([engine])) | {"schema_version": 1}
    del raw["timing_caches"]
    (engine_folder(bundle) / INDEX).write_text(json.dumps(raw))
    assert load_index(engine_folder(bundle)).timing_caches == ()
    assert find_engine(bundle, "encoder", "fp32", HERE) == engine


def test_an_index_of_the_second_schema_is_read(bundle: Bundle) -> None:  # oracle: it did not tell the workspace
    engine = an_engine(bundle)
    raw = json.loads(index_text([replace(engine, workspace_bytes=1 << 30)], [A_CACHE])) | {"schema_version": 2}
    assert raw["engines"][0].pop("workspace_bytes") == 1 << 30
    (engine_folder(bundle) / INDEX).write_text(json.dumps(raw))
    assert load_index(engine_folder(bundle)) == Index(schema_version=2, engines=(engine,), timing_caches=(A_CACHE,))
    assert engine.workspace_bytes is None
    assert find_engine(bundle, "encoder", "fp32", HERE) == engine


def test_the_hash_of_a_graph_covers_its_weights(bundle: Bundle) -> None:  # oracle: the manifest's hashes
    manifest = bundle.manifest
    alone = graph_hash(manifest, "encoder", "fp32")
    assert alone == manifest.files["encoder.fp32.onnx"].sha256
    assert graph_hash(manifest, "encoder", "fp16") is None
    found = {alone}
    for digit in "12":
        files = {**manifest.files, "encoder.fp32.onnx.data": FileEntry(sha256=digit * 64, size=1)}
        found.add(graph_hash(replace(manifest, files=files), "encoder", "fp32"))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.update(schema_version=4), "newer fsae"),
        (lambda raw: raw["engines"][0].update(file="../../evil.engine"), "plain name"),
        (lambda raw: raw["engines"][0].update(file="/tmp/evil.engine"), "plain name"),  # noqa: S108 - not used
        (lambda raw: raw["engines"][0].update(colour="blue"), "unknown keys"),
        (lambda raw: raw["engines"][0].pop("sha256"), "lacks the keys"),
        (lambda raw: raw["engines"][0].update(profile=[1, 2]), "profile"),
        (lambda raw: raw["engines"][0].update(workspace_bytes="2 GiB"), "workspace_bytes"),
        (lambda raw: raw["engines"][0].update(profile=[0, 0, 4]), "rising ones from 1"),
        (lambda raw: raw["timing_caches"][0].update(file="trt/../../evil"), "plain name"),
        (lambda raw: raw["timing_caches"][0].pop("target"), "lacks the keys"),
        (lambda raw: raw["engines"][0]["target"].update(version=10), "version"),
    ],
)
def test_bad_index_is_refused(bundle: Bundle, change, words: str) -> None:
    raw = json.loads(index_text([an_engine(bundle)], [A_CACHE]))
    change(raw)
    (engine_folder(bundle) / INDEX).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=words):
        read_index(engine_folder(bundle))


def test_only_an_engine_made_for_here_is_found(bundle: Bundle) -> None:  # oracle: the rule in find_engine's docstring
    with pytest.raises(DeviceError, match=r"has no trt engine of the encoder.*fsae-export"):
        find_engine(bundle, "encoder", "fp32", HERE)
    good = an_engine(bundle)
    for other, words in (
        (replace(good, target=replace(HERE, version="10.8.0")), "another machine: found trt 10.8.0"),
        (replace(good, target=replace(HERE, compute_capability="9.0")), "compute capability 9.0"),
        (replace(good, target=replace(HERE, platform="win32-amd64")), "win32"),
        (replace(good, graph_sha256="0" * 64), "older graph"),
        (replace(good, target=replace(HERE, flavour="trt-rtx")), "no trt engine"),
    ):
        write_index(bundle, other)
        with pytest.raises(DeviceError, match=words):
            find_engine(bundle, "encoder", "fp32", HERE)
    write_index(bundle, good)
    assert find_engine(bundle, "encoder", "fp32", HERE) == good
    portable = replace(good, target=replace(HERE, compute_capability=PORTABLE))
    write_index(bundle, portable)
    assert find_engine(bundle, "encoder", "fp32", HERE) == portable


def test_altered_engine_is_not_read(bundle: Bundle) -> None:
    engine = an_engine(bundle)
    assert read_engine(bundle, engine) == bundle.read("encoder.fp32.onnx")
    path = engine_folder(bundle) / engine.file
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BundleError, match="altered or truncated"):
        read_engine(bundle, engine)
    path.unlink()
    with pytest.raises(BundleError, match="cannot read"):
        read_engine(bundle, engine)
