"""Write the golden bundle of the current schema: python tests/golden/make_bundle.py

A schema's golden bundle is `bundle-schema-N/` beside this file. `test_schema.py` opens every one of them, for ever, so
none is written twice: this refuses where the folder is there. Delete it only while its schema has not been released.

The bundle is that of `tiny_bundle.py`, whose graphs are closed forms, with everything that the schema has: a table
of deviations that vary with the season, a second precision, and certificates, one of them with ensembles. Where a new
schema brings something else, add it here.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from msgspec.structs import replace

GOLDEN = Path(__file__).parent
sys.path.insert(0, str(GOLDEN.parent / "support"))

from tiny_bundle import LATENT_PIXELS, VARIABLES, make_tiny_bundle, tiny_manifest, tiny_tables  # noqa: E402

from fsae.runtime.bundle.files import hash_files, write_manifest  # noqa: E402
from fsae.runtime.bundle.manifest import Certificate, EnsembleParity, Manifest, Source  # noqa: E402
from fsae.runtime.bundle.schema import SCHEMA_VERSION  # noqa: E402


def season_std() -> np.ndarray:
    """latent_season_std (variable, 2H, latent pixel) with H = 1: the deviations swing by some ten per cent a year."""
    return np.random.default_rng(23).normal(0, 0.1, size=(VARIABLES, 2, LATENT_PIXELS)).astype(np.float32)


def manifest(folder: Path) -> Manifest:
    """The tiny manifest with certificates of fp32 and fp16, whose figures are made up."""
    ensembles = tuple(
        EnsembleParity(
            variable=name,
            rmse=3e-5 * size,
            spectrum=2e-6,
            spectrum_tolerance=1e-3,
            crps=0.51 * size,
            crps_fp32=0.5 * size,
            crps_tolerance=0.02 * size,
        )
        for name, size in (("tas", 1.0), ("uas", 0.25))
    )
    exact = Certificate(
        date="2026-11-23",
        reference="the trained model, torch 2.13.0",
        data=(Source(name="tas.nc", sha256="ab" * 32),),
        period=("2005-01-01", "2014-12-31"),
        steps=120,
        members=0,
        ensemble_steps=0,
        ensembles=(),
        versions={"onnxruntime": "1.23.2", "numpy": "2.3.5"},
    )
    half = replace(
        exact,
        reference="its float32 graphs, onnxruntime 1.23.2",
        members=4,
        ensemble_steps=12,
        ensembles=ensembles,
    )
    plain = tiny_manifest()
    parity = {"fp32": plain.parity["fp32"], "fp16": plain.parity["fp32"]}
    return replace(plain, files=hash_files(folder), parity=parity, certificates={"fp32": exact, "fp16": half})


def make(folder: Path) -> Path:
    """The folder after the golden bundle was written there."""
    make_tiny_bundle(folder)
    np.savez_compressed(folder / "tables.npz", **tiny_tables(), latent_season_std=season_std())
    for graph in tiny_manifest().graphs:  # the same numbers: what counts is that there are two
        shutil.copyfile(folder / f"{graph}.fp32.onnx", folder / f"{graph}.fp16.onnx")
    write_manifest(folder, manifest(folder))
    return folder


if __name__ == "__main__":
    place = GOLDEN / f"bundle-schema-{SCHEMA_VERSION}"
    if place.exists():
        sys.exit(f"{place} is there already, and what was released changes no more: delete it only before a release")
    print(make(place))
