"""TinyBERT's and MiniLM's hints on attention against their values by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.interface import AttentionStates, ElasticOutput
from raycomp.training.attention_hints import MINILM_V1, MINILM_V2, Attention, Relations
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import Embeddings, Hidden, Objective
from raycomp.training.optimizers import LinearDecay, Updater
from tests.unit.encoder.test_elastic import make_batch, make_pair
from tests.unit.training.test_hints import STUDENT, one_row

FULL = Architecture(3, (4, 4, 4), (64, 64, 64))


def output(*layers: AttentionStates | None) -> ElasticOutput:
    return ElasticOutput(STUDENT.logits, layers=tuple(range(len(layers))), attention=layers)


def states(seed: int, heads: int = 2, length: int = 2, size: int = 4) -> AttentionStates:
    generator = torch.Generator().manual_seed(seed)
    return AttentionStates(*(torch.randn(1, heads, length, size, generator=generator) for _ in range(3)))


def probabilities(query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), -1)


def of_scores(rows: list[list[float]]) -> AttentionStates:
    """One head of size 1 whose attention scores are these rows divided by their keys of 1."""
    query = torch.tensor(rows)[None, None]
    return AttentionStates(query, torch.eye(query.shape[-1])[None, None], query)


def test_attention_scores_by_hand() -> None:
    """Scores (2, 0; 0, 0) / sqrt 2 against 0: the mean of 4 squares is .5; layers are summed."""
    own, zero = of_scores([[2.0, 0.0], [0.0, 0.0]]), of_scores([[0.0, 0.0], [0.0, 0.0]])
    assert float(Attention().loss(output(own), output(zero), one_row())) == pytest.approx(0.5)
    both = Attention().loss(output(own, own), output(zero, zero), one_row())
    assert float(both) == pytest.approx(1.0)
    mean = Attention(over_layers="mean").loss(output(own, own), output(zero, zero), one_row())
    assert float(mean) == pytest.approx(0.5)


def test_attention_is_torch_s_mean_squared_error_where_nothing_is_padded() -> None:
    own, target = states(0), states(1)
    scores = [s.query @ s.key.transpose(-1, -2) / 2.0 for s in (own, target)]
    expected = F.mse_loss(*scores)
    assert float(Attention().loss(output(own), output(target), one_row())) == pytest.approx(
        float(expected)
    )


def test_padded_pairs_contribute_nothing() -> None:
    padded = replace(one_row(), attention_mask=torch.tensor([[True, False]]), total_tokens=1)
    own, zero = of_scores([[2.0, 9e9], [9e9, 9e9]]), of_scores([[0.0, 0.0], [0.0, 0.0]])
    assert float(Attention().loss(output(own), output(zero), padded)) == pytest.approx(2.0)
    relations = Relations(relations=("query-key",)).loss(output(own), output(zero), padded)
    assert float(relations) == 0.0


def test_a_layer_is_matched_with_the_last_of_its_stride() -> None:
    """Layer i of M with layer (i + 1) L / M - 1: of 3 and 6 layers the teacher's 1, 3 and 5."""
    own = output(*(states(seed) for seed in (1, 3, 5)))
    teacher = output(*(states(seed) for seed in range(6)))
    assert float(Attention().loss(own, teacher, one_row())) == 0.0
    assert float(Attention(map="last").loss(own, teacher, one_row())) > 0.0


def test_relations_by_hand() -> None:
    """KL of the rows (.9, .1) || (.5, .5) is .3681."""
    log = math.sqrt(2.0) * math.log(9.0)
    target, own = of_scores([[log, 0.0], [log, 0.0]]), of_scores([[0.0, 0.0], [0.0, 0.0]])
    hint = Relations(relations=("query-key",))
    assert float(hint.loss(output(own), output(target), one_row())) == pytest.approx(0.3681, abs=5e-5)


@pytest.mark.parametrize("relations", [MINILM_V1, MINILM_V2])
def test_relations_are_the_mean_divergence_over_heads_and_tokens(relations: Any) -> None:
    own, target = states(0), states(1)
    expected = 0.0
    for relation in relations:
        first, second = relation.split("-")
        p, q = (probabilities(getattr(s, first), getattr(s, second)) for s in (target, own))
        expected += float((p * (p / q).log()).sum() / 4)
    found = Relations(relations=relations).loss(output(own), output(target), one_row())
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_rotation_of_each_head_s_values_changes_no_relation() -> None:
    target = states(0)
    rotation, _ = torch.linalg.qr(torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3)))
    own = replace(target, value=target.value @ rotation)
    hint = Relations(relations=("value-value",))
    assert float(hint.loss(output(own), output(target), one_row())) == pytest.approx(0.0, abs=1e-6)


def test_relation_heads_make_any_numbers_of_heads_comparable() -> None:
    own, target = states(0, heads=1, size=6), states(1, heads=4, size=3)
    hint = Relations(relations=MINILM_V2, heads=3)
    assert float(hint.loss(output(own), output(target), one_row())) > 0.0
    same = Relations(relations=MINILM_V2, heads=2)
    assert float(same.loss(output(target), output(target), one_row())) == pytest.approx(0.0, abs=1e-6)
    for refused, message in (
        (Relations(), "1 heads where the teacher has 4"),
        (Attention(), "1 heads where the teacher has 4"),
        (Relations(heads=5), "5 relation heads do not divide"),
    ):
        with pytest.raises(ValueError, match=message):
            refused.loss(output(own), output(target), one_row())
    with pytest.raises(ValueError, match="number of heads is 0"):
        Relations().loss(output(None), output(target), one_row())


def finetune(objective: Objective, batch: Batch, **options: bool) -> Any:
    """One step of a student of 2 layers; returns it with the gradients that the step saw."""
    model, teacher = make_pair()[1], make_pair(1)[1]
    model.set_dropout(0.0)
    updater = Updater(model, LinearDecay(1e-3, 0.1, (0, 20)), weight_decay=0.0, clip=1.0)
    gradients: dict[str, bool] = {}

    def remember(tensors: list[Tensor]) -> None:
        gradients.update({n: p.grad is not None for n, p in model.named_parameters()})

    updater.reduce = remember
    step = FinetuneStep(
        model, updater, precision="fp32", device=torch.device("cpu"), objective=objective,
        teacher=lambda b: teacher(b, None, **options),
    )  # fmt: skip
    return step(0, batch), gradients


def test_minilm_trains_nothing_after_the_last_layer_s_relations() -> None:
    result, gradients = finetune(Objective(((1.0, Relations()),)), make_batch(), attention=True)
    assert result.loss > 0
    last_layer = {
        n.removeprefix("layers.2."): g for n, g in gradients.items() if n.startswith("layers.2.")
    }
    for module in ("query", "key", "value"):
        assert last_layer[f"{module}.weight"]
    for module in ("up", "down", "output", "attention_norm", "output_norm"):
        assert not last_layer[f"{module}.weight"], module
    assert not gradients["pooler.weight"]
    assert gradients["layers.1.down.weight"]


def test_tinybert_s_first_stage_is_zero_at_the_teacher_itself() -> None:
    """Attention, states and embeddings of the teacher against itself, for every map."""
    teacher = make_pair()[1]
    batch = make_batch()
    with torch.no_grad():
        whole = teacher(batch, FULL, hidden=True, attention=True)
    terms = ((1.0, Attention()), (1.0, Hidden(over_layers="sum")), (1.0, Embeddings()))
    loss, _ = Objective(terms).losses(whole, whole, batch)
    assert float(loss) == 0.0
    assert Objective(terms).needs_attention
    assert Objective(terms).needs_hidden
