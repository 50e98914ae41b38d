"""Bundles on disk: found where they should be, and never used when they are not what the manifest says."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from tiny_bundle import LATENT_PIXELS, PIXELS, VARIABLES, tiny_climatology, tiny_manifest

from fsae.runtime.bundle import files as bundle_module
from fsae.runtime.bundle.exported import remember
from fsae.runtime.bundle.files import (
    BLOCK_BYTES,
    Bundle,
    find_bundle,
    fingerprint,
    hash_file,
    hash_files,
    open_bundle,
    write_manifest,
)
from fsae.runtime.bundle.tables import read_arrays
from fsae.runtime.checks.verify import check_files
from fsae.runtime.errors import BundleError
from fsae.runtime.sphere.weights import apply


@pytest.fixture
def copy(tiny_bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle to damage."""
    return Path(shutil.copytree(tiny_bundle_path, tmp_path / "copy"))


def test_a_good_bundle_gives_its_tables(tiny_bundle: Bundle) -> None:  # oracle: what tiny_bundle.py wrote
    tables = tiny_bundle.tables
    np.testing.assert_array_equal(tables.climatology, tiny_climatology())
    assert tables.source_shape == (13, 24)
    assert tables.latent_cell_std.shape == (VARIABLES, LATENT_PIXELS)
    # weights of a partition of unity keep a constant, both ways
    np.testing.assert_allclose(apply(tables.to_healpix, np.full(13 * 24, 7.0)), np.full(PIXELS, 7.0), rtol=1e-12)
    np.testing.assert_allclose(apply(tables.to_source, np.full(PIXELS, 7.0)), np.full(13 * 24, 7.0), rtol=1e-12)


def test_every_file_is_in_the_manifest(tiny_bundle: Bundle) -> None:
    assert dict(tiny_bundle.manifest.files) == hash_files(tiny_bundle.folder)
    assert (
        tiny_bundle.size
        == sum(p.stat().st_size for p in tiny_bundle.folder.iterdir())
        - (tiny_bundle.folder / "manifest.json").stat().st_size
    )


@pytest.mark.parametrize("name", ["encoder.fp32.onnx", "tables.npz", "golden.npz", "MODEL_CARD.md"])
def test_damaged_files_are_refused_before_use(copy: Path, name: str) -> None:
    path = copy / name
    data = path.read_bytes()
    opened = open_bundle(copy)
    path.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=rf"{name} is truncated or altered: found {len(data) - 1} bytes, expected"):
        opened.read(name)
    path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    with pytest.raises(BundleError, match=rf"{name} is altered: its SHA-256 differs"):
        opened.read(name)
    path.unlink()
    with pytest.raises(BundleError, match=rf"cannot read .*{name}: No such file"):
        opened.read(name)


def test_damaged_manifests_are_refused(copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(BundleError, match="bad manifest: not JSON"):
        open_bundle(copy)
    (copy / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match="not UTF-8"):
        open_bundle(copy)


def test_pickles_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    np.savez(tmp_path / "evil.npz", field=np.array([Evil()], dtype=object))
    with pytest.raises(BundleError, match="holds no readable arrays"):
        read_arrays((tmp_path / "evil.npz").read_bytes(), "evil.npz")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY", b"junk"])
def test_what_is_no_npz_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="holds no readable arrays"):
        read_arrays(data, "tables.npz")


def _with_tables(folder: Path, **changes: np.ndarray | None) -> Bundle:
    arrays = read_arrays((folder / "tables.npz").read_bytes(), "tables.npz") | changes
    np.savez(folder / "tables.npz", **{name: array for name, array in arrays.items() if array is not None})
    write_manifest(folder, tiny_manifest())
    return open_bundle(folder)


def test_tables_that_do_not_fit_the_manifest_are_refused(copy: Path) -> None:
    with pytest.raises(BundleError, match=r"lacks the tables \['scale'\]"):
        _ = _with_tables(copy, scale=None).tables
    with pytest.raises(BundleError, match=r"table scale has the shape \(3,\), expected \(2,\)"):
        _ = _with_tables(copy, scale=np.ones(3, np.float32)).tables
    fixed = _with_tables(copy, scale=np.ones(2, np.float32)).tables
    index = np.asarray(fixed.to_source.index).copy()
    index[0] = PIXELS
    with pytest.raises(BundleError, match="the weights to_source do not fit 192 points to 312"):
        _ = _with_tables(copy, to_source_index=index).tables


