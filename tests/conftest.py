"""Fixtures that all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_bundle import make_tiny_bundle

from fsae.runtime.bundle.files import Bundle, open_bundle, shipped_folder

if TYPE_CHECKING:
    from fsae.export.bundle.write import Exported
    from fsae.training.fitting.run_folder import Run

DATA = Path(__file__).parents[2] / "shared" / "data"
SAMPLE = Path(__file__).parents[1] / "training" / "sample"

COSTLY = ("exported", "outputs")  # fixtures that one process should make for all files that use them


def pytest_configure() -> None:
    """Give NumPy and PyTorch one thread unless the environment says otherwise: with `-n` processes share the cores.

    pytest-xdist starts its processes after this, with this environment.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import onnxruntime themselves
    os.environ["FSAE_CACHE"] = "off"  # no weights of other versions are read, and none is left in the home


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file, and files that share a costly fixture, in one process of `--dist loadgroup`."""
    group = {item.path: item.path.stem for item in items}
    for item in items:
        for name in set(COSTLY) & set(getattr(item, "fixturenames", ())):
            group[item.path] = name
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group[item.path]))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; skip the test if it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of the sample data set, a part of the repository."""
    assert SAMPLE.is_dir(), f"{SAMPLE} is missing: the repository is incomplete"
    return SAMPLE


@pytest.fixture(scope="session")
def default_bundle() -> Bundle:
    """The shipped default engine; fail if it is missing."""
    folder = shipped_folder() / "default"
    assert (folder / "manifest.json").is_file(), f"engines/default is missing: no bundle in {folder}"
    return open_bundle(folder)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests folders for cache, data and state of their own: nothing made here may stay in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny bundle; tests that change it copy it first."""
    return make_tiny_bundle(tmp_path_factory.mktemp("engines") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_bundle_path: Path) -> Bundle:
    """The tiny bundle, opened."""
    return open_bundle(tiny_bundle_path)


@pytest.fixture(scope="session")
def outputs(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what outputs.py writes; tests only read it."""
    from outputs import write_outputs

    folder = tmp_path_factory.mktemp("outputs")
    write_outputs(tiny_bundle_path, folder)
    return folder


@pytest.fixture(scope="session")
def run_folder(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny run (tiny_run.py)."""
    from tiny_run import write_run  # torch is imported by those tests alone that need it

    return write_run(tmp_path_factory.mktemp("runs") / "tiny-run", sample_data)


@pytest.fixture(scope="session")
def run(run_folder: Path) -> "Run":
    """The tiny run, read back."""
    from fsae.training.fitting.run_folder import load_run

    return load_run(run_folder)


@pytest.fixture(scope="session")
def exported(run: "Run", tmp_path_factory: pytest.TempPathFactory) -> "Exported":
    """The tiny run's bundle in every precision; tests that change it copy it first."""
    from fsae.export.bundle.write import export_run

    return export_run(run, tmp_path_factory.mktemp("exported"), precisions=("fp32", "fp16", "bf16", "int8"))


@pytest.fixture(scope="session")
def bundle(exported: "Exported") -> Bundle:
    """The tiny run's bundle, opened."""
    return open_bundle(exported.folder)
