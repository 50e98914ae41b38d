"""Latents are tied to the model, not to the precisions that a bundle of it happens to have."""

import dataclasses
import hashlib

import pytest
import xarray as xr
from msgspec import UNSET
from msgspec.structs import replace
from tiny_bundle import tiny_manifest

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import FileEntry
from fsae.runtime.codec.latents import check_latents, latent_key
from fsae.runtime.errors import DataError

GRAPHS = ("encoder", "decoder", "denoiser")


def entry(name: str) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(name.encode()).hexdigest(), size=1)


def key_of(precision: str) -> str:
    """The key that stores were given by the graphs in one precision."""
    hashes = [entry(f"{graph}.{precision}.onnx").sha256 for graph in GRAPHS[:2]]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def having(bundle: Bundle, *precisions: str, key: str | None = None) -> Bundle:
    """The tiny bundle with graphs in these precisions, in this order, and a key in its manifest or none."""
    names = ["tables.npz", *(f"{graph}.{precision}.onnx" for precision in precisions for graph in GRAPHS)]
    manifest = tiny_manifest()
    latent = replace(manifest.latent, key=UNSET if key is None else key)
    files = {name: entry(name) for name in names}
    return dataclasses.replace(bundle, manifest=replace(manifest, files=files, parity={}, latent=latent))


def test_the_key_does_not_depend_on_the_precisions(tiny_bundle: Bundle) -> None:
    # oracle: the hash of the float32 graphs, also where a bundle has none of them
    for precisions in (("fp32",), ("fp16", "fp32"), ("fp32", "bf16", "int8"), ("int8",), ("fp16", "bf16")):
        assert latent_key(having(tiny_bundle, *precisions, key=key_of("fp32"))) == key_of("fp32")
    assert latent_key(having(tiny_bundle, "fp16", "fp32")) == key_of("fp32")  # without a key, as before


def test_stores_of_every_key_that_was_written_are_taken(tiny_bundle: Bundle) -> None:
    # oracle: the first precision's graphs, by which stores were tied to bundles without a key
    def refused(bundle: Bundle, key: str) -> bool:
        store = xr.Dataset(attrs={"fsae_kind": "latent", "fsae_latent_key": key})
        with pytest.raises(DataError) as error:  # of the next check, if the key is taken
            check_latents(bundle, store, "latents.nc")
        return "in another version" in str(error.value)

    half = having(tiny_bundle, "fp16")
    assert latent_key(half) == key_of("fp16")
    for later in (("fp16", "bf16"), ("bf16", "fp16", "fp32"), ("fp16",)):
        assert not refused(having(tiny_bundle, *later, key=key_of("fp32")), key_of("fp16"))
        assert not refused(having(tiny_bundle, *later), key_of("fp16"))
    assert refused(having(tiny_bundle, "fp32", key=key_of("fp32")), key_of("int8"))
