"""Studies as frames: the rows of a grid, and one row per variant, task and budget with statistics."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.config.references import is_reference
from raycomp.errors import UserError
from raycomp.report.ablation_forms import with_explicit_columns
from raycomp.report.statistics import (
    Predictions,
    break_even_budgets,
    compare_variants,
    estimate_mean,
    kendall_tau,
)
from raycomp.storage.files import read_array
from raycomp.storage.layout import RunLayout, StudyLayout
from raycomp.storage.location import fetched, is_figure
from raycomp.storage.tables import read_table

REFERENCE = "reference"
TEACHER = "teacher"
COLUMNS = (
    "task", "budget", "metric", "variant", "seeds", "mean", "sd", "low", "high", "basis", "published",
    "gap", "params", "examples", "difference", "difference_low", "difference_high", "p", "pairs", "test",
    "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class StudyResults:
    """A study's folder.

    Attributes:
        id: name of the folder.
        path: the folder.
        name, paper: as the study's file says.
        preset: that it was run with, or an empty text.
        by: what stands on the left of the paper's table: "variant" or "task".
        variants, tasks, seeds: the grid, in order.
        cells: runs in all.
        races: variants search in different ways, for the same budgets: their progress is compared.
        alone: variants that fine-tune each network out of the teacher, without the super-network.
        frame: table `ablations`.
    """

    id: str
    path: Path
    name: str
    paper: str
    preset: str
    row_kind: str
    variants: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    num_runs: int
    compares_searchers: bool
    teacher_started: frozenset[str]
    frame: pd.DataFrame

    @property
    def num_finished(self) -> int:
        """Runs whose rows are written."""
        return len(self.frame[["variant", "task", "seed"]].drop_duplicates())

    def run(self, name: str) -> Path:
        """Return the folder of one of its runs."""
        return StudyLayout(self.path).runs / name


def is_study_dir(path: str | Path) -> bool:
    """Return whether a folder is a study's."""
    return StudyLayout(Path(path)).study.exists()


def load_study_results(path: str | Path) -> StudyResults:
    """Read a study's folder, or its URL; works while it runs.

    Raises:
        UserError: the folder is no study's, or a file of it is damaged.
    """
    path = fetched(path, is_figure)
    try:
        data = json.loads(StudyLayout(path).study.read_text(encoding="utf-8"))
        settings, cells = data["study"], data["cells"]
        return StudyResults(
            id=path.resolve().name,
            path=path,
            name=settings["name"],
            paper=settings["paper"],
            preset=data["preset"],
            row_kind=settings["rows"],
            variants=tuple(v["name"] for v in settings["variant"]),
            tasks=tuple(dict.fromkeys(str(c["task"]) for c in cells)),
            seeds=tuple(settings["seeds"]),
            num_runs=len(cells),
            compares_searchers=_compares_searchers([c["job"] for c in cells]),
            teacher_started=frozenset(
                c["variant"] for c in cells if c["job"]["finetune"]["start"] == "teacher"
            ),
            frame=with_explicit_columns(read_table(path, "ablations")),
        )
    except FileNotFoundError:
        raise UserError(
            f"{path} is no study's folder; give one that `raycomp run STUDY.toml` wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}/study.json cannot be read ({error}); run the study again") from None


def _compares_searchers(jobs: list[dict[str, Any]]) -> bool:
    def kinds(part: str) -> int:
        return len({json.dumps(job[part], sort_keys=True) for job in jobs})

    return kinds("search") > 1 and kinds("budget") == 1


def ablation_table(study: str | Path | StudyResults, draws_seed: int = 0) -> pd.DataFrame:
    """Return one row per task, budget and variant: mean, spread, interval, and the paired test.

    Args:
        study: a study, or its folder.
        draws_seed: of the bootstrap; the same seed gives the same intervals.

    Returns:
        Columns COLUMNS. `low` and `high` bound the mean, `difference...` the difference from the first
        variant on the seeds that both have; `verdict` says in words what the test shows. The teacher
        is a variant of its own, and is not tested. `published` is the paper's figure. Empty while no
        run has ended.
    """
    given = study if isinstance(study, StudyResults) else load_study_results(study)
    frame = given.frame
    scores = frame[frame["kind"] == "score"]
    found: list[dict[str, Any]] = []
    for task in given.tasks:
        mine = scores[scores["task"] == task]
        teachers = mine[mine["method"] == TEACHER].drop_duplicates("seed")
        if len(teachers):
            found.append(_row(given, teachers.assign(variant=TEACHER), None, draws_seed))
        made = mine[mine["method"] != TEACHER]
        for budget in dict.fromkeys(made["budget"]):
            rows = made[made["budget"] == budget]
            first = rows[rows["variant"] == given.variants[0]]
            for variant in given.variants:
                own = rows[rows["variant"] == variant]
                if len(own):
                    against = None if variant == given.variants[0] else first
                    found.append(_row(given, own, against, draws_seed))
    return pd.DataFrame(found, columns=list(COLUMNS))


