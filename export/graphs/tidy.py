"""What every graph goes through before it is written: constants once, nothing unused, no trace of where it was made."""

from importlib.metadata import version

import onnx_ir
from onnx_ir.passes import common as passes

ANY_SIZE = 2**40  # bytes: the library's default leaves large tables alone


def tidy(model: onnx_ir.Model) -> None:
    """Nothing; the model is put in order in place, so that the same model gives the same bytes."""
    onnx_ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateInitializersPass(size_limit=ANY_SIZE),
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
    )(model)
    model.metadata_props.clear()
    model.producer_name, model.producer_version = "fsae", version("fsae")
