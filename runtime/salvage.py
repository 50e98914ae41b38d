"""What an interrupted run has left, looked at before it goes on: a machine that lost its power may have lost files."""

import itertools
from pathlib import Path

from .errors import OutputError
from .ledger import Line
from .output import Layout, coordinates, data_arrays


def check_frame(fields: Path, layout: Layout) -> None:
    """Nothing; OutputError where the store in the folder `fields` lacks an array of its layout."""
    names = [item.name for item in coordinates(layout)] + [array.name for array in data_arrays(layout)]
    lost = [name for name in ("", *names) if not _holds(fields / name / "zarr.json")]
    if lost:
        raise OutputError(
            f"{fields.parent} is damaged: {fields.name} lacks {lost[0] or 'all'}; start again with --overwrite"
        )


def is_there(fields: Path, layout: Layout, line: Line) -> bool:
    """Whether the store holds all chunks of a finished unit."""
    place = layout.place(slice(line.member, line.member + 1), slice(line.first, line.end))
    for array in data_arrays(layout):
        lead = len(array.shape) - len(layout.shape)  # quantiles stand before all others, in one chunk
        starts = [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(place, array.chunks[lead:], strict=False)
        ]
        others = [range(1)] * (len(array.shape) - lead - len(place))
        for index in itertools.product(*[range(1)] * lead, *starts, *others):
            if not _holds(fields.joinpath(array.name, "c", *map(str, index))):
                return False
    return True


def _holds(path: Path) -> bool:
    """Whether a file is there and not empty."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
