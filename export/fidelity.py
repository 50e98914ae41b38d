"""The section of a model card on how far the graphs are from the trained model."""

from fsae.runtime.manifest import NOT_RUN, Manifest
from fsae.training.report import table

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
