"""The networks in the form that is exported, compared with the trained ones."""

from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from tiny_run import stir

from fsae.export.graphs.folded_layers import FoldedBlock, fetch, put_together, take_apart
from fsae.export.graphs.stencil import NeighbourMean
from fsae.export.graphs.trace import DecoderGraph, EncoderGraph, folded
from fsae.runtime.sphere.healpix import npix
from fsae.training.networks.autoencoder import Autoencoder, AutoencoderConfig
from fsae.training.networks.denoiser import Denoiser, DenoiserConfig
from fsae.training.networks.halo import halo_table, spherical_harmonics
from fsae.training.networks.layers import FieldSpaceBlock, conserve, decompose, recompose
from fsae.training.networks.patterns import WAVES

SMALL = AutoencoderConfig(
    zoom=3, latent_zoom=2, fine_token_zoom=2, coarse_token_zoom=1, width=8, heads=2, embedding=4, depths=(2, 1, 1, 1)
)
# Each has a part of the network that the others have not.
NETWORKS: dict[str, dict[str, Any]] = {
    "sharpened": {"sharpen": True},
    "windows": {"attention_window_zoom": 0},
    "statics": {"static_fields": True},
    "shared maps with a hidden layer": {"per_cell_maps": False, "map_hidden": 6},
    "maps over the globe": {"latent_zoom": 1, "global_zoom": 2, "global_harmonics": 1},
    "maps over cells": {"latent_zoom": 1, "global_zoom": 3, "global_cell_zoom": 0},
    "no level coarser than a cell": {"base_zoom": 1, "fine_token_zoom": 0, "coarse_token_zoom": 0},
}


def rounding(expected: torch.Tensor) -> float:
    """The largest difference of sums in another order: some hundred roundings of the largest number."""
    return 100 * float(np.spacing(np.float32(expected.abs().max())))


def made(config: AutoencoderConfig, transforms: tuple[Any, ...] = ("none", "none")) -> Autoencoder:
    """A network of two variables with nothing left at zero or one."""
    generator = torch.Generator().manual_seed(5)
    climatology = torch.randn(2, 5, npix(config.zoom), generator=generator)
    static = torch.randn(3, npix(config.zoom), generator=generator) if config.static_fields else None
    model = Autoencoder(config, climatology, torch.tensor([2.0, 0.5]), static=static, transforms=transforms)
    stir(model)
    for name, _ in list(model.named_buffers()):
        if name in ("sharpening", "to_latent", "from_latent") or name.startswith("complete_"):
            model.get_buffer(name).copy_(torch.randn(model.get_buffer(name).shape, generator=generator) / 8)
    return model.eval()


def inputs_of(model: Autoencoder, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fields, seasons, masks and latents."""
    generator, config = torch.Generator().manual_seed(6), model.config
    field = 3 * torch.randn(rows, 2, npix(config.zoom), generator=generator)
    season = torch.rand(rows, 4, generator=generator)
    mask = torch.rand(rows, len(config.zooms), generator=generator)
    return field, season, mask, torch.randn(rows, 2, npix(config.latent_zoom), generator=generator)


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_a_folded_autoencoder_is_the_trained_one(changes: dict[str, Any]) -> None:  # oracle: the trained network
    model = made(replace(SMALL, **changes), ("fourth_root", "sqrt"))
    field, season, mask, latent = inputs_of(model)
    for graph, inputs in ((EncoderGraph(model), (field, season, mask)), (DecoderGraph(model), (latent, season))):
        with torch.no_grad():
            expected, found = graph(*inputs), folded(graph)(*inputs)
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, rtol=0, atol=rounding(expected))


@pytest.mark.parametrize("responds", [False, True])
@pytest.mark.parametrize("levels", [None, torch.tensor([80.0, 2.0, 0.5, 0.0])], ids=["denoiser", "fast"])
def test_a_folded_denoiser_is_the_trained_one(
    levels: torch.Tensor | None, responds: bool
) -> None:  # oracle: the trained network
    config = DenoiserConfig(window=3, previous=2, token_zooms=(1, 0, 1), wiener_zoom=1, width=8, heads=2, embedding=4)
    whole = {"zooms": (0, 1, 2), "variables": 1, "harmonics": 2, "forcing_range": torch.tensor([1950.0, 2000.0])}
    model = Denoiser(config, **whole, responds=responds, levels=levels)  # type: ignore[arg-type]
    stir(model)
    generator = torch.Generator().manual_seed(7)
    series = torch.randn(60, 1, 192, generator=generator).numpy()
    waves = spherical_harmonics(2, WAVES).T[:, None]
    model.wiener.fit([series[1:] + 0.5 * series[:-1]], [np.linspace(-1, 1, 59, dtype=np.float32)], waves)
    model.eval()

    def rows(*shape: int) -> torch.Tensor:
        return torch.randn(4, *shape, generator=generator)

    inputs = (
        rows(3, 1, 192),
        torch.tensor([80.0, 2.0, 0.5, 2.0]),
        rows(16),
        rows(3, 4),
        1970 + 40 * rows(3),
        torch.tensor([0.0, 1.0, 0.0, 1.0]),
        rows(2, 1, 192),
        torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]),
    )
    with torch.no_grad():
        expected, found = model(*inputs), folded(model)(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding(expected))


def test_many_tokens_attend_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: all at once
    block = FieldSpaceBlock(zooms=(0, 1), token_zoom=1, width=8, heads=2, embedding=4)
    stir(block)
    cell = torch.nn.Parameter(torch.randn(48, 4))
    mixed, own = torch.randn(2, 1, 48, 24), FoldedBlock(block, cell, 0)
    whole = own.attention(mixed)
    monkeypatch.setattr("fsae.export.graphs.folded_layers.QUERIES", 20)  # parts of 20, 20 and 8
    torch.testing.assert_close(own.attention(mixed), whole)


def test_pyramids_and_tables_in_the_other_layout() -> None:  # oracle: the trained layers' own
    generator = torch.Generator().manual_seed(8)
    zooms, field = (0, 1, 3), torch.randn(2, 2, 5, 768, generator=generator)  # (B, V, F, pixel)
    turned = take_apart(field.transpose(2, 3), zooms)
    for found, expected in zip(turned, decompose(field, zooms), strict=True):
        torch.testing.assert_close(found.transpose(2, 3), expected)
    noise = [torch.randn(2, 2, 5, npix(zoom), generator=generator) for zoom in zooms]
    levels = [level.transpose(2, 3) for level in noise]
    torch.testing.assert_close(put_together(levels, zooms).transpose(2, 3), recompose(noise, zooms))
    found = put_together(levels, zooms, conserved=True).transpose(2, 3)
    torch.testing.assert_close(found, recompose(conserve(noise, zooms), zooms))
    table = torch.from_numpy(halo_table(3, 1)).ravel()
    for frames in (1, 3, 5):
        part = field[:, :, :frames]
        assert torch.equal(fetch(part.transpose(2, 3), table).transpose(2, 3), part.index_select(-1, table))


@pytest.mark.parametrize("zoom", [1, 3, 4])  # cells smaller than 64 pixels, the sphere's twelve, and more
def test_the_mean_over_neighbours_is_that_of_the_ring(zoom: int) -> None:  # oracle: the table of all rings
    field = torch.randn(2, 2, npix(zoom))
    ring = torch.from_numpy(halo_table(zoom, zoom)).long()
    torch.testing.assert_close(NeighbourMean(zoom)(field), field[..., ring].mean(-1))
