"""Students of whole layers with one setting changed at a time, without Ray: what does one of them need?

    python -m benchmarks.students pkd --try patience=sum --try patience=mean --budgets three-quarters
    python -m benchmarks.students first-n --try "learning_rate=3e-4 start=teacher" --budgets quarter

Trains the students of variants of jobs/studies/methods.toml (preset small) in this process, with the same
task, step and loop as on Ray. Each --try is one training per budget: settings of the method's section, or
full keys such as `task.limit=500`, that differ from the study. `clip=0` trains without clipping. The
lengths are those of `run.equal_compute`, unless a --try sets `run.equal_compute=0`.

Prints for each student:

- `terms`: each term of the objective with its weight on training rows, before and after the training, in
  eval mode; in brackets, the norm of its gradient before the training.
- `norm`: median norm of the gradient before clipping, over all steps.
- `train`: accuracy on 512 training rows; `score`: the task's metric on the validation rows of --half,
  with its 95% bootstrap interval over these rows.

Writes one JSON line per student to OUT/students.jsonl, and its outputs on all validation rows. Students
that are in this file are not trained again: settings are chosen on half a, and the same command with
`--half b` prints the figures of the other half. The teacher is trained once for each seed and kept in
OUT. A student takes from 10 seconds to a minute on two cores.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.healing import kept_rows, predict, run_network
from benchmarks.measure import make_parser
from benchmarks.workload import ROOT
from raycomp.config.identity import artifact_keys
from raycomp.config.job import Job
from raycomp.config.lengths import apply_lengths
from raycomp.config.loader import parse_job
from raycomp.config.overrides import apply_overrides
from raycomp.config.study import load_study_file
from raycomp.data.batches import Batch, collate
from raycomp.data.tokens import TokenSplit
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.methods.lengths import find_lengths
from raycomp.methods.registry import load_method_class
from raycomp.methods.scoring import score_forward
from raycomp.methods.student_models import student_network
from raycomp.methods.student_task import StudentTask, TeacherSource
from raycomp.methods.students import StudentMethod
from raycomp.methods.tasks import TrainingTask
from raycomp.methods.teacher import TeacherTask
from raycomp.report.bootstrap import bootstrap_replicates, percentile_interval
from raycomp.report.predictions import Predictions
from raycomp.storage.files import write_json
from raycomp.storage.tensors import save_tensors
from raycomp.testing.local_run import LocalRun
from raycomp.training.loop import fit
from raycomp.training.phases import TrainingPhase
from raycomp.training.seeding import worker_seed

CPU = torch.device("cpu")
STUDY = ROOT / "jobs" / "studies" / "methods.toml"
NO_CLIPPING = "clip=0"
ROWS = 512  # training rows whose accuracy is measured


def main() -> None:
    """Train every student, print its figures, and write them."""
    parser = make_parser(__doc__)
    parser.add_argument("variants", nargs="+", metavar="VARIANT", help="variants of the study")
    parser.add_argument("--try", action="append", dest="tries", metavar="SETTINGS", help="one training")
    parser.add_argument("--task", default="demo/polarity")
    parser.add_argument("--budgets", nargs="+", default=["three-quarters", "half", "quarter"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--half", choices=["a", "b"], default="a", help="validation rows")
    parser.add_argument("--layers", type=int, nargs="+", help="layers of the start (default: the method)")
    parser.add_argument("--passes", type=float, default=6.0, help="run.equal_compute")
    parser.add_argument("--out", type=Path, default=Path("runs/students"))
    args = parser.parse_args()

    print("| variant | settings | budget | seed | layers | steps | terms | norm | train | score |")
    print("|---|---|---|--:|--:|--:|---|--:|--:|--:|")
    for seed in args.seeds:
        for variant in args.variants:
            for settings in args.tries or [""]:
                trial = Trial(variant, settings, seed, args.task, args.passes, args.layers)
                for row in train_students(trial, args.budgets, args.out):
                    print(format_row(row, args.half), flush=True)


@dataclass(frozen=True)
class Trial:
    """Identity of the students of one --try: the options of the command line that change them."""

    variant: str
    settings: str
    seed: int
    task: str
    passes: float
    start_layers: list[int] | None


def make_job(trial: Trial) -> Job:
    """Return the job of a variant of the study, with the settings of a --try."""
    grid = [f'study.tasks=["{trial.task}"]', f"study.seeds=[{trial.seed}]"]
    jobs = {run.variant: run.job for run in load_study_file(STUDY, grid, "small").runs}
    if trial.variant not in jobs:
        raise SystemExit(
            f"{STUDY.name} does not have the variant {trial.variant!r}. Variants: {', '.join(jobs)}."
        )
    data = jobs[trial.variant].model_dump(mode="json")
    data["run"]["equal_compute"] = trial.passes
    # The halves are compared after the training, which does not depend on them.
    data["task"]["validation_half"] = None

    method = data["run"]["methods"][0]
    items = [item for item in trial.settings.split() if item != NO_CLIPPING]
    apply_overrides(data, [i if "." in i.partition("=")[0] else f"{method}.{i}" for i in items])
    # Zero passes: the lengths of the preset, or those of the --try.
    data["run"]["equal_compute"] = data["run"]["equal_compute"] or None
    return parse_job(data)


def train_students(trial: Trial, budgets: list[str], out: Path) -> Iterable[dict[str, Any]]:
    """Train the student of each budget, unless an earlier command did, and yield its figures."""
    job = make_job(trial)
    method_name = job.run.methods[0]
    context = RunContext(job, out / artifact_keys(job)["teacher"], method=method_name)
    prepare_teacher(context)
    context.job = apply_lengths(job, find_lengths(context))
    method = load_method_class(method_name)()
    if not isinstance(method, StudentMethod):
        raise SystemExit(
            f"{method_name} does not train a student for each budget. Choose another variant."
        )
    layers = trial.start_layers
    if layers is not None:
        method.layers = lambda context, num_layers: tuple(layers)[:num_layers]
    run = LocalRun(context)

    for budget in context.job.budget:
        if budget.name not in budgets:
            continue
        key = {**asdict(trial), "budget": budget.name}
        row = find_row(out / "students.jsonl", key)
        if row is None:
            context.files.student(budget.name).pruned.unlink(missing_ok=True)  # of an earlier --try
            method.prepare(run)
            arch = method.choose_architecture(run, budget)
            if arch is None:
                continue
            clips = NO_CLIPPING not in trial.settings.split()
            figures, logits = train_student(context, method, budget.name, arch, clips=clips)
            row = {**key, **figures}
            save_row(out, row, logits)
        yield {**row, "predictions": read_predictions(context, out, row)}


def find_row(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row of a student in a file of rows; None where it is missing."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return next((row for row in rows if all(row[name] == key[name] for name in key)), None)


def save_row(out: Path, row: dict[str, Any], logits: np.ndarray) -> None:
    """Write the outputs of a student, then its row."""
    path = out / "students.jsonl"
    row["outputs"] = f"{len(path.read_text().splitlines()) if path.exists() else 0:04}.npy"
    np.save(out / row["outputs"], logits)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_predictions(context: RunContext, out: Path, row: dict[str, Any]) -> dict[str, Predictions]:
    """Return a student's outputs on each half of the validation rows."""
    logits = np.load(out / row["outputs"], allow_pickle=False)
    labels = np.asarray(context.tokens(context.task.validation[0].name).written_labels)
    both = Predictions((labels,), (logits,), context.facts.positive)
    halves = {half: kept_rows(context, half) for half in ("a", "b")}
    return {k: replace(both, labels=(labels[i],), logits=(logits[i],)) for k, i in halves.items()}


