"""Ways to damage the files of a bundle."""

import json
from pathlib import Path

from tiny_bundle import tiny_manifest

from fsae.runtime.bundle.files import write_manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION


def damage(bundle: Path, what: str) -> None:
    """Damage the tiny bundle in a folder."""
    manifest, decoder = bundle / "manifest.json", bundle / "decoder.fp32.onnx"
    match what:
        case "newer schema":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": SCHEMA_VERSION + 1}))
        case "unknown key":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"colour": "green"}))
        case "truncated manifest":
            manifest.write_text(manifest.read_text()[:100])
        case "no manifest":
            manifest.unlink()
        case "truncated graph":
            decoder.write_bytes(decoder.read_bytes()[:-100])
        case "altered graph":
            flip_last_bit(decoder)
        case "missing graph":
            decoder.unlink()
        case "no graph at all":
            decoder.write_bytes(b"not a graph")
            write_manifest(bundle, tiny_manifest())


def flip_last_bit(path: Path) -> None:
    """Change the last bit of a file, which keeps its size."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
