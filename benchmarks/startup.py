"""What a run costs beside its computing: seconds and processor time of a tiny run, by process.

    python benchmarks/startup.py

Makes a network of three layers and 200 sentences, runs `raycomp run` on them (a teacher, 21 steps of a
super-network, two budgets) and watches the processes. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "good",
    "bad",
    "the",
    "film",
    "was",
    "a",
    "plot",
]
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


def main() -> None:
    """Make, run, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="print every process above 0.3 s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        command = [sys.executable, "-m", "raycomp.cli", "run", str(folder / "job.toml")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        wall, seen = watch([*command, "--storage", str(folder / "runs")], environment)
    if args.all:
        for title, seconds in sorted(seen.values(), key=lambda row: -row[1]):
            if seconds > 0.3:
                print(f"{seconds:6.1f} s  {title}")
    total = sum(seconds for _, seconds in seen.values())
    print(json.dumps({"seconds": round(wall, 1), "processor_seconds": round(total, 1)}))


def make(folder: Path) -> None:
    """Write the job, its model and its data."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder / "model")
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=40, **shape)).save_pretrained(
        folder / "model"
    )
    texts = [
        f"the film was {('bad', 'good')[i % 2]} a plot {' the' * (i // 2 % 5)} {i}" for i in range(200)
    ]
    frame = pd.DataFrame({"text": texts, "label": [("bad", "good")[i % 2] for i in range(200)]})
    frame.to_csv(folder / "train.csv", index=False)
    (folder / "job.toml").write_text(JOB.format(folder=folder))


def watch(command: list[str], environment: dict[str, str]) -> tuple[float, dict[int, tuple[str, float]]]:
    """Run a command; return its seconds, and title and processor seconds of each process below it."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True
    )
    seen: dict[int, tuple[str, float]] = {}
    while process.poll() is None:
        for pid in below(process.pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:70]
            except OSError:
                continue
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            # A process that has ended and is not waited for yet has no title any more.
            seen[pid] = (title.strip() or seen.get(pid, ("", 0.0))[0], seconds)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(process.communicate()[1])
    return time.monotonic() - began, seen


def below(root: int) -> set[int]:
    """Return a process and all that descend from it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found, grew = {root}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return found


if __name__ == "__main__":
    main()
