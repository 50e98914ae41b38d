"""Write a bundle as a model repository for the Triton inference server, as a whole or not at all.

A model is DIR/fsae_NAME_GRAPH/1/model.onnx and DIR/fsae_NAME_GRAPH/config.pbtxt; names for precisions other than fp32
end in _PRECISION. A bundle that generates also becomes DIR/fsae_NAME_generate, which needs no sampler in the client.
"""

import contextlib
import logging
from pathlib import Path

from fsae.export.bundle.place import foreign_to_bundle, replacing
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import graph_file
from fsae.runtime.errors import OutputError

from .config import CONFIG, MARK, VERSION
from .generate_model import BUNDLE, GENERATE, MODEL, write_generate_model
from .graph_models import GRAPH, write_graph_model

log = logging.getLogger("fsae.export.triton")


def model_name(bundle: str, graph: str, precision: str) -> str:
    """Name of a graph's model and of its folder in the repository.

    >>> model_name("default", "encoder", "fp32"), model_name("default", "encoder", "fp16")
    ('fsae_default_encoder', 'fsae_default_encoder_fp16')
    """
    return f"fsae_{bundle}_{graph}" + ("" if precision == "fp32" else f"_{precision}")


def check_place(folder: Path, overwrite: bool) -> None:
    """Raise OutputError unless `folder` may be written: only what fsae-export wrote is ever replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file", "a folder for the Triton repository", "choose another")
    why, entries = foreign_to_repository(folder), sorted(folder.iterdir())
    if why:
        raise OutputError(
            f"{folder} {why}",
            advice="choose another folder for --triton (the server accepts several --model-repository)",
        )
    if entries and not overwrite:
        raise OutputError(
            f"{folder} holds {entries[0].name} already", advice="give --overwrite, or choose another folder"
        )


def foreign_to_repository(folder: Path) -> str:
    """Why a folder is not taken for a repository of ours, in words; empty if all its models are, or if it is empty."""
    foreign = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
    return f"holds {foreign[0]}, which fsae-export did not write" if foreign else ""


def write_repository(bundle: Bundle, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Write the repository aside and put it in place as a whole; return the names of its models."""
    check_place(folder, overwrite)
    names = []
    with replacing(folder.resolve(), foreign_to_repository) as new:
        for precision in bundle.manifest.precisions:
            for graph in bundle.manifest.graphs:
                name = model_name(bundle.manifest.name, graph, precision)
                log.info("%s %s: writing %s", graph, precision, name)
                write_graph_model(bundle, graph_file(graph, precision), new / name)
                names.append(name)
        if bundle.manifest.denoiser is not None:
            names.append(model_name(bundle.manifest.name, GENERATE, "fp32"))  # the precision is in its configuration
            log.info("writing %s", names[-1])
            write_generate_model(bundle, new / names[-1])
    return names


def _is_ours(path: Path) -> bool:
    """True if a path is the folder of a model that fsae-export wrote, and holds nothing else."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.is_symlink() or not (path / CONFIG).read_text(encoding="utf-8").startswith(MARK):
            return False
        others = {entry.name for entry in path.iterdir()} - {CONFIG, VERSION}
        parts = (path / VERSION).iterdir() if (path / VERSION).is_dir() else ()
        return not others and all(_is_part(entry) for entry in parts)
    return False


def _is_part(entry: Path) -> bool:
    """True if what lies in the folder of a version belongs to a model of ours, or was left there by the server."""
    if entry.name == BUNDLE:
        return not foreign_to_bundle(entry)
    if entry.name == "__pycache__":
        return all(path.match("model.*.pyc") for path in entry.iterdir())
    return entry.name in (GRAPH, MODEL) or ".onnx." in entry.name
