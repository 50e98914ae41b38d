"""Write the reference of the Python API as HTML: `python tests/repository/make_api_reference.py FOLDER`.

pdoc makes it from the docstrings of what `fsae.runtime` names as public.
"""

import sys
from pathlib import Path

import pdoc

import fsae.runtime


def make(folder: Path) -> None:
    """Write the pages into a folder."""
    for name in fsae.runtime.__all__:
        getattr(fsae.runtime, name)  # loaded when it is first asked for: pdoc sees what is loaded
    pdoc.render.configure(docformat="markdown", show_source=False, search=True)
    pdoc.pdoc("fsae.runtime", "!fsae.runtime.", output_directory=folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