def prepare_teacher(context: RunContext) -> None:
    """Write facts and tokens of the run, and train its teacher and print its score, unless it exists."""
    context.run_dir.mkdir(parents=True, exist_ok=True)
    context.record_facts()
    context.precision(CPU)
    for split in ("train", "selection"):
        context.tokens(split)
    if context.layout.teacher_score.exists():
        return

    if not context.layout.teacher_network.exists():
        save_tensors(context.layout.teacher_start, context.network().state_dict())
        teacher = TeacherTask(context, {}, device=CPU, reduce=None)
        run_steps(context, teacher)
        teacher.finish()
    network = context.teacher().eval()

    def forward(batch: Batch) -> Tensor:
        return network(batch).logits

    names = ["selection", *(split.name for split in context.task.validation)]
    scores = {name: score_forward(context, forward, name).values for name in names}
    write_json(context.layout.teacher_score, scores)
    halves = [predict(context, forward, kept_rows(context, half)) for half in ("a", "b")]
    values = " and ".join(f"{predictions.value(context.primary):.3f}" for predictions in halves)
    print(f"| teacher of seed {context.job.run.seed}, halves a and b: {values} |", flush=True)


def run_steps(context: RunContext, task: TrainingTask) -> None:
    """Run all steps of a training on one rank."""
    task.begin(0, 1, None)
    batches = task.batch_plan()

    def batch_at(index: int) -> Batch:
        return collate(task.tokens, batches.rows(index), context.pad_id)

    seed = worker_seed(task.data_seed, 0)
    fit(task.step, batch_at, 0, task.num_steps, seed=seed, report=lambda *_: None)


