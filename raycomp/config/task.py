"""The section [task] of a job file."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from raycomp.config.section import Section, choices


class TaskSettings(Section):
    """The labelled text. Set either `name`, or `train` with `text` and `label`."""

    name: str | None = Field(
        None,
        description='GLUE task, such as "glue/sst2" (all nine tasks); "demo/polarity" (film sentences) '
        'or "demo/reviews" (long film reviews); or dataset on the Hub, "owner/dataset" or '
        '"owner/dataset:config", which needs `text`, `label` and splits named train and validation.',
    )
    folder: str | None = Field(
        None,
        description="Local directory with the Parquet or TSV files of one or all GLUE tasks, instead "
        "of a download.",
    )
    train: str | None = Field(
        None,
        description="Your training file: .csv, .tsv or .jsonl (also with .gz), .parquet, or a directory "
        "of part files. It replaces `name`.",
    )
    validation: str | None = Field(
        None,
        description="Your validation file. Not set: 10% of the training rows (at most 20,000), which "
        "are then not trained on. Set it if the model is already fine-tuned on the training file, "
        "because its score on rows that it has seen would be too high.",
    )
    validation_half: Literal["a", "b"] | None = Field(
        None,
        description=choices(
            "Half of the validation rows to use; a hash of a row's text decides its half. Not set: all.",
            {
                "a": "the half on which raycomp's own defaults are chosen",
                "b": "the half whose figures raycomp publishes",
            },
        ),
    )
    text: list[str] = Field(
        [], description="Name of the text column, or of the two text columns of a pair.", max_length=2
    )
    label: str | None = Field(None, description="Name of the label column.")
    labels: list[str] | None = Field(
        None,
        description="Class names in order. Not set: the labels of the training rows as they are written, "
        "sorted, numbers by value. If the "
        "model is already fine-tuned, its outputs are matched to classes by its `id2label`. If that "
        "has other names, give the classes here in the order of the model's outputs. A wrong order is "
        "found on training rows before anything is trained.",
    )
    kind: Literal["auto", "classification", "regression"] = Field(
        "auto",
        description=choices(
            "Kind of task.",
            {
                "auto": "the kind of the GLUE task; classification for other data, except that labels "
                "with fractions are refused",
                "classification": "labels are classes",
                "regression": "labels are numbers, in any units",
            },
        ),
    )
    metric: str | None = Field(
        None,
        description=choices(
            "Metric of all decisions and tables. Not set: the metric of the GLUE task; for other data "
            "`accuracy`, or `pearson_spearman` for regression.",
            {
                "accuracy": "part of the rows that are classified correctly",
                "f1": "F1 of the class `positive`; with more than two classes, the mean over them",
                "accuracy_f1": "mean of accuracy and F1",
                "matthews": "Matthews correlation",
                "pearson": "Pearson correlation (regression)",
                "spearman": "Spearman correlation (regression)",
                "pearson_spearman": "mean of both (regression)",
                "module:function": "your function of labels and predictions, or of labels and logits; "
                "larger values are better. All nodes must be able to import the module",
            },
        ),
    )
    positive: str | None = Field(
        None,
        description="Class that `f1` and `accuracy_f1` of two classes count as positive. "
        "Not set: the second class in the order of `labels`, or in sorted order if `labels` is not set. "
        "`raycomp plan` prints it.",
    )
    allow_shared_rows: bool = Field(
        False,
        description="Whether more than half of the validation rows may also be training rows. Such a "
        "split is otherwise refused, because its score measures memory.",
    )
    selection: float | int = Field(
        0.1,
        description="Size of the selection split, which is taken from the training rows and used for all "
        "decisions of a run. A value below 1 is a share of the rows, of which at most 20,000 are used. A "
        "larger value is the number of rows. Rows of related texts (equal, contained in one another, "
        "nearly equal) stay in one split.",
    )
    limit: int | None = Field(
        None, ge=1, description="Largest number of different training texts. Not set: all."
    )
    max_length: int = Field(
        128, ge=4, le=4096, description="Largest number of tokens of a text. Longer texts are cut."
    )

    @field_validator("selection")
    @classmethod
    def _selection(cls, value: float) -> float:
        is_share = 0 < value < 1
        is_count = math.isfinite(value) and value >= 1 and value == int(value)
        if not is_share and not is_count:
            raise ValueError("it must be a part between 0 and 1, or a whole number of rows")
        return value

    @model_validator(mode="after")
    def _columns(self) -> TaskSettings:
        columns = [*self.text, *([self.label] if self.label is not None else [])]
        if "" in columns:
            raise ValueError("has a column without a name in text or label. Write the name")
        if len(set(self.text)) < len(self.text):
            raise ValueError(f"has the text column {self.text[0]!r} twice. Name each column once")
        if self.label in self.text:
            raise ValueError(
                f"has the column {self.label!r} as text and as label: the model would read the answer. "
                "Name another column"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> TaskSettings:
        if self.name is None and self.train is None:
            raise ValueError('needs name (such as "glue/sst2") or train (a file)')
        if self.name is not None and self.train is not None:
            raise ValueError("has both name and train. Set only one of them")
        if self.name is not None and self.validation is not None:
            raise ValueError(
                f"has validation = {self.validation!r}, but the rows of {self.name!r} are divided "
                "already. Leave validation out, or set train to a file in place of name"
            )
        # A study can have one folder for its GLUE tasks, next to tasks of the demo.
        if self.folder is not None and self.train is not None:
            raise ValueError(
                "has both folder, which is for GLUE tasks, and train. Leave folder out, or set name to a "
                'GLUE task such as "glue/sst2" in place of train'
            )
        if self.train is not None and (not self.text or self.label is None):
            raise ValueError(
                "has a training file, so it needs text (one or two columns) and label (a column)"
            )
        return self
