"""The model card of a bundle: what it is and was made from, how good it is, how to make it again, where it ends."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fsae.runtime.bundle.manifest import NOT_RUN, Manifest
from fsae.runtime.bundle.records import decode_record, to_json
from fsae.runtime.errors import DataError
from fsae.training.config import Config
from fsae.training.evaluation.report import GENERATED, Climate, Stretches
from fsae.training.evaluation.tables import format_climate, table


def model_card(manifest: Manifest, config: Config, *, metrics: Mapping[str, Any] | None) -> str:
    """The text of MODEL_CARD.md; `config` is what the model was trained with, `metrics` are its figures."""
    sections = [
        _introduction(manifest),
        _data(manifest),
        _figures(manifest.name, manifest.time.step, metrics),
        fidelity(manifest),
        _use(manifest),
        _reproduction(manifest, config),
        _limits(manifest),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def read_metrics(path: Path) -> Mapping[str, Any] | None:
    """Figures of a run as its evaluation wrote them, None where there are none yet; DataError where damaged."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read the figures {path} ({error}): delete it or run fsae-train evaluate again"
        ) from None
    if not isinstance(metrics, dict):
        raise DataError(
            f"{path} holds a {type(metrics).__name__}, expected a JSON object: run fsae-train evaluate again"
        )
    return metrics


def _introduction(manifest: Manifest) -> list[str]:
    names = ", ".join(f"{v.long_name or v.name} (`{v.name}`, {v.units})" for v in manifest.variables)
    latent = manifest.latent
    lines = [
        f"# {manifest.name}",
        "",
        "A Field-Space Autoencoder on the HEALPix sphere (Meuer et al. 2026, arXiv 2601.15102) as ONNX graphs: fields "
        "in physical units go in and come out, the climatology, all scales and all index tables are inside.",
        "",
        f"- Fields: {names}; time step {manifest.time.step}, calendar {manifest.time.calendar}.",
        f"- Grid: HEALPix zoom {manifest.grid.zoom} (nside {2**manifest.grid.zoom}), nested order; "
        f"pyramid zooms {', '.join(map(str, manifest.zooms))}.",
        f"- Compression: {latent.ratio} to 1, one number per variable and zoom-{latent.zoom} cell "
        f"({latent.shape[1]} cells), {latent.dtype}. Cell means at zoom {manifest.zooms[0]} are kept.",
    ]
    if manifest.denoiser is None or manifest.sampler is None:
        return [*lines, "- No diffusion model: this bundle compresses and super-resolves, it does not generate."]
    denoiser, sampler = manifest.denoiser, manifest.sampler
    forcing = denoiser.forcing
    units = "" if forcing.units == "year" else f" {forcing.units}"
    span = f"{forcing.range[0]:g} to {forcing.range[1]:g}{units}"
    return [
        *lines,
        f"- Generation: a latent diffusion model draws {denoiser.window} steps at a time given the {denoiser.previous} "
        f"before; it knows the time of year and the {forcing.name} ({span} in training). "
        f"Sampler {sampler.name}, {sampler.steps} steps."
        + ("" if manifest.fast is None else f" A distilled model takes {manifest.fast.steps} (`--sampler fast`)."),
    ]


def _data(manifest: Manifest) -> list[str]:
    source = manifest.provenance
    return [
        "## Data and licence",
        "",
        f"Trained on {source.period[0]} to {source.period[1]}; every statistic comes from these years only.",
        "",
        *table(["file", "SHA-256"], [[f"`{entry.name}`", f"`{entry.sha256}`"] for entry in source.data]),
        "",
        f"Licence of the model: {manifest.licence}.",
    ]


def _figures(name: str, step: str, metrics: Mapping[str, Any] | None) -> list[str]:
    lines = ["## Figures", ""]
    if metrics is None:
        return [*lines, "Not evaluated yet: `fsae-train evaluate` prints and stores the figures of a run."]
    variables = metrics.get("variables")
    if isinstance(variables, Sequence) and all(isinstance(v, Mapping) and "checks" in v for v in variables):
        period = metrics.get("evaluation", ["", ""])
        lines += [
            f"On {period[0]} to {period[1]}, years the model has not seen; `fsae-train evaluate {name}` prints them.",
            "",
        ]
        for variable in variables:
            lines += _evaluation(variable, step)
        return lines[:-1]
    rows = [[name, value] for name, value in _flat(metrics)]
    return [*lines, *table(["figure", "value"], rows)] if rows else [*lines, "The run's figures are empty."]


def _evaluation(variable: Mapping[str, Any], step: str) -> list[str]:
    """Lines of one variable of an evaluation report: reconstruction, climate, then what has a tolerance."""
    lines = [f"### {variable['name']} [{variable['units']}]", ""]
    errors = [[row["name"], str(row["numbers"]), _number(row["rmse"])] for row in variable.get("reconstruction", ())]
    if errors:
        lines += [*table(["reconstruction", "numbers per step", "RMSE"], errors), ""]
    for coarse in variable.get("superresolution", ()):
        rows = [[row["name"], _number(row["rmse"])] for row in coarse["rows"]]
        lines += [*table([f"super-resolution from zoom {coarse['zoom']}", "RMSE"], rows), ""]
    if "stretches" in variable and variable["climate"][0]["name"] == GENERATED:
        lines += [*_climate(variable, step)[1:], ""]
    checks = [
        [check["name"], _number(check["value"]), check["limit"], "kept" if check["passed"] else "NOT KEPT"]
        for check in variable["checks"]
    ]
    if checks:
        lines += [*table(["figure", "value", "tolerance", ""], checks), ""]
    return lines