def _first(array: np.ndarray, value: float) -> np.ndarray:
    changed = np.array(array)
    changed.flat[0] = value
    return changed


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("scale", 0.0, "table scale has the value 0.0, expected a finite number above 0"),
        ("scale", np.nan, "table scale has the value nan"),
        ("latent_cell_std", -1.0, "table latent_cell_std has the value -1.0"),
        ("latent_level_std", np.inf, "table latent_level_std has the value inf"),
        ("climatology", 2e30, r"table climatology has the value .*e\+30, expected tas within 150 to 350 K in month 1"),
        ("climatology", np.nan, "table climatology has the value nan"),
        ("lat_deg", 12.0, "table lat_deg has the value 12.0, expected .*, the centre of pixel 0"),
        ("lon_deg", 12.0, "table lon_deg has the value 12.0, expected .*, the centre of pixel 0"),
        ("source_lat_deg", 100.0, "table source_lat_deg has the value 100.0, expected within 90 degrees"),
        ("source_lon_deg", 40.0, "table source_lon_deg has the value .*, expected values that only rise"),
        ("to_healpix_weight", 7.0, "table to_healpix_weight has the value 7.0, expected 0 to 1"),
        ("to_source_weight", 0.999, "table to_source_weight has the value .*, expected 1 as the sum of point 0"),
        ("to_source_indptr", 1, "table to_source_indptr has the value 1, expected numbers that begin with 0"),
    ],
)
def test_numbers_that_no_model_has_are_refused(copy: Path, name: str, value: float, said: str) -> None:
    # oracle: the one number that is changed
    arrays = read_arrays((copy / "tables.npz").read_bytes(), "tables.npz")
    with pytest.raises(BundleError, match=said):
        _ = _with_tables(copy, **{name: _first(arrays[name], value)}).tables


def test_a_changed_table_is_found_though_its_hash_was_made_to_fit(default_bundle: Bundle, tmp_path: Path) -> None:
    # oracle: one number of each table, changed by what is more than rounding and less than nonsense
    folder = Path(shutil.copytree(default_bundle.folder, tmp_path / "changed"))
    assert check_files(open_bundle(folder)) == len(default_bundle.manifest.files)
    original, arrays = default_bundle.manifest, default_bundle.arrays("tables.npz")
    for name, array in arrays.items():
        np.savez(folder / "tables.npz", **arrays | {name: _first(array, array.flat[0] + 1)})
        write_manifest(folder, original)
        with pytest.raises(BundleError, match="tables of bundle default are not those that its certificate"):
            check_files(open_bundle(folder))
    old = {key: replace(one, tables=UNSET) for key, one in original.certificates.items()}
    write_manifest(folder, replace(original, certificates=old))
    check_files(open_bundle(folder))  # oracle: a certificate of before knows no tables


def test_default_is_the_newest_nearby_else_the_shipped_one(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    shutil.copytree(tiny_bundle_path, shipped / "default")
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: shipped)
    monkeypatch.chdir(tmp_path)
    assert find_bundle() == shipped / "default"
    for age, name in ((200, "old"), (0, "new"), (100, "between")):
        folder = Path(shutil.copytree(tiny_bundle_path, tmp_path / "engines" / name))
        (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + "\n" * age)  # another bundle
        stamp = (folder / "manifest.json").stat().st_mtime - age
        os.utime(folder / "manifest.json", (stamp, stamp))
        remember(fingerprint(folder))
    (tmp_path / "engines" / "no_bundle").mkdir()
    assert find_bundle() == Path("engines/new")
    assert find_bundle("old") == Path("engines/old")
    assert find_bundle("default") == shipped / "default"
    assert find_bundle(tmp_path / "engines" / "old" / "manifest.json") == tmp_path / "engines" / "old"
    with pytest.raises(BundleError, match="known names: between, default, new, old"):
        find_bundle("missing")
    with pytest.raises(BundleError, match=r"is not a bundle \(no manifest\.json\)"):
        find_bundle("engines/no_bundle")


