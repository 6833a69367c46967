"""A compiled AdaBERT child against a BERT-base-shaped teacher in plain transformers, length 128.

Nine 5-wide convolutions a cell, 3 and 7 cells: the published sizes. At batch 128 the targets are
twice the paper's range of speeds, 29.3 times for its smallest child and 12.7 for its largest; at batch 1
it is 10. fp32 on a processor, bf16 on a GPU. `benchmarks/child_speed.py` times one structure.
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
TARGETS = {128: {3: 60.0, 7: 25.0}, 1: {3: 10.0, 7: 10.0}}


def measure(settings: Options) -> list[Claim]:
    """Time forward passes; weights do not change speed, so they are random."""
    device = torch.device(settings.device)
    precision = resolve_precision("auto", device) if device.type == "cuda" else "fp32"
    torch.manual_seed(0)
    shape = StudentShape(VOCABULARY, 128, 128, LENGTH, 2, False, 102, 0)
    cells = list(TARGETS[1])
    models: list[torch.nn.Module] = [BertForSequenceClassification(BertConfig())]
    for layers in cells:
        config = compiled_config(shape, Structure(layers, ("std_conv_5",) * 9))
        models.append(RaycompCnnForSequenceClassification(config))
    found = []
    for batch, passes in ((1, 5), (128, 1)):
        rows = 2 if settings.quick and batch > 1 else batch
        ids = torch.randint(1000, VOCABULARY, (rows, LENGTH))
        works = [
            timed(forward_passes(m.to(device).eval(), ids.to(device), passes, precision, device), device)
            for m in models
        ]
        teacher, *children = measure_in_turns(
            works, settings.runs, warm=int(batch == 1 or device.type == "cuda")
        )
        for layers, child in zip(cells, children, strict=True):
            name = f"BERT-base teacher / compiled child of {layers} cells, batch {batch}"
            found.append(
                Claim.from_figures(name, PairedFigures(teacher, child), "higher", TARGETS[batch][layers])
            )
    return found


if __name__ == "__main__":
    run_claims(__doc__, measure)
