"""Sentences a second in super-network training, against the released recipe.

Two architectures a batch on both sides, labels alone. Released: batches of 8 padded to 128, fp32,
AdamW that is not fused, over all parameters. Here: batches of 32 of similar lengths, the precision
that is faster on this machine. On SST-2 where RAYCOMP_SST2 names a folder with GLUE's files, else on
the demo's sentences, which are longer (27.5 tokens against 13.3 on average) and so save less padding.
"""

from __future__ import annotations

import os
import time

import numpy as np
import torch
from torch import nn

from benchmarks.measure import Claim, Settings, alternating, main
from benchmarks.setting import batches, open_sampler, padded, super_step, workplace
from raycomp.data.batches import Batch
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.runtime.workplace import Workplace
from raycomp.train.objectives import label_loss
from raycomp.train.optim import resolve_precision
from raycomp.yoco.eesng import EESNG


def measure(settings: Settings) -> list[Claim]:
    """Train some steps of each a run; the figure is sentences a second."""
    device, folder = torch.device(settings.device), os.environ.get("RAYCOMP_SST2")
    given = ["task.name=glue/sst2", f"task.folder={folder}"] if folder else []
    place = workplace(*given)
    rows = 128 if device.type == "cuda" else 32
    held = batches(place, rows, 1 if settings.quick else 6, device)
    network = place.network().to(device)
    step = super_step(network, open_sampler(place), resolve_precision("auto", device), device)
    slow = Released(place, device, 1 if settings.quick else 6)
    done = 0

    def ours() -> float:
        nonlocal done
        began = time.perf_counter()
        for batch in held:
            step(done, batch)
            done += 1
        return sum(b.total for b in held) / (time.perf_counter() - began)

    paired = alternating(ours, slow, settings.runs)
    name = "SST-2" if folder else "demo sentences"
    return [Claim.of(f"super-network epoch, {name} / the released recipe", paired, "higher", 12.0)]


class Released:
    """The released recipe: batch 8, length 128, fp32, every parameter updated in every step."""

    def __init__(self, place: Workplace, device: torch.device, steps: int) -> None:
        self.model: ElasticEncoder = place.network().to(device)
        self.sampler: EESNG = open_sampler(place)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, weight_decay=0.0, foreach=False, fused=False
        )
        tokens, rng = place.tokens("train"), np.random.default_rng(0)
        self.batches: list[Batch] = [
            padded(tokens, rng.choice(len(tokens), 8, replace=False), place.pad_id, 128).to(device)
            for _ in range(steps)
        ]
        self.done = 0

    def __call__(self) -> float:
        """Train on the batches; return sentences a second."""
        began = time.perf_counter()
        for batch in self.batches:
            self._step(batch)
        return sum(b.total for b in self.batches) / (time.perf_counter() - began)

    def _step(self, batch: Batch) -> None:
        archs, losses = self.sampler.ask(self.done), []
        self.model.train()
        for arch in archs:
            loss = label_loss(self.model(batch, arch).logits, batch.labels, batch.total)
            (loss / len(archs)).backward()
            losses.append(float(loss.detach()))
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)  # gradients stay, so that AdamW sees them all
        self.sampler.tell(self.done, losses)
        self.done += 1


if __name__ == "__main__":
    main(__doc__, measure)
