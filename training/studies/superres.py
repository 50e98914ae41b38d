"""Zero-shot super-resolution of other models' output, scored against what those models have themselves.

A source model's fields are averaged to a coarse zoom, freed of the source's own climatology, super-resolved by an
autoencoder that never saw that source, and compared with the source's own anomalies as fine as its grid resolves them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.climate import climatology
from fsae.runtime.climate.transforms import forward, inverse
from fsae.runtime.codec.source_climatology import fit_source
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import VariableSpec, read_fields
from fsae.runtime.sphere.healpix import coarsen, refine
from fsae.training.evaluation.model import Period, Subject, anomalies, rebuild
from fsae.training.evaluation.report import table
from fsae.training.metrics import baselines
from fsae.training.metrics.scores import rmse
from fsae.training.metrics.spectra import power_spectrum

log = logging.getLogger("fsae.training")

MODEL = "field-space autoencoder"

MAX_STEPS = 240  # of all members together, evenly spread: the rest would change the figures little

BANDS = ((2, 10), (11, 20), (21, 30), (31, 45))  # degrees l


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """One variable of one source by one method: RMSE [units of the variable] and power over the source's own."""

    source: str
    variable: str
    units: str
    steps: int
    coarse_zoom: int
    source_zoom: int  # as fine as the source's grid resolves; the RMSE is taken there
    method: str
    rmse: float
    power_ratio: tuple[float, ...]  # one for each of the `BANDS` that the source resolves


def transfer(
    subject: Subject, variables: Sequence[VariableSpec], source: Path, coarse_zoom: int, names: Mapping[str, str]
) -> list[TransferRow]:
    """Rows of every variable of `source`: means repeated, bilinear interpolation, the model.

    `names` maps the model's variable names to the source's. DataError where the source's grid is not finer than
    `coarse_zoom` or its steps do not cover the year; UsageError where that zoom is none of the model's.
    """
    if coarse_zoom not in subject.zooms[:-1]:
        raise UsageError(f"found --from-zoom {coarse_zoom}, expected one of the model's {list(subject.zooms[:-1])}")
    fine = subject.zooms[-1]
    fields = read_fields(source, variables, finest_zoom=fine, names=names)
    if fields.zoom <= coarse_zoom:
        raise DataError(f"found {source.name} at zoom {fields.zoom}, expected one finer than zoom {coarse_zoom}")
    phase, members = fields.phase, fields.shape[0]
    harmonics = climatology.affordable_harmonics(phase, members, subject.harmonics)
    coefficients = fit_source(fields, harmonics, subject.transforms)
    chosen = np.unique(np.linspace(0, members * len(phase) - 1, MAX_STEPS).round().astype(int))
    values = np.stack([fields.read(slice(t, t + 1), m)[0, 0] for m, t in (divmod(i, len(phase)) for i in chosen)])
    steps = chosen % len(phase)
    # the source's anomalies about its own climatology, on top of the model's: what `fsae-run superres` feeds the graphs
    before = climatology.evaluate(coefficients, climatology.season(phase[steps], harmonics))
    normal = forward(values, subject.transforms) - before
    after = climatology.evaluate(subject.climatology, climatology.season(phase[steps], subject.harmonics))
    seen = inverse((refine(normal, fine - fields.zoom) + after).astype(np.float32), subject.transforms)
    period = Period(values=seen, phase=phase[steps], times=[fields.times[step] for step in steps])
    truth = coarsen(anomalies(subject, period), fine - fields.zoom)
    means = coarsen(truth.astype(np.float64), fields.zoom - coarse_zoom)
    found = {
        "means: nearest": refine(means, fields.zoom - coarse_zoom),
        "means: bilinear": coarsen(baselines.bilinear(means, fine), fine - fields.zoom),
        MODEL: coarsen(rebuild(subject, period, coarse_zoom), fine - fields.zoom),
    }
    lmax = min(2 << fields.zoom, BANDS[-1][1])
    rows = []
    for v, (name, units) in enumerate(subject.variables):
        power = power_spectrum(truth[:, v], lmax)
        for method, field in found.items():
            ratio = power_spectrum(field[:, v], lmax) / power
            rows.append(
                TransferRow(
                    source=source.name,
                    variable=name,
                    units=units,
                    steps=len(steps),
                    coarse_zoom=coarse_zoom,
                    source_zoom=fields.zoom,
                    method=method,
                    rmse=rmse(field[:, v], truth[:, v]) * float(subject.scale[v]),
                    power_ratio=tuple(float(ratio[low : high + 1].mean()) for low, high in BANDS if high <= lmax),
                )
            )
    return rows


def format_transfer(rows: Sequence[TransferRow]) -> str:
    """The rows as a Markdown table."""
    header = ["source", "variable", "steps", "zooms", "", "RMSE", *(f"l {low}-{high}" for low, high in BANDS)]
    cells = [
        [
            row.source,
            f"{row.variable} [{row.units}]",
            str(row.steps),
            f"{row.coarse_zoom} to {row.source_zoom}",
            row.method,
            f"{row.rmse:.3f}",
            *(f"{value:.2f}" for value in row.power_ratio),
            *[""] * (len(BANDS) - len(row.power_ratio)),
        ]
        for row in rows
    ]
    note = "l: power of the super-resolved anomalies over the source's own, mean over those degrees."
    return "\n".join([*table(header, cells), "", note])


def rows_json(rows: Sequence[TransferRow]) -> list[dict[str, object]]:
    """The rows as plain records."""
    return [asdict(row) for row in rows]
