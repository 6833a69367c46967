"""Word tables of sub-networks: rows of the task's tokens, and products of two matrices."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import FULL_TABLE, Architecture, WordTable
from raycomp.encoder.cost import CostModel, EncoderShape, table_params
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.families import from_family_config
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.encoder.plain import explain_not_plain, make_plain
from raycomp.encoder.word_tables import TableParts, find_directions
from raycomp.errors import UserError
from raycomp.methods.heal_task import cut_network, extract_healed
from raycomp.training.group_step import trained_parts
from tests.unit.encoder.test_elastic import make_batch, make_pair

WIDTHS = Architecture(2, (2, 4), (32, 16))
TABLES = [WordTable(True), WordTable(rank=8), WordTable(True, 8)]
TOKEN_IDS = torch.tensor([0, 1, 2, *range(5, 23)])


def make_network() -> ElasticEncoder:
    network = make_pair()[1]
    counts = torch.arange(25) ** 2
    weight = network.embeddings.word.weight
    network.table_parts = TableParts(TOKEN_IDS, find_directions(weight, counts))
    return network


def covered_batch() -> Batch:
    batch = make_batch()
    return replace(batch, input_ids=batch.input_ids.clamp(max=22))


@pytest.mark.parametrize("table", TABLES)
def test_an_extracted_network_computes_what_its_slice_computes(table: WordTable) -> None:
    network = make_network()
    arch = replace(WIDTHS, table=table)
    batch = covered_batch()
    own_ids = torch.searchsorted(TOKEN_IDS, batch.input_ids) if table.is_cut else batch.input_ids

    model = network.extract(arch)
    logits = model(own_ids, batch.attention_mask, batch.token_type_ids).logits

    assert (logits - network(batch, arch).logits).abs().max() < 1e-5
    shape = EncoderShape.from_config(network.config, len(TOKEN_IDS))
    params = sum(parameter.numel() for parameter in model.parameters())
    assert params == CostModel(shape, 8).cost("params", arch)
    assert model.config.vocab_size == (len(TOKEN_IDS) if table.is_cut else 25)


def test_a_text_whose_tokens_stay_has_the_logits_of_the_full_network() -> None:
    network = make_network()
    batch = covered_batch()
    model = network.extract(replace(network.largest, table=WordTable(True)))

    logits = model(
        torch.searchsorted(TOKEN_IDS, batch.input_ids), batch.attention_mask, batch.token_type_ids
    )

    assert torch.equal(logits.logits, network.extract(network.largest)(
        batch.input_ids, batch.attention_mask, batch.token_type_ids).logits)  # fmt: skip


def test_networks_with_different_tables_are_scored_together() -> None:
    network = make_network()
    batch = covered_batch()
    archs = [WIDTHS, *(replace(WIDTHS, table=table) for table in TABLES), network.largest]

    together = network.forward_many(batch, archs)

    for logits, arch in zip(together, archs, strict=True):
        assert torch.equal(logits, network(batch, arch).logits)
    # A rank changes the logits; a cut alone does not.
    assert torch.equal(together[0], together[1])
    assert not torch.equal(together[0], together[2])


def test_directions_give_the_best_weighted_approximation() -> None:
    torch.manual_seed(0)
    table = torch.randn(200, 16) @ torch.randn(16, 16)
    counts = torch.randint(0, 100, (200,))
    parts = TableParts(directions=find_directions(table, counts))

    def error(approximation: torch.Tensor) -> float:
        return float((counts[:, None] * (approximation - table) ** 2).sum())

    errors = [error(parts.project(table, rank)) for rank in (1, 4, 8, 16)]
    left, values, right = torch.linalg.svd((counts + 0.1).sqrt()[:, None] * table, full_matrices=False)
    best = (left[:, :8] * values[:8]) @ right[:8] / (counts + 0.1).sqrt()[:, None]

    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4 * errors[0]
    assert errors[2] == pytest.approx(error(best), rel=0.01)
    # A mutant without frequencies is worse on the text.
    equal = TableParts(directions=find_directions(table, torch.ones(200)))
    assert errors[2] < error(equal.project(table, 8))


def test_columns_of_a_factor_have_similar_lengths() -> None:
    torch.manual_seed(0)
    table = torch.randn(500, 16) * torch.logspace(0, -2, 16)
    counts = torch.ones(500)

    first, expand = TableParts(directions=find_directions(table, counts)).factor(table, 8)

    # In INT8 all columns share a scale; those of a plain SVD would differ by a factor of 8 here.
    lengths = first.norm(dim=0)
    assert lengths.max() / lengths.min() < 1.05
    assert expand.norm(dim=0)[0] > 5 * expand.norm(dim=0)[-1]


def _frozen(network: ElasticEncoder) -> ElasticEncoder:
    # As healing does.
    network.embeddings.requires_grad_(False)
    return network


@pytest.mark.parametrize("table", TABLES)
def test_a_network_of_its_own_computes_what_its_slice_computes(table: WordTable) -> None:
    network = make_network()
    arch = replace(WIDTHS, table=table)
    batch = covered_batch()

    own = cut_network(network, arch).eval()

    assert (own(batch).logits - network(batch, arch).logits).abs().max() < 1e-5
    model = extract_healed(own, arch)
    ids = torch.searchsorted(TOKEN_IDS, batch.input_ids) if table.is_cut else batch.input_ids
    logits = model(ids, batch.attention_mask, batch.token_type_ids).logits
    assert (logits - own(batch).logits).abs().max() < 1e-5

    # Healing trains both matrices of a table with a rank, and leaves all other embeddings as they are.
    own = cut_network(_frozen(network), arch)
    names = {name for name, _ in trained_parts([own]).named_parameters() if "embeddings" in name}
    has_own_table = table.rank is not None
    assert names == (
        {"0.embeddings.word.weight", "0.embeddings.expand.weight"} if has_own_table else set()
    )
    trained = {name for name, p in own.embeddings.named_parameters() if p.requires_grad}
    assert not has_own_table or trained == {"word.weight", "expand.weight"}


def test_a_healed_table_is_restored() -> None:
    network = make_network()
    arch = replace(WIDTHS, table=WordTable(True, 8))
    batch = covered_batch()
    own = cut_network(network, arch)
    own.embeddings.expand.weight.data *= 1.1
    weights = trained_parts([own])[0].state_dict()

    restored = cut_network(network, arch, weights)

    assert torch.equal(restored.eval()(batch).logits, own.eval()(batch).logits)
    assert (restored(batch).logits - network(batch, arch).logits).abs().max() > 1e-3


def test_the_json_of_a_table_round_trips_and_that_of_full_ones_stays() -> None:
    for table in TABLES:
        arch = replace(WIDTHS, table=table)
        assert Architecture.from_json(arch.to_json()) == arch
        assert arch.id != WIDTHS.id
    assert set(json.loads(WIDTHS.to_json())) == {"depth", "heads", "ffn"}
    assert json.loads(replace(WIDTHS, table=TABLES[2]).to_json())["table"] == {
        "vocabulary": "task",
        "rank": 8,
    }

    for table in ('{"rank": 0}', '{"rank": true}', '{"vocabulary": "all"}', '{"size": 3}', "7"):
        text = WIDTHS.to_json()[:-1] + f', "table": {table}}}'
        with pytest.raises(UserError, match="not an architecture"):
            Architecture.from_json(text)


def test_a_cut_table_is_plain_and_a_product_is_not() -> None:
    network = make_network()
    batch = covered_batch()
    ids = torch.searchsorted(TOKEN_IDS, batch.input_ids)
    cut = network.extract(replace(network.largest, table=WordTable(True)))
    tokens = {"attention_mask": batch.attention_mask.long(), "token_type_ids": batch.token_type_ids}

    plain = make_plain(cut)

    assert type(plain).__name__ == "BertForSequenceClassification"
    assert (plain(input_ids=ids, **tokens).logits - cut(ids, **tokens).logits).abs().max() < 1e-5
    product = network.extract(replace(network.largest, table=WordTable(True, 8)))
    reason = explain_not_plain(EncoderConfig.from_config(product.config))
    assert "two matrices, of rank 8" in str(reason)


def test_xlm_r_saves_most_of_its_parameters() -> None:
    # XLM-R base; an own vocabulary of 20,000 tokens and rank 128.
    shape = EncoderShape(250002, 768, 768, 64, (12,) * 12, (3072,) * 12, 514, 1, 2, 20_000)
    full = CostModel(shape, 128)
    largest = Architecture(12, (12,) * 12, (3072,) * 12)
    small = replace(largest, table=WordTable(True, 128))

    assert table_params(shape, FULL_TABLE) / full.cost("params", largest) > 0.69
    assert table_params(shape, small.table) == 128 * (20_000 + 768)
    assert full.cost("params", small) < 0.32 * full.cost("params", largest)
    # Each token's row is multiplied by the second matrix.
    added = full.cost("flops", small) - full.cost("flops", largest)
    assert added == 2 * 128 * 128 * 768


def test_positions_of_a_roberta_do_not_move_with_the_padding() -> None:
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    from raycomp.encoder.families import from_family

    torch.manual_seed(0)
    settings = XLMRobertaConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, pad_token_id=1, type_vocab_size=1, num_labels=2,
    )  # fmt: skip
    theirs = XLMRobertaForSequenceClassification(settings).eval()
    config = from_family_config(settings, num_labels=2)
    ours = Encoder(config)
    ours.load_state_dict(from_family("xlm-roberta", config, theirs.state_dict()))
    network = ElasticEncoder(ours).eval()
    token_ids = torch.tensor([0, 1, 2, 3, *range(20, 40)])
    weight = network.embeddings.word.weight
    network.table_parts = TableParts(token_ids, find_directions(weight, torch.ones(40)))
    ids = torch.tensor([[0, 20, 33, 2, 1, 1]])
    expected = theirs(ids, attention_mask=(ids != 1).long()).logits

    cut = network.extract(replace(network.largest, table=WordTable(True)))
    new_ids = torch.searchsorted(token_ids, ids)

    assert cut.config.pad_token_id == 1
    assert (cut(new_ids, (new_ids != 1)).logits - expected).abs().max() < 1e-5
    plain = make_plain(cut)
    logits = plain(new_ids, attention_mask=(new_ids != 1).long()).logits
    assert np.allclose(logits.detach(), expected.detach(), atol=1e-5)
