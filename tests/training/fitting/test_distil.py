"""Distillation of Gaussian denoisers, whose probability flow is known, and of a small network."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fsae.runtime.diffusion.sampler import SAMPLERS, noise_levels
from fsae.runtime.errors import UsageError
from fsae.training.fitting.distil import denoiser_of, distil_loss, euler_target, student_of, teacher_levels
from fsae.training.networks.denoiser import Denoiser, DenoiserConfig

STD = 0.7  # of the clean Gaussian; its mean is the last step before the window
LEVELS = noise_levels(3, 0.4, 20.0, 7.0)
FINE = teacher_levels(LEVELS, 40, 0.002, 7.0)


class Gaussian(nn.Module):
    """The ideal denoiser of a Gaussian, or with `flow` the student that lands on its probability flow."""

    def __init__(self, *, flow: bool) -> None:
        super().__init__()
        self.flow = flow
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        noise_features: Tensor,
        season: Tensor,
        forcing: Tensor,
        source: Tensor,
        previous: Tensor,
        previous_valid: Tensor,
    ) -> Tensor:
        mean = previous[:, -1:]
        now = float(sigma[0])
        gain = STD**2 / (STD**2 + now**2)
        if self.flow:
            after = float(LEVELS[np.argmin(abs(LEVELS - now)) + 1])
            gain = (((STD**2 + after**2) / (STD**2 + now**2)) ** 0.5 - after / now) / (1 - after / now)
        return mean + gain * (noisy - mean) + self.shift


def batch(window: int = 3, pixels: int = 12, rows: int = 64) -> dict[str, Tensor]:
    """Conditions of windows, and a clean window that only lends its shape."""
    draw = torch.Generator().manual_seed(0)
    return {
        "clean": torch.full((rows, window, 1, pixels), torch.nan),
        "noisy": torch.full((rows, window, 1, pixels), torch.nan),
        "sigma": torch.full((rows,), torch.nan),
        "season": torch.zeros(rows, window, 4),
        "forcing": torch.full((rows, window), 1990.0),
        "source": torch.zeros(rows),
        "previous": torch.randn(rows, 2, 1, pixels, generator=draw),
        "previous_valid": torch.ones(rows, 2),
    }


def conditions(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: inputs[name] for name in ("season", "forcing", "source", "previous", "previous_valid")}


@pytest.mark.parametrize("sampler", ["heun", "dpm2m"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_target_is_that_of_the_flow(sampler: str, step: int) -> None:  # oracle: closed form of the flow
    inputs = batch()
    teacher = denoiser_of(Gaussian(flow=False), conditions(inputs))  # type: ignore[arg-type]
    ideal = denoiser_of(Gaussian(flow=True), conditions(inputs))  # type: ignore[arg-type]
    state = float(LEVELS[step]) * torch.randn_like(inputs["clean"])
    with torch.no_grad():
        found = euler_target(teacher, state, FINE[step], sampler)
        torch.testing.assert_close(found, ideal(state, float(LEVELS[step])), rtol=0, atol=4e-3)  # 40 steps


def test_samplers_treat_tensors_as_arrays() -> None:  # oracle: the same samplers on NumPy arrays
    noise = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    for name, solve in SAMPLERS.items():
        array = solve(lambda x, sigma: x / np.float32(1 + sigma), noise, LEVELS)
        tensor = solve(lambda x, sigma: x / (1 + sigma), torch.from_numpy(noise), LEVELS)  # type: ignore[arg-type]
        assert isinstance(tensor, Tensor), name
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-6, atol=1e-7)


def test_ideal_student_has_no_loss() -> None:  # oracle: closed form; a shifted student's loss is the shift's square
    torch.manual_seed(0)
    loss = distil_loss(Gaussian(flow=False), LEVELS, FINE, "heun")  # type: ignore[arg-type]
    student = Gaussian(flow=True)
    assert float(loss(student, batch()).detach()) < 1e-5  # type: ignore[arg-type]  # 40 steps
    with torch.no_grad():
        student.shift += 0.1
    weight = np.mean(1 + 1 / LEVELS[:-1] ** 2)
    found = float(loss(student, batch()).detach())  # type: ignore[arg-type]
    assert found == pytest.approx(weight * 0.01, rel=0.02)
    untrained = float(loss(Gaussian(flow=False), batch()).detach())  # type: ignore[arg-type]
    assert untrained > 0.01


def test_states_are_those_the_student_comes_to() -> None:  # oracle: closed form of the flow from pure noise
    class Watched(Gaussian):
        def forward(self, noisy: Tensor, sigma: Tensor, *others: Tensor, **named: Tensor) -> Tensor:
            seen.append(noisy)
            return super().forward(noisy, sigma, *others, **named)

    seen: list[Tensor] = []
    inputs = batch()
    loss = distil_loss(Gaussian(flow=False), LEVELS, FINE, "heun")  # type: ignore[arg-type]
    loss(Watched(flow=True), inputs)  # type: ignore[arg-type]
    mean, start = inputs["previous"][:, -1:], float(LEVELS[0])
    assert float(seen[0].std()) == pytest.approx(start, rel=0.05)  # chance: 1.5 %
    for now, state in zip(LEVELS[:-1], seen, strict=True):
        expected = mean + (seen[0] - mean) * float(np.sqrt((STD**2 + now**2) / (STD**2 + start**2)))
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-4)


def test_few_steps_of_the_ideal_student_draw_the_gaussian() -> None:  # oracle: the flow keeps mean and spread
    inputs = batch(rows=400)
    noise = torch.randn(inputs["clean"].shape, generator=torch.Generator().manual_seed(1))
    spread = {}
    for flow in (True, False):
        denoise = denoiser_of(Gaussian(flow=flow), conditions(inputs))  # type: ignore[arg-type]
        with torch.no_grad():
            drawn = SAMPLERS["euler"](denoise, noise, LEVELS)  # type: ignore[arg-type]
        spread[flow] = float((drawn - inputs["previous"][:, -1:]).std())  # type: ignore[operator]
    assert spread[True] == pytest.approx(STD, rel=0.02)  # chance: 0.6 %
    assert spread[False] < 0.8 * STD  # what distillation mends


@pytest.fixture
def network() -> Denoiser:
    torch.manual_seed(3)
    config = DenoiserConfig(window=3, previous=2, token_zooms=(0,), width=16, heads=2, embedding=8, dropout=0.5)
    years = torch.tensor([1948.0, 2005.0])
    return Denoiser(config, zooms=(0, 1), variables=1, harmonics=2, forcing_range=years)


def test_a_network_learns_its_teacher_s_long_way(network: Denoiser) -> None:
    # oracle: the loss falls, the teacher stays as it was, and the student is the same without and with training mode
    levels = noise_levels(2, 0.4, 20.0, 7.0)
    loss = distil_loss(network, levels, teacher_levels(levels, 3, 0.02, 7.0), "dpm2m")
    student = student_of(network, levels)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = batch(pixels=48, rows=8)
    torch.manual_seed(0)
    first = loss(student, inputs)
    torch.manual_seed(0)
    assert float(first.detach()) == float(loss(student.eval(), inputs).detach())  # no dropout is left
    optimizer = torch.optim.Adam(student.train().parameters(), 3e-3)
    for _ in range(25):
        torch.manual_seed(0)
        value = loss(student, inputs)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.5 * float(first.detach())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    for name, now in network.state_dict().items():
        torch.testing.assert_close(now, before[name], rtol=0, atol=0)


def test_teacher_levels_join_up() -> None:  # oracle: each step starts where the last one ended
    for part, now, after in zip(FINE, LEVELS[:-1], LEVELS[1:], strict=True):
        assert len(part) == 41
        np.testing.assert_allclose(part[[0, -1]], [now, after], rtol=1e-12)
        assert (np.diff(part) < 0).all()
    assert FINE[-1][-2] == pytest.approx(0.002)
    with pytest.raises(UsageError, match=r"0\.4"):
        teacher_levels(LEVELS, 4, 0.5, 7.0)
