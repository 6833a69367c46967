"""AdamW with clipping and linear decay, its state as named tensors, and precisions of a forward pass."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raycomp.errors import PermanentError

AllReduce = Callable[[list[Tensor]], None]
"""Sums tensors over all workers, in place: every gradient that a worker wrote."""


@dataclass(frozen=True)
class LinearDecay:
    """Warm up linearly, then decay linearly to 0, in each phase [first, last) of steps.

    Attributes:
        peak: Highest learning rate.
        warmup: Share of a phase's steps.
        phase_starts: First step of each phase, then the total: `(0, 100)` is one phase.
        constant: Share of a phase's steps, its warm-up included, before the decay begins.
    """

    peak: float
    warmup: float
    phase_starts: tuple[int, ...]
    constant: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        phases = zip(self.phase_starts, self.phase_starts[1:], strict=False)
        first, last = next((a, b) for a, b in phases if a <= step < b)
        length = last - first
        done = step - first
        warmup_steps = max(1, round(self.warmup * length))
        if done < warmup_steps:
            return self.peak * (done + 1) / warmup_steps
        decay_start = max(warmup_steps, round(self.constant * length))
        if done < decay_start:
            return self.peak
        return self.peak * (length - done) / max(1, length - decay_start)


class BaseUpdater:
    """Abstract: an optimizer over a model's trainable parameters, and its state as named tensors."""

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
        rate_factors: Mapping[str, float] | None = None,
    ) -> None:
        """Create the optimizer.

        Args:
            model: Network that is trained.
            schedule: Function from a step to its learning rate.
            weight_decay: Decay of matrices; biases and norms are not decayed.
            clip: Largest norm of the gradient.
            reset_at: Steps before which the optimizer's state is cleared.
            reduce: Sums gradients over workers; None with one worker.
            optimizer: Function from parameter groups to an optimizer; None is fused AdamW.
            rate_factors: Name of a module of the model -> number by which the schedule's rate is
                multiplied for its parameters.
        """
        self.model = model
        self.schedule = schedule
        self.clip = clip
        self.reduce = reduce
        self._reset_at = frozenset(reset_at)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._names = {id(p): name for name, p in named}
        # PyTorch goes through all modules for a model's parameters, which takes time in every step.
        self._parameters = [p for _, p in named]
        factors = {name: _find_factor(name, rate_factors or {}) for name, _ in named}
        groups: list[dict[str, Any]] = []
        self._factors: list[float] = []
        for factor in sorted(set(factors.values())):
            part = [p for name, p in named if factors[name] == factor]
            # Decay of biases and norms would pull them to 0, which does not regularise a network.
            matrices = {"params": [p for p in part if p.ndim >= 2], "weight_decay": weight_decay}
            vectors = {"params": [p for p in part if p.ndim < 2], "weight_decay": 0.0}
            new = [group for group in (matrices, vectors) if group["params"]]
            groups += new
            self._factors += [factor] * len(new)
        self.optimizer = (optimizer or _adamw)(groups)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's state as named tensors."""
        return {
            f"{self._names[id(parameter)]}:{key}": value.detach().contiguous()
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
            # SGD has a momentum of None before its first step.
            if value is not None
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `state_tensors` returned.

        Raises:
            PermanentError: A tensor belongs to no parameter of this model.
        """
        by_name = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        is_fused = bool(self.optimizer.defaults.get("fused"))
        self.optimizer.state.clear()
        for key, value in tensors.items():
            name, _, part = key.rpartition(":")
            if name not in by_name:
                raise PermanentError(
                    f"The checkpoint has optimizer state of {name!r}, which this model lacks. Delete the "
                    "checkpoint, or restore the settings that it was written with."
                )
            parameter = by_name[name]
            if part == "step":
                # A fused kernel reads the step count on the device of the weights, any other on the CPU.
                restored = value.clone().to(parameter.device if is_fused else "cpu")
            else:
                restored = torch.empty_like(parameter).copy_(value)
            self.optimizer.state[parameter][part] = restored

    def _start_step(self, step: int) -> None:
        """Set the learning rate of a step, and clear the state where the step asks for it."""
        if step in self._reset_at:
            self.optimizer.state.clear()
        for group, factor in zip(self.optimizer.param_groups, self._factors, strict=True):
            group["lr"] = factor * self.schedule(step)


class Updater(BaseUpdater):
    """Applies the gradients that a step left in `.grad`.

    One step:

        loss.backward()
        updater.apply(step, [p.grad for p in model.parameters() if p.grad is not None])
    """

    def apply(self, step: int, touched: Sequence[Tensor], extra: Tensor | None = None) -> None:
        """Sum over workers, clip, update, and clear the gradients.

        Args:
            step: Global step, which decides the learning rate.
            touched: Gradients that this step wrote; the same list of shapes on every worker.
            extra: Further numbers to sum over the workers with the gradients, in place.
        """
        _sum_over_workers(self.reduce, touched, extra)
        self.update(step)

    def update(self, step: int) -> None:
        """Clip, update, and clear the gradients, which are summed already."""
        self._start_step(step)
        torch.nn.utils.clip_grad_norm_(self._parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class JointUpdater:
    """Several updaters of disjoint parameters that share one sum over the workers."""

    def __init__(self, members: Sequence[Updater], reduce: AllReduce | None = None) -> None:
        self.members = list(members)
        self.reduce = reduce

    def apply(self, step: int, touched: Sequence[Tensor], extra: Tensor | None = None) -> None:
        """Sum the gradients of all members once and update each; see `Updater.apply`."""
        _sum_over_workers(self.reduce, touched, extra)
        for member in self.members:
            member.update(step)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return every member's state as named tensors."""
        tensors: dict[str, Tensor] = {}
        for i, member in enumerate(self.members):
            tensors |= {f"{i}/{key}": value for key, value in member.state_tensors().items()}
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `state_tensors` returned."""
        for i, member in enumerate(self.members):
            prefix = f"{i}/"
            own = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
            member.load_state_tensors(own)


def _sum_over_workers(reduce: AllReduce | None, touched: Sequence[Tensor], extra: Tensor | None) -> None:
    if reduce is not None:
        reduce([*touched, extra] if extra is not None else list(touched))


def _find_factor(name: str, factors: Mapping[str, float]) -> float:
    """Return the factor of the module that a parameter belongs to; 1 for other parameters."""
    return next((value for module, value in factors.items() if name.startswith(f"{module}.")), 1.0)


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, eps=1e-8, fused=True)


def resolve_precision(wanted: str, device: torch.device) -> str:
    """Return "bf16" or "fp32"; "auto" becomes bf16 where that is faster.

    A GPU that computes in bf16 is faster in it. CPUs differ even when all have the instructions (from 0.5
    to 3 times the speed of fp32): there it is timed.

    Args:
        wanted: "auto", "bf16" or "fp32".
        device: Device of the network.

    Raises:
        PermanentError: The GPU does not support bf16.
    """
    if device.type == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not is_native:
            raise PermanentError("Precision bf16 is not supported by this GPU. Use fp32.")
        if wanted == "auto":
            return "bf16" if is_native else "fp32"
        return wanted
    if wanted == "auto":
        # bf16 is less exact: it must be clearly faster.
        return "bf16" if measure_bf16_speedup() > 1.1 else "fp32"
    return wanted


def measure_bf16_speedup() -> float:
    """Return the speed of this CPU's matrix products in bf16, relative to fp32."""
    return measure_matmul_flops("bf16") / measure_matmul_flops("fp32")


@torch.inference_mode()
def measure_matmul_flops(precision: str, runs: int = 9) -> float:
    """Return the FLOPs per second of this CPU on a matrix product of an encoder's size.

    Args:
        precision: "bf16" or "fp32".
        runs: Number of timed products; the median counts.
    """
    # The FFN of MiniLM-L6 on a batch of 32 texts of 32 tokens.
    rows, inner, columns = 1024, 384, 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.ones(rows, inner, dtype=dtype)
    weight = torch.ones(columns, inner, dtype=dtype)

    seconds: list[float] = []
    for _ in range(runs):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        seconds.append(time.perf_counter() - began)
    return 2 * rows * inner * columns / statistics.median(seconds)


def set_training_mode(model: nn.Module) -> None:
    """Set training mode if it is not set. Setting it takes time, as PyTorch goes through all modules."""
    if not model.training:
        model.train()


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a forward pass of that precision runs."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
