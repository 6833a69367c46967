"""Golden facts of BiLSTM-soft and static embeddings, each with a mutant that must fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.encoder.export import export_model
from raycomp.methods.bilstm import Bilstm, BilstmSettings, LogitDistance
from raycomp.methods.bilstm_model import (
    RaycompBilstmConfig,
    RaycompBilstmForSequenceClassification,
)
from raycomp.methods.exported_models import load_export
from raycomp.methods.principal_components import principal_components
from raycomp.methods.static import Static, sif_weights
from raycomp.methods.text_model import join_texts, split_texts
from raycomp.storage.tensors import load_tensors
from raycomp.training.hints import LABELS_ONLY, Objective
from tests.unit.methods.golden import compress, make_context
from tests.unit.training.test_hints import STUDENT, TEACHER, one_row


def test_the_bilstm_has_its_published_size() -> None:
    """Hidden 150, 200 units before the classifier, 600 inputs, 2 classes: 963,002 parameters."""
    config = RaycompBilstmConfig(vocab_size=10, num_labels=2)
    model = RaycompBilstmForSequenceClassification(config)
    counts = {name: p.numel() for name, p in model.named_parameters() if "word" not in name}
    assert sum(counts.values()) == 963_002


def check_bilstm(objective: Objective) -> None:
    """Logits (0, 0) against (2, 0): 4 / 2 = 2. The labels change nothing."""
    losses = [objective.losses(STUDENT, TEACHER, one_row(label))[0] for label in (0, 1)]
    assert torch.equal(*losses)
    assert float(losses[0]) == pytest.approx(2.0)


def test_bilstm_soft_matches_logits(tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path, "bilstm", tuned_model)
    check_bilstm(Bilstm().objective(context))
    assert float(LogitDistance().loss(STUDENT, STUDENT, one_row())) == 0.0
    with pytest.raises(AssertionError):
        check_bilstm(LABELS_ONLY)


def test_padding_changes_no_output_of_the_bilstm() -> None:
    torch.manual_seed(0)
    config = RaycompBilstmConfig(vocab_size=12, embedding_size=6, hidden_size=5, fc_size=4, pair=True,
                                 sep_token_id=3)  # fmt: skip
    model = RaycompBilstmForSequenceClassification(config).eval()
    ids = torch.tensor([[2, 5, 6, 3, 7, 3]])
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    mask = padded > 0
    expected = model(ids).logits
    assert torch.allclose(model(padded, mask).logits, expected, atol=1e-6)
    swapped = torch.tensor([[2, 7, 6, 3, 5, 3]])
    assert not torch.allclose(model(swapped).logits, expected, atol=1e-4)


def test_the_features_of_a_pair_are_u_v_their_distance_and_product() -> None:
    u, v = torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 2.0]])
    assert join_texts([u, v]).tolist() == [[1.0, 4.0, 3.0, 2.0, 2.0, 2.0, 3.0, 8.0]]
    ids = torch.tensor([[2, 5, 3, 6, 7, 3, 0]])
    (first, first_mask), (second, second_mask) = split_texts(ids, ids > 0, True, 3)
    assert first[first_mask].tolist() == [2, 5, 3]
    assert second[second_mask].tolist() == [6, 7, 3]


def test_principal_components_keep_the_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(200, 6, generator=generator) * torch.tensor([9.0, 5.0, 1.0, 0.1, 0.1, 0.1])
    reduced = principal_components(table, 2)
    assert reduced.shape == (200, 2)
    kept_share = reduced.var(0).sum() / table.var(0).sum()
    assert float(kept_share) > 0.95
    assert reduced.var(0)[0] > reduced.var(0)[1]


# Static embeddings.


def check_static(context: Any) -> None:
    """The vectors stay as the teacher gave them, and the order of the words changes nothing."""
    method = Static()
    start = method.start_weights(context)
    compress(context)
    model = method.load_model(context)
    weights = load_tensors(context.files.student(method.deployment(context)).network)
    ids = torch.tensor([[2, 6, 11, 17, 3]])
    assert torch.allclose(model(ids).logits, model(ids[:, [0, 3, 1, 2, 4]]).logits, atol=1e-6)
    assert not torch.equal(weights["classifier.weight"], start["classifier.weight"])
    assert torch.equal(weights["word.weight"], start["word.weight"])


def test_static_embeddings_train_a_linear_head_only(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 1.0}
    check_static(make_context(tiny_job, tmp_path / "a", "static", tuned_model, **settings))
    # The mutant trains the vectors too.
    with pytest.raises(AssertionError):
        check_static(make_context(tiny_job, tmp_path / "b", "static", tuned_model, tune=True, **settings))


def test_frequent_tokens_count_less(tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path, "static", tuned_model)
    weights = sif_weights(context.tokens("train"), 25, 1e-3)
    the, cold = context.tokenizer.convert_tokens_to_ids(["the", "cold"])
    assert weights[the] < weights[cold] < 1.0
    assert float(weights[0]) == pytest.approx(1.0)
    start = Static().start_weights(context)["word.weight"]
    # Special tokens are in every text.
    assert torch.equal(start[context.tokenizer.all_special_ids], torch.zeros(5, start.shape[1]))


@pytest.mark.parametrize("method", [Bilstm(), Static()], ids=["bilstm", "static"])
def test_an_export_is_loaded_by_raycomp_s_own_class(
    method: Any, tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """The code in the folder is not executed: a run directory may come from somebody else."""
    context = make_context(tiny_job, tmp_path, method.settings.method, tuned_model)
    model = method.build_model(context).eval()
    ids = torch.tensor([[2, 6, 11, 3]])
    expected = model(ids).logits
    card = {"base_model": "b", "task": "t", "method": "m"}
    export_model(model, context.tokenizer, tmp_path / "export", ["bad", "good"], card)
    loaded = load_export(tmp_path / "export")
    assert type(loaded) is type(model)
    assert torch.allclose(loaded(ids).logits, expected, atol=1e-6)


def test_each_optimizer_of_the_bilstm_has_its_learning_rate(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    assert BilstmSettings().largest_rate == 1e-3
    assert BilstmSettings(optimizer="adadelta").largest_rate == 1.0
    assert BilstmSettings(optimizer="adadelta", learning_rate=0.5).largest_rate == 0.5
    with pytest.raises(ValueError, match='it must be "auto", or a number above 0'):
        BilstmSettings(learning_rate=0.0)

    context = make_context(tiny_job, tmp_path, "bilstm", tuned_model, optimizer="adadelta")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = Bilstm().optimizer(context)([{"params": [parameter]}])
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_an_open_learning_rate_leaves_the_identity_of_earlier_runs(tiny_job: dict[str, Any]) -> None:
    def identity(**settings: Any) -> str:
        job = {**tiny_job, "run": {"name": "a", "methods": ["bilstm"]}, "bilstm": settings}
        return parse_job(job).identity()

    # Earlier versions wrote the number of their default.
    assert identity() == identity(learning_rate=1e-3)
    adadelta = identity(optimizer="adadelta")
    assert adadelta == identity(optimizer="adadelta", learning_rate=1.0)
    assert adadelta != identity(optimizer="adadelta", learning_rate=1e-3)
