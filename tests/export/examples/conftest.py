"""Fixtures of the tests of export/examples."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from tiny_bundle import LATENT_PIXELS, VARIABLES, tiny_manifest, tiny_tables

from fsae.runtime.bundle.files import Bundle, open_bundle, write_manifest


@pytest.fixture(scope="session")
def other_bundle(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that differs wherever the default does not need all that a manifest or tables can say.

    Two variables at the stamp, another calendar, sampler and source label, deviations with a season, tables stored.
    """
    folder = shutil.copytree(tiny_bundle_path, tmp_path_factory.mktemp("examples") / "other")
    waves = np.random.default_rng(2).normal(scale=0.3, size=(VARIABLES, 2, LATENT_PIXELS)).astype(np.float32)
    np.savez(folder / "tables.npz", **tiny_tables(), latent_season_std=waves)
    manifest = tiny_manifest()
    assert manifest.denoiser is not None
    assert manifest.sampler is not None
    changed = replace(
        manifest,
        variables=tuple(replace(v, cell_methods="time: point") for v in manifest.variables),
        time=replace(manifest.time, calendar="noleap"),
        denoiser=replace(manifest.denoiser, sources=("lr",)),
        sampler=replace(manifest.sampler, name="euler"),
    )
    write_manifest(folder, changed)
    return open_bundle(folder)
