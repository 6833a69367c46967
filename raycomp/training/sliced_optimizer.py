"""Updates of exactly the weights that a step used: slices of matrices, rows of the word table.

A step of slices reads a share of the matrices and a hundredth of the word table. Gradients,
moments and weights of all the rest are left alone: no work, and no drift by momentum or decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from raycomp.encoder.slicing import UsedWeight
from raycomp.training.optimizers import Updater


class SliceUpdater(Updater):
    """AdamW over the parts of parameters that a step used.

    A part's moments are those of the whole parameter in that place, and the bias correction counts
    the steps that used any part of the parameter. Where a step uses everything, this is AdamW.
    """

    def apply_slices(self, step: int, parts: Sequence[UsedWeight], flat: Tensor) -> None:
        """Sum over workers, clip, and update.

        Args:
            step: global step, for the learning rate.
            parts: what this step used; the same list of shapes on every worker.
            flat: the memory that their gradients are views of, and what else is to be summed.
        """
        gradients = [part.gradient for part in parts]
        if self.reduce is not None:
            self.reduce([flat])
        if step in self._fresh_at:
            self.optimizer.state.clear()
        scale = self.clip / (float(nn.utils.get_total_norm(gradients)) + 1e-6)
        if scale < 1:
            torch._foreach_mul_(gradients, scale)
        rate = self.schedule(step)
        for group in self.optimizer.param_groups:
            members = {id(parameter) for parameter in group["params"]}
            group["lr"] = rate
            self._adamw(group, [part for part in parts if id(part.parameter) in members])

    @torch.no_grad()
    def _adamw(self, group: dict[str, Any], parts: list[UsedWeight]) -> None:
        """Update parts of one group of parameters, which share their settings."""
        weights: list[Tensor] = []
        first: list[Tensor] = []
        second: list[Tensor] = []
        steps: list[Tensor] = []
        gathered: list[tuple[Tensor, Tensor, Tensor]] = []
        for part in parts:
            state = self._state(part.parameter)
            steps.append(state["step"])
            for held, found in (
                (part.parameter, weights), (state["exp_avg"], first), (state["exp_avg_sq"], second)
            ):  # fmt: skip
                view = held[part.where]
                found.append(_dense(view))
                if isinstance(part.where, Tensor):  # rows were copied, and are put back
                    gathered.append((held, part.where, view))
        beta1, beta2 = group["betas"]
        adamw(
            weights, [_dense(part.gradient) for part in parts], first, second, [], steps,
            fused=True, amsgrad=False, maximize=False, beta1=beta1, beta2=beta2,
            lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
        )  # fmt: skip
        for held, rows, view in gathered:
            held[rows] = view

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's moments, which lie in memory as it does, and its step."""
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
        for key in ("exp_avg", "exp_avg_sq"):
            if key not in state:
                state[key] = torch.zeros_like(parameter)
            elif state[key].stride() != parameter.stride():  # from a checkpoint
                state[key] = torch.empty_like(parameter).copy_(state[key])
        return state


def _dense(view: Tensor) -> Tensor:
    """Return a slice as one piece of memory: the kernel reads it from its first to its last number."""
    return view if view.is_contiguous() else view.t()
