"""Dropout and attention beside torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from raycomp.encoder import layers
from raycomp.encoder.layers import attend, dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(301, 333, requires_grad=True)  # no multiple of four entries
    y = dropout(x, rate, True)
    kept = y != 0
    assert float(kept.float().mean()) == pytest.approx(1 - rate, abs=0.005)
    assert float(y.detach().mean()) == pytest.approx(1.0, abs=0.02)
    assert y[kept].unique().numel() == 1
    assert float(y.detach()[kept][0]) == pytest.approx(1 / (1 - rate), rel=1e-3)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    columns = kept.float().mean(0)  # all four of a random number are alike
    assert [float(columns[i::4].mean()) for i in range(4)] == pytest.approx([1 - rate] * 4, abs=0.01)
    # What one number decides is independent: as many pairs of neighbours are kept as chance keeps.
    neighbours = (kept.view(-1)[:-1] & kept.view(-1)[1:]).float().mean()
    assert float(neighbours) == pytest.approx((1 - rate) ** 2, abs=0.01)


def test_dropout_is_a_function_of_the_seed_and_off_where_it_is_off() -> None:
    x = torch.randn(7, 9)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(dropout(x, 0.3, True))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert dropout(x, 0.3, False) is x
    assert dropout(x, 0.0, True) is x
    assert not dropout(x, 1.0, True).any()
    assert dropout(x.bfloat16(), 0.3, True).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_torch_s_but_for_the_masks_that_dropout_draws(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8, dtype=dtype) for n in (4, 5, 5))
    mask = torch.ones(3, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    precision = 1e-6 if dtype == torch.float32 else 1e-2
    assert torch.allclose(attend(q, k, v, mask, 0.0).float(), exact, atol=precision)
    monkeypatch.setattr(layers, "dropout", lambda x, rate, training: x)
    for given in (mask, None):
        exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=given)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # scores stay in fp32 all the same
            found = attend(q, k, v, given, 0.1)
        assert found.dtype == dtype
        # The result is rounded once: nothing before it was.
        assert torch.allclose(found.float(), exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-6)


def test_dropout_in_attention_drops_weights_not_values() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(64, 4, 16, 8) for _ in range(3))
    exact = attend(q, k, v, None, 0.0)
    mean = torch.stack([attend(q, k, v, None, 0.2) for _ in range(200)]).mean(0)
    assert float((mean - exact).abs().mean()) < 0.03
    # Every value of a token is 1: what is dropped is its weight, and so all its values alike.
    dropped = attend(q, k, torch.ones_like(v), None, 0.2)
    assert float((dropped - 1).abs().mean()) > 0.03
    torch.testing.assert_close(dropped, dropped[..., :1].expand_as(dropped))


def test_the_gradient_of_bf16_attention_is_computed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 5, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    dtypes = []

    def record(query: torch.Tensor, *rest: torch.Tensor, **options: object) -> torch.Tensor:
        dtypes.append(query.dtype)
        return original(query, *rest, **options)  # type: ignore[arg-type]

    original = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    # Autocast alone would compute in bf16, whose kernel is slow.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended = attend(*inputs, None, 0.0)
        with torch.no_grad():
            attend(*(x.detach() for x in inputs), None, 0.0)
    attended.float().square().sum().backward()

    assert dtypes == [torch.float32, torch.bfloat16]
    assert attended.dtype == torch.bfloat16
    assert all(x.grad is not None and x.grad.dtype == torch.bfloat16 for x in inputs)


def test_autocast_leaves_attention_of_fp32_inputs_in_fp32() -> None:
    """Products that are rounded as in INT8 are in fp32 under autocast too."""
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3)]
    expected = attend(*inputs, None, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended = attend(*inputs, None, 0.0)
    assert torch.equal(attended, expected)
