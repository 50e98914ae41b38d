"""Damaged and swelling zip files as tables: refused in one sentence, before memory is spent."""

import io
import zipfile

import numpy as np
import pytest

from fsae.runtime.bundle.tables import read_arrays
from fsae.runtime.errors import BundleError


def packed() -> bytes:
    file = io.BytesIO()
    np.savez(file, scale=np.ones(3))
    return file.getvalue()


def changed(at: int, value: int) -> bytes:
    """The file with one byte changed in its first local header and in its directory."""
    data = bytearray(packed())
    data[at] = value
    data[data.index(b"PK\x01\x02") + at + 2] = value
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        packed()[:-30],
        changed(8, 77),
        changed(6, 1),
        changed(4, 173),
        packed().replace(b"'shape': (3,)", b"'shape': (3(("),
    ],
    ids=["empty", "cut", "unknown compression", "encrypted", "version", "header"],
)
def test_damaged_zip_files_are_refused(data: bytes) -> None:  # oracle: what zipfile and NumPy raise for them
    with pytest.raises(BundleError, match=r"tables\.npz holds no readable arrays .*get the bundle again"):
        read_arrays(data, "tables.npz")


def test_a_file_that_swells_is_refused_unread() -> None:  # oracle: its directory, which says 256 MiB
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as entry,
    ):
        for _ in range(256):
            entry.write(bytes(1 << 20))
    with pytest.raises(BundleError, match="would swell from"):
        read_arrays(file.getvalue(), "tables.npz")


def test_honest_tables_of_zeros_pass() -> None:  # oracle: what was saved
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(1_000_000))
    assert read_arrays(file.getvalue(), "tables.npz")["a"].shape == (1_000_000,)
