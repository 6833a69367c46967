"""Seconds and CPU time of a tiny run, by process: the cost of a run besides its computation.

    python -m benchmarks.startup [--all]

Writes a network of three layers and 200 sentences, runs `raycomp run` on them (a teacher, 21 steps of a
super-network, two budgets), and watches the processes. Takes about a minute. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.measure import make_parser
from benchmarks.processes import find_descendants, read_cpu_seconds, read_process_name

POLL_SECONDS = 0.2
MIN_SHOWN_SECONDS = 0.3

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "the", "film", "was", "a", "plot"]
JOB = """
[task]
train = "{folder}/train.csv"
text = ["text"]
label = "label"
max_length = 16
[model]
name = "{folder}/model"
[teacher]
epochs = 2
[space]
depth = [1, 2, 3]
heads = [1, 2, 4]
ffn = [16, 32, 64]
[train]
steps = 3
batch_size = 16
precision = "fp32"
[search]
evaluations = 12
batch = 4
[[budget]]
name = "half"
encoder_params = "0.5x"
[[budget]]
name = "third"
flops = "0.35x"
"""


@dataclass
class ProcessUse:
    """Name of a process, and its CPU seconds at the last look."""

    name: str
    cpu_seconds: float


def main() -> None:
    """Write the inputs, run, watch, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--all", action="store_true", help="print every process above 0.3 s")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        command = [sys.executable, "-m", "raycomp.cli", "run", str(folder / "job.toml")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        seconds, uses = watch_command([*command, "--storage", str(folder / "runs")], environment)

    if args.all:
        for use in sorted(uses, key=lambda use: -use.cpu_seconds):
            if use.cpu_seconds > MIN_SHOWN_SECONDS:
                print(f"{use.cpu_seconds:6.1f} s  {use.name}")
    cpu_seconds = sum(use.cpu_seconds for use in uses)
    print(json.dumps({"seconds": round(seconds, 1), "processor_seconds": round(cpu_seconds, 1)}))


def write_inputs(folder: Path) -> None:
    """Write the job, its model and its data."""
    write_model(folder / "model")

    labels = [("bad", "good")[i % 2] for i in range(200)]
    texts = [f"the film was {label} a plot {' the' * (i // 2 % 5)} {i}" for i, label in enumerate(labels)]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / "train.csv", index=False)
    (folder / "job.toml").write_text(JOB.format(folder=folder))


def write_model(folder: Path) -> None:
    """Write an untrained BERT of three layers, and its tokenizer."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)

    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)


def watch_command(command: list[str], environment: dict[str, str]) -> tuple[float, list[ProcessUse]]:
    """Run a command; return its seconds, and the CPU seconds of each process that it started.

    Raises:
        SystemExit: The command failed; with its standard error.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True
    )
    uses: dict[int, ProcessUse] = {}
    while process.poll() is None:
        for pid in find_descendants(process.pid):
            cpu_seconds = read_cpu_seconds(pid)
            if cpu_seconds is None:
                continue
            use = uses.setdefault(pid, ProcessUse("", 0.0))
            use.cpu_seconds = cpu_seconds
            # A process that has ended and that nobody waited for has no name: its last one stays.
            use.name = read_process_name(pid) or use.name
        time.sleep(POLL_SECONDS)

    if process.returncode:
        raise SystemExit(process.communicate()[1])
    return time.monotonic() - started, list(uses.values())


if __name__ == "__main__":
    main()
