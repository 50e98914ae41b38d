"""A model as evaluations see it, made of given graphs and tables: nothing is trained."""

import numpy as np

from fsae.runtime.bundle.manifest import Time
from fsae.training.config import VariableConfig
from fsae.training.evaluation.model import TrainedModel

TAS = VariableConfig(
    name="tas", standard_name="air_temperature", long_name="temperature", units="K", valid_range=(150.0, 350.0)
)
UAS = VariableConfig(
    name="uas", standard_name="eastward_wind", long_name="eastward wind", units="m s-1", valid_range=(-100.0, 100.0)
)


def made_up_model(
    graphs: object, climatology: np.ndarray, scale: tuple[float, ...], *, zooms: tuple[int, ...], latent_zoom: int = 1
) -> TrainedModel:
    """A monthly model of temperature and, with a second scale, of wind; its `climatology` says how many harmonics."""
    return TrainedModel(
        name="made-up",
        graphs=graphs,
        variables=(TAS, UAS)[: len(scale)],
        zooms=zooms,
        latent_zoom=latent_zoom,
        time=Time(calendar="noleap", step="1 month", harmonics=climatology.shape[1] // 2),
        climatology=climatology.astype(np.float32),
        scale=np.array(scale, dtype=np.float32),
        latent=None,
        fast=None,
    )
