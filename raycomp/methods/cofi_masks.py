"""CoFi's masks: hard concrete variables of heads, neurons and half layers, and the penalty on their size.

refs: C. Louizos, M. Welling, D. Kingma. Learning Sparse Neural Networks through L0 Regularization. ICLR
2018 (hard concrete). https://arxiv.org/abs/1712.01312
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.importance import Importance
from raycomp.encoder.masked import Masks

TEMPERATURE = 2 / 3
LOWER = -0.1
UPPER = 1.1
LARGEST_LOG_ALPHA = math.log(100)
FIRST_LOG_ALPHA = 2.2
"""Start of every log a: a mask is then above 0 with probability 0.98."""


def sample_masks(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Return hard concrete masks from 0 to 1, in the shape of `log_alpha`.

    Args:
        log_alpha: Parameter of each mask.
        uniform: Uniform number of each mask, from 0 to 1.
    """
    # A uniform number of 0 or 1 would be infinite as a logit.
    logits = torch.logit(uniform.clamp(1e-6, 1 - 1e-6))
    s = torch.sigmoid((logits + log_alpha) / TEMPERATURE)
    return (s * (UPPER - LOWER) + LOWER).clamp(0.0, 1.0)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Return the probability that a mask is above 0."""
    # Beyond the clamp the gradient of the penalty would vanish.
    clamped = log_alpha.clamp(-LARGEST_LOG_ALPHA, LARGEST_LOG_ALPHA)
    return torch.sigmoid(clamped - TEMPERATURE * math.log(-LOWER / UPPER))


def penalty(sparsity: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """Return l1 (s - t) + l2 (s - t)^2, a scalar.

    Args:
        sparsity: Expected sparsity s.
        target: Target t.
        multipliers: l1 and l2, (2,).
    """
    gap = sparsity - target
    return multipliers[0] * gap + multipliers[1] * gap.square()


def ramp_target(target: float, step: int, steps: int) -> float:
    """Return the target of a step: it rises linearly from 0 during `steps` steps."""
    return target * min(1.0, step / steps)


def head_params(shape: EncoderShape) -> float:
    """Return the parameters of one head, with its share of the output's bias."""
    heads = shape.layer_heads[0]
    return 4 * shape.hidden_size * shape.head_size + 3 * shape.head_size + shape.hidden_size / heads


def neuron_params(shape: EncoderShape) -> float:
    """Return the parameters of one neuron, with its share of the output's bias."""
    return 2 * shape.hidden_size + 1 + shape.hidden_size / shape.layer_ffn[0]


def prunable_params(shape: EncoderShape) -> float:
    """Return the parameters that masks can remove: 85,017,600 for BERT-base."""
    heads = sum(shape.layer_heads) * head_params(shape)
    return heads + sum(shape.layer_ffn) * neuron_params(shape)


class HardConcreteMasks(nn.Module):
    """Log a of every mask of an encoder, and the multipliers of the size penalty.

    Args:
        shape: Shape of the encoder; all its layers have the same sizes.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        layers = len(shape.layer_heads)
        self._head_params = head_params(shape)
        self._neuron_params = neuron_params(shape)
        self._total = prunable_params(shape)
        self.heads = nn.Parameter(torch.full((layers, shape.layer_heads[0]), FIRST_LOG_ALPHA))
        self.neurons = nn.Parameter(torch.full((layers, shape.layer_ffn[0]), FIRST_LOG_ALPHA))
        self.attention = nn.Parameter(torch.full((layers,), FIRST_LOG_ALPHA))
        self.ffn = nn.Parameter(torch.full((layers,), FIRST_LOG_ALPHA))
        self.multipliers = nn.Parameter(torch.zeros(2))

    def sample(self, generator: torch.Generator) -> Masks:
        """Return random masks of one step."""

        def draw(log_alpha: Tensor) -> Tensor:
            uniform = torch.rand(log_alpha.shape, generator=generator).to(log_alpha.device)
            return sample_masks(log_alpha, uniform)

        return Masks(
            list(draw(self.heads)), list(draw(self.neurons)), draw(self.attention), draw(self.ffn)
        )

    def expected_sparsity(self) -> Tensor:
        """Return the expected part of the prunable parameters that is removed, a scalar."""
        heads = open_probability(self.attention)[:, None] * open_probability(self.heads)
        neurons = open_probability(self.ffn)[:, None] * open_probability(self.neurons)
        # Masks are independent, so their probabilities multiply.
        remaining = heads.sum() * self._head_params + neurons.sum() * self._neuron_params
        return 1 - remaining / self._total

    @torch.no_grad()
    def choose(self) -> tuple[list[Tensor], list[Tensor], Importance]:
        """Return which heads and neurons remain, and the importance of each.

        As many masks of a kind remain as their probabilities add up to, those with the largest log a.
        """
        # A head remains only where its half layer does.
        attention = _largest(self.attention)
        ffn = _largest(self.ffn)
        heads = _largest(self.heads) & attention[:, None]
        neurons = _largest(self.neurons) & ffn[:, None]
        scores = Importance(
            list((self.heads + self.attention[:, None]).cpu()),
            list((self.neurons + self.ffn[:, None]).cpu()),
        )
        return list(heads.cpu()), list(neurons.cpu()), scores


def _largest(log_alpha: Tensor) -> Tensor:
    """Return True for the masks with the largest log a, as many as are expected to be above 0."""
    count = round(float(open_probability(log_alpha).sum()))
    remaining = torch.zeros(log_alpha.numel(), dtype=torch.bool, device=log_alpha.device)
    remaining[log_alpha.flatten().topk(count).indices] = True
    return remaining.view(log_alpha.shape)