def _climate(variable: Mapping[str, Any], step: str) -> list[str]:
    """Tables of the climate of one variable, the generated one beside its baselines and real stretches."""
    where = f"the climate of {variable['name']} in the run's figures"
    rows = [decode_record(Climate, row, where, DataError) for row in variable["climate"]]
    return format_climate(rows, decode_record(Stretches, variable["stretches"], where, DataError), step, "####")


def _use(manifest: Manifest) -> list[str]:
    lines = ["## Use", "", "```", f"fsae-run --model {manifest.name} verify"]
    if manifest.denoiser is not None:
        lines.append(f"fsae-run --model {manifest.name} generate --members 100")
    lines += [
        f"fsae-run --model {manifest.name} compress IN.nc OUT.zarr",
        "```",
        "",
        "Any host with ONNX Runtime can use the graphs: `manifest.json` has the shapes, `golden.npz` inputs and "
        "outputs to compare with. `season` is cos and sin of 2 pi k phase side by side, k = 1 to "
        f"{manifest.time.harmonics}, phase being the fraction of the year at the middle of the step.",
    ]
    return lines


def _reproduction(manifest: Manifest, config: Config) -> list[str]:
    source = manifest.provenance
    record = json.loads(to_json(config))
    record["data"]["inputs"] = [
        entry.name for entry in source.data
    ]  # folders of the machine it was made on say nothing
    seeds = ", ".join(f"{name} {seed}" for name, seed in source.seeds.items()) or "none"
    versions = ", ".join(f"{name} {version}" for name, version in source.versions.items())
    return [
        "## How to make it again",
        "",
        "Save the configuration below as `config.toml` beside the data, then `fsae-train config.toml` and "
        f"`fsae-export --name {manifest.name}`.",
        "",
        f"Seeds: {seeds}. Source revision: {source.revision}. Versions: {versions}.",
        "",
        "```toml",
        *to_toml(record),
        "```",
    ]


def _limits(manifest: Manifest) -> list[str]:
    first, last = manifest.provenance.period
    lines = [
        "## Limits",
        "",
        "- Values far outside the training climate are encoded less well, and a source with a bias of its own needs "
        "its own climatology (`fsae-run climatology`).",
        "- Super-resolution adds what is typical, not what was there: fine structure is a best estimate.",
        "- Missing values are not known to the model: fill them first.",
    ]
    if manifest.denoiser is not None:
        lines += [
            f"- Generated members resemble {first} to {last}. Forcing outside that range is extrapolation; a member "
            "is no forecast of any date.",
        ]
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
    """Whether a value is a list of objects."""
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
    """Four significant digits, a dash where there is no number."""
    return "-" if value is None else f"{value:.4g}"


# The section of a model card on how far the graphs are from the trained model.


TITLE = "## Fidelity of the graphs"


def fidelity(manifest: Manifest) -> list[str]:
    """Lines of the section: every graph and precision, what each was compared with, and ensembles."""
    rows = []
    for precision, graphs in manifest.parity.items():
        for graph, parity in graphs.items():
            worst = parity.worst
            rows.append(
                [
                    f"{graph}, {precision}",
                    f"{worst.max_abs_error:.2g} {_unit(worst.units)}",
                    "" if worst.rmse is None else f"{worst.rmse:.2g} {_unit(worst.units)}",
                    f"{worst.tolerance:.2g} {_unit(worst.units)}",
                    f"{worst.variable}, zoom {worst.zoom}",
                    parity.device if parity.device == NOT_RUN else f"{parity.device}: {parity.backend}",
                ]
            )
    lines = [
        TITLE,
        "",
        "How far the graphs are, on real fields of years outside training, from the trained model or, where they were "
        "made of them, from its float32 graphs (`compared with` below). Of each graph the row that comes closest to "
        "its tolerance; `manifest.json` has every variable and zoom. `fsae-run verify` measures again, on the "
        "device it runs on.",
        "",
        *table(["graph", "largest", "RMS", "tolerance", "where", "measured on"], rows),
    ]
    if manifest.certificates:
        lines += ["", *table(["precision", "date", "compared with", "fields", "data"], _certificates(manifest))]
    return [*lines, *_ensembles(manifest)]


def with_fidelity(card: str, manifest: Manifest) -> str:
    """A card with its section on the graphs' fidelity made anew, for a bundle that has other graphs now."""
    sections = card.split("\n## ")
    title = TITLE.removeprefix("## ")
    own = "\n".join(fidelity(manifest)).removeprefix("## ") + "\n"
    kept = [own if section.splitlines()[0] == title else section for section in sections]
    return "\n## ".join(kept if own in kept else [*kept, own])


def _certificates(manifest: Manifest) -> list[list[str]]:
    """Rows of what each precision was compared with."""
    return [
        [
            precision,
            entry.date,
            entry.reference,
            f"{entry.steps} of {entry.period[0]} to {entry.period[1]}",
            ", ".join(source.name for source in entry.data),
        ]
        for precision, entry in manifest.certificates.items()
    ]


def _ensembles(manifest: Manifest) -> list[str]:
    """Lines on ensembles in other precisions than float32; none where there are none."""
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
        "Ensembles beside the same members in float32: RMS difference, largest change of the power of any degree "
        "(tolerance), and CRPS (float32's, and what it may move).",
        "",
        *table(["ensembles", "RMS difference", "spectrum", "CRPS"], rows),
    ]


def _unit(units: str) -> str:
    """Units for people: nothing for a plain number."""
    return "" if units == "1" else units