def _row(
    study: StudyResults, rows: pd.DataFrame, first: pd.DataFrame | None, draws_seed: int
) -> dict[str, Any]:
    """Return one row of the table; `first` holds the rows of the variant that it is tested against."""
    rows = rows.sort_values("seed")
    head = rows.iloc[0]
    metric, values = str(head["metric"]), rows["value"].tolist()
    said = _answers(study, rows)
    about = estimate_mean(values, metric, said, draws_seed)
    found = {
        "task": head["task"], "budget": head["budget"], "metric": metric, "variant": head["variant"],
        "seeds": about.seeds, "mean": about.mean, "sd": about.sd, "low": about.low, "high": about.high,
        "basis": about.basis, "published": head["published"], "gap": rows["gap"].mean(),
        "params": rows["params"].mean(), "examples": head["examples"],
    }  # fmt: skip
    if first is None:
        nothing = dict.fromkeys(("difference", "difference_low", "difference_high", "p"), math.nan)
        return {**found, **nothing, "pairs": 0, "test": "", "verdict": REFERENCE}
    both = sorted(set(rows["seed"]) & set(first["seed"]))
    ones, others = (f.set_index("seed").loc[both].reset_index() for f in (rows, first))
    pair = (_answers(study, ones), _answers(study, others))
    test = compare_variants(
        ones["value"].tolist(),
        others["value"].tolist(),
        metric,
        (pair[0], pair[1]) if pair[0] is not None and pair[1] is not None else None,
        draws_seed,
    )
    return {
        **found, "difference": test.difference, "difference_low": test.low, "difference_high": test.high,
        "p": test.p, "pairs": test.pairs, "test": test.test, "verdict": test.verdict,
    }  # fmt: skip


def _answers(study: StudyResults, rows: pd.DataFrame) -> list[Predictions] | None:
    """Return what each row's model answered; None where one was not kept, or does not give the value."""
    found: list[Predictions] = []
    for row in rows.to_dict("records"):
        run, figures = study.run(str(row["run"])), (str(row["method"]), str(row["budget"]))
        one = load_predictions(run, *figures, str(row["metric"]), float(row["value"]))
        if one is None:
            return None
        found.append(one)
    return found or None


def load_predictions(
    run: Path, method: str, budget: str, metric: str, value: float
) -> Predictions | None:
    """Return what a model of a run answered; None where it was not kept, or scores another value."""
    if is_reference(metric):
        # The function of a user's own metric is imported by the run only, never by a report.
        return None
    one = _read(run, method, budget)
    return one if one is not None and abs(one.value(metric) - value) < 1e-6 else None


@functools.lru_cache(maxsize=256)
def _read(run: Path, method: str, budget: str) -> Predictions | None:
    """Return the answers of a deployment, of a tuned network, or of the teacher."""
    layout = RunLayout(run)
    name = "teacher" if method == TEACHER else f"{method}-{budget}"
    if method == "adabert" and budget == "cnn":  # the run's only setting
        made = read_table(run, "deployments")
        name = f"adabert-{made[made['method'] == 'adabert']['budget'].iloc[0]}"
    splits = sorted(
        p.name.removeprefix(f"{name}.").removesuffix(".npy")
        for p in layout.predictions_dir.glob(layout.predictions(name, "*").name)
    )
    labels, logits = [], []
    for split in splits:
        if split == "selection":
            continue
        truth = read_array(layout.predictions("labels", split))
        said = read_array(layout.predictions(name, split))
        if truth is None or said is None or len(truth) != len(said):
            return None
        labels.append(truth)
        logits.append(said)
    return Predictions(tuple(labels), tuple(logits)) if labels else None


