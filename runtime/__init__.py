"""Runtime of `fsae`: compress, decompress, super-resolve and generate with an exported bundle, without PyTorch.

>>> import fsae.runtime
>>> fsae.runtime.load  # doctest: +ELLIPSIS
<function load at ...>
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .archive.quality import Quality as Quality
    from .emulator import Emulator as Emulator
    from .emulator import load as load
    from .ensemble.request import Request as Request
    from .errors import BundleError as BundleError
    from .errors import DataError as DataError
    from .errors import DeviceError as DeviceError
    from .errors import FsaeError as FsaeError
    from .errors import OutputError as OutputError
    from .errors import Stopped as Stopped
    from .errors import ToleranceError as ToleranceError
    from .errors import UsageError as UsageError
    from .input.sources import Source as Source
    from .jobs.cluster import Cluster as Cluster
    from .jobs.job import Writing as Writing
    from .jobs.shards import Shard as Shard
    from .output.selection import Selection as Selection
    from .output.target_grid import grid_like as grid_like
    from .scores.score import Comparison as Comparison
    from .scores.score import score as score

    __version__: str

__all__ = [
    "BundleError",
    "Cluster",
    "Comparison",
    "DataError",
    "DeviceError",
    "Emulator",
    "FsaeError",
    "OutputError",
    "Quality",
    "Request",
    "Selection",
    "Shard",
    "Source",
    "Stopped",
    "ToleranceError",
    "UsageError",
    "Writing",
    "__version__",
    "grid_like",
    "load",
    "score",
]


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first asked for (PEP 562): importing the package stays instant."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _load(name)
    return globals()[name]


def _load(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("fsae")
    homes = {"Emulator": "emulator", "load": "emulator", "Request": "ensemble.request", "Selection": "output.selection"}
    homes |= {
        "grid_like": "output.target_grid",
        "Comparison": "scores.score",
        "score": "scores.score",
        "Quality": "archive.quality",
        "Source": "input.sources",
        "Cluster": "jobs.cluster",
        "Shard": "jobs.shards",
        "Writing": "jobs.job",
    }
    return getattr(importlib.import_module(f".{homes.get(name, 'errors')}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
