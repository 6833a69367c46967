"""Word tables of sub-networks: rows of the task's tokens, and products of two matrices.

The super-network has the full table E. A table of rank r is its projection on the r directions in which
the embeddings of the training text, each weighted by its frequency, are longest: E V_r V_r^T, the best
approximation of rank r of the weighted table. The directions of a rank are the first ones of a larger
rank, so tables nest like the front slices of the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raycomp.encoder.architecture import WordTable

UNSEEN_WEIGHT = 0.1
"""Weight of a token in addition to its count: tokens that the text lacks have one, too."""


@dataclass(frozen=True)
class TableParts:
    """What the smaller word tables of a run are made of, besides the full table.

    Attributes:
        token_ids: Tokens with a row in a cut table, ascending, (tokens,) int64; None without cut tables.
        directions: Directions in falling order, each as long as the embeddings along it, one per column,
            (embedding size, embedding size); None without tables of a rank.
    """

    token_ids: Tensor | None = None
    directions: Tensor | None = None

    def project(self, rows: Tensor, rank: int) -> Tensor:
        """Return rows of the full table as a table of a rank has them: (rows, embedding size).

        Raises:
            ValueError: As `factor`.
        """
        first, second = self.factor(rows, rank)
        return first @ second.T

    def factor(self, rows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """Return the factors of rows of the full table.

        The columns of the first one have similar lengths: in INT8, all of them share one scale.

        Args:
            rows: (rows, embedding size).
            rank: Number of directions.

        Returns:
            (rows, rank), and the weight of the layer that follows, (embedding size, rank).

        Raises:
            ValueError: The run lacks tables of a rank.
        """
        if self.directions is None:
            raise ValueError("the directions of the word table are not known")
        expand = self.directions.to(rows.device, rows.dtype)[:, :rank]
        # Autocast would round the table to bf16.
        with torch.autocast(rows.device.type, enabled=False):
            return rows @ (expand / (expand**2).sum(0)), expand

    def weights(self, full: Tensor, table: WordTable) -> dict[str, Tensor]:
        """Return the weights of a word table, under the names of a network with this table.

        Args:
            full: Word embeddings of the full network, (vocabulary, embedding size).
            table: The word table.

        Raises:
            ValueError: The tokens or the directions that the table needs are not known.
        """
        rows = full
        if table.is_cut:
            if self.token_ids is None:
                raise ValueError("the tokens of the task are not known")
            rows = full[self.token_ids.to(full.device)]
        if table.rank is None:
            return {"embeddings.word.weight": rows}
        first, expand = self.factor(rows, table.rank)
        return {"embeddings.word.weight": first, "embeddings.expand.weight": expand}

    def sizes(self, table: WordTable, pad_token_id: int | None) -> dict[str, int | None]:
        """Return the configuration values that a word table changes."""
        sizes: dict[str, int | None] = {} if table.rank is None else {"word_rank": table.rank}
        if table.is_cut and self.token_ids is not None:
            sizes["vocab_size"] = len(self.token_ids)
            if pad_token_id is not None:
                sizes["pad_token_id"] = int(torch.searchsorted(self.token_ids.cpu(), pad_token_id))
        return sizes


def find_directions(full: Tensor, counts: Tensor) -> Tensor:
    """Return the directions of a word table; see `TableParts`.

    Args:
        full: Word embeddings, (vocabulary, embedding size).
        counts: How often each token occurs in the training text, (vocabulary,).
    """
    weights = counts.double() + UNSEEN_WEIGHT
    rows = full.detach().double()
    # The right singular vectors of the weighted table are the eigenvectors of its second moments.
    values, vectors = torch.linalg.eigh((rows.T * weights) @ rows / weights.sum())
    lengths = values.clamp(min=1e-12).sqrt()
    return (vectors * lengths).flip(1).float().contiguous()
