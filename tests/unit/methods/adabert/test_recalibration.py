"""Running statistics of a child that keeps the weights of its parent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raycomp.data.batches import Batch
from raycomp.methods.adabert import trials
from raycomp.methods.adabert.compiler import compile_child
from raycomp.methods.adabert.recalibration import recalibrate
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import OPERATIONS, Structure
from raycomp.methods.adabert.student import Child, Parent
from raycomp.storage.method_layout import TrialLayout
from raycomp.storage.tensors import load_tensors, save_tensors
from tests.unit.methods.adabert.builders import SHAPE, make_batch, perturb

STRUCTURE = Structure(2, ("std_conv_3", "dil_conv_5", *OPERATIONS[:7]))


def make_child() -> Child:
    """Return a child whose statistics are those of other inputs."""
    torch.manual_seed(0)
    child = Parent(SHAPE, 3, 3).extract_child(STRUCTURE)
    perturb(child)
    child.dropout = 0.0
    return child


def logits_of(child: Child, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return child(batch.input_ids, batch.attention_mask)[0]


def batch_statistics(child: Child, batch: Batch) -> list[torch.Tensor]:
    """Return the statistics of one batch, as training mode moves the buffers towards them."""
    before = [buffer.clone() for buffer in child.buffers()]
    child.train()
    logits_of(child, batch)
    statistics = [(new - 0.9 * old) / 0.1 for new, old in zip(child.buffers(), before, strict=True)]
    for buffer, old in zip(child.buffers(), before, strict=True):
        buffer.copy_(old)
    child.eval()
    return statistics


def test_after_recalibration_the_child_normalises_by_the_statistics_of_its_own_inputs() -> None:
    child, batch = make_child(), make_batch()
    with torch.no_grad():
        child.train()
        expected = child(batch.input_ids, batch.attention_mask)[0]  # normalised by the batch itself
    child = make_child().eval()
    before = logits_of(child, batch)
    weights = [parameter.clone() for parameter in child.parameters()]

    recalibrate(child, [batch])
    assert not child.training
    torch.testing.assert_close(logits_of(child, batch), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, expected, atol=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(weights, child.parameters(), strict=True))


def test_statistics_are_means_over_the_batches() -> None:
    child = make_child().eval()
    batches = [make_batch(16), make_batch(8)]
    parts = [batch_statistics(child, batch) for batch in batches]
    recalibrate(child, batches)
    for buffer, first, second in zip(child.buffers(), *parts, strict=True):
        torch.testing.assert_close(buffer, (first + second) / 2, atol=1e-4, rtol=1e-4)


def test_the_compiled_child_has_the_new_statistics() -> None:
    child, batch = make_child(), make_batch()
    recalibrate(child, [batch])
    model = compile_child(child)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(logits, logits_of(child, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("revision", [1, 2])
def test_a_child_that_is_not_trained_is_recalibrated(
    revision: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of revision 1 deploy the statistics of the parent."""
    files = TrialLayout(tmp_path)
    files.structure.write_text(STRUCTURE.to_json())
    parent = make_child().state_dict()
    save_tensors(files.parent, parent)
    settings = AdabertSettings(child_epochs=0)
    data: Any = SimpleNamespace(
        layout=SimpleNamespace(trial=lambda name: files),
        job=SimpleNamespace(settings=lambda schema: settings, run=SimpleNamespace(seed=0)),
        student_shape=SHAPE,
        revision=revision,
    )
    monkeypatch.setattr(trials, "recalibration_batches", lambda data, seed: [make_batch()])
    trials._train_child(SimpleNamespace(), data, trials.Trial(0.8, 4.0, 3, 0))  # type: ignore[arg-type]

    saved = load_tensors(files.child)
    changed = {name for name, value in saved.items() if not torch.equal(value, parent[name])}
    statistics = {name for name, _ in make_child().named_buffers()}
    assert changed == (statistics if revision == 2 else set())
