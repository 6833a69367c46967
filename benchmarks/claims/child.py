"""Claim: a compiled AdaBERT child is faster than a teacher of BERT-base's shape, at length 128.

The children have nine convolutions of 5 taps per cell and 3 or 7 cells, which gives the published sizes.
At batch 128 the targets are twice the paper's speed-ups, which are 29.3 for its smallest child and 12.7
for its largest; at batch 1 the target is 10. Both run in fp32 on a CPU and in bf16 on a GPU.
`python -m benchmarks.child_speed` times one structure.
"""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.claims.half_model import forward_passes
from benchmarks.measure import Claim, Options, PairedFigures, measure_in_turns, run_claims, timed
from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification
from raycomp.methods.adabert.compiler import compiled_config
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import StudentShape
from raycomp.training.optimizers import resolve_precision

VOCABULARY, LENGTH = 30522, 128
SHAPE = StudentShape(
    vocab_size=VOCABULARY,
    embedding_size=128,
    width=128,
    max_positions=LENGTH,
    classes=2,
    pair=False,
    sep_token_id=102,
    pad_token_id=0,
)

# Batch size -> number of cells -> least speed-up.
TARGETS = {128: {3: 60.0, 7: 25.0}, 1: {3: 10.0, 7: 10.0}}

# Batch size -> forward passes of one measurement, which is long enough for the clock.
PASSES = {1: 5, 128: 1}


def measure(settings: Options) -> list[Claim]:
    """Time forward passes; the weights do not change the speed, so they are random."""
    device = torch.device(settings.device)
    precision = resolve_precision("auto", device) if device.type == "cuda" else "fp32"
    torch.manual_seed(0)
    depths = list(TARGETS[1])
    models: list[torch.nn.Module] = [BertForSequenceClassification(BertConfig())]
    for layers in depths:
        config = compiled_config(SHAPE, Structure(layers, ("std_conv_5",) * 9))
        models.append(RaycompCnnForSequenceClassification(config))

    claims = []
    for batch, passes in PASSES.items():
        rows = 2 if settings.quick and batch > 1 else batch
        ids = torch.randint(1000, VOCABULARY, (rows, LENGTH)).to(device)
        works = [
            timed(forward_passes(model.to(device).eval(), ids, passes, precision, device), device)
            for model in models
        ]
        # One pass of the teacher at batch 128 takes seconds on a CPU, so nothing warms up there.
        warm = int(batch == 1 or device.type == "cuda")
        teacher, *children = measure_in_turns(works, settings.runs, warm=warm)
        for layers, child in zip(depths, children, strict=True):
            name = f"BERT-base teacher / compiled child of {layers} cells, batch {batch}"
            figures = PairedFigures(teacher, child)
            claims.append(Claim.from_figures(name, figures, "higher", TARGETS[batch][layers]))
    return claims


if __name__ == "__main__":
    run_claims(__doc__, measure)
