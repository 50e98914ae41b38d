"""Angular power of the training loss against healpy."""

import healpy
import numpy as np
import torch

from fsae.training.power import AngularPower, harmonic_table


def test_harmonics_give_the_spectrum_of_healpy() -> None:  # oracle: healpy.anafast
    zoom, nside = 3, 8
    np.random.seed(0)  # noqa: NPY002 - what healpy draws from
    field = healpy.synfast(1.0 / (1 + np.arange(3 * nside)) ** 2, nside, lmax=2 * nside)
    nested = healpy.reorder(field, r2n=True)
    table = harmonic_table(zoom, 2, 2 * nside)
    power = (table @ nested / len(nested)) ** 2 * 4 * np.pi
    degrees = np.concatenate([np.full(2 * degree + 1, degree) for degree in range(2, 2 * nside + 1)])
    ours = np.array([power[degrees == degree].mean() for degree in range(2, 2 * nside + 1)])
    np.testing.assert_allclose(ours, healpy.anafast(field, lmax=2 * nside, iter=0)[2:], rtol=1e-4)


def test_half_the_amplitude_is_a_quarter_of_the_power() -> None:  # oracle: ln(1 / 4)^2 at every degree
    power = AngularPower(2)
    field = torch.randn(4, 2, 192, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(float(power(0.5 * field, field)), np.log(4) ** 2, rtol=1e-4)
    assert float(power(field, field)) == 0


def test_every_order_is_drawn_in_time() -> None:  # oracle: the ranges of the table's rows
    power = AngularPower(0)
    torch.manual_seed(0)
    drawn = torch.stack([power.draw() for _ in range(400)])
    assert sorted(set(drawn[:, :8].flatten().tolist())) == list(range(5))  # degree 2: five orders
    assert drawn.max() == len(power.table) - 1 or drawn[:, -8:].min() >= 5
