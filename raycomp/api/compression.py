"""`compress` and `plan`: the commands `raycomp run` and `raycomp plan` as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycomp.api.callbacks import Callback, CallbackList
from raycomp.api.data_input import Data
from raycomp.api.job_builder import Budgets, Request, build_job
from raycomp.api.model_input import Model
from raycomp.api.run import Run
from raycomp.api.session import resumable, run_work
from raycomp.config.job import Job

if TYPE_CHECKING:
    from raycomp.runtime.pipeline.forecast import Machines


def compress(
    model: Model | None = None,
    data: Data | None = None,
    budgets: Budgets | None = None,
    *,
    job: str | Path | Job | None = None,
    methods: Sequence[str] | None = None,
    name: str | None = None,
    storage: str | Path = "runs",
    tokenizer: Any = None,
    metric: str | Callable[..., float] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any],
) -> Run:
    """Compress a model for every budget, and return the finished run.

    The call does what `raycomp run` does, with the same settings. It blocks until the run is finished.
    After an interruption or a failure, the same call with the same arguments resumes the run. A call
    whose run is finished returns it at once.

    An existing Ray session is used and left running. Without one, raycomp joins the cluster that
    RAY_ADDRESS names, or starts Ray on this machine for the duration of the call.

    Args:
        model: Model to compress: a Hub name, a directory, "demo/minilm-l6", a transformers model or a
            transformers pipeline. A fine-tuned classifier is the teacher as it is.
        data: Labelled text: a data file (.csv, .tsv, .jsonl, .parquet), a name such as "glue/sst2",
            "demo/polarity" or a Hub dataset, a pandas DataFrame, a `datasets.Dataset`, or a dict or
            `datasets.DatasetDict` of them with the splits "train" and "validation". The columns are
            found by their usual names; `task={"text": [...], "label": "..."}` names others.
        budgets: One entry per deployment target: `{"phone": {"encoder_params": "0.5x"}}`, or a list of
            `raycomp.Budget`.
        job: Job file, or Job, to start from. The other arguments override it.
        methods: Compression methods, such as `["yoco", "adabert"]`.
        name: Name of the run; its directory is NAME-HASH.
        storage: Directory for the run directories, or a URL such as "s3://bucket/runs".
        tokenizer: Tokenizer of a model in memory, where it is not the one of the checkpoint that the
            model was loaded from.
        metric: Metric that every choice is made by: a name such as "f1", or a function of
            `(labels, predictions)` or `(labels, logits)` whose larger values are better. The processes
            of the run import a function by its name: it must be in a module, not in a notebook.
        callbacks: Objects that follow the run; see `raycomp.Callback`.
        progress: Whether to print progress. None prints on a terminal and in a notebook only. Notices
            go to the logger "raycomp" in any case.
        settings: Settings by dotted name, such as `{"train.epochs": 2}`.
        **sections: Sections of the job file as dicts, such as `train={"epochs": 2}`. docs/job-file.md
            lists them. A searcher or a hint of your own has the same limit as a metric: it must be in a
            module, not in a notebook.

    Returns:
        The run, with its deployments.

    Raises:
        UserError: A setting, the model, the data, the storage or the cluster does not allow the run.
        KeyboardInterrupt: The user interrupted the run. Files are complete, and the session is usable.

    Example:
        >>> import raycomp
        >>> run = raycomp.compress(
        ...     "our-team/reviews-bert",
        ...     data="data/reviews.csv",
        ...     budgets={"phone": {"encoder_params": "0.5x"}},
        ... )  # doctest: +SKIP
        >>> run.best("latency_ms <= 5").save("phone/")  # doctest: +SKIP
    """
    request = Request(
        model=model,
        data=data,
        budgets=budgets,
        job=job,
        methods=methods,
        name=name,
        tokenizer=tokenizer,
        metric=metric,
        settings=settings or {},
        sections=sections,
    )
    complete_job = build_job(request, storage)

    # Ray takes seconds to import, and a mistake in the arguments is found without it.
    from raycomp.api.progress import SessionProgress

    callback_list = CallbackList(callbacks)
    with resumable("raycomp.compress"):
        directory = run_work(complete_job, storage, SessionProgress(progress, callback_list))

    # Only now: for a URL, the copy is complete when run_work returns.
    run = Run.of_storage(storage, directory)
    callback_list.call("on_end", run)
    return run


def plan(
    model: Model | None = None,
    data: Data | None = None,
    budgets: Budgets | None = None,
    *,
    job: str | Path | Job | None = None,
    methods: Sequence[str] | None = None,
    name: str | None = None,
    storage: str | Path = "runs",
    tokenizer: Any = None,
    metric: str | Callable[..., float] | None = None,
    machines: Machines | None = None,
    settings: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any],
) -> dict[str, Any]:
    """Predict the size, time and cost of a job without running it.

    The call does what `raycomp plan --json` does. It reads the data and the shapes of the model, and
    trains nothing.

    Args:
        model: As in `compress`.
        data: As in `compress`.
        budgets: As in `compress`.
        job: As in `compress`.
        methods: As in `compress`.
        name: As in `compress`.
        storage: Directory of the runs, whose measured step times are used.
        tokenizer: As in `compress`.
        metric: As in `compress`.
        machines: Cluster to forecast for, a `raycomp.runtime.pipeline.forecast.Machines`; None
            estimates the time on this machine.
        settings: As in `compress`.
        **sections: As in `compress`.

    Returns:
        The size of the space, the verdict on each budget, steps, memory per worker in GiB and time. The
        keys are those of `raycomp plan --json`.

    Raises:
        UserError: As `compress`. A budget that cannot be met is not an error: it has `feasible` False
            and a `reason`.

    Example:
        >>> import raycomp
        >>> prediction = raycomp.plan(
        ...     "our-team/reviews-bert", "data/reviews.csv", {"phone": {"params": "12M"}}
        ... )  # doctest: +SKIP
        >>> [budget["feasible"] for budget in prediction["budgets"]]  # doctest: +SKIP
        [True]
    """
    from raycomp.api.session import check_references
    from raycomp.runtime.pipeline.plan import make_plan
    from raycomp.storage.location import is_url

    request = Request(
        model=model,
        data=data,
        budgets=budgets,
        job=job,
        methods=methods,
        name=name,
        tokenizer=tokenizer,
        metric=metric,
        settings=settings or {},
        sections=sections,
    )
    complete_job = build_job(request, storage)
    check_references(complete_job)
    measured_runs = Path("runs") if is_url(storage) else Path(storage)
    return make_plan(complete_job, machines, measured_runs)
