"""`fsae-train superres`: zero-shot super-resolution of other models' output, compared with that output itself.

A source model's fields are averaged to a coarse zoom, freed of the source's own climatology, super-resolved by an
autoencoder that never saw that source, and compared with the source's own anomalies as fine as its grid resolves them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsae.runtime.climate import climatology
from fsae.runtime.climate.transforms import forward, inverse
from fsae.runtime.codec.source_climatology import fit_source
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.joining import read_fields
from fsae.runtime.sphere.healpix import coarsen, refine
from fsae.training.evaluation.model import TrainedModel, anomalies, model_of, rebuild
from fsae.training.evaluation.periods import Period
from fsae.training.evaluation.reconstruction import MODEL
from fsae.training.evaluation.report import as_json
from fsae.training.evaluation.tables import Column, Table, columns
from fsae.training.metrics import baselines
from fsae.training.metrics.scores import rmse
from fsae.training.metrics.spectra import power_spectrum

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


TRANSFER = Table(
    (
        Column("source", "source"),
        Column("variable", lambda row: f"{row.variable} [{row.units}]"),
        Column("steps", "steps"),
        Column("zooms", lambda row: f"{row.coarse_zoom} to {row.source_zoom}"),
        Column("", "method"),
        Column("RMSE", "rmse", ".3f"),
        *columns((f"l {low}-{high}" for low, high in BANDS), "power_ratio", ".2f"),
    ),
    "l: power of the super-resolved anomalies over the source's own, mean over those degrees.",
)


def superres_of_sources(
    model: str, sources: Sequence[Path], coarse_zoom: int, names: Mapping[str, str]
) -> tuple[str, str]:
    """The table of all `sources` and the same as JSON."""
    trained = model_of(model)
    rows = [row for source in sources for row in transfer(trained, source, coarse_zoom, names)]
    return "\n".join(TRANSFER.lines(rows)), as_json(rows)


def transfer(model: TrainedModel, source: Path, coarse_zoom: int, names: Mapping[str, str]) -> list[TransferRow]:
    """Rows of every variable of `source`: means repeated, bilinear interpolation, the model.

    `names` maps the model's variable names to the source's. DataError if the source's grid is not finer than
    `coarse_zoom` or its steps do not cover the year; UsageError if the model does not have that zoom.
    """
    if coarse_zoom not in model.zooms[:-1]:
        raise UsageError(
            f"found --from-zoom {coarse_zoom}", f"one of the model's {list(model.zooms[:-1])}", "give one of these"
        )
    fine = model.zoom
    fields = read_fields(source, model.variables, finest_zoom=fine, names=names)
    if fields.zoom <= coarse_zoom:
        raise DataError(
            f"found {source.name} at zoom {fields.zoom}",
            f"one finer than zoom {coarse_zoom}",
            "give data on a finer grid, or a lower --from-zoom",
        )
    phase, members = fields.phase, fields.shape[0]
    harmonics = climatology.affordable_harmonics(phase, members, model.time.harmonics)
    coefficients = fit_source(fields, harmonics, model.transforms)
    chosen = np.unique(np.linspace(0, members * len(phase) - 1, MAX_STEPS).round().astype(int))
    values = np.stack([fields.read(slice(t, t + 1), m)[0, 0] for m, t in (divmod(i, len(phase)) for i in chosen)])
    steps = chosen % len(phase)
    # the source's anomalies about its own climatology, on top of the model's: what `fsae-run superres` feeds the graphs
    before = climatology.evaluate(coefficients, climatology.season(phase[steps], harmonics))
    normal = forward(values, model.transforms) - before
    after = climatology.evaluate(model.climatology, climatology.season(phase[steps], model.time.harmonics))
    seen = inverse((refine(normal, fine - fields.zoom) + after).astype(np.float32), model.transforms)
    period = Period(values=seen, phase=phase[steps], times=[fields.times[step] for step in steps])
    truth = coarsen(anomalies(model, period), fine - fields.zoom)
    means = coarsen(truth.astype(np.float64), fields.zoom - coarse_zoom)
    found = {
        "means: nearest": refine(means, fields.zoom - coarse_zoom),
        "means: bilinear": coarsen(baselines.bilinear(means, fine), fine - fields.zoom),
        MODEL: coarsen(rebuild(model, period, coarse_zoom), fine - fields.zoom),
    }
    lmax = min(2 << fields.zoom, BANDS[-1][1])
    rows = []
    for v, (name, units) in enumerate(model.named_units):
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
                    rmse=rmse(field[:, v], truth[:, v]) * float(model.scale[v]),
                    power_ratio=tuple(float(ratio[low : high + 1].mean()) for low, high in BANDS if high <= lmax),
                )
            )
    return rows
