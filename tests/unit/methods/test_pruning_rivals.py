"""Golden facts of CoFi, Kwon et al. and magnitude pruning, each with a mutant that must fail."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.masked import Masks, run_masked
from raycomp.methods import cofi_task, kwon
from raycomp.methods.cofi_masks import (
    HardConcreteMasks,
    open_probability,
    penalty,
    prunable_params,
    ramp_target,
    sample_masks,
)
from raycomp.methods.cofi_task import layer_loss
from raycomp.methods.kwon import fill_budget, intermediate_constraint, mask_gradients, rearrange
from raycomp.methods.kwon_tuning import tune_masks
from raycomp.methods.magnitude import keep_largest, remaining_share, share_at
from raycomp.storage.files import read_json
from raycomp.storage.tensors import load_tensors
from raycomp.testing.local_run import LocalRun
from tests.unit.encoder.test_elastic import make_batch, make_pair
from tests.unit.methods import golden
from tests.unit.methods.golden import compress, make_context, make_encoder
from tests.unit.training.test_hints import one_row

BERT_BASE = EncoderShape(
    hidden_size=768, embedding_size=768, head_size=64, layer_heads=(12,) * 12, layer_ffn=(3072,) * 12,
    vocab_size=30522, max_position_embeddings=512, type_vocab_size=2, num_labels=2,
)  # fmt: skip


def open_masks(heads: int = 4, ffn: int = 64, layers: int = 3) -> Masks:
    return Masks([torch.ones(heads)] * layers, [torch.ones(ffn)] * layers, torch.ones(3), torch.ones(3))


# The masked forward pass.


def test_masks_of_ones_change_nothing_and_masks_of_zero_skip_a_half_layer() -> None:
    model = make_pair()[1]
    batch = make_batch()
    plain = model(batch, None, hidden=True)
    masked = run_masked(model, batch, open_masks())
    assert torch.allclose(masked.logits, plain.logits, atol=1e-6)
    masks = open_masks()
    masks.attention[1] = 0.0  # type: ignore[index]
    masks.ffn[2] = 0.0  # type: ignore[index]
    skipped = model(batch, Architecture(3, (4, 0, 4), (64, 64, 0)), hidden=True)
    assert torch.allclose(run_masked(model, batch, masks).logits, skipped.logits, atol=1e-5)


# CoFi.


def test_cofi_s_masks_have_their_golden_values() -> None:
    assert prunable_params(BERT_BASE) == pytest.approx(85_017_600)
    assert float(open_probability(torch.tensor(0.0))) == pytest.approx(0.8318, abs=1e-4)
    assert float(open_probability(torch.tensor(99.0))) == pytest.approx(0.9980, abs=1e-4)
    assert ramp_target(0.5, 50, 200) == pytest.approx(0.125)
    assert ramp_target(0.5, 300, 200) == 0.5
    loss = penalty(torch.tensor(0.3), 0.5, torch.tensor([1.0, 2.0]))
    assert float(loss) == pytest.approx(-0.12)
    draws = sample_masks(torch.zeros(20_000), torch.rand(20_000))
    assert float((draws > 0).float().mean()) == pytest.approx(0.8318, abs=0.01)
    assert float(draws.min()) == 0.0
    assert float(draws.max()) == 1.0


def test_cofi_s_expected_sparsity_falls_with_every_mask() -> None:
    masks = HardConcreteMasks(BERT_BASE)
    with torch.no_grad():
        for parameter in (masks.heads, masks.neurons, masks.attention, masks.ffn):
            parameter.fill_(99.0)
    assert float(masks.expected_sparsity().detach()) == pytest.approx(1 - 0.998**2, abs=1e-3)
    with torch.no_grad():
        masks.attention[:6] = -99.0
    # Half of the attention, which is a third of the parameters.
    assert float(masks.expected_sparsity().detach()) == pytest.approx(1 / 6, abs=5e-3)
    heads, neurons, _ = masks.choose()
    assert sum(int(h.sum()) for h in heads) == 72
    assert all(float(n.float().mean()) > 0.95 for n in neurons)


def test_cofi_matches_each_teacher_layer_with_its_nearest_in_order() -> None:
    """Teacher layers 3 and 4 equal student layers 2 and 3: only the layers below them differ."""
    zero = torch.zeros(1, 2, 2)
    teacher = [zero, zero + 9, zero + 8, zero + 1, zero + 2]
    student = [zero, zero + 5, zero + 1, zero + 2, zero + 7]
    loss = layer_loss(student, teacher, torch.nn.Identity(), one_row())
    # Layer 4 matches student 3, layer 3 student 2, layers 2 and 1 the only one left: 3^2 + 4^2.
    assert float(loss) == pytest.approx(3.0**2 + 4.0**2)


def check_cofi(context: Any) -> None:
    """The masks are learnt until the network has about the size of the budget."""
    run = compress_prune(context)
    sparsity = float(run.last_task.model.masks.expected_sparsity().detach())
    assert sparsity > 0.6 * run.last_task.plan["sparsity"]


def compress_prune(context: Any) -> Any:
    from raycomp.methods.cofi import Cofi
    from raycomp.testing.local_run import LocalRun

    run = LocalRun(context)
    Cofi().choose_architecture(run, context.job.budget[0])
    return run


def test_cofi_s_penalty_leads_to_the_target(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"prune_epochs": 5.0, "target_epochs": 1.0, "mask_learning_rate": 0.4}
    context = make_context(tiny_job, tmp_path / "a", "cofi", tuned_model, **settings)
    check_cofi(context)
    pruned = read_json(context.files.student("half").pruned)
    arch = Architecture.from_json(pruned["arch"])
    assert context.costs.cost("encoder_params", arch) <= context.limit(context.job.budget[0])
    # The mutant has no penalty.
    monkeypatch.setattr(cofi_task, "penalty", lambda s, t, both: 0.0 * penalty(s, t, both))
    with pytest.raises(AssertionError):
        check_cofi(make_context(tiny_job, tmp_path / "b", "cofi", tuned_model, **settings))


# Kwon et al.


def test_kwon_fills_the_budget_by_importance() -> None:
    """Head cost 3, neuron cost 1, importances (5, 1) and (3, 2, .5), budget 4: one head, one neuron."""
    heads, neurons = np.array([5.0, 1.0]), np.array([3.0, 2.0, 0.5])
    assert fill_budget(heads, neurons, 3.0, 1.0, 4.0) == (1, 1)
    assert fill_budget(heads, neurons, 3.0, 1.0, 2.0) == (0, 2)
    assert fill_budget(heads, neurons, 3.0, 1.0, 99.0) == (2, 3)
    assert intermediate_constraint(0.5) == pytest.approx(0.7071, abs=1e-4)


def check_rearrangement(choose: Any) -> None:
    gradients = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.9]])
    smallest = torch.tensor([False, True, False])
    assert choose(smallest, gradients).tolist() == [False, False, True]


def test_kwon_prunes_units_whose_gradients_cancel() -> None:
    """Gradients (1, 0), (-1, 0), (0, .9), two to prune: the first two, although the last is smaller."""
    check_rearrangement(rearrange)
    with pytest.raises(AssertionError):
        check_rearrangement(lambda mask, gradients: mask)


def test_kwon_s_importance_is_the_gradient_of_each_mask() -> None:
    model = make_pair()[1]
    batch = make_batch()
    heads, neurons = mask_gradients(model, [batch, batch])
    assert [g.shape for g in heads] == [(2, 4)] * 3
    assert [g.shape for g in neurons] == [(2, 64)] * 3
    assert torch.equal(heads[0][0], heads[0][1])

    def loss(factor: float) -> float:
        masks = open_masks()
        masks.neurons[1] = torch.ones(64)
        masks.neurons[1][5] = factor
        logits = run_masked(model, batch, masks).logits
        return float(torch.nn.functional.cross_entropy(logits, batch.labels))

    with torch.no_grad():
        slope = (loss(1.02) - loss(0.98)) / 0.04
    assert float(neurons[1][0, 5]) == pytest.approx(slope, abs=2e-3)


def pruned_error(tune: bool) -> float:
    """Return how far the last [CLS] state of a pruned network is from the full network's."""
    model = make_pair()[1].requires_grad_(False)
    batch = make_batch()
    full = model(batch, None, hidden=True).hidden[-1]
    heads = [torch.tensor([True, True, True, False])] * 3
    neurons = [torch.arange(64) % 4 > 0] * 3
    everything = ([torch.ones(4, dtype=torch.bool)] * 3, [torch.ones(64, dtype=torch.bool)] * 3)
    if tune:
        tune_masks(model, [batch], (heads, neurons), everything, damp=1.0)
    masks = Masks([h.float() for h in heads], [n.float() for n in neurons])
    own = run_masked(model, batch, masks).hidden
    assert own is not None
    return float((own[-1] - full)[:, 0].square().mean())


