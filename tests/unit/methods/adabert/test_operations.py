"""Operations of the edges, the inputs of the first cell, and exact match."""

from __future__ import annotations

import pytest
import torch

from raycomp.methods.adabert.modules import (
    average_pool,
    convolve,
    exact_matches,
    max_pool,
    split_inputs,
)
from raycomp.methods.adabert.operations import ReluConvNorm, apply_operations, run_convolutions
from raycomp.methods.adabert.structure import CONVOLUTIONS, OPERATIONS
from tests.unit.methods.adabert.builders import make_texts, perturb

SEP = 3


@pytest.mark.parametrize("name", OPERATIONS)
def test_padding_never_leaks(name: str) -> None:
    torch.manual_seed(0)
    operation = ReluConvNorm(8, *CONVOLUTIONS[name]) if name in CONVOLUTIONS else torch.nn.Module()
    perturb(operation)
    operation.eval()
    x, mask = torch.randn(2, 6, 8), torch.ones(2, 6, 1)
    (short,) = apply_operations(x, mask, [(name, operation)])
    padded_x = torch.cat([x, torch.zeros(2, 9, 8)], 1)
    padded_mask = torch.cat([mask, torch.zeros(2, 9, 1)], 1)
    (long,) = apply_operations(padded_x, padded_mask, [(name, operation)])
    if name == "zero":
        assert short is None
        assert long is None
        return
    assert short is not None
    assert long is not None
    torch.testing.assert_close(long[:, :6], short)
    assert long[:, 6:].abs().max() == 0


def test_convolution_is_relu_conv_norm_and_dilation_is_true() -> None:
    torch.manual_seed(0)
    conv = ReluConvNorm(4, 5, 2)
    perturb(conv)
    conv.eval()
    x = torch.randn(3, 11, 4)
    (output,) = apply_operations(x, torch.ones(3, 11, 1), [("dil_conv_5", conv)])
    y = torch.nn.functional.conv1d(
        torch.relu(x).transpose(1, 2), conv.weight.squeeze(2), padding=4, dilation=2
    )
    expected = torch.nn.functional.batch_norm(y, conv.mean, conv.variance, conv.scale, conv.shift)
    torch.testing.assert_close(output, expected.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_normalisation_counts_real_tokens_only() -> None:
    torch.manual_seed(0)
    conv = ReluConvNorm(4, 3, 1).train()
    x, real = torch.randn(4, 9, 4), torch.arange(9) < torch.tensor([9, 4, 6, 2])[:, None]
    mask = real.unsqueeze(-1).float()
    (output,) = apply_operations(x * mask, mask, [("std_conv_3", conv)])
    assert output is not None
    tokens = output[real]
    torch.testing.assert_close(tokens.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(0, unbiased=False), torch.ones(4), atol=1e-3, rtol=0)


def test_pools_by_hand() -> None:
    x = torch.tensor([[-1.0, -4.0, -2.0, 0.0]]).unsqueeze(-1)
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).unsqueeze(-1)
    assert average_pool(x, mask).flatten().tolist() == pytest.approx([-2.5, -7 / 3, -3.0, 0.0])
    assert max_pool(x, mask).flatten().tolist() == [-1.0, -1.0, -2.0, 0.0]


def test_normalisation_has_the_gradients_of_its_plain_form() -> None:
    torch.manual_seed(0)
    conv = ReluConvNorm(6, 3, 1)
    mask = (torch.arange(7)[None, :] < torch.tensor([7, 4, 2])[:, None]).unsqueeze(-1).float()
    x = (torch.randn(3, 7, 6) * mask).requires_grad_()
    weight = torch.randn(3, 7, 6)
    leaves = (x, conv.weight, conv.scale, conv.shift)
    output = run_convolutions(x, mask, [conv.train()])[0]
    gradients = torch.autograd.grad((output * weight).sum(), leaves)

    y = convolve(x, conv.weight, 1)
    count = mask.sum()
    mean = (y * mask).sum((0, 1)) / count
    variance = ((y - mean).square() * mask).sum((0, 1)) / count
    plain = ((y - mean) * torch.rsqrt(variance + 1e-5) * conv.scale + conv.shift) * mask
    expected = torch.autograd.grad((plain * weight).sum(), leaves)
    torch.testing.assert_close(output, plain, atol=1e-5, rtol=1e-5)
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-4, rtol=1e-4)


def test_convolutions_of_one_kind_run_together_exactly() -> None:
    torch.manual_seed(0)
    convs = [ReluConvNorm(8, 5, 1).train() for _ in range(3)]
    x, mask = torch.randn(3, 7, 8), torch.ones(3, 7, 1)
    together = apply_operations(x, mask, [("std_conv_5", conv) for conv in convs])
    means = [conv.mean.clone() for conv in convs]
    for conv in convs:
        conv.mean.zero_()
    in_turn = [apply_operations(x, mask, [("std_conv_5", conv)])[0] for conv in convs]
    for output, expected, conv, mean in zip(together, in_turn, convs, means, strict=True):
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(conv.mean, mean)


def test_two_texts_are_split_and_both_begin_at_zero() -> None:
    ids = torch.tensor([[2, 7, 8, 3, 9, 3, 0], [2, 5, 3, 6, 7, 8, 3]])
    (first, first_mask), (second, second_mask) = split_inputs(ids, ids > 0, True, SEP)
    firsts = [row[mask].tolist() for row, mask in zip(first, first_mask, strict=True)]
    seconds = [row[mask].tolist() for row, mask in zip(second, second_mask, strict=True)]
    assert firsts == [[2, 7, 8, 3], [2, 5, 3]]
    assert seconds == [[9, 3], [6, 7, 8, 3]]
    assert first.shape == second.shape == (2, 4)


@pytest.mark.parametrize("seed", range(5))
def test_exact_matches_are_the_tokens_of_both_texts(seed: int) -> None:
    ids, real = make_texts(seed=seed)
    ids[:, 5] = SEP * real[:, 5]  # one more end of the first text, if the token is real
    texts = split_inputs(ids, real, True, SEP)
    matches = exact_matches(*texts, SEP)
    for row in range(len(ids)):
        tokens = [text_ids[row][mask[row]].tolist() for text_ids, mask in texts]
        for own, other, match, (_, mask) in zip(tokens, tokens[::-1], matches, texts, strict=True):
            expected = [token in other and token != SEP for token in own]
            assert match[row][mask[row]].tolist() == expected
            assert not match[row][~mask[row]].any()
