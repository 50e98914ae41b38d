"""Distillation: train a denoiser whose few Euler steps end where many steps of the trained one do.

The teacher's probability flow carries a state at noise level sigma_i to x' at the student's next level sigma_i+1, by a
sampler of the runtime on levels in between. One Euler step of ratio r = sigma_i+1 / sigma_i lands there too if the
denoised state it uses is D = (x' - r x) / (1 - r): that is the student's target (Salimans and Ho 2022, "Progressive
Distillation for Fast Sampling of Diffusion Models", appendix G, in the terms of Karras et al. 2022).

Differences of ours: all the student's steps are learned at once, not halved again and again, and the states are those
that the student itself reaches from pure noise, not noisy data, so that it learns to correct its own errors. Only the
conditions of a training window are used: season, forcing, source and the steps before.
"""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fsae.runtime.arrays import F64
from fsae.runtime.diffusion.sampler import SAMPLERS, noise_features
from fsae.runtime.errors import UsageError
from fsae.training.networks.denoiser import Denoiser

Loss = Callable[[Denoiser, dict[str, Tensor]], Tensor]
CONDITIONS = ("season", "forcing", "source", "previous", "previous_valid")


def student_of(teacher: Denoiser, levels: F64) -> Denoiser:
    """A copy of the teacher to be trained for Euler steps on `levels`, whose linear part takes them exactly.

    It has no dropout: its targets are exact, so there is no noise to average out.
    """
    student = deepcopy(teacher).requires_grad_(True).train()
    student.levels = torch.from_numpy(levels).float()
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return student


def teacher_levels(levels: F64, substeps: int, sigma_min: float, rho: float) -> list[F64]:
    """The teacher's noise levels within each step of the student's `levels`, both ends included.

    Evenly spaced in sigma**(1 / rho), as in EDM eq. 5; the last step goes to zero by way of the teacher's own
    `sigma_min`.

    >>> [part.round(6).tolist() for part in teacher_levels(np.array([9.0, 4.0, 0.0]), 2, 1.0, 2.0)]
    [[9.0, 6.25, 4.0], [4.0, 1.0, 0.0]]
    """
    if substeps < 2 or not 0 < sigma_min < levels[-2]:
        raise UsageError(
            f"found {substeps} teacher steps and sigma_min {sigma_min}",
            f"2 or more and a level between 0 and the student's last, {levels[-2]:g}",
            "change them in the table [fast]",
        )
    found = []
    for now, after in pairwise(levels):
        if after > 0:
            found.append(np.linspace(now ** (1 / rho), after ** (1 / rho), substeps + 1) ** rho)
        else:
            found.append(np.append(np.linspace(now ** (1 / rho), sigma_min ** (1 / rho), substeps) ** rho, 0.0))
    return found


def distil_loss(teacher: Denoiser, levels: F64, within: list[F64], sampler: str) -> Loss:
    """The loss of a student that takes one Euler step from each of `levels` to the next.

    `within` holds the teacher's levels in each of these steps, `sampler` the name of its sampler. The loss is the mean
    over steps of the squared distance to the target, weighted by (sigma^2 + 1) / sigma^2 (EDM eq. 8, sigma_data = 1).
    """
    teacher = teacher.eval().requires_grad_(False)

    def loss(student: Denoiser, batch: dict[str, Tensor]) -> Tensor:
        conditions = {name: batch[name] for name in CONDITIONS}
        state = float(levels[0]) * torch.randn_like(batch["clean"])  # Fit seeds it by the step
        teacher.to(state.device)
        total = torch.zeros((), device=state.device)
        for (now, after), path in zip(pairwise(levels), within, strict=True):
            with torch.no_grad():
                target = euler_target(denoiser_of(teacher, conditions), state, path, sampler)
            denoised = denoiser_of(student, conditions)(state, float(now))
            total = total + (now**2 + 1) / now**2 * (denoised - target).square().mean()
            ratio = float(after / now)
            state = ratio * state + (1 - ratio) * denoised.detach()
        return total / len(within)

    return loss


def denoiser_of(model: Denoiser, conditions: dict[str, Tensor]) -> Callable[[Tensor, float], Tensor]:
    """The denoiser (noisy, sigma) that samplers take, of a model under given conditions."""

    def denoise(noisy: Tensor, sigma: float) -> Tensor:
        features = torch.from_numpy(noise_features(np.array([sigma]))).to(noisy.device)
        denoised: Tensor = model(
            noisy, noisy.new_full((len(noisy),), sigma), features.expand(len(noisy), -1), **conditions
        )
        return denoised

    return denoise


def euler_target(denoise: Callable[[Tensor, float], Tensor], state: Tensor, path: F64, sampler: str) -> Tensor:
    """The denoised state D whose Euler step takes `state` where `sampler` takes it on the levels of `path`."""
    solve: Any = SAMPLERS[sampler]  # its arithmetic is that of tensors too
    reached: Tensor = solve(denoise, state / float(path[0]), path)
    ratio = float(path[-1] / path[0])
    return (reached - ratio * state) / (1 - ratio)
