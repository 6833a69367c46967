"""One network of a server: from texts to labels, and how long a batch takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raycomp.deployment.latency import measure_latencies_ms
from raycomp.deployment.runtimes import TokenForward
from raycomp.deployment.serving.policy import Speed

MAX_BATCH = 32
"""Largest number of texts of a forward pass."""

TIMED_BATCH = 8
TIMED_RUNS = 10
WARMUP_RUNS = 2
"""Texts of the larger batch that is timed when a server starts, and passes of each batch."""


@dataclass(frozen=True)
class Predictions:
    """Results of a batch.

    Attributes:
        results: One entry per text: `label`, `score` and `scores`, or the `value` of a regression. That
            of a text with too many tokens has `cut`: true.
        forward_ms: Time of the forward passes, without the tokenizer.
    """

    results: list[dict[str, Any]]
    forward_ms: float


@dataclass(frozen=True)
class ServedNetwork:
    """A network that answers requests.

    Attributes:
        name: Name that requests give as their budget.
        forward: The network in its runtime.
        tokenizer: Fast tokenizer of the export.
        labels: Classes in the order of the outputs; empty for regression.
        max_tokens: Largest number of tokens of a row. Longer texts are cut.
        vocab_size: Number of tokens.
        facts: Further figures for clients, such as parameters and selection score.
    """

    name: str
    forward: TokenForward
    tokenizer: Any
    labels: tuple[str, ...]
    max_tokens: int
    vocab_size: int
    facts: dict[str, Any]

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Predictions:
        """Return one result per text, in order.

        Args:
            texts: Texts, or the first texts of pairs.
            pairs: The second texts of pairs.
        """
        encoded = self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation="longest_first",
            max_length=self.max_tokens,
            return_token_type_ids=True,
            verbose=False,
        )
        # The tokenizer keeps the tokens that it cut off in `overflowing`.
        is_cut = [bool(encoding.overflowing) for encoding in encoded.encodings]
        began = time.perf_counter()
        outputs = self._compute(encoded["input_ids"], encoded["token_type_ids"])
        forward_ms = (time.perf_counter() - began) * 1000
        results = [self._describe(row) for row in outputs]
        # Clients of short texts need not read a key that is always false.
        for result, cut in zip(results, is_cut, strict=True):
            if cut:
                result["cut"] = True

        return Predictions(results, forward_ms)

    @torch.inference_mode()
    def _compute(self, ids: list[list[int]], types: list[list[int]]) -> Tensor:
        """Return the outputs (rows, classes). Rows of similar length share a batch, and its padding."""
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        outputs: list[Tensor] = [torch.empty(0)] * len(ids)
        pad = self.tokenizer.pad_token_id or 0

        for start in range(0, len(order), MAX_BATCH):
            rows = order[start : start + MAX_BATCH]
            longest = len(ids[rows[-1]])
            lengths = torch.tensor([len(ids[row]) for row in rows])
            mask = (torch.arange(longest)[None, :] < lengths[:, None]).long()
            tokens = torch.tensor([ids[row] + [pad] * (longest - len(ids[row])) for row in rows])
            kinds = torch.tensor([types[row] + [0] * (longest - len(types[row])) for row in rows])
            for row, output in zip(rows, self.forward(tokens, mask, kinds), strict=True):
                outputs[row] = output

        return torch.stack(outputs).float()

    def _describe(self, output: Tensor) -> dict[str, Any]:
        if not self.labels:
            return {"value": float(output[0])}
        scores = dict(zip(self.labels, output.softmax(0).tolist(), strict=True))
        label = max(scores, key=lambda name: scores[name])
        return {"label": label, "score": scores[label], "scores": scores}

    def measure_speed(self) -> Speed:
        """Time one text and a small batch, with texts of the largest length."""
        single_ms, batch_ms = (
            measure_latencies_ms(
                [lambda ids, mask: self.forward(ids, mask.long(), None)],
                self.vocab_size,
                length=self.max_tokens,
                batch=batch,
                runs=TIMED_RUNS,
                warmup=WARMUP_RUNS,
            )[0]
            for batch in (1, TIMED_BATCH)
        )
        return Speed.of_measurements(single_ms, batch_ms, TIMED_BATCH)
