"""Find the learned maps of a graph by the names of its nodes, which begin with their module's (graphs/trace.py).

Statistics, such as the Wiener filter and maps over the globe, are products with constants too, and have other names.
"""

import re

import onnx_ir

from fsae.runtime.errors import BundleError

# Modules of fsae.training.networks that are learned maps. The products of attention belong to the blocks themselves.
BLOCK = re.compile(r"(.*\.)?((encoder|decoder)_(fine|coarse)|blocks)\.\d+")
MAP = re.compile(r"(.*\.)?(query_key_value|attention_out|mlp\.\d+|compress|decompress)")
PRODUCTS = frozenset(("MatMul", "Gemm"))


def module_of(node: onnx_ir.Node) -> str:
    """The module a node comes from: "blocks.0.mlp.0/MatMul_3" -> "blocks.0.mlp.0"."""
    return (node.name or "").rpartition("/")[0]


def is_inside_map(node: onnx_ir.Node) -> bool:
    """True if a node belongs to a learned map."""
    return MAP.fullmatch(module_of(node)) is not None


def is_map(node: onnx_ir.Node) -> bool:
    """True if a node multiplies by learned weights, or is one of the two products of attention."""
    return node.op_type in PRODUCTS and (is_inside_map(node) or BLOCK.fullmatch(module_of(node)) is not None)


def no_maps() -> BundleError:
    """The error for a graph without learned maps."""
    return BundleError(
        "found no learned maps to compute in fewer bits: the nodes are not named by module, as in older bundles",
        advice="export the run again",
    )
