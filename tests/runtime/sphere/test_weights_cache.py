"""The cache of weights: what is read is what was made, whatever happened to the file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fsae.runtime.sphere import weights_cache
from fsae.runtime.sphere.grids import LatLonGrid, regular_grid
from fsae.runtime.sphere.regrid import conservative_weights, make_weights
from fsae.runtime.sphere.weights import Weights
from fsae.runtime.sphere.weights_cache import Between, cache_folder, cached, kept

GRID, ZOOM = regular_grid("15"), 1
BETWEEN = Between(method="conservative", grid=GRID, zoom=ZOOM)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that keeps weights of all grids."""
    monkeypatch.setenv("FSAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights_cache, "WORTH_POINTS", 0)
    return tmp_path / "cache"


def made() -> Weights:
    """The weights that are right."""
    return conservative_weights(GRID, ZOOM)


def never() -> Weights:
    """No weights: they are to be read."""
    raise AssertionError("made again")


def assert_right(weights: Weights) -> None:
    for name in ("indptr", "index", "weight"):
        np.testing.assert_array_equal(getattr(weights, name), getattr(made(), name))
    assert weights.source_size == GRID.size


def test_weights_are_made_once(folder: Path) -> None:  # oracle: the weights that were made
    assert_right(cached(BETWEEN, made))
    assert_right(cached(BETWEEN, never))
    assert [path.suffix for path in folder.iterdir()] == [".npz"]
    assert_right(make_weights(GRID, ZOOM, "conservative"))
    assert len(list(folder.iterdir())) == 1


def test_other_weights_have_other_names() -> None:
    turned = LatLonGrid(lat_deg=GRID.lat_deg, lon_deg=GRID.lon_deg + 1)
    others = [
        Between(method="bilinear", grid=GRID, zoom=ZOOM),
        Between(method="conservative", grid=turned, zoom=ZOOM),
        Between(method="conservative", grid=GRID, zoom=ZOOM + 1),
        Between(method="conservative", grid=GRID, zoom=ZOOM, back=True),
    ]
    assert len({one.key for one in (BETWEEN, *others)}) == 5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_damaged_files_are_made_again(folder: Path, share: float) -> None:  # oracle: the weights that were made
    cached(BETWEEN, made)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[int(share * len(whole))] ^= 0x10
    for content in (bytes(flipped), whole[: int(share * len(whole))]):
        path.write_bytes(content)
        assert_right(cached(BETWEEN, made))
        assert_right(cached(BETWEEN, never))


@pytest.mark.parametrize(
    "change",
    [
        {"index": made().index + GRID.size},
        {"index": -made().index - 1},
        {"weight": made().weight * 2},
        {"weight": made().weight * np.nan},
        {"weight": made().weight[:-1]},
        {"indptr": made().indptr[::-1]},
        {"indptr": made().indptr[:-1]},
        {"index": made().index.astype(np.float64)},
    ],
)
def test_wrong_content_of_right_checksums_is_made_again(folder: Path, change: dict[str, np.ndarray]) -> None:
    cached(BETWEEN, made)
    (path,) = folder.iterdir()
    right = made()
    np.savez(path, **{"indptr": right.indptr, "index": right.index, "weight": right.weight, **change})
    assert_right(cached(BETWEEN, made))
    assert_right(cached(BETWEEN, never))


def test_without_a_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file in place of the folder")
    assert_right(cached(BETWEEN, made))
    assert folder.read_text() == "a file in place of the folder"
    monkeypatch.setenv("FSAE_CACHE", "off")
    assert cache_folder() is None
    assert_right(cached(BETWEEN, made))
    monkeypatch.delenv("FSAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/fsae")


def test_the_folder_stays_within_its_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [Between(method=str(place), grid=GRID, zoom=ZOOM) for place in range(4)]
    for between in methods[:2]:
        cached(between, made)
    for age, between in enumerate(reversed(methods[:2])):  # clocks of file systems can be slower than this test
        os.utime(folder / f"{between.key}.npz", (1e9 - age, 1e9 - age))
    size = sum(own for _, own, _ in kept(folder)) // 2
    monkeypatch.setattr(weights_cache, "MOST_BYTES", int(2.5 * size))
    cached(methods[0], never)  # used again: the other one is older now
    cached(methods[2], made)
    assert {path.stem for _, _, path in kept(folder)} == {methods[0].key, methods[2].key}


def test_two_processes_at_once(folder: Path) -> None:  # oracle: the weights that were made
    code = (
        "from fsae.runtime.sphere import weights_cache; weights_cache.WORTH_POINTS = 0\n"
        "from fsae.runtime.sphere.grids import regular_grid\n"
        "from fsae.runtime.sphere.regrid import make_weights\n"
        f"for _ in range(20): make_weights(regular_grid('15'), {ZOOM}, 'conservative')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    assert [(one.communicate()[1], one.returncode) for one in running] == [(b"", 0)] * 2
    assert len(list(folder.iterdir())) == 1
    assert_right(cached(BETWEEN, never))
