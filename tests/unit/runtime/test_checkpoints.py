"""What is left of a training when Ray Train's own list of its checkpoints is torn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raycomp.runtime.training.checkpoints import (
    CHECKPOINT_LIST,
    load_checkpoint,
    rescue_checkpoint,
    save_checkpoint,
)


def training(tmp_path: Path, steps: list[int], listed: str | None) -> Path:
    """Train's folder with a checkpoint at each of some steps."""
    folder = tmp_path / "run" / "train" / "supernet"
    folder.mkdir(parents=True)
    for step in steps:
        weights = {"w": torch.full((2,), float(step))}
        made = folder / f"checkpoint_2026-11-28_10-00-{step:02d}.000000"
        save_checkpoint(made, weights, {"w:exp_avg": weights["w"]}, {"step": step})
    if listed is not None:
        (folder / CHECKPOINT_LIST).write_text(listed)
    return folder


@pytest.mark.parametrize("listed", [None, '{"checkpoint_results": []}'])
def test_a_list_that_is_whole_or_not_there_yet_is_left_alone(tmp_path: Path, listed: str | None) -> None:
    folder, keep = training(tmp_path, [3], listed), tmp_path / "kept"
    assert not rescue_checkpoint(folder, keep)
    assert len(list(folder.glob("checkpoint_*/"))) == 1
    assert not keep.exists()


@pytest.mark.parametrize("listed", ["", '{"checkpoint_results": [', "\x00" * 40])
def test_the_newest_whole_checkpoint_is_kept_where_the_list_is_torn(tmp_path: Path, listed: str) -> None:
    folder, keep = training(tmp_path, [3, 7, 9], listed), tmp_path / "run" / "kept" / "supernet"
    torn = max(folder.glob("checkpoint_*/")) / "optimizer.safetensors"
    torn.write_bytes(torn.read_bytes()[:20])
    save_checkpoint(keep, {"w": torch.zeros(2)}, {}, {"step": 5})  # of an earlier rescue
    assert rescue_checkpoint(folder, keep)
    weights, optimizer, state = load_checkpoint(keep)
    assert state == {"step": 7}
    assert float(weights["w"][0]) == float(optimizer["w:exp_avg"][0]) == 7.0
    assert not folder.exists()
    assert not rescue_checkpoint(folder, keep)
    assert load_checkpoint(keep)[2] == {"step": 7}, "a second start before the next checkpoint"


def test_a_rescue_that_was_cut_off_loses_nothing(tmp_path: Path) -> None:
    """The newest was kept already, and the list is still there."""
    folder, keep = training(tmp_path, [3, 7], ""), tmp_path / "kept"
    max(folder.glob("checkpoint_*/")).rename(keep)
    assert rescue_checkpoint(folder, keep)
    assert load_checkpoint(keep)[2] == {"step": 7}


def test_where_no_checkpoint_is_whole_the_one_that_was_kept_stays(tmp_path: Path) -> None:
    folder, keep = training(tmp_path, [3], ""), tmp_path / "kept"
    assert rescue_checkpoint(folder, keep)
    folder = training(tmp_path, [], "")
    (folder / "checkpoint_2026-11-28_10-00-09.000000").mkdir()
    assert rescue_checkpoint(folder, keep)
    assert load_checkpoint(keep)[2] == {"step": 3}