def rank_table(study: str | Path | StudyResults) -> pd.DataFrame:
    """Return Kendall's tau of inherited against stand-alone scores, a row per variant, task and seed."""
    given = study if isinstance(study, StudyResults) else load_study_results(study)
    drawn = given.frame[given.frame["kind"] == "ranking"]
    drawn = drawn.sort_values("variant", key=lambda v: v.map(given.variants.index), kind="stable")
    found = []
    for (variant, task, seed), rows in drawn.groupby(["variant", "task", "seed"], sort=False):
        wide = rows.pivot(index="budget", columns="method", values="value").dropna()
        tau, p = kendall_tau(wide["inherited"].tolist(), wide["alone"].tolist())
        found.append(
            {"variant": variant, "task": task, "seed": seed, "networks": len(wide), "tau": tau, "p": p,
             "alone_minus_inherited": float((wide["alone"] - wide["inherited"]).mean())}
        )  # fmt: skip
    names = ["variant", "task", "seed", "networks", "tau", "p", "alone_minus_inherited"]
    return pd.DataFrame(found, columns=names)


def search_table(study: str | Path | StudyResults) -> pd.DataFrame:
    """Return a search's progress: variant, task, evaluations, and the mean over seeds of its best scores.

    Columns `best` and `best10` are the best feasible score, and the mean of the ten best, among the
    first so many evaluations, over the seeds that all variants of the task have; a seed that had found
    nothing feasible by then is left out of the mean.
    """
    given = study if isinstance(study, StudyResults) else load_study_results(study)
    frame = given.frame[given.frame["kind"] == "progress"].astype({"evaluations": int})
    for task, rows in frame.groupby("task"):
        seeds = [set(own["seed"]) for _, own in rows.groupby("variant")]
        lacking = (frame["task"] == task) & ~frame["seed"].isin(set.intersection(*seeds))
        frame = frame[~lacking]
    wide = frame.pivot_table(
        index=["variant", "task", "evaluations"], columns="metric", values="value", sort=False
    )
    wide = wide.reindex(columns=["best", "best10"]).reset_index()
    wide.columns.name = None
    return wide.sort_values(["task", "variant", "evaluations"]).reset_index(drop=True)


def cost_table(study: str | Path | StudyResults) -> pd.DataFrame:
    """Return mean wall seconds of each stage: variant, task, stage, seconds, seeds.

    A stage that a run took over from another has no seconds there.
    """
    given = study if isinstance(study, StudyResults) else load_study_results(study)
    frame = given.frame[given.frame["kind"] == "cost"]
    grouped = frame.groupby(["variant", "task", "stage"], sort=False)["value"].agg(["mean", "count"])
    named = {"mean": "seconds", "count": "seeds"}
    return grouped.reset_index().rename(columns=named)


def find_break_evens(study: str | Path | StudyResults) -> list[dict[str, Any]]:
    """Return, for each variant that compresses budgets apart, from how many on once costs no more.

    The first variant compresses once: importance and super-network are paid once, search and
    deployment per budget. Another variant's budget costs its fine-tuning, where that begins with the
    teacher, else, where it has one budget of the first one's several, its own super-network, search and
    deployment. A variant that deploys all budgets from one super-network compresses once as well, and is
    no rival here, though it fine-tunes them. The teacher is everybody's, and left out.

    Returns:
        task, variant, `once`, `each_after`, `each_apart` in seconds, and `budgets`: the break-even, None
        where there is none. Variants whose stages were not all measured are left out.
    """
    given = study if isinstance(study, StudyResults) else load_study_results(study)
    costs = cost_table(given)
    scores = given.frame[given.frame["method"].isin(["yoco", "finetuned"])]
    found = []
    for task in given.tasks:
        counts = scores[scores["task"] == task].groupby("variant")["budget"].nunique()
        seconds = {
            variant: dict(zip(rows["stage"], rows["seconds"], strict=True))
            for variant, rows in costs[costs["task"] == task].groupby("variant")
        }
        first = seconds.get(given.variants[0], {})
        if not {"super-network", "search", "deploy"} <= set(first) or given.variants[0] not in counts:
            continue
        once = first["super-network"] + first.get("importance", 0.0)
        deployed = int(counts[given.variants[0]])
        after = (first["search"] + first["deploy"]) / deployed
        for variant in given.variants[1:]:
            own = seconds.get(variant, {})
            if variant not in counts:
                continue
            if "fine-tuning" in own and variant in given.teacher_started:
                apart = own["fine-tuning"] / counts[variant]
            elif counts[variant] == 1 < deployed and {"super-network", "search", "deploy"} <= set(own):
                apart = sum(own.get(s, 0.0) for s in ("importance", "super-network", "search", "deploy"))
            else:
                continue
            found.append(
                {"task": task, "variant": variant, "once": once, "each_after": after,
                 "each_apart": apart, "budgets": break_even_budgets(once, after, apart)}
            )  # fmt: skip
    return found
