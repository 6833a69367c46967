"""AdamW with clipping and linear decay, and its state as tensors that safetensors can hold."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raycomp.errors import UserError

AllReduce = Callable[[list[Tensor]], None]
"""Sum tensors over all workers, in place. Given every gradient that any worker touched."""


@dataclass(frozen=True)
class LinearDecay:
    """Warm up linearly, then decay linearly to 0, in each stretch [first, last) of steps.

    Attributes:
        peak: highest learning rate.
        warmup: share of a stretch.
        stretches: first step of each stretch, then the total: `(0, 100)` is one stretch.
    """

    peak: float
    warmup: float
    phase_starts: tuple[int, ...]

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        first, last = next(
            (a, b)
            for a, b in zip(self.phase_starts, self.phase_starts[1:], strict=False)
            if a <= step < b
        )
        length, done = last - first, step - first
        warm = max(1, round(self.warmup * length))
        if done < warm:
            return self.peak * (done + 1) / warm
        return self.peak * (length - done) / max(1, length - warm)


class Updater:
    """Applies the gradients that a step left in `.grad`."""

    def __init__(
        self,
        model: nn.Module,
        schedule: Callable[[int], float],
        *,
        weight_decay: float,
        clip: float,
        reset_at: Sequence[int] = (),
        reduce: AllReduce | None = None,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
    ) -> None:
        """Make an optimizer over the model's trainable parameters.

        Args:
            model: what is trained.
            schedule: learning rate of each step.
            weight_decay: of matrices; biases and norms are not decayed.
            clip: largest norm of the gradient.
            fresh_at: steps before which the optimizer's state is forgotten.
            reduce: sums gradients over workers.
            optimizer: from parameter groups to an optimizer; fused AdamW when absent.
        """
        self.model = model
        self.schedule = schedule
        self.clip = clip
        self.reduce = reduce
        self._fresh_at = frozenset(reset_at)
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._names = {id(p): n for n, p in named}
        groups = [
            {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = (optimizer or _adamw)([g for g in groups if g["params"]])

    def apply(self, step: int, touched: Sequence[Tensor], extra: Tensor | None = None) -> None:
        """Sum over workers, clip, update, and clear the gradients.

        Args:
            step: global step, for the learning rate.
            touched: the gradients (or views of their active slices) that this step wrote; the
                same list of shapes on every worker.
            extra: further figures to sum over the workers along with the gradients, in place.
        """
        if self.reduce is not None:
            self.reduce([*touched, extra] if extra is not None else list(touched))
        self.update(step)

    def update(self, step: int) -> None:
        """Clip, update, and clear the gradients, which are summed already."""
        if step in self._fresh_at:
            self.optimizer.state.clear()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's state as named tensors."""
        return {
            f"{self._names[id(parameter)]}:{key}": value.detach().contiguous()
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
            if value is not None  # SGD before its first step
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned.

        Raises:
            UserError: a tensor belongs to no parameter of this model.
        """
        by_name = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer.state.clear()
        for key, value in tensors.items():
            name, _, part = key.rpartition(":")
            if name not in by_name:
                raise UserError(f"the checkpoint's optimizer state names {name!r}, unknown here")
            parameter = by_name[name]
            if part == "step":  # beside the weights for a fused kernel; any other counts on the CPU
                fused = bool(self.optimizer.defaults.get("fused"))
                kept = value.clone().to(parameter.device if fused else "cpu")
            else:
                kept = torch.empty_like(parameter).copy_(value)
            self.optimizer.state[parameter][part] = kept


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, eps=1e-8, fused=True)


class JointUpdater:
    """Several updaters of disjoint parameters that share one sum over the workers."""

    def __init__(self, members: Sequence[Updater], reduce: AllReduce | None = None) -> None:
        self.members = list(members)
        self.reduce = reduce

    def apply(self, step: int, touched: Sequence[Tensor], extra: Tensor | None = None) -> None:
        """As `Updater.apply`, for all members."""
        if self.reduce is not None:
            self.reduce([*touched, extra] if extra is not None else list(touched))
        for member in self.members:
            member.update(step)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return every member's state as named tensors."""
        return {f"{i}/{k}": v for i, m in enumerate(self.members) for k, v in m.state_tensors().items()}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        for i, member in enumerate(self.members):
            mine = {k.split("/", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{i}/")}
            member.load_state_tensors(mine)


def resolve_precision(wanted: str, device: torch.device) -> str:
    """Return "bf16" or "fp32"; auto takes bf16 where it is the faster one.

    A GPU that computes in bf16 is faster in it. Processors differ even when all have the
    instructions (from 0.5 to 3 times the speed of fp32), so there it is timed.

    Raises:
        UserError: bf16 is asked for on a GPU that has none.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not native:
            raise UserError("precision bf16 was given, but this GPU has none; allowed: fp32")
        return ("bf16" if native else "fp32") if wanted == "auto" else wanted
    if wanted != "auto":
        return wanted
    return "bf16" if measure_bf16_speedup() > 1.1 else "fp32"


def measure_bf16_speedup() -> float:
    """Return how many times as fast as in fp32 this processor multiplies matrices in bf16."""
    return measure_matmul_flops("bf16") / measure_matmul_flops("fp32")


@torch.inference_mode()
def measure_matmul_flops(precision: str, runs: int = 9) -> float:
    """Return the FLOPs a second of this processor on a matrix product of an encoder's size."""
    rows, inner, columns = 1024, 384, 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        taken.append(time.perf_counter() - began)
    return 2 * rows * inner * columns / statistics.median(taken)


def set_training_mode(model: nn.Module) -> None:
    """Set training mode where it is not set: doing so walks all modules."""
    if not model.training:
        model.train()


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a forward pass of that precision runs."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
