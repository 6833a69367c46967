"""AdamW on exactly the weights that a step used: slices of matrices, rows of the word embeddings.

A step of slices reads a share of the matrices and a hundredth of the word embeddings. Gradients, moments
and weights of the rest stay as they are: they cost nothing, and momentum or decay does not move them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from raycomp.encoder.slicing import UsedWeight
from raycomp.training.optimizers import BaseUpdater


class SliceUpdater(BaseUpdater):
    """AdamW over the parts of parameters that a step used; see `encoder.slicing.SlicedGradients`.

    The moments of a part are those of the whole parameter in that place. The bias correction counts the
    steps that used any part of the parameter. Where a step uses everything, this is AdamW.
    """

    def apply_slices(self, step: int, used: Sequence[UsedWeight], flat: Tensor) -> None:
        """Sum over workers, clip, and update.

        Args:
            step: Global step, which decides the learning rate.
            used: Weights that this step used; the same list of shapes on every worker.
            flat: One tensor that contains all their gradients, and further numbers to sum.
        """
        if self.reduce is not None:
            self.reduce([flat])
        self._start_step(step)

        gradients = [weight.gradient for weight in used]
        # As torch's `clip_grad_norm_`, over the weights that the step used.
        scale = self.clip / (float(nn.utils.get_total_norm(gradients)) + 1e-6)
        if scale < 1:
            torch._foreach_mul_(gradients, scale)

        for group in self.optimizer.param_groups:
            members = {id(parameter) for parameter in group["params"]}
            self._update_group(group, [weight for weight in used if id(weight.parameter) in members])

    @torch.no_grad()
    def _update_group(self, group: dict[str, Any], used: list[UsedWeight]) -> None:
        """Update weights of one group of parameters, which share their settings."""
        weights: list[Tensor] = []
        first_moments: list[Tensor] = []
        second_moments: list[Tensor] = []
        steps: list[Tensor] = []
        copies: list[tuple[Tensor, Tensor, Tensor]] = []
        for weight in used:
            state = self._state_of(weight.parameter)
            steps.append(state["step"])
            for whole, parts in (
                (weight.parameter, weights),
                (state["exp_avg"], first_moments),
                (state["exp_avg_sq"], second_moments),
            ):
                part = whole[weight.where]
                parts.append(_contiguous(part))
                if isinstance(weight.where, Tensor):
                    # Slices are views. Rows by number are copies, which are written back below.
                    copies.append((whole, weight.where, part))

        beta1, beta2 = group["betas"]
        adamw(
            weights,
            [_contiguous(weight.gradient) for weight in used],
            first_moments,
            second_moments,
            [],
            steps,
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )
        for whole, rows, part in copies:
            whole[rows] = part

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's step and moments, with the memory layout of the parameter."""
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
        for key in ("exp_avg", "exp_avg_sq"):
            if key not in state:
                state[key] = torch.zeros_like(parameter)
            elif state[key].stride() != parameter.stride():
                # A checkpoint stores every tensor by rows.
                state[key] = torch.empty_like(parameter).copy_(state[key])
        return state


def _contiguous(part: Tensor) -> Tensor:
    """Return a slice or its transpose, whichever is contiguous, as the fused kernel needs."""
    return part if part.is_contiguous() else part.t()
