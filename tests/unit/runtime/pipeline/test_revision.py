"""The revision of a run's rules: new runs have the latest one, a resume follows that of its start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.data.tasks import load_task
from raycomp.errors import UserError
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.training_tasks import AdabertChildTask
from raycomp.methods.context import RunContext
from raycomp.methods.supernet_start import IMPORTANCE_ROWS, importance_batches
from raycomp.runtime.pipeline.inputs import record_inputs
from raycomp.storage.files import read_json, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.revision import FIRST_REVISION, LATEST_REVISION, read_revision

CPU = torch.device("cpu")


def start(job: dict[str, Any], folder: Path, revision: int) -> RunContext:
    """Return the context of a run that started with a revision; revision 1 was never written down."""
    context = RunContext(parse_job(job), folder)
    if revision == FIRST_REVISION:
        write_json(RunLayout(folder).job, {})
        assert context.revision == FIRST_REVISION
    record_inputs(context)
    if revision == FIRST_REVISION:
        recorded = read_json(RunLayout(folder).inputs)
        del recorded["revision"]
        write_json(RunLayout(folder).inputs, recorded)
    return RunContext(parse_job(job), folder)


@pytest.mark.parametrize("revision", [FIRST_REVISION, LATEST_REVISION])
def test_a_run_resumes_with_the_rows_that_it_started_with(
    revision: int, tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = start(tiny_job, tmp_path / "run", revision)
    assert context.revision == read_revision(context.layout) == revision
    expected = load_task(context.job.task, 0, revision)
    assert context.task.selection.text_a == expected.selection.text_a
    record_inputs(RunContext(context.job, context.run_dir))  # the hash of the rows is that of the start
    assert context.for_method("yoco").revision == revision

    other = load_task(context.job.task, 0, FIRST_REVISION + LATEST_REVISION - revision)
    assert other.selection.text_a != expected.selection.text_a


def test_a_run_with_rows_of_another_revision_is_refused(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """Without the record, an old run would go on with other rows; the hash of the rows finds it."""
    context = start(tiny_job, tmp_path / "run", LATEST_REVISION)
    recorded = read_json(context.layout.inputs)
    write_json(context.layout.inputs, {**recorded, "revision": FIRST_REVISION})
    with pytest.raises(UserError, match="changed since run"):
        record_inputs(RunContext(context.job, context.run_dir))


def test_a_new_directory_and_an_old_one(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    assert read_revision(layout) == LATEST_REVISION
    write_json(layout.job, {})
    assert read_revision(layout) == FIRST_REVISION
    write_json(layout.inputs, {"data": "", "revision": 2})
    assert read_revision(layout) == 2


@pytest.mark.parametrize(
    ("revision", "split"), [(FIRST_REVISION, "train"), (LATEST_REVISION, "selection")]
)
def test_importance_is_measured_on_rows_that_the_teacher_has_not_memorised(
    revision: int, split: str, tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    tiny_job["task"]["selection"] = 40
    context = start(tiny_job, tmp_path / "run", revision)
    texts = {name: {tuple(ids) for ids in token_rows(context, name)} for name in ("train", "selection")}
    rows = [
        tuple(ids[mask].tolist())
        for batch in importance_batches(context)
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    assert set(rows) <= texts[split]
    assert len(rows) == len(texts[split]) or len(rows) >= min(IMPORTANCE_ROWS, 40)


def token_rows(context: RunContext, split: str) -> list[list[int]]:
    tokens = context.tokens(split)
    bounds = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    return [tokens.input_ids[start:end].tolist() for start, end in bounds]


@pytest.mark.parametrize("revision", [FIRST_REVISION, LATEST_REVISION])
def test_seeds_of_adabert_have_batches_and_masks_of_their_own(
    revision: int, tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    tiny_job["run"]["methods"] = ["adabert"]
    context = start(tiny_job, tmp_path / "run", revision)
    data = DistillationData(context.job, context.run_dir, method="adabert")

    def data_seed(seed: int) -> int:
        task = AdabertChildTask.__new__(AdabertChildTask)
        task.context, task.plan = data, {"seed": seed}
        return task.data_seed

    assert (data_seed(1) != data_seed(2)) == (revision == LATEST_REVISION)
    assert data_seed(0) == 0  # the first seed of run.seed = 0 keeps its results

    loss = data.distillation_loss(0.8)
    assert loss.scaled == (revision == LATEST_REVISION)
