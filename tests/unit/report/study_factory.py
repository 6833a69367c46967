"""Writes a study directory for tests: three variants, two budgets, three seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raycomp.storage.files import write_array, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import write_rows
from tests.unit.report.run_factory import begin_run

ROWS = 300
SHARES = {"plain": 0.80, "good": 0.90, "same": 0.80}  # of right answers
PAPER = {"plain": {"half": 0.841}, "good": {"half": 0.876}, "teacher": {"teacher": 0.895}}
TASK = "demo/polarity"
LABELS = np.random.default_rng(0).integers(2, size=ROWS)


def logits(right: float, rng: np.random.Generator) -> np.ndarray:
    predicted = np.where(rng.random(ROWS) < right, LABELS, 1 - LABELS)
    return np.eye(2, dtype=np.float32)[predicted]


def keep(run: Path, model: str, right: float, rng: np.random.Generator) -> float:
    """Write answers, and return their accuracy."""
    model_logits = logits(right, rng)
    write_array(RunLayout(run).predictions(model, "validation"), model_logits)
    write_array(RunLayout(run).predictions("labels", "validation"), LABELS)
    return float((model_logits.argmax(1) == LABELS).mean())


def write_study(storage: Path, *, name: str = "tiny-1a2b3c4d", predictions: bool = True) -> Path:
    folder = storage / name
    settings = {
        "name": "tiny", "paper": "YOCO-BERT, Table 4", "rows": "variant", "seeds": [0, 1, 2],
        "tasks": [TASK], "variant": [{"name": v} for v in SHARES], "published": {TASK: PAPER},
    }  # fmt: skip
    cells = []
    for i, (variant, right) in enumerate(SHARES.items()):
        for seed in range(3):
            rng = np.random.default_rng([i, seed])
            run = begin_run(folder / "runs", f"tiny-{variant}-s{seed}-{i}{seed}aaaaaa")
            common = {"run": run.name, "study": "tiny", "variant": variant, "task": TASK, "seed": seed}
            scores = {"metric": "accuracy", "selection": 0.9, "examples": ROWS, "params": 10_000_000}
            rows: list[dict[str, Any]] = []
            for budget, shift in (("half", 0.0), ("third", -0.05)):
                value = keep(run, f"yoco-{budget}", right + shift, rng)
                rows.append({**common, **scores, "budget": budget, "method": "yoco", "value": value,
                             "gap": 0.9 - value, "published": PAPER[variant].get(budget)
                             if variant in PAPER else None})  # fmt: skip
            value = keep(run, "teacher", 0.92, np.random.default_rng([9, seed]))
            rows.append({**common, **scores, "budget": "teacher", "method": "teacher", "value": value,
                         "gap": 0.9 - value, "published": 0.895})  # fmt: skip
            for count, best in ((8, 0.80), (16, 0.82 + 0.01 * (i == 0)), (24, 0.83)):
                for what, less in (("best", 0.0), ("best10", 0.02)):
                    rows.append({**common, "budget": "half", "metric": f"{what}@{count:04d}",
                                 "value": best - less})  # fmt: skip
            stages = {"importance": 2.0, "super-network": 98.0, "search": 8.0, "deploy": 2.0}
            for stage, seconds in (stages if i == 0 else {"fine-tuning": 60.0}).items():
                rows.append({**common, "budget": stage, "metric": "seconds", "value": seconds})
            for n in range(4):
                for method, value in (("inherited", n / 10), ("retrained", (n + 2 * (n == 0)) / 10)):
                    rows.append({**common, "budget": f"network-{n}", "method": method,
                                 "metric": "accuracy", "value": value})  # fmt: skip
            write_rows(folder, "ablations", rows, f"{variant}-demo-polarity-s{seed}")
            job = {"search": {"searchers": [variant]}, "budget": [{"name": "half"}, {"name": "third"}],
                   "finetune": {"start": "teacher" if i else "supernet"}}  # fmt: skip
            cells.append({"name": f"{variant}-{seed}", "variant": variant, "task": TASK, "seed": seed,
                          "job": job})  # fmt: skip
            if not predictions:
                for path in (run / "predictions").glob("*.npy"):
                    path.unlink()
    data = {"id": name, "preset": "small", "study": settings, "runs": cells}
    write_json(folder / "study.json", data)
    return folder
