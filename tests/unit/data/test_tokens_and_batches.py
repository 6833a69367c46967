from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycomp.data.batches import TrainPlan, collate, eval_batches, shard, smallest_batch
from raycomp.data.metrics import compute
from raycomp.data.tasks import Split
from raycomp.data.tokens import fingerprint, tokenise
from tests.conftest import make_sentences, make_tokenizer

MARK = fingerprint(make_tokenizer())


def split(rows: int = 50) -> Split:
    frame = make_sentences(rows, 0)
    labels = (frame["label"] == "good").astype(np.int64).to_numpy()
    return Split("train", frame["text"].tolist(), None, labels)


def test_tokens_are_the_tokenizer_s_and_cut_at_the_limit() -> None:
    tokens = tokenise(split(), make_tokenizer, MARK, 8, None)
    for i, text in enumerate(split().text_a):
        expected = make_tokenizer()(text, truncation=True, max_length=8)["input_ids"]
        assert tokens.input_ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() == expected


def test_pairs_have_token_types() -> None:
    given = split(6)
    pair = Split("train", given.text_a, given.text_a[::-1], given.labels)
    tokens = tokenise(pair, make_tokenizer, MARK, 30, None)
    expected = make_tokenizer()(given.text_a[0], given.text_a[-1])
    first = slice(tokens.offsets[0], tokens.offsets[1])
    assert tokens.token_types[first].tolist() == expected["token_type_ids"]


def test_the_cache_is_keyed_by_content_and_survives_damage(tmp_path: Path) -> None:
    one = tokenise(split(), make_tokenizer, MARK, 16, tmp_path)
    files = list(tmp_path.rglob("*.arrow"))
    assert len(files) == 1
    again = tokenise(split(), make_tokenizer, MARK, 16, tmp_path)
    assert np.array_equal(one.input_ids, again.input_ids)
    tokenise(split(), make_tokenizer, MARK, 12, tmp_path)
    tokenise(split(48), make_tokenizer, MARK, 16, tmp_path)
    assert len(list(tmp_path.rglob("*.arrow"))) == 3
    torn = files[0].read_bytes()[:100]
    files[0].unlink()  # `one` still maps the old file
    files[0].write_bytes(torn)
    healed = tokenise(split(), make_tokenizer, MARK, 16, tmp_path)
    assert np.array_equal(one.input_ids, healed.input_ids)


def test_an_epoch_has_every_row_once_and_a_step_is_a_pure_function() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 205)
    plan = TrainPlan(lengths, 16, 5)
    for epoch in range(3):
        first = epoch * plan.steps_per_epoch
        rows = np.concatenate([plan.rows(first + i) for i in range(plan.steps_per_epoch)])
        assert sorted(rows) == list(range(205))
    assert np.array_equal(TrainPlan(lengths, 16, 5).rows(20), plan.rows(20))
    assert not np.array_equal(TrainPlan(lengths, 16, 6).rows(20), plan.rows(20))


def test_rows_of_a_batch_have_similar_lengths() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 2000)
    plan = TrainPlan(lengths, 16, 0)
    padded = sum(lengths[plan.rows(i)].max() * 16 for i in range(plan.steps_per_epoch))
    assert padded < 1.15 * lengths.sum()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_make_up_the_batch(world: int) -> None:
    rows = np.arange(17)
    parts = [shard(rows, r, world) for r in range(world)]
    assert sorted(np.concatenate(parts)) == list(rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_collate_pads_with_the_pad_token_and_masks_it() -> None:
    tokens = tokenise(split(), make_tokenizer, MARK, 16, None)
    longest = int(tokens.lengths[[3, 7, 11]].max())
    for multiple, length in ((1, longest), (8, -(-longest // 8) * 8)):
        batch = collate(tokens, np.array([3, 7, 11]), 0, multiple=multiple)
        assert batch.input_ids.shape[1] == length
    assert batch.attention_mask.sum(1).tolist() == tokens.lengths[[3, 7, 11]].tolist()
    assert not batch.input_ids[~batch.attention_mask].any()


def test_a_batch_touches_the_lengths_of_its_rows_only() -> None:
    """All lengths are computed once: at 100 million rows, each time costs two seconds of every step."""
    tokens = tokenise(split(), make_tokenizer, MARK, 16, None)
    rows = np.array([3, 7, 11])
    assert tokens.row_lengths(rows).tolist() == np.diff(tokens.offsets)[rows].tolist()
    collate(tokens, rows, 0)
    assert "lengths" not in vars(tokens)
    assert tokens.lengths is tokens.lengths


def test_evaluation_batches_cover_everything_within_the_token_limit() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    for multiple in (1, 8):
        batches = eval_batches(lengths, 1024, multiple)
        assert sorted(np.concatenate(batches)) == list(range(500))
        assert all(len(b) * (-(-lengths[b].max() // multiple) * multiple) <= 1024 for b in batches)


def test_metrics_by_hand() -> None:
    labels = np.array([1, 1, 0, 0, 1])
    logits = np.array([[0, 1], [1, 0], [1, 0], [0, 1], [0, 1.0]])
    found = compute(("accuracy", "f1", "accuracy_f1", "matthews"), labels, logits)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["accuracy_f1"] == pytest.approx((0.6 + 2 / 3) / 2)
    assert found["matthews"] == pytest.approx((2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2))
    real = compute(
        ("pearson", "spearman", "pearson_spearman"),
        np.array([1.0, 2.0, 4.0]),
        np.array([[1.0], [3.0], [9.0]]),
    )
    assert real["spearman"] == pytest.approx(1.0)
    assert real["pearson_spearman"] == pytest.approx((1 + real["pearson"]) / 2)


@pytest.mark.parametrize(("rows", "batch_size"), [(3301, 8), (100, 32), (7, 8), (64, 64), (65, 64)])
def test_the_smallest_batch_is_known_beforehand(rows: int, batch_size: int) -> None:
    plan = TrainPlan(np.full(rows, 5), batch_size, seed=0)
    sizes = [len(plan.rows(i)) for i in range(plan.steps_per_epoch)]
    assert min(sizes) == smallest_batch(rows, batch_size)
    assert max(sizes) <= batch_size
