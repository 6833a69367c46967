"""The parent network and its children: an embedding, cells, a probe per cell, and one classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raycomp.errors import UserError
from raycomp.methods.adabert.cell import Cell, EdgeExecution
from raycomp.methods.adabert.estimators import plan_edges
from raycomp.methods.adabert.gumbel import Sample
from raycomp.methods.adabert.modules import Head, exact_matches, pool_states, split_inputs
from raycomp.methods.adabert.operations import ReluConvNorm
from raycomp.methods.adabert.structure import OPERATIONS, Structure, cell_edges


@dataclass(frozen=True)
class StudentShape:
    """The sizes of a student that do not depend on its structure.

    Attributes:
        vocab_size: Rows of the token table.
        embedding_size: Rank of the factorised embedding.
        width: Channels of every state.
        max_positions: Length of the longest text, in tokens.
        classes: Outputs of the classifier.
        pair: Whether a row has two texts.
        sep_token_id: Token that ends the first text.
        pad_token_id: Token that pads a batch.
        exact_match: Whether tokens that occur in both texts of a pair get an extra embedding.
    """

    vocab_size: int
    embedding_size: int
    width: int
    max_positions: int
    classes: int
    pair: bool
    sep_token_id: int
    pad_token_id: int
    exact_match: bool = False


class FactorisedEmbedding(nn.Module):
    """Token and position tables of a small rank, and a projection to the width of the states.

    With exact match, a token of a pair that also occurs in the other text gets one more vector, the same
    for all tokens (Chen et al., 2017, arXiv:1704.00051). The network adds the two texts position by
    position, so without it a CNN finds a shared token only where both texts have it near the same
    position.

    The names `word` and `mark` (the vector of exact match) are part of saved weights, so they stay.
    """

    def __init__(self, shape: StudentShape) -> None:
        super().__init__()
        self.word = nn.Embedding(shape.vocab_size, shape.embedding_size)
        self.position = nn.Parameter(torch.zeros(shape.max_positions, shape.embedding_size))
        self.mark = nn.Parameter(torch.randn(shape.embedding_size)) if shape.exact_match else None
        self.project = nn.Linear(shape.embedding_size, shape.width, bias=False)
        self.norm = nn.LayerNorm(shape.width)

    @torch.no_grad()
    def factorise(self, tokens: Tensor, positions: Tensor) -> None:
        """Copy the teacher's tables, projected on the first singular vectors of its token table.

        No other projection of this rank keeps more of the token table.

        Args:
            tokens: Token table of the teacher, (vocabulary, hidden).
            positions: Position table of the teacher, (at least max_positions, hidden).

        Raises:
            UserError: The teacher has another number of tokens than the student.
        """
        rows, rank = self.word.weight.shape
        if tokens.shape[0] != rows:
            raise UserError(
                f"The teacher's table has {tokens.shape[0]} tokens, and the student's has {rows}. Use "
                "the tokenizer of the teacher."
            )
        # The right singular vectors are the eigenvectors of a small (hidden x hidden) matrix.
        tokens = tokens.double()
        _, eigenvectors = torch.linalg.eigh(tokens.T @ tokens)
        basis = eigenvectors.flip(1)[:, :rank]  # largest first

        # Some tables have values near the epsilon of LayerNorm, so they are scaled to deviation 1.
        unit = float((tokens @ basis).std().clamp(min=1e-12))
        used_rank = min(rank, basis.shape[1])
        self.word.weight.zero_()
        self.word.weight[:, :used_rank] = (tokens @ basis / unit).to(self.word.weight.dtype)

        count = self.position.shape[0]
        self.position.zero_()
        projected = positions[:count].double() @ basis / unit
        self.position[:, :used_rank] = projected.to(self.position.dtype)

    def forward(self, ids: Tensor, mask: Tensor, matches: Tensor | None = None) -> Tensor:
        """Embed (batch, length) tokens into (batch, length, width), 0 where the mask is 0.

        Args:
            ids: (batch, length) tokens.
            mask: (batch, length), true on real tokens.
            matches: (batch, length), true on tokens that also occur in the other text.
        """
        x = self.word(ids) + self.position[: ids.shape[1]]
        if self.mark is not None and matches is not None:
            x = x + matches.unsqueeze(-1) * self.mark
        return self.norm(self.project(x)) * mask.unsqueeze(-1)


class Student(nn.Module):
    """A stack of cells; base of the parent (all candidates per edge) and of a child (one per edge)."""

    def __init__(
        self,
        shape: StudentShape,
        layers: int,
        nodes: int,
        names: Sequence[Sequence[str]],
        share: bool = False,
    ) -> None:
        """Create the weights.

        Args:
            shape: Sizes of the embedding, the states and the classifier.
            layers: Number of cells.
            nodes: Inner nodes of a cell.
            names: Operations of each edge, in the order of `cell_edges(nodes)`.
            share: Whether an edge's convolutions of one dilation share their middle taps.
        """
        super().__init__()
        self.shape = shape
        self.embedding = FactorisedEmbedding(shape)
        self.cells = nn.ModuleList(Cell(shape.width, nodes, names, share) for _ in range(layers))
        self.probes = nn.ModuleList(nn.Linear(2 * shape.width, shape.classes) for _ in range(layers))
        self.head = Head(shape.width, shape.classes)
        self.dropout = 0.0
        nn.init.orthogonal_(self.embedding.project.weight)
        nn.init.normal_(self.embedding.word.weight)

    def embed_inputs(self, ids: Tensor, real: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the two input states of the first cell (Figure 2), and their mask (batch, length, 1).

        The mask of a pair is 1 where either text has a token. Beyond the end of the shorter text, its
        state is 0.

        Args:
            ids: (batch, length) tokens.
            real: (batch, length), true on real tokens.
        """
        shape = self.shape
        first, second = split_inputs(ids, real, shape.pair, shape.sep_token_id)
        first_matches: Tensor | None = None
        second_matches: Tensor | None = None
        if shape.exact_match:
            first_matches, second_matches = exact_matches(first, second, shape.sep_token_id)

        first_state = self.embedding(*first, first_matches)
        second_state = self.embedding(*second, second_matches) if shape.pair else first_state
        mask = (first[1] | second[1]).unsqueeze(-1).to(first_state.dtype)
        return [first_state, second_state], mask

    def pooled_states(
        self, ids: Tensor, real: Tensor, executions: Sequence[EdgeExecution], depth: int
    ) -> Iterator[Tensor]:
        """Yield the pooled state (batch, 2 * width) after each of the first `depth` cells."""
        states, mask = self.embed_inputs(ids, real)
        for i in range(depth):
            # (c_{k-2}, c_{k-1}) of the next cell
            states = [states[1], self.cells[i](states, mask, executions)]
            yield pool_states(states[1], mask)

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the logits (batch, classes) of a pooled state (batch, 2 * width)."""
        return self.head(pooled, self.dropout if self.training else 0.0)


class Child(Student):
    """The student of one structure.

    >>> shape = StudentShape(
    ...     vocab_size=100, embedding_size=8, width=16, max_positions=12, classes=2, pair=False,
    ...     sep_token_id=3, pad_token_id=0,
    ... )
    >>> child = Child(shape, Structure(layers=2, operations=("std_conv_3",) * 9))
    >>> ids = torch.randint(4, 100, (5, 12))  # five texts of 12 tokens
    >>> logits, probes = child(ids, torch.ones_like(ids).bool())
    >>> logits.shape, probes.shape
    (torch.Size([5, 2]), torch.Size([5, 2, 2]))
    """

    def __init__(self, shape: StudentShape, structure: Structure) -> None:
        names = [[name] for name in structure.operations]
        super().__init__(shape, structure.layers, structure.nodes, names)
        self.structure = structure
        self.executions = [EdgeExecution(name) for name in structure.operations]

    def forward(self, ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Classify texts.

        Args:
            ids: (batch, length) tokens.
            real: (batch, length), true on real tokens.

        Returns:
            Logits (batch, classes), and the probes' logits (batch, layers, classes).
        """
        pooled = list(self.pooled_states(ids, real, self.executions, self.structure.layers))
        probes = [probe(p) for probe, p in zip(self.probes, pooled, strict=True)]
        return self.classify(pooled[-1]), torch.stack(probes, 1)


