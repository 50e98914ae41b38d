"""Write the model card of a bundle: what it is, its data, its quality, how to use and reproduce it, and its limits."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from fsae.runtime.archive.lookup import FILE as ARCHIVE
from fsae.runtime.bundle.manifest import NOT_RUN, Manifest
from fsae.runtime.bundle.records import to_json
from fsae.runtime.climate.transforms import transformed_units
from fsae.training.config import Config
from fsae.training.daily.study import DailyReport, format_daily
from fsae.training.evaluation.saved import saved_climate
from fsae.training.evaluation.tables import (
    CARD_CHECKS,
    CARD_RECONSTRUCTION,
    card_superresolution,
    format_climate,
    table,
)

FIDELITY = "## Fidelity of the graphs"


def model_card(
    manifest: Manifest, config: Config, *, metrics: Mapping[str, Any] | None, daily: DailyReport | None = None
) -> str:
    """The text of MODEL_CARD.md; `config` is the configuration of the training.

    `metrics` are the run's figures, `daily` is the report of its daily weather.
    """
    sections = [
        _introduction(manifest),
        _data(manifest),
        *([_distances(manifest)] if manifest.distances else []),
        *([_figures(manifest.name, manifest.time.step, metrics)] if metrics is not None or daily is None else []),
        *([_daily(daily)] if daily is not None else []),
        _fidelity(manifest),
        _use(manifest),
        _reproduction(manifest, config),
        _limits(manifest),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def with_fidelity(card: str, manifest: Manifest) -> str:
    """A card with a new section on the fidelity of the graphs, for a bundle that has got other graphs."""
    sections = card.split("\n## ")
    title = FIDELITY.removeprefix("## ")
    own = "\n".join(_fidelity(manifest)).removeprefix("## ") + "\n"
    kept = [own if section.splitlines()[0] == title else section for section in sections]
    return "\n## ".join(kept if own in kept else [*kept, own])


def _introduction(manifest: Manifest) -> list[str]:
    names = ", ".join(f"{v.long_name or v.name} (`{v.name}`, {v.units})" for v in manifest.variables)
    latent = manifest.latent
    lines = [
        f"# {manifest.name}",
        "",
        "A Field-Space Autoencoder on the HEALPix sphere (Meuer et al. 2026, arXiv 2601.15102) as ONNX graphs, which "
        "take and return fields in physical units and contain the climatology, all scales and all index tables.",
        "",
        f"- Fields: {names}; time step {manifest.time.step}, calendar {manifest.time.calendar}.",
        f"- Grid: HEALPix zoom {manifest.grid.zoom} (nside {2**manifest.grid.zoom}), nested order; "
        f"pyramid zooms {', '.join(map(str, manifest.zooms))}.",
        f"- Compression: {latent.ratio} to 1, one number per variable and zoom-{latent.zoom} cell "
        f"({latent.shape[1]} cells), {latent.dtype}. Cell means at zoom {manifest.zooms[0]} are conserved.",
    ]
    if manifest.denoiser is None or manifest.sampler is None:
        return [*lines, "- No diffusion model: this bundle compresses and super-resolves, but does not generate."]
    denoiser, sampler = manifest.denoiser, manifest.sampler
    forcing = denoiser.forcing
    units = "" if forcing.units == "year" else f" {forcing.units}"
    span = f"{forcing.range[0]:g} to {forcing.range[1]:g}{units}"
    fast = "" if manifest.fast is None else f" A distilled model takes {manifest.fast.steps} (`--sampler fast`)."
    return [
        *lines,
        f"- Generation: a latent diffusion model draws {denoiser.window} steps at a time, given the "
        f"{denoiser.previous} steps before them, the time of year and the {forcing.name} ({span} in training). "
        f"Sampler {sampler.name}, {sampler.steps} steps.{fast}",
    ]


def _data(manifest: Manifest) -> list[str]:
    source = manifest.provenance
    return [
        "## Data and licence",
        "",
        f"Trained on {source.period[0]} to {source.period[1]}; all statistics come from this period.",
        "",
        *table(["file", "SHA-256"], [[f"`{entry.name}`", f"`{entry.sha256}`"] for entry in source.data]),
        "",
        f"Licence of the model: {manifest.licence}.",
    ]


def _distances(manifest: Manifest) -> list[str]:
    """How far training fields are from the climatology, and how rough their latents: input is held against that."""
    rows = []
    for variable in manifest.variables:
        if (limits := manifest.distances.get(variable.name)) is not None:
            units = _unit(transformed_units(variable.units, variable.transform))
            distances = (limits.median, limits.q99, limits.warn_above, limits.refuse_above)
            rough = "" if limits.roughness is UNSET else f"{limits.roughness:.4g}"
            rows.append([variable.name, *(f"{distance:.4g} {units}".rstrip() for distance in distances), rough])
    return [
        "## Distances of training fields",
        "",
        "RMS distance of training fields from the climatology of their time of year, with the global mean at half its "
        "weight; input that is further from it gives a warning, or is refused unless `--force` is given. Roughness: "
        "what the latents of 99 % of the training fields stay below; cells in random order have about 0.87.",
        "",
        *table(["variable", "median", "99 % below", "warning above", "refused above", "roughness"], rows),
    ]


def _figures(name: str, step: str, metrics: Mapping[str, Any] | None) -> list[str]:
    lines = ["## Figures", ""]
    if metrics is None:
        return [*lines, "Not evaluated yet: `fsae-train evaluate` prints and stores the figures of a run."]
    variables = metrics.get("variables")
    if isinstance(variables, Sequence) and all(isinstance(v, Mapping) and "checks" in v for v in variables):
        period = metrics.get("evaluation", ["", ""])
        evaluated = f"For {period[0]} to {period[1]}, years the model has not seen"
        lines += [f"{evaluated}; `fsae-train evaluate {name}` prints these figures.", ""]
        for variable in variables:
            lines += _evaluation(variable, step)
        return lines[:-1]
    rows = [[name, value] for name, value in _flat(metrics)]
    return [*lines, *table(["figure", "value"], rows)] if rows else [*lines, "The run's figures are empty."]


def _daily(report: DailyReport) -> list[str]:
    """The tables of `fsae-train daily`, a level further down."""
    return [f"#{line}" if line.startswith("#") else line for line in format_daily(report).splitlines()]


def _evaluation(variable: Mapping[str, Any], step: str) -> list[str]:
    """The figures of one variable: reconstruction, super-resolution, climate, then those with a tolerance."""
    lines = [f"### {variable['name']} [{variable['units']}]", ""]
    if variable.get("reconstruction"):
        lines += [*CARD_RECONSTRUCTION.lines(variable["reconstruction"]), ""]
    for coarse in variable.get("superresolution", ()):
        lines += [*card_superresolution(coarse["zoom"]).lines(coarse["rows"]), ""]
    if (climate := saved_climate(variable)) is not None:
        lines += [*format_climate(*climate, step, "####")[1:], ""]
    if variable["checks"]:
        lines += [*CARD_CHECKS.lines(variable["checks"]), ""]
    return lines


def _fidelity(manifest: Manifest) -> list[str]:
    """Every graph in every precision, what it was compared with, and ensembles."""
    rows = []
    for precision, graphs in manifest.parity.items():
        for graph, parity in graphs.items():
            worst = parity.worst
            unit = _unit(worst.units)
            rows.append(
                [
                    f"{graph}, {precision}",
                    f"{worst.max_abs_error:.2g} {unit}",
                    "" if worst.rmse is None else f"{worst.rmse:.2g} {unit}",
                    f"{worst.tolerance:.2g} {unit}",
                    f"{worst.variable}, zoom {worst.zoom}",
                    parity.device if parity.device == NOT_RUN else f"{parity.device}: {parity.backend}",
                ]
            )
    lines = [
        FIDELITY,
        "",
        "Differences of the graphs, on real fields of years outside training, from the trained model or from the "
        "float32 graphs they were made from (`compared with` below). Each row is for the variable and zoom closest to "
        "the tolerance; `manifest.json` lists all of them. `fsae-run verify` measures again on the device it runs on.",
        "",
        *table(["graph", "largest", "RMS", "tolerance", "where", "measured on"], rows),
    ]
    compared = [
        [
            precision,
            entry.date,
            entry.reference,
            f"{entry.steps} of {entry.period[0]} to {entry.period[1]}",
            ", ".join(source.name for source in entry.data),
        ]
        for precision, entry in manifest.certificates.items()
    ]
    if compared:
        lines += ["", *table(["precision", "date", "compared with", "fields", "data"], compared)]
    return [*lines, *_ensembles(manifest)]


def _ensembles(manifest: Manifest) -> list[str]:
    """Ensembles in other precisions than float32; no lines if there are none."""
    units = {variable.name: _unit(variable.units) for variable in manifest.variables}
    rows = [
        [
            f"{precision}, {certificate.members} members x {certificate.ensemble_steps} steps",
            f"{entry.rmse:.2g} {units[entry.variable]}",
            f"{entry.spectrum:.2%} ({entry.spectrum_tolerance:.2%})",
            f"{entry.crps:.5g} {units[entry.variable]} ({entry.crps_fp32:.5g} ± {entry.crps_tolerance:.2g})",
        ]
        for precision, certificate in manifest.certificates.items()
        for entry in certificate.ensembles
    ]
    if not rows:
        return []
    return [
        "",
        "Ensembles compared with the same members in float32: RMS difference, largest change of the power of any "
        "degree (tolerance), and CRPS (that of float32 and the allowed change).",
        "",
        *table(["ensembles", "RMS difference", "spectrum", "CRPS"], rows),
    ]


def _use(manifest: Manifest) -> list[str]:
    command = f"fsae-run --model {manifest.name}"
    generate = [] if manifest.denoiser is None else [f"{command} generate --members 100"]
    return [
        "## Use",
        "",
        "```",
        f"{command} verify",
        *generate,
        f"{command} compress IN.nc OUT.zarr",
        *([f"{command} compress IN.nc ARCHIVE.zarr --ratio 64"] if ARCHIVE in manifest.files else []),
        "```",
        "",
        "Any host with ONNX Runtime can run the graphs: `manifest.json` gives the shapes, `golden.npz` inputs with "
        "their expected outputs. `season` holds cos and sin of 2 pi k phase in pairs, k = 1 to "
        f"{manifest.time.harmonics}; phase is the fraction of the year passed at the middle of the step.",
    ]


def _reproduction(manifest: Manifest, config: Config) -> list[str]:
    source = manifest.provenance
    record = json.loads(to_json(config))
    record["data"]["inputs"] = [entry.name for entry in source.data]  # without folders, which are those of one machine
    seeds = ", ".join(f"{name} {seed}" for name, seed in source.seeds.items()) or "none"
    versions = ", ".join(f"{name} {version}" for name, version in source.versions.items())
    return [
        "## How to reproduce it",
        "",
        f"Save the configuration below as `config.toml` beside the data, then run {_training(manifest)} and "
        f"`fsae-export --name {manifest.name}`.",
        "",
        f"Seeds: {seeds}. Source revision: {source.revision}. Versions: {versions}.",
        "",
        "```toml",
        *to_toml(record),
        "```",
    ]


def _training(manifest: Manifest) -> str:
    """The commands that train what the bundle holds."""
    whole, codec = "`fsae-train config.toml`", "`fsae-train codec config.toml`"
    if ARCHIVE not in manifest.files:
        return whole
    return codec if manifest.denoiser is None else f"{whole}, {codec}"


def _limits(manifest: Manifest) -> list[str]:
    first, last = manifest.provenance.period
    lines = [
        "## Limits",
        "",
        "- Values far outside the training climate are encoded less accurately, and a source with a bias of its own "
        "needs its own climatology (`fsae-run climatology`).",
        "- Super-resolution adds typical fine structure: a best estimate, not what was really there.",
        "- The model does not know missing values: fill them first.",
    ]
    if manifest.denoiser is not None:
        lines.append(
            f"- Generated members resemble {first} to {last}. Forcing outside that range is extrapolation, and a "
            "member is not a forecast for any date."
        )
    return lines


def to_toml(record: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines of TOML for nested objects of plain values; None is left out, lists of objects become arrays of tables.

    >>> to_toml({"name": "a", "data": {"years": [1948, 2004], "none": None, "variables": [{"units": "K"}]}})
    ['name = "a"', '', '[data]', 'years = [1948, 2004]', '', '[[data.variables]]', 'units = "K"']
    """
    lines = []
    for name, value in record.items():
        if not isinstance(value, Mapping) and not _is_tables(value) and value is not None:
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")  # JSON's plain values are TOML's
    for name, value in record.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{prefix}{name}]", *to_toml(value, f"{prefix}{name}.")]
        elif _is_tables(value):
            for item in value:
                lines += ["", f"[[{prefix}{name}]]", *to_toml(item, f"{prefix}{name}.")]
    return lines


def _is_tables(value: Any) -> bool:
    """True if a value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Numbers and texts of nested objects as dotted names and their text; lists are left out."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | str):
            found.append((prefix + name, str(value)))
        elif isinstance(value, int | float):
            found.append((prefix + name, _number(value)))
    return found


def _number(value: float | None) -> str:
    """A number with four significant digits, a dash if there is none."""
    return "-" if value is None else f"{value:.4g}"


def _unit(units: str) -> str:
    """Units as shown: none for plain numbers."""
    return "" if units == "1" else units