def train_student(
    context: RunContext, method: StudentMethod, budget: str, arch: Architecture, *, clips: bool = True
) -> tuple[dict[str, Any], np.ndarray]:
    """Train one student; return its figures, and its outputs on all validation rows."""
    save_tensors(context.files.student(budget).start, method.start_weights(context, arch))
    task = StudentTask(context, {"budget": budget}, device=CPU, reduce=None)
    phases = method.phases(context, arch, task.steps_per_epoch, task.model)
    before = measure_terms(context, task, phases[0], with_gradients=True)

    task.updater.clip = task.updater.clip if clips else math.inf
    norms: list[float] = []
    update = task.updater.update

    def recorded_update(step: int) -> None:
        gradients = [p.grad for p in task.model.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        update(step)

    task.updater.update = recorded_update
    run_steps(context, task)
    # The last phase: another objective than that of the first one, in methods of two phases.
    after = measure_terms(context, task, phases[-1], with_gradients=False)

    student = student_network(context, arch)
    student.load_state_dict(method.student_weights(context, task.model, arch))
    student.eval()

    def forward(batch: Batch) -> Tensor:
        return student(batch).logits

    figures = {
        "layers": arch.depth,
        "steps": task.num_steps,
        "before": before,
        "after": after,
        "norm": statistics.median(norms),
        "train": accuracy(forward, context.tokens("train"), context.pad_id),
        "metric": context.primary,
    }
    return figures, run_network(context, forward)


def measure_terms(
    context: RunContext, task: StudentTask, phase: TrainingPhase, *, with_gradients: bool
) -> dict[str, list[float]]:
    """Return each weighted term on training rows, in eval mode: name -> [loss, norm of its gradient]."""
    tokens = context.tokens("train")
    rows = np.arange(min(ROWS // 8, len(tokens)))
    batch = collate(tokens, rows, context.pad_id)
    model = task.model.eval()
    teacher = TeacherSource(context, CPU)(phase.objective)
    # The student of Theseus is the last path of its network, on which all modules are replaced.
    arch = phase.arch_at(phase.steps - 1) if phase.arch_at is not None else None

    with torch.no_grad():
        target = None if teacher is None else teacher(batch)
    reads = {"hidden": phase.objective.needs_hidden, "attention": phase.objective.needs_attention}
    output = model(batch, arch, **reads)
    figures = {}
    for weight, hint in phase.objective.terms:
        loss = weight * hint.loss(output, target, batch)
        norm = _gradient_norm(loss, model) if with_gradients and loss.requires_grad else 0.0
        figures[type(hint).__name__.lower()] = [float(loss.detach()), norm]
    model.train()
    return figures


def _gradient_norm(loss: Tensor, model: nn.Module) -> float:
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))


def accuracy(forward: Callable[[Batch], Tensor], tokens: TokenSplit, pad_id: int) -> float:
    """Return the share of training rows whose class is predicted."""
    batch = collate(tokens, np.arange(min(ROWS, len(tokens))), pad_id)
    with torch.inference_mode():
        predicted = forward(batch).argmax(-1)
    return float((predicted == batch.labels).float().mean())


def format_row(row: dict[str, Any], half: str) -> str:
    """Return the figures of a student as a row of the printed table."""
    parts = []
    for name in row["before"] | row["after"]:
        start, norm = row["before"].get(name, (math.nan, 0.0))
        end, _ = row["after"].get(name, (math.nan, 0.0))
        parts.append(f"{name} {start:.3g} to {end:.3g} ({norm:.2g})")

    predictions = row["predictions"][half]
    low, high = percentile_interval(bootstrap_replicates(row["metric"], [predictions]))
    score = f"{predictions.value(row['metric']):.3f} ({low:.3f} to {high:.3f})"
    texts = [row["variant"], row["settings"], row["budget"], row["seed"], row["layers"], row["steps"]]
    texts += [", ".join(parts), f"{row['norm']:.2g}", f"{row['train']:.3f}", score]
    return "| " + " | ".join(str(text) for text in texts) + " |"


if __name__ == "__main__":
    main()
