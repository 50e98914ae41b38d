"""The yearly cycle of a coarser source of the same climate, for training years that lack seasons.

A model's expensive run of some months says nothing of the other months' climate; its cheap run of some years does, but
at fewer scales and with a bias. So the harmonics of the climatology are the coarse run's, interpolated; to what they
leave of the fine run its mean is fitted, and the part of a first harmonic that is no chance (seasonal_bias.py). What
else changes with the season below the scales of the coarse run, and in its bias, stays in the anomalies.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fsae.runtime.arrays import F64
from fsae.runtime.climate import climatology
from fsae.runtime.climate.transforms import forward
from fsae.runtime.input.joining import read_fields
from fsae.training.config import Config
from fsae.training.metrics.baselines import bilinear

from .normalisation import transforms_of


def read_cycle(config: Config, files: Sequence[Path]) -> F64:
    """Harmonics (2K, variable, pixel) of the transformed variables in the files, at the zoom of the autoencoder.

    Least squares at the finest zoom that the files support. DataError if they do not cover the year.
    """
    transforms = transforms_of(config.data)
    fields = read_fields(list(files), config.data.variables, finest_zoom=config.autoencoder.zoom)
    try:
        solver = climatology.projection(fields.phase, config.data.harmonics)[1:]
        waves = np.zeros((len(solver), *fields.shape[2:]))
        for first in range(0, len(fields.times), climatology.BLOCK):
            part = slice(first, first + climatology.BLOCK)
            values = forward(fields.read(part), transforms).mean(axis=0, dtype=np.float64)  # of all members
            waves += np.tensordot(solver[:, part], values, axes=1)
    finally:
        fields.close()
    return bilinear(waves, config.autoencoder.zoom).astype(np.float64)
