"""The overview of a job's data and teacher: `plan` and `run` print it before anything is trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from raycomp.data.overview import TITLE, Overview, OverviewRow, describe_task, format_overview
from raycomp.data.token_overview import describe_augmentation, describe_tokens, measure_tokens
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_settings
from raycomp.methods.task_vocabulary import measure_vocabulary
from raycomp.methods.teacher_overview import describe_teacher
from raycomp.runtime.cluster.progress import Progress
from raycomp.storage.files import read_json, write_json


def make_overview(context: RunContext) -> Overview:
    """Return the facts about data and teacher that a user checks first.

    Args:
        context: Context of the run. Nothing is trained.
    """
    overview = describe_task(context.task, context.job.task) + describe_teacher(context)
    overview += _describe_tokens(context) + _describe_vocabulary(context)
    if _augments(context):
        train = context.task.train
        candidates = context.job.augment.candidates
        overview += describe_augmentation(train, context.tokenizer, candidates)
    return overview


def _augments(context: RunContext) -> bool:
    """Return whether a method of the job replaces words of the training text."""
    schemas = [load_settings(name) for name in context.job.run.methods]
    uses_copies = any("augment" in schema.shared_sections for schema in schemas)
    return uses_copies and context.job.augment.copies > 0


def _describe_tokens(context: RunContext) -> Overview:
    """Return the part about tokens. It tokenises every split, which the run needs anyway."""
    task = context.task
    limit = context.max_tokens
    figures = {
        split.name: measure_tokens(split, context.tokens(split.name), context.tokenizer, limit)
        for split in (task.train, *task.validation)
    }
    return describe_tokens(figures, context.job.task.max_length, context.config.max_positions)


def _describe_vocabulary(context: RunContext) -> Overview:
    """Return the line of the overview about the cut vocabulary; empty where the job cuts none."""
    if context.vocabulary is None:
        return Overview()
    figures = measure_vocabulary(context)
    text = (
        f"{figures.tokens:,} of {figures.full_tokens:,} tokens stay in a cut word table; "
        f"{100 * figures.same_texts:.0f}% of the selection texts keep their tokens, and the mean text "
        f"has {figures.mean_after:.1f} tokens instead of {figures.mean_before:.1f}"
    )
    return Overview((OverviewRow("vocabulary", text),), figures={"vocabulary": asdict(figures)})


def show_overview(context: RunContext, progress: Progress) -> None:
    """Write the overview into the run directory once, and print it.

    Args:
        context: Context of a run whose directory exists.
        progress: Prints the lines.

    Raises:
        UserError: The file of an earlier start is damaged.
    """
    path = context.layout.overview
    if not path.exists():
        write_json(path, make_overview(context).to_json())
    progress.block(TITLE, format_overview(_read_overview(path)))


def preview(context: RunContext) -> Overview:
    """Return the overview of a run that may not have begun; nothing is written to its directory.

    Raises:
        UserError: The file of an earlier start is damaged.
    """
    path = context.layout.overview
    return _read_overview(path) if path.exists() else make_overview(context)


def _read_overview(path: Path) -> Overview:
    """Return the overview that a run has stored.

    Raises:
        UserError: The file is damaged.
    """
    try:
        return Overview.from_json(read_json(path))
    except ValueError as error:
        raise UserError(
            f"File {path} is damaged: {error}. Remove it and run the same command again."
        ) from None
