"""`fsae-train report`: a page in one file with what studies found out about a run, or one of its pictures."""

import base64
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsae.runtime.errors import DeviceError, UsageError
from fsae.runtime.pictures.picture import check_matplotlib
from fsae.runtime.pictures.written import check_picture, write_picture
from fsae.runtime.progress import Progress
from fsae.training.evaluation.tables import Filled
from fsae.training.fitting.run_folder import latest_run

from .drawing import Picture, render
from .results import Results, RunResults, read_results
from .sections import OWN_ROWS, Section, pictures, sections

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE = "report.html"
TEMPLATE = Path(__file__).with_name("page.html")


def report_run(folder: Path | None, out: Path | None, picture: str | None, progress: Progress) -> Path:
    """Write the page of a run (default: the newest), or one picture of it; gives its path.

    The page goes to report.html in the folder of the run unless `out` says otherwise; a picture goes to `out`, PNG or
    SVG by its suffix. An earlier one that nobody changed is replaced. UsageError for a picture that the run lacks the
    numbers of, OutputError for what may not be replaced, DeviceError without matplotlib or Jinja.
    """
    folder = latest_run() if folder is None else folder
    found = read_results(folder)
    if picture is not None and out is None:
        raise UsageError(f"found --picture {picture} without --out", advice=f"give such as --out {picture}.png")
    path = out if out is not None else folder / PAGE
    check_picture(path, True, {}, (".html",) if picture is None else (".png", ".svg"))
    check_matplotlib()
    if picture is None:
        write_picture(path, page_of(found, progress).encode(), True)
    else:
        drawn = render(_named(found, picture), path.suffix.lower().removeprefix("."))
        write_picture(path, drawn, True)
    return path


def _named(found: RunResults, name: str) -> Picture:
    """The picture of a name, of the first variable, or VARIABLE.NAME."""
    made = {f"{one.name}.{key}": make for one in found.variables for key, make in pictures(one).items()}
    if found.variables:
        made |= pictures(found.variables[0])
    if name not in made:
        plain = [key for key in made if "." not in key]
        raise UsageError(
            f"found --picture {name}",
            f"one of {', '.join(plain) or 'none'}, which {found.path} has the numbers of",
            f"run fsae-train evaluate {found.path} or fsae-train hindcast {found.path} for more",
        )
    return made[name]()


def page_of(found: RunResults, progress: Progress) -> str:
    """The page as HTML."""
    try:
        import jinja2
    except ImportError as error:
        raise DeviceError(
            f"reports need Jinja, which cannot be imported ({error})", advice='pip install "fsae[plot]"'
        ) from None
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["code"] = code
    parts = [(one, part) for one in found.variables for part in sections(one, str(found.path))]
    several = len(found.variables) > 1
    made = []
    for number, (one, part) in enumerate(parts, 1):
        made.append(_part(one, part, several))
        progress(number, len(parts))
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=found.config.name,
        software=f"fsae {version('fsae')}",
        introduction=_introduction(found),
        facts=_facts(found),
        parts=made,
        own=OWN_ROWS,
        missing=_missing(found),
    )


def code(text: str) -> "Markup":
    """Text as HTML, what stands between backticks as code."""
    from markupsafe import Markup, escape

    pieces = re.split(r"`([^`]*)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if place % 2 else escape(piece) for place, piece in enumerate(pieces)
    )


def _part(found: Results, part: Section, several: bool) -> dict[str, Any]:
    """A section as the template takes it."""
    title = f"{found.name}: {part.title}" if several else part.title
    return {
        "key": re.sub(r"[^a-z0-9]+", "-", title.lower()),
        "title": title,
        "text": unbroken(part.text),
        "missing": part.missing,
        "pictures": [
            {
                "name": one.name,
                "alt": one.alt,
                "caption": unbroken(one.caption),
                "data": base64.b64encode(render(one, "svg")).decode(),
            }
            for one in part.pictures
        ],
        "tables": [_table(one) for one in part.tables],
    }


def unbroken(text: str) -> str:
    """A text whose numbers keep their units, and `seed` its number, on one line.

    >>> unbroken("within 20 % of 3 K (seed 0)").count(chr(160))
    3
    """
    return re.sub(r"(?<=\d) (?=%|K\b|m s-1)|(?<=seed) (?=\d)", "\N{NO-BREAK SPACE}", text)


def _table(filled: Filled) -> dict[str, Any]:
    """A table as the template takes it, its cells as the model card has them."""
    columns = filled.table.columns
    return {
        "heading": filled.heading,
        "header": [column.title for column in columns],
        "rows": [[column.cell(row) for column in columns] for row in filled.rows],
        "note": filled.table.note,
    }


def _introduction(found: RunResults) -> str:
    data = found.config.data
    names = ", ".join(f"{v.long_name or v.name} ({v.name}, {v.units})" for v in data.variables)
    return f"A Field-Space Autoencoder of {names} on HEALPix zoom {found.config.autoencoder.zoom}" + (
        "." if found.config.diffusion is None else ", with a diffusion model of its latents."
    )


def _facts(found: RunResults) -> Sequence[tuple[str, str]]:
    """Facts of the training and the evaluation by name: years, data, step, seeds."""
    config = found.config
    facts = [
        ("trained on", _period(config.data.training_years)),
        ("evaluated on", f"{_period(config.data.evaluation_years)}, which training never saw"),
        ("data", ", ".join(source.name for source in found.facts.inputs)),
        ("step", found.facts.step),
        ("seed of training", str(config.seed)),
    ]
    if found.variables and found.variables[0].members:
        one = found.variables[0]
        facts.append(("generated", f"{one.members} members from the seed {one.seed}"))
    return facts


def _period(pair: tuple[object, object]) -> str:
    return f"{pair[0]} to {pair[1]}"


def _missing(found: RunResults) -> str:
    """The command that makes what the page as a whole lacks; empty if it lacks nothing."""
    if not found.is_evaluated:
        return f"This run has no figures yet: `fsae-train evaluate {found.path}` makes them."
    if not found.has_arrays:
        return f"Pictures lack numbers of these weights and figures: `fsae-train evaluate {found.path}` makes them."
    return ""
