"""The elastic encoder against transformers' own model, and against what is cut out of it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from raycomp.data.batches import Batch
from raycomp.encoder import elastic as elastic_module
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, layer_params
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.families import from_family, from_family_config
from raycomp.encoder.importance import measure_importance, reorder_by_importance
from raycomp.encoder.layers import Encoder
from raycomp.encoder.static_model import RaycompConfig, RaycompForSequenceClassification
from raycomp.errors import UserError
from raycomp.search.space import SearchSpace
from raycomp.training.objectives import label_loss
from raycomp.training.optimizers import autocast
from tests.conftest import make_bert_config, randomise_weights

SPACE = SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32, 64))


def make_batch(rows: int = 5, length: int = 11, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, length + 1, (rows,), generator=generator)
    lengths[0] = length
    mask = torch.arange(length)[None, :] < lengths[:, None]
    ids = torch.randint(5, 25, (rows, length), generator=generator) * mask
    types = (torch.arange(length)[None, :] > lengths[:, None] // 2).long() * mask
    labels = torch.randint(0, 2, (rows,), generator=generator)
    return Batch(ids, mask, types, labels, np.arange(rows), rows, int(lengths.sum()))


def make_pair(seed: int = 0) -> tuple[BertForSequenceClassification, ElasticEncoder]:
    torch.manual_seed(seed)
    bert = BertForSequenceClassification(make_bert_config(num_labels=2))
    randomise_weights(bert, seed)
    config = from_family_config(bert.config, num_labels=2)
    ours = Encoder(config)
    ours.load_state_dict(from_family("bert", config, bert.state_dict()), strict=True)
    return bert.eval(), ElasticEncoder(ours).eval()


def test_the_full_network_is_transformers_bert() -> None:
    bert, elastic = make_pair()
    batch = make_batch()
    theirs = bert(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        token_type_ids=batch.token_type_ids,
    ).logits
    assert (elastic(batch).logits - theirs).abs().max() < 1e-5


def random_architecture(seed: int) -> Architecture:
    """Any layers of the network in any number, with any of 0 to 4 heads and 0 to 64 neurons each."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 4))
    layers = tuple(sorted(int(i) for i in rng.permutation(3)[:depth]))
    heads = tuple(int(h) for h in rng.choice([0, 0, 1, 2, 4], depth))
    ffn = tuple(int(k) for k in rng.choice([0, 0, 1, 16, 64], depth))
    return Architecture(depth, heads, ffn, layers)


def test_random_architectures_leave_out_layers_and_halves() -> None:
    archs = [random_architecture(seed) for seed in range(100, 124)]
    assert any(a.layers for a in archs)
    assert any(0 in a.heads and a.heads[-1] for a in archs)
    assert any(a.heads[-1] == 0 and a.ffn[-1] == 0 for a in archs)
    assert any(0 in a.ffn for a in archs)


