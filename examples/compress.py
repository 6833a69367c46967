"""Compress a model for two budgets from Python, in minutes on two CPU cores.

    pip install -e '.[demo]'
    python examples/compress.py

The data are sentences that the script makes, so that it needs no download: a real task has more rows, and
its training takes longer. Interrupt the script and start it again to see it resume.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch
from film_metrics import balanced_accuracy

import raycomp

GOOD = ["fine", "great", "lovely", "superb", "warm"]
BAD = ["poor", "awful", "dull", "weak", "cold"]
OTHER = ["the", "film", "was", "a", "story", "and", "its", "cast", "scene", "plot"]


class PrintParts(raycomp.Callback):
    """Prints the name of each part of the run when it starts."""

    def __init__(self) -> None:
        self._part = ""

    def on_progress(self, part: str, done: int, total: int, figures: dict[str, object]) -> None:
        """Print the part if it is a new one."""
        if part != self._part:
            self._part = part
            print(f"Started: {part}")


def make_sentences(rows: int, seed: int) -> pd.DataFrame:
    """Return sentences whose label one word decides.

    Args:
        rows: Number of sentences.
        seed: Seed of the random draws.
    """
    rng = np.random.default_rng(seed)
    texts = []
    labels = []
    for row in range(rows):
        is_good = row % 2 == 1
        words = list(rng.choice(OTHER, int(rng.integers(4, 10))))
        words.insert(int(rng.integers(len(words))), rng.choice(GOOD if is_good else BAD))
        texts.append(" ".join(words))
        labels.append("good" if is_good else "bad")
    return pd.DataFrame({"text": texts, "label": labels})


def main() -> None:
    """Plan, compress, choose and use a model, and write the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="demo/minilm-l6", help="model to compress")
    parser.add_argument("--storage", default="runs", help="directory of the runs")
    parser.add_argument("--rows", type=int, default=400, help="number of training sentences")
    parser.add_argument("--steps", type=int, default=4, help="training steps per phase")
    arguments = parser.parse_args()

    task = {
        "model": arguments.model,
        "data": {"train": make_sentences(arguments.rows, 0), "validation": make_sentences(200, 1)},
        "budgets": {"half": {"encoder_params": "0.5x"}, "third": {"encoder_params": "0.35x"}},
        "name": "sentences",
        "metric": balanced_accuracy,
        "storage": arguments.storage,
        "task": {"max_length": 16},
        "teacher": {"epochs": 2},
        "train": {"steps": arguments.steps},
        "search": {"evaluations": 16},
    }

    # 1. What would it cost?
    prediction = raycomp.plan(**task)
    print(f"{prediction['space']['size']:,} architectures, {prediction['time']}")

    # 2. One super-network, one search per budget. The same call resumes after an interruption.
    run = raycomp.compress(**task, callbacks=[PrintParts()])
    columns = ["budget", "params", "selection", "validation", "retention", "latency_ms"]
    print(run.deployments[columns].round(3).to_string(index=False))

    # 3. The best model that meets a condition is an ordinary transformers model.
    best = run.best("params_ratio < 0.99")
    model = best.load()
    tokenizer = best.load_tokenizer()
    texts = ["the story was superb", "its plot was awful"]
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    for text, label in zip(texts, logits.argmax(1).tolist(), strict=True):
        print(f"{text}: {model.config.id2label[label]}")

    # 4. The report of the run. `best.save(FOLDER)` writes the model for a device.
    print(f"Report: {run.report()}")
    print(f"Run: {run.path}")


if __name__ == "__main__":
    main()