def test_a_bundle_that_the_user_did_not_export_is_used_only_by_its_path(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # oracle: which of two bundles is found
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: tmp_path / "shipped")
    shipped = Path(shutil.copytree(tiny_bundle_path, tmp_path / "shipped" / "default"))
    foreign = Path(shutil.copytree(tiny_bundle_path, Path("engines", "default")))
    (foreign / "manifest.json").write_text((foreign / "manifest.json").read_text() + "\n")
    for model in (None, "default"):
        assert find_bundle(model) == shipped
    assert caplog.messages == [
        "engines/default is passed over, as you did not export it here: name it with --model engines/default"
    ]
    assert find_bundle("engines/default") == foreign
    foreign.rename("engines/mine")
    with pytest.raises(BundleError, match="you did not export engines/mine here: name it by its path"):
        find_bundle("mine")
    remember(fingerprint(Path("engines/mine")))
    assert find_bundle() == find_bundle("mine") == Path("engines/mine")
    (Path("engines/mine") / "trt").mkdir()
    (Path("engines/mine") / "trt" / "index.json").write_text("{}")  # engines of somebody else: they are code
    assert find_bundle() == shipped


def test_an_engine_of_the_repository_is_found_by_name_in_a_checkout(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # oracle: which folder is found; the list has the hash of the manifest, and a planted engine changes the bundle
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: tmp_path / "shipped")
    shutil.copytree(tiny_bundle_path, tmp_path / "shipped" / "default")
    sha256 = hashlib.sha256((tiny_bundle_path / "manifest.json").read_bytes()).hexdigest()
    (tmp_path / "shipped" / "SHA256SUMS").write_text(f"{sha256}  relative/manifest.json\n")
    with pytest.raises(BundleError, match=f"relative is not installed.*fsae-run fetch URL.FOLDER --sha256 {sha256}"):
        find_bundle("relative")
    folder = Path(shutil.copytree(tiny_bundle_path, Path("engines", "relative")))
    assert find_bundle("relative") == folder
    assert find_bundle() == tmp_path / "shipped" / "default"
    assert caplog.messages == []
    installed = shutil.copytree(folder, tmp_path / "shipped" / "relative")
    assert find_bundle("relative") == installed
    shutil.rmtree(installed)
    (folder / "trt").mkdir()
    (folder / "trt" / "index.json").write_text("{}")
    with pytest.raises(BundleError, match="you did not export engines/relative here"):
        find_bundle("relative")
    shutil.rmtree(folder / "trt")
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + "\n")
    with pytest.raises(BundleError, match="you did not export engines/relative here"):
        find_bundle("relative")


def test_no_bundle_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "shipped_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"found no bundle in \./engines and none is shipped"):
        find_bundle()


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES + 7])
def test_hashes_in_blocks(tmp_path: Path, size: int) -> None:  # oracle: the hash of everything at once
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(data)
    found = hash_file(tmp_path / "file")
    assert (found.sha256, found.size) == (hashlib.sha256(data).hexdigest(), size)


def test_check_refuses_what_read_refuses(copy: Path) -> None:  # oracle: `read`
    bundle = open_bundle(copy)
    assert bundle.check("golden.npz") == copy / "golden.npz"
    data = (copy / "golden.npz").read_bytes()
    for damaged in (data[:-1], data[:9] + bytes([data[9] ^ 1]) + data[10:], None):
        if damaged is None:
            (copy / "golden.npz").unlink()
        else:
            (copy / "golden.npz").write_bytes(damaged)
        with pytest.raises(BundleError) as one:
            bundle.read("golden.npz")
        with pytest.raises(BundleError) as other:
            bundle.check("golden.npz")
        assert str(one.value) == str(other.value)
    with pytest.raises(BundleError, match="has no file nothing"):
        bundle.check("nothing")
