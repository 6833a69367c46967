"""Predictions of a deployed model on rows without labels: GLUE's submission files, or a table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raycomp.errors import UserError

if TYPE_CHECKING:
    from raycomp.api.deployment import Deployment
    from raycomp.data.unlabelled import UnlabelledRows
    from raycomp.methods.context import RunContext


LOGGER = logging.getLogger("raycomp")


def predict_rows(
    deployment: Deployment,
    split: str,
    data: str | Path | None,
    out: str | Path | None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write the predictions of a deployed model; see `Deployment.predict`.

    Args:
        deployment: The deployed model.
        split: Name of a split of the task or of the run.
        data: File with the text columns of the task, or None.
        out: Directory of the files, or None for the run's.
        say: Function that shows one note about how the rows were read; None logs it as a warning.

    Raises:
        UserError: The run is on a URL and no directory is named, or the rows cannot be read.
    """
    from raycomp.methods.context import RunContext
    from raycomp.storage.files import write_text
    from raycomp.storage.layout import RunLayout

    run = deployment.run
    if out is None and run.url is not None:
        raise UserError(f"Run {run.url} is not on this machine. Name a directory with --out.")
    run_dir = run.local_directory()
    context = RunContext(run.job, run_dir)
    # Before the model is loaded: a split that does not exist is named at once.
    parts = _read_parts(context, split, data)
    show = say or LOGGER.warning
    for note in dict.fromkeys(note for part in parts for note in part.notes):
        show(note)

    folder = Path(out) if out is not None else RunLayout(run_dir).predicted(_model_name(deployment))
    model = deployment.load()
    tokenizer = deployment.load_tokenizer()
    paths = []
    for part in parts:
        logits = _predict(context, model, tokenizer, part)
        paths.append(
            write_text(folder / _file_name(context, part), _format(context, model, part, logits))
        )
    return paths


def _model_name(deployment: Deployment) -> str:
    from raycomp.api.deployment import TEACHER

    if deployment.method == TEACHER:
        return TEACHER
    return f"{deployment.method}-{deployment.budget}"


def _read_parts(context: RunContext, split: str, data: str | Path | None) -> list[UnlabelledRows]:
    """Return the rows to predict.

    Raises:
        UserError: Neither the run nor its task has the split, or the file cannot be read.
    """
    from raycomp.data.unlabelled import (
        UnlabelledRows,
        read_test_rows,
        read_unlabelled_file,
        unknown_split_message,
    )

    settings = context.job.task
    if data is not None:
        return [read_unlabelled_file(settings, Path(data))]

    splits = ["selection", *context.validation_names()]
    if split in splits:
        rows = next(s for s in (context.task.selection, *context.task.validation) if s.name == split)
        return [UnlabelledRows(split, rows, [str(number) for number in range(len(rows))])]
    parts = read_test_rows(settings, split)
    if parts is None:
        name = str(settings.name or settings.train)
        if name.startswith("glue/"):
            splits.append("test")
        raise unknown_split_message(context.run_dir.name, name, split, splits)
    return parts


def _predict(context: RunContext, model: Any, tokenizer: Any, part: UnlabelledRows) -> np.ndarray:
    """Return the logits of all rows in fp32 on the CPU, (rows, classes); scores in the user's units."""
    import torch

    from raycomp.data.tokens import fingerprint, tokenise
    from raycomp.encoder.interface import logits_of
    from raycomp.training.evaluation import predict_logits

    # Not cached: the rows do not belong to the run.
    mark = fingerprint(tokenizer)
    tokens = tokenise(part.texts, lambda: tokenizer, mark, context.max_tokens, None)
    return predict_logits(
        lambda batch: logits_of(model, batch),
        tokens,
        # The model's own: where its vocabulary is cut, the run's padding token has another id in it.
        pad_id=int(model.config.pad_token_id or 0),
        max_tokens=context.job.search.max_tokens,
        precision="fp32",
        device=torch.device("cpu"),
    )


def _file_name(context: RunContext, part: UnlabelledRows) -> str:
    from raycomp.data.glue_submission import file_name

    if part.is_glue_test:
        return file_name(str(context.job.task.name), part.name)
    return f"{part.name}.tsv"


def _format(context: RunContext, model: Any, part: UnlabelledRows, logits: np.ndarray) -> str:
    """Return the content of the file of a split: in GLUE's form for its test splits, else class names."""
    from raycomp.data.glue_submission import format_glue, write_tsv

    if part.is_glue_test:
        return write_tsv(part.index, format_glue(str(context.job.task.name), logits))
    if context.regression:
        return write_tsv(part.index, [f"{score:.6g}" for score in logits[:, 0]])
    # The exported model names its outputs as the training file does.
    names = model.config.id2label
    return write_tsv(part.index, [str(names[int(number)]) for number in logits.argmax(1)])