def test_kwon_s_tuning_brings_the_pruned_network_nearer() -> None:
    assert pruned_error(tune=True) < 0.8 * pruned_error(tune=False)


def test_kwon_tunes_nothing_where_nothing_is_pruned() -> None:
    model = make_pair()[1].requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    everything = ([torch.ones(4, dtype=torch.bool)] * 3, [torch.ones(64, dtype=torch.bool)] * 3)
    tune_masks(model, [make_batch()], everything, everything, damp=1.0)
    for key, value in model.state_dict().items():
        assert torch.allclose(value, before[key], atol=1e-4), key


def test_kwon_needs_no_training(tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path, "kwon", tuned_model, samples=64)
    run = compress(context)
    assert run.trained == []
    arch = Architecture.from_json(read_json(context.files.student("half").pruned)["arch"])
    cost = context.costs.cost("encoder_params", arch)
    assert 0.9 * context.limit(context.job.budget[0]) < cost <= context.limit(context.job.budget[0])
    assert kwon.Kwon.tasks == {}


def test_kwon_names_the_nearest_limit_below_the_fixed_cost_of_its_layers(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(tiny_job, tmp_path, "kwon", tuned_model)
    least = int(kwon.Kwon().least_cost(context, "encoder_params"))
    assert least > context.costs.cost("encoder_params", Architecture(1, (0,), (1,)))
    budgets = [{"name": f"least{n}", "encoder_params": least + n} for n in (-1, 0)]
    monkeypatch.setattr(golden, "HALF", budgets)
    context = make_context(tiny_job, tmp_path, "kwon", tuned_model, samples=16, tune=False)

    below, met = kwon.Kwon().compress(LocalRun(context))

    assert below.build is None
    assert f"cannot be met by kwon, which needs {least:,}" in below.reason
    assert met.build is not None


# Magnitude pruning.


def test_the_cubic_schedule_has_its_golden_values() -> None:
    """T = 1000, warm-up 100, t_f = 1 warm-up, v_f = .5."""
    shares = [share_at(step, 1000, 100, 100, 0.5) for step in (1, 100, 300, 500, 901, 1000)]
    assert shares == pytest.approx([1.0, 1.0, 0.7109, 0.5625, 0.5, 0.5], abs=1e-4)


def test_the_largest_weights_of_each_matrix_remain() -> None:
    """(3, -1, .5, -2) at .5 keeps 3 and -2."""
    model = make_encoder(1)
    model.use_column_major_layout()
    with torch.no_grad():
        model.layers[0].up.weight[0, :4] = torch.tensor([3.0, -1.0, 0.5, -2.0])
        model.layers[0].up.weight[0, 4:] = 0.0
        model.layers[0].up.weight[1:] = 0.0
    keep_largest(model, 2 / model.layers[0].up.weight.numel())
    assert model.layers[0].up.weight[0, :4].tolist() == [3.0, 0.0, 0.0, -2.0]
    for parameter in model.layers.parameters():
        if parameter.ndim == 2:
            assert int(parameter.count_nonzero()) <= 2
    assert int(model.pooler.weight.count_nonzero()) == model.pooler.weight.numel()


def check_magnitude(context: Any) -> None:
    compress(context)
    weights = load_tensors(context.files.student("half").network)
    share = remaining_share(context, context.job.budget[0])
    assert share is not None
    for key, tensor in weights.items():
        if key.startswith("layers.") and tensor.ndim == 2:
            assert int(tensor.count_nonzero()) == int(share * tensor.numel())
        else:
            assert int(tensor.count_nonzero()) > 0.9 * tensor.numel() - 2
    nonzero = sum(int(t.count_nonzero()) for k, t in weights.items() if k.startswith("layers."))
    limit = context.limit(context.job.budget[0])
    assert 0.97 * limit < nonzero <= limit


def test_magnitude_pruning_meets_its_budget_in_non_zeros(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_magnitude(make_context(tiny_job, tmp_path / "a", "magnitude", tuned_model, epochs=0.5))
    # The mutant prunes nothing.
    monkeypatch.setattr("raycomp.methods.magnitude.keep_largest", lambda model, share: None)
    with pytest.raises(AssertionError):
        check_magnitude(make_context(tiny_job, tmp_path / "b", "magnitude", tuned_model, epochs=0.5))


def test_zeros_save_no_flops(tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path, "magnitude", tuned_model)
    flops = context.job.budget[0].model_copy(update={"encoder_params": None, "flops": "0.5x"})
    assert remaining_share(context, flops) is None
    assert math.isclose(remaining_share(context, context.job.budget[0]) or 0.0, 0.66, abs_tol=0.03)
