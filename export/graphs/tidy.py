"""Put graphs in order before they are written: each constant once, nothing unused, no trace of where they were made."""

from importlib.metadata import version

import onnx_ir
from onnx_ir.passes import common as passes

ANY_SIZE = 2**40  # bytes; by default the library skips large tables


def tidy(model: onnx_ir.Model) -> None:
    """Put a model in order, in place, so that the same model always gives the same bytes."""
    onnx_ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateInitializersPass(size_limit=ANY_SIZE),
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
    )(model)
    model.metadata_props.clear()
    model.producer_name, model.producer_version = "fsae", version("fsae")
