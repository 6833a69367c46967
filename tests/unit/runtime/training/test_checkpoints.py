"""Rescue of a checkpoint if Ray Train's own list of checkpoints is corrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raycomp.errors import UserError
from raycomp.runtime.training.checkpoints import (
    CHECKPOINT_LIST,
    load_checkpoint,
    rescue_checkpoint,
    save_checkpoint,
)
from raycomp.storage.layout import RunLayout


def make_training(tmp_path: Path, steps: list[int], checkpoint_list: str | None) -> Path:
    """Create Ray Train's directory with a checkpoint at each of some steps."""
    folder = RunLayout(tmp_path / "run").train("supernet")
    folder.mkdir(parents=True)
    for step in steps:
        weights = {"w": torch.full((2,), float(step))}
        path = folder / f"checkpoint_2026-11-28_10-00-{step:02d}.000000"
        save_checkpoint(path, weights, {"w:exp_avg": weights["w"]}, {"step": step})
    if checkpoint_list is not None:
        (folder / CHECKPOINT_LIST).write_text(checkpoint_list)
    return folder


@pytest.mark.parametrize("checkpoint_list", [None, '{"checkpoint_results": []}'])
def test_nothing_is_rescued_from_a_valid_or_missing_list(
    tmp_path: Path, checkpoint_list: str | None
) -> None:
    training = make_training(tmp_path, [3], checkpoint_list)
    target = tmp_path / "rescued"

    assert not rescue_checkpoint(training, target)
    assert len(list(training.glob("checkpoint_*/"))) == 1
    assert not target.exists()


@pytest.mark.parametrize("checkpoint_list", ["", '{"checkpoint_results": [', "\x00" * 40])
def test_the_newest_complete_checkpoint_is_rescued(tmp_path: Path, checkpoint_list: str) -> None:
    training = make_training(tmp_path, [3, 7, 9], checkpoint_list)
    target = RunLayout(tmp_path / "run").rescued_checkpoint("supernet")

    # The newest one is corrupted, and the one from an earlier rescue is older.
    corrupted = max(training.glob("checkpoint_*/")) / "optimizer.safetensors"
    corrupted.write_bytes(corrupted.read_bytes()[:20])
    save_checkpoint(target, {"w": torch.zeros(2)}, {}, {"step": 5})

    assert rescue_checkpoint(training, target)
    weights, optimizer, state = load_checkpoint(target)
    assert state == {"step": 7}
    assert float(weights["w"][0]) == float(optimizer["w:exp_avg"][0]) == 7.0
    assert not training.exists()

    # A second start before the next checkpoint.
    assert not rescue_checkpoint(training, target)
    assert load_checkpoint(target)[2] == {"step": 7}


def test_an_interrupted_rescue_loses_nothing(tmp_path: Path) -> None:
    """The newest checkpoint was moved, and the corrupted list is still there."""
    training = make_training(tmp_path, [3, 7], "")
    target = tmp_path / "rescued"
    max(training.glob("checkpoint_*/")).rename(target)

    assert rescue_checkpoint(training, target)
    assert load_checkpoint(target)[2] == {"step": 7}


def test_a_rescued_checkpoint_stays_if_no_other_is_complete(tmp_path: Path) -> None:
    training = make_training(tmp_path, [3], "")
    target = tmp_path / "rescued"
    assert rescue_checkpoint(training, target)

    training = make_training(tmp_path, [], "")
    (training / "checkpoint_2026-11-28_10-00-09.000000").mkdir()
    assert rescue_checkpoint(training, target)
    assert load_checkpoint(target)[2] == {"step": 3}


def test_an_incomplete_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint_1 is incomplete .* Remove this directory"):
        load_checkpoint(tmp_path / "checkpoint_1")