class Parent(Student):
    """A student of K_max cells with every candidate operation on every edge; the search trains it.

    >>> from raycomp.methods.adabert.gumbel import Distribution
    >>> shape = StudentShape(
    ...     vocab_size=100, embedding_size=8, width=16, max_positions=12, classes=2, pair=False,
    ...     sep_token_id=3, pad_token_id=0,
    ... )
    >>> parent = Parent(shape, max_layers=4, nodes=3)
    >>> sample = Distribution(max_layers=4, nodes=3, candidates=OPERATIONS).sample(1.0, seed=0)
    >>> ids = torch.randint(4, 100, (5, 12))
    >>> logits, probes = parent(ids, torch.ones_like(ids).bool(), sample, estimator="sampled")
    >>> len(logits) == len(probes) == sample.structure.layers
    True
    >>> child = parent.extract_child(sample.structure)  # with a copy of the weights

    Source: AdaBERT (Chen et al., 2020), Section 2.5.1 and Figure 2.
    """

    def __init__(
        self,
        shape: StudentShape,
        max_layers: int,
        nodes: int,
        candidates: Sequence[str] = OPERATIONS,
        share: bool = True,
    ) -> None:
        """Create the weights of every candidate.

        Args:
            shape: Sizes of the embedding, the states and the classifier.
            max_layers: K_max.
            nodes: Inner nodes of a cell.
            candidates: Names of the candidate operations.
            share: Whether an edge's convolutions of one dilation share their middle taps.
        """
        names = [list(candidates) for _ in cell_edges(nodes)]
        super().__init__(shape, max_layers, nodes, names, share)
        self.candidates = tuple(candidates)

    def forward(
        self, ids: Tensor, real: Tensor, sample: Sample, estimator: str, seed: int = 0
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run a sampled structure.

        Args:
            ids: (batch, length) tokens.
            real: (batch, length), true on real tokens.
            sample: Draw from P_alpha.
            estimator: Operations that run in addition to the sampled ones, see `plan_edges`. "full"
                runs all K_max cells, the others run the sampled depth.
            seed: Seed of the random choices of `plan_edges`.

        Returns:
            The logits and the probe's logits after each cell that ran, each (batch, classes).
        """
        depth = len(self.cells) if estimator == "full" else sample.structure.layers
        executions = plan_edges(sample, self.candidates, estimator, seed)
        pooled = list(self.pooled_states(ids, real, executions, depth))
        probes = [self.probes[i](p) for i, p in enumerate(pooled)]
        return [self.classify(p) for p in pooled], probes

    @torch.no_grad()
    def extract_child(self, structure: Structure) -> Child:
        """Return the child of a structure, with a copy of this parent's weights."""
        child = Child(self.shape, structure)
        weights = self.unshared_weights()
        child.load_state_dict({name: weights[name] for name in child.state_dict()})
        return child

    def unshared_weights(self) -> dict[str, Tensor]:
        """Return the weights with a kernel for every convolution, under the names that children use."""
        state = dict(self.state_dict())
        for name, module in self.named_modules():
            if isinstance(module, ReluConvNorm):
                state[f"{name}.weight"] = module.taps.detach().contiguous()
        return state