@pytest.mark.parametrize("seed", [*range(12), *range(100, 124)])
def test_a_slice_is_the_extracted_model(seed: int) -> None:
    _, elastic = make_pair(seed)
    in_space = seed < 100
    arch = SPACE.sample_uniform(np.random.default_rng(seed)) if in_space else random_architecture(seed)
    batch = make_batch(seed=seed)
    small = elastic.extract(arch)
    logits = small(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        token_type_ids=batch.token_type_ids,
    ).logits
    assert (elastic(batch, arch).logits - logits).abs().max() < 1e-6
    costs = CostModel(elastic.config, 11)
    assert sum(p.numel() for p in small.parameters()) == costs.cost("params", arch)
    layers = sum(p.numel() for n, p in small.named_parameters() if n.startswith("layers."))
    assert layers == costs.cost("encoder_params", arch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_many_slices_at_once_are_each_by_itself_to_the_last_bit(precision: str) -> None:
    _, elastic = make_pair()
    rng = np.random.default_rng(0)
    archs = [SPACE.sample_uniform(rng) for _ in range(40)]
    archs += [archs[0], SPACE.largest(), Architecture(1, (1,), (16,)), Architecture(2, (1, 1), (16, 16))]
    archs += [random_architecture(seed) for seed in range(20)]
    batch = make_batch()
    with torch.inference_mode(), autocast(precision, torch.device("cpu")):
        together = elastic.forward_many(batch, archs)
        for logits, arch in zip(together, archs, strict=True):
            assert torch.equal(logits, elastic(batch, arch).logits)


def test_what_slices_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half layers run: 1 attention and 2 FFNs first, then 2 + 1 attentions, then 2 + 1 FFNs."""
    _, elastic = make_pair()
    run: list[str] = []
    for name in ("sliced_attention", "sliced_feed_forward"):
        inner = getattr(elastic_module, name)

        def counted(*args: object, name: str = name, inner: Any = inner, **options: object) -> Any:
            run.append(name)
            return inner(*args, **options)

        monkeypatch.setattr(elastic_module, name, counted)
    archs = [Architecture(2, (4, h), (k, 16)) for h, k in ((1, 16), (2, 16), (1, 32))]
    with torch.inference_mode():
        elastic.forward_many(make_batch(), archs)
    assert (run.count("sliced_attention"), run.count("sliced_feed_forward")) == (4, 5)
    with pytest.raises(UserError, match="depth 4"):
        elastic.forward_many(make_batch(), [*archs, Architecture(4, (1,) * 4, (16,) * 4)])


def test_the_last_layer_is_run_for_the_first_token_alone_unless_states_are_asked_for() -> None:
    _, elastic = make_pair()
    batch = make_batch()
    archs = [SPACE.largest(), Architecture(1, (2,), (32,)), *map(random_architecture, range(8))]
    for arch in archs:
        whole = elastic(batch, arch, hidden=True)
        assert whole.hidden is not None
        assert [h.shape[1] for h in whole.hidden] == [11] * (arch.depth + 1)
        assert whole.layers == arch.layer_indices
        assert (elastic(batch, arch).logits - whole.logits).abs().max() < 1e-6


@pytest.mark.parametrize("seed", [*range(4), *range(100, 108)])
def test_gradients_of_a_slice_are_those_of_the_extracted_model(seed: int) -> None:
    _, elastic = make_pair(seed)
    in_space = seed < 100
    arch = (
        SPACE.sample_uniform(np.random.default_rng(100 + seed)) if in_space else random_architecture(seed)
    )
    batch = make_batch(seed=seed)
    small = elastic.extract(arch)
    label_loss(elastic(batch, arch).logits, batch.labels, batch.total).backward()
    logits = small(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        token_type_ids=batch.token_type_ids,
    ).logits
    label_loss(logits, batch.labels, batch.total).backward()
    own, full = dict(small.named_parameters()), dict(elastic.named_parameters())
    active = dict(elastic.active_parameters(arch))
    numbers = {str(layer): str(i) for i, layer in enumerate(arch.layer_indices)}
    renumbered = {
        name: re.sub(r"^layers\.(\d+)", lambda m: f"layers.{numbers[m[1]]}", name) for name in active
    }
    assert set(renumbered.values()) == set(own)
    for name, parameter in full.items():
        if name not in active:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        expected = own[renumbered[name]].grad
        assert expected is not None
        assert torch.allclose(parameter.grad[active[name]], expected, atol=1e-6)
        outside = parameter.grad.clone()
        outside[active[name]] = 0
        assert not outside.any()


def test_a_batch_row_does_not_depend_on_padding() -> None:
    _, elastic = make_pair()
    batch = make_batch()
    arch = Architecture(2, (2, 1), (32, 16))
    wider = Batch(
        torch.nn.functional.pad(batch.input_ids, (0, 5)),
        torch.nn.functional.pad(batch.attention_mask, (0, 5)),
        torch.nn.functional.pad(batch.token_type_ids, (0, 5)),
        batch.labels,
        batch.index,
        batch.total,
        batch.total_tokens,
    )
    assert torch.allclose(elastic(batch, arch).logits, elastic(wider, arch).logits, atol=1e-6)


def test_reorder_changes_no_output_and_sorts_by_importance() -> None:
    _, elastic = make_pair()
    batches = [make_batch(seed=s) for s in range(3)]
    before = elastic(batches[0]).logits
    found = measure_importance(elastic, batches, lambda out, b: label_loss(out, b.labels, b.total))
    reorder_by_importance(elastic, found)
    assert torch.allclose(elastic(batches[0]).logits, before, atol=1e-5)
    again = measure_importance(elastic, batches, lambda out, b: label_loss(out, b.labels, b.total))
    for heads, neurons in zip(again.heads, again.neurons, strict=True):
        assert (heads.diff() <= 1e-5).all()
        assert (neurons.diff() <= 1e-5).all()


def test_head_importance_is_the_change_of_loss_when_a_head_fades() -> None:
    """|dL/dmask| against a finite difference."""
    _, elastic = make_pair()
    batch = make_batch()

    def loss(logits: torch.Tensor, b: Batch) -> torch.Tensor:
        return label_loss(logits, b.labels, b.total)

    found = measure_importance(elastic, [batch], loss)
    masks = [torch.ones(4) for _ in range(3)]
    values = []
    for sign in (1, -1):
        masks[1] = torch.ones(4)
        masks[1][2] += sign * 1e-2
        values.append(float(loss(elastic(batch, head_masks=masks).logits, batch).detach()))
    slope = abs(values[0] - values[1]) / 2e-2
    assert slope == pytest.approx(float(found.heads[1][2]), rel=0.02, abs=1e-4)


def test_neuron_importance_is_the_change_of_loss_when_a_neuron_fades() -> None:
    """|sum of w dL/dw| against a finite difference, for one neuron of each layer, and two mutants."""
    _, elastic = make_pair()
    batch = make_batch()

    def loss(logits: torch.Tensor, b: Batch) -> torch.Tensor:
        return label_loss(logits, b.labels, b.total)

    @torch.no_grad()
    def scaled_loss(layer: int, neuron: int, factor: float) -> float:
        """Return the loss with all weights of a neuron scaled by a factor."""
        ffn: Any = elastic.layers[layer]
        saved = [w.clone() for w in (ffn.up.weight, ffn.up.bias, ffn.down.weight)]
        ffn.up.weight[neuron] *= factor
        ffn.up.bias[neuron] *= factor
        ffn.down.weight[:, neuron] *= factor
        value = float(loss(elastic(batch).logits, batch))
        for weight, before in zip((ffn.up.weight, ffn.up.bias, ffn.down.weight), saved, strict=True):
            weight.copy_(before)
        return value

    found = measure_importance(elastic, [batch], loss)
    places = [(0, 3), (1, 17), (2, 40)]
    slopes = [
        abs(scaled_loss(*place, 1.01) - scaled_loss(*place, 0.99)) / 0.02  # d loss / d factor
        for place in places
    ]
    measured = [float(found.neurons[layer][neuron]) for layer, neuron in places]
    assert measured == pytest.approx(slopes, rel=0.05, abs=1e-5)

    # Without the way down, or without the sum over the weights, the figures are others.
    assert min(slopes) > 1e-4
    for mutant in (without_down, sum_of_absolutes):
        changed = [mutant(elastic, batch, loss, *place) for place in places]
        assert changed != pytest.approx(slopes, rel=0.05, abs=1e-5)


def _neuron_terms(
    elastic: ElasticEncoder, batch: Batch, loss: Any, layer: int, neuron: int
) -> list[torch.Tensor]:
    """Return w dL/dw of a neuron's weights on the way up, of its bias, and on the way down."""
    ffn: Any = elastic.layers[layer]
    weights = [ffn.up.weight, ffn.up.bias, ffn.down.weight]
    up, bias, down = torch.autograd.grad(loss(elastic(batch).logits, batch), weights)
    products = (ffn.up.weight * up)[neuron], (ffn.up.bias * bias)[neuron]
    return [*products, (ffn.down.weight * down)[:, neuron]]


def without_down(*arguments: Any) -> float:
    up, bias, _ = _neuron_terms(*arguments)
    return float((up.sum() + bias).abs().detach())


def sum_of_absolutes(*arguments: Any) -> float:
    return float(sum(term.detach().abs().sum() for term in _neuron_terms(*arguments)))


def test_an_architecture_that_does_not_fit_is_named() -> None:
    _, elastic = make_pair()
    with pytest.raises(UserError, match="depth 4"):
        elastic(make_batch(), Architecture(4, (1,) * 4, (16,) * 4))
    with pytest.raises(UserError, match="layer 1"):
        elastic.extract(Architecture(2, (1, 5), (16, 16)))
    with pytest.raises(UserError, match="layer 3"):
        elastic(make_batch(), Architecture(1, (1,), (16,), (3,)))


def test_a_skipped_half_passes_its_input_on() -> None:
    _, elastic = make_pair()
    batch = make_batch()
    states = elastic(batch, Architecture(3, (4, 0, 0), (64, 0, 16)), hidden=True).hidden
    assert states is not None
    assert torch.equal(states[2], states[1])
    assert not torch.equal(states[3], states[2])
    kept = Architecture(2, (4, 0), (64, 16), (0, 2))
    assert torch.equal(
        elastic(batch, kept).logits, elastic(batch, Architecture(3, (4, 0, 0), (64, 0, 16))).logits
    )


def test_attention_states_are_returned_where_asked_for() -> None:
    _, elastic = make_pair()
    batch = make_batch()
    arch = Architecture(3, (2, 0, 4), (16, 16, 0))
    assert elastic(batch, arch).attention is None
    output = elastic(batch, arch, attention=True)
    assert output.attention is not None
    assert output.attention[1] is None
    for states, heads in ((output.attention[0], 2), (output.attention[2], 4)):
        assert states is not None
        for tensor in (states.query, states.key, states.value):
            assert tensor.shape == (5, heads, 11, elastic.config.head_size)
    assert torch.allclose(output.logits, elastic(batch, arch).logits, atol=1e-6)


def test_an_extracted_network_with_skipped_halves_is_elastic_again() -> None:
    """As for fine-tuning: every slice of the extracted network, its importance, and its extraction."""
    _, elastic = make_pair()
    batch = make_batch()
    arch = Architecture(3, (4, 0, 2), (0, 64, 32))
    again = ElasticEncoder(elastic.extract(arch))
    assert again.largest == arch
    assert torch.equal(again(batch).logits, elastic(batch, arch).logits)
    found = measure_importance(again, [batch], lambda out, b: label_loss(out, b.labels, b.total))
    assert [len(h) for h in found.heads] == [4, 0, 2]
    assert [len(k) for k in found.neurons] == [0, 64, 32]
    reorder_by_importance(again, found)
    assert torch.allclose(again(batch).logits, elastic(batch, arch).logits, atol=1e-5)
    smaller = Architecture(2, (2, 0), (0, 16), (0, 1))
    assert again.extract(smaller)(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    again.use_column_major_layout()
    with pytest.raises(UserError, match="layer 1"):
        again(batch, Architecture(2, (1, 1), (0, 16)))


def test_golden_parameter_counts() -> None:
    """BEYOND-THE-PAPERS: BERT-base without classifier, exact."""
    config = RaycompConfig(num_labels=2)
    costs = CostModel(config, 128)
    classifier = 768 * 2 + 2

    def params(arch: Architecture) -> int:
        return costs.cost("params", arch) - classifier

    full = Architecture(12, (12,) * 12, (3072,) * 12)
    assert params(full) == 109_482_240
    assert params(Architecture(6, (4,) * 6, (512,) * 6)) == 33_900_288
    assert params(Architecture(6, (12,) * 6, (3072,) * 6)) == 66_955_008
    assert layer_params(config, 4, 512) == 196_800 * 4 + 1_537 * 512 + 4_608
    with torch.device("meta"):
        counted = sum(p.numel() for p in RaycompForSequenceClassification(config).parameters())
    assert counted - classifier == 109_482_240


def test_flops_are_what_torch_counts() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    _, elastic = make_pair()
    arch = Architecture(2, (2, 1), (32, 16))
    batch = make_batch(rows=1, length=16)
    mask = torch.ones_like(batch.attention_mask)
    # The counter knows matrix products, not the fused attention kernel of the processor.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model = elastic.extract(arch)
        x, seen = model.embeddings(batch.input_ids, batch.token_type_ids), mask.bool()[:, None, None]
        for layer in model.layers:
            x = layer(x, seen)
        model.classifier(model.pooler(x[:, 0]))
    counted = counter.get_total_flops()
    computed = CostModel(elastic.config, 16).cost("flops", arch)
    assert computed == pytest.approx(counted, rel=0.02)
    # The model itself runs its last layer for the first token alone, which the papers do not count.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(batch.input_ids, mask, batch.token_type_ids)
    assert counter.get_total_flops() < 0.9 * computed
