"""Writes a run directory for tests: both methods, two budgets, two AdaBERT trials."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.methods.adabert.structure import Structure
from raycomp.storage.files import write_json
from raycomp.storage.tables import write_rows

FULL = Architecture(4, (12,) * 4, (1536,) * 4)
BESIDE = 12_000_000  # parameters outside the Transformer layers
TRIALS = ("beta0-gamma0_8-k3-s0", "beta4-gamma0_8-k3-s0")
CELL = Structure(2, ("std_conv_3", "skip", "zero", "max_pool_3", "dil_conv_5", *["skip"] * 4))


def encoder_params(arch: Architecture) -> int:
    return sum(50_000 * h + 800 * f for h, f in zip(arch.heads, arch.ffn, strict=True))


def architecture(rng: np.random.Generator) -> Architecture:
    depth = int(rng.integers(2, 5))
    heads = tuple(int(h) for h in rng.choice([4, 8, 12], depth))
    return Architecture(depth, heads, tuple(int(f) for f in rng.choice([256, 512, 1536], depth)))


def job_settings(**changes: Any) -> dict[str, Any]:
    settings = {
        "run": {"name": "both", "methods": ["yoco", "adabert"], "seed": 0},
        "task": {"name": "demo/polarity", "train": None, "metric": None, "max_length": 64},
        "search": {"flops_length": None, "evaluations": 40},
        "budget": [{"name": "half", "encoder_params": "0.5x", "flops": None},
                   {"name": "flops", "encoder_params": None, "flops": "0.5x"}],
    }  # fmt: skip
    return {**settings, **changes}


def begin_run(storage: Path, name: str = "both-1a2b3c4d", **changes: Any) -> Path:
    """Write what a run writes first: its settings."""
    run = storage / name
    write_json(run / "job.json", job_settings(**changes))
    return run


def finish_run(
    run: Path, *, evaluations: int = 60, budgets: tuple[str, str] = ("half", "flops"), **more: Any
) -> Path:
    """Write the rest: the teacher, steps, theta, evaluations, deployments."""
    metric = more.get("metric", "accuracy")
    score = {metric: 0.84, "loss": 0.4}
    splits = {"selection": {**score, "examples": 500}, "validation": {**score, "examples": 1000}}
    write_json(run / "teacher" / "score.json", splits)
    _steps(run)
    _theta(run)
    _evaluations(run, evaluations, metric)
    _deployments(run, budgets, metric)
    search = {"evaluations": evaluations, "most_expensive": 40, "trials": 2, "teacher_latency_ms": 10.0}
    write_json(run / "deployed.json", search)
    write_json(run / "adabert" / "deployed.json", {"trials": 2, "teacher_latency_ms": 10.0})
    return run


def write_run(storage: Path, name: str = "both-1a2b3c4d", **more: Any) -> Path:
    return finish_run(begin_run(storage, name), **more)


def _steps(run: Path) -> None:
    rng = np.random.default_rng(0)
    stages: list[tuple[str, str, str | None]] = [("teacher", "teacher", None)]
    stages += [("yoco", "supernet", phase) for phase in ("largest", "heads-8", "depth-3")]
    stages += [("adabert", f"{s}.{t}", None) for s in ("adabert-search", "adabert-child")
               for t in TRIALS]  # fmt: skip
    for i, (method, stage, phase) in enumerate(stages):
        first = 100 * (i - 1) if method == "yoco" else 0
        rows = []
        for step in range(first, first + 100):
            row: dict[str, Any] = {"run": run.name, "method": method, "training": stage,
                                   "phase": phase, "step": step}  # fmt: skip
            row |= {"epoch": step / 50, "loss": 0.7 - step / 1000 + 0.05 * rng.normal(), "tokens": 500}
            if method == "yoco":
                row |= {"p_exploit": 1 - step / 3000, "entropy": float(i), "explored": step % 50 == 0}
            elif stage.startswith("adabert-search"):
                row |= {"entropy": 1 - step / 200}
            rows.append(row)
        write_rows(run, "steps", rows, f"{stage}-{first:09d}")


def _theta(run: Path) -> None:
    choices = {"depth": ["2", "3", "4"]}
    for layer in range(4):
        choices |= {f"heads.{layer}": ["4", "8", "12"], f"ffn.{layer}": ["256", "512", "1536"]}
    student = {"layers": ["1", "2", "3"], "edge 0-2": ["std_conv_3", "skip", "zero"]}
    for stage, variables in [("supernet", choices), *((f"adabert-search.{t}", student) for t in TRIALS)]:
        for step in (50, 100):
            rows = [
                {"run": run.name, "step": step, "variable": v, "choice": c,
                 "probability": 0.5 if i == 0 else 0.25}
                for v, names in variables.items() for i, c in enumerate(names)
            ]  # fmt: skip
            write_rows(run, "distribution", rows, f"{stage}-{step - 50:09d}")


def _evaluations(run: Path, count: int, metric: str) -> None:
    rng = np.random.default_rng(1)
    architectures = [architecture(rng) for _ in range(min(count, 500))]
    rows: list[dict[str, Any]] = []
    for i in range(count):
        arch = architectures[i % len(architectures)]
        cost = encoder_params(arch)
        rows.append(
            {
                "run": run.name, "weights_id": "w", "method": "yoco", "arch_id": arch.id,
                "arch": arch.to_json(), "split": "selection", "precision": "fp32", "metric": metric,
                "value": 0.75 + cost / 1e8 + 0.01 * float(rng.normal()), "loss": 0.5,
                "examples": 500, "params": cost + BESIDE, "flops": 100.0 * cost, "seconds": 0.1,
                "created_at": datetime(2026, 1, 1, tzinfo=UTC),
            }
        )  # fmt: skip
    write_rows(run, "evaluations", rows, "ledger-1")


def _deployments(run: Path, budgets: tuple[str, str], metric: str) -> None:
    full = encoder_params(FULL)
    shared = {"run": run.name, "feasible": True, "seed": 0, "metric": metric, "evaluations": 40}
    shared |= {"teacher_validation": 0.84, "parity": 0.0, "reason": ""}
    rows = []
    for i, (budget, kind) in enumerate(zip(budgets, ("encoder_params", "flops"), strict=True)):
        arch = Architecture(3, (4, 8, 12), (512, 256, 1536)) if i else Architecture(2, (8, 8), (512, 512))
        cost = encoder_params(arch)
        validation = 0.83 - 0.01 * i
        rows.append(
            {
                **shared, "method": "yoco", "budget": budget, "kind": kind, "searcher": "sng",
                "limit": full * (50.0 if i else 0.5), "arch_id": arch.id, "arch": arch.to_json(),
                "params": cost + BESIDE, "params_ratio": (cost + BESIDE) / (full + BESIDE),
                "encoder_params": cost, "flops": 100.0 * cost, "cost": cost * (100.0 if i else 1.0),
                "latency_ms": 5.0 + i, "selection": 0.85, "validation": validation,
                "gap": 0.85 - validation, "retention": validation / 0.84, "export": f"exports/{i}",
            }
        )  # fmt: skip
    write_rows(run, "deployments", rows, "yoco")
    students = [
        {
            **shared, "method": "adabert", "budget": trial.removesuffix("-s0"), "kind": "beta",
            "searcher": "gumbel", "limit": 4.0 * i, "arch_id": CELL.id, "arch": CELL.to_json(),
            "params": 4_000_000 - 1_000_000 * i, "params_ratio": 0.2, "flops": 5e7, "cost": 4e6,
            "latency_ms": 0.5, "selection": 0.82, "validation": 0.70 - 0.01 * i,
            "gap": 0.12 + 0.01 * i, "retention": 0.83, "export": f"exports/adabert-{trial}",
            "encoder_params": 600_000,
        }
        for i, trial in enumerate(TRIALS)
    ]  # fmt: skip
    write_rows(run, "deployments", students, "adabert")
