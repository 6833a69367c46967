"""The parent graph and its children: one embedding, cells, a probe per cell, one classifier."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raycomp.errors import UserError
from raycomp.methods.adabert.cell import Cell, EdgeExecution
from raycomp.methods.adabert.gumbel import Sample, straight_through
from raycomp.methods.adabert.modules import Head, exact_matches, pool_states, split_inputs
from raycomp.methods.adabert.operations import ReluConvNorm
from raycomp.methods.adabert.structure import CONVOLUTIONS, OPERATIONS, Structure, cell_edges


@dataclass(frozen=True)
class StudentShape:
    """What a student's sizes depend on, beside its structure.

    Attributes:
        vocab_size: rows of the word table.
        embedding_size: rank of the factorised embedding.
        width: channels of every state.
        max_positions: longest text, in tokens.
        classes: outputs.
        pair: two texts.
        sep_token_id: the token that ends the first text.
        pad_token_id: the token that fills a batch up.
        exact_match: of two texts, tokens that both have are marked.
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
    """Word and position tables of a small rank, then a projection to the width of the states.

    A token that the other text of a pair has too may bear a mark, one vector for all (the exact match
    of Chen et al., 2017, arXiv:1704.00051): the two texts are added up position by position, so that a
    CNN sees a shared word by itself only where it stands near the same place in both.
    """

    def __init__(self, shape: StudentShape) -> None:
        super().__init__()
        self.word = nn.Embedding(shape.vocab_size, shape.embedding_size)
        self.position = nn.Parameter(torch.zeros(shape.max_positions, shape.embedding_size))
        self.mark = nn.Parameter(torch.randn(shape.embedding_size)) if shape.exact_match else None
        self.project = nn.Linear(shape.embedding_size, shape.width, bias=False)
        self.norm = nn.LayerNorm(shape.width)

    @torch.no_grad()
    def factorise(self, words: Tensor, positions: Tensor) -> None:
        """Take the teacher's tables, by the singular vectors of its words: the best of this rank.

        Args:
            words: (vocabulary, hidden) of the teacher.
            positions: (at least max_positions, hidden) of the teacher.
        """
        words, rank = words.double(), self.word.weight.shape[1]
        if words.shape[0] != self.word.weight.shape[0]:
            raise UserError(
                f"the teacher has {words.shape[0]} words, the student {self.word.weight.shape[0]}"
            )
        # The right singular vectors are the eigenvectors of a small (hidden x hidden) matrix.
        _, vectors = torch.linalg.eigh(words.T @ words)
        basis = vectors.flip(1)[:, :rank]
        # LayerNorm's eps must not swallow the small values of some tables.
        unit = float((words @ basis).std().clamp(min=1e-12))
        held = min(rank, basis.shape[1])
        self.word.weight.zero_()
        self.word.weight[:, :held] = (words @ basis / unit).to(self.word.weight.dtype)
        count = self.position.shape[0]
        self.position.zero_()
        self.position[:, :held] = (positions[:count].double() @ basis / unit).to(self.position.dtype)

    def forward(self, ids: Tensor, mask: Tensor, same: Tensor | None = None) -> Tensor:
        """Embed (batch, length) tokens into (batch, length, width), 0 where the mask is 0.

        Args:
            ids, mask: (batch, length).
            same: (batch, length), true on tokens that bear the mark.
        """
        x = self.word(ids) + self.position[: ids.shape[1]]
        if self.mark is not None and same is not None:
            x = x + same.unsqueeze(-1) * self.mark
        return self.norm(self.project(x)) * mask.unsqueeze(-1)


class Student(nn.Module):
    """Cells that hold candidate operations: all of them (the parent) or one per edge (a child)."""

    def __init__(
        self,
        shape: StudentShape,
        layers: int,
        nodes: int,
        held: Sequence[Sequence[str]],
        share: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = FactorisedEmbedding(shape)
        self.cells = nn.ModuleList(Cell(shape.width, nodes, held, share) for _ in range(layers))
        self.probes = nn.ModuleList(nn.Linear(2 * shape.width, shape.classes) for _ in range(layers))
        self.head = Head(shape.width, shape.classes)
        self.dropout = 0.0
        nn.init.orthogonal_(self.embedding.project.weight)
        nn.init.normal_(self.embedding.word.weight)

    def embed_inputs(self, batch_ids: Tensor, real: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the two input states of the first cell and the mask (batch, length, 1).

        Of a pair the mask holds where either text has a token; beyond the shorter one its state is 0.
        """
        shape = self.shape
        one, two = split_inputs(batch_ids, real, shape.pair, shape.sep_token_id)
        marks = exact_matches(one, two, shape.sep_token_id) if shape.exact_match else (None, None)
        first = self.embedding(*one, marks[0])
        second = self.embedding(*two, marks[1]) if shape.pair else first
        return [first, second], (one[1] | two[1]).unsqueeze(-1).to(first.dtype)

    def pooled_states(
        self, ids: Tensor, real: Tensor, paths: Sequence[EdgeExecution], depth: int
    ) -> Iterator[Tensor]:
        """Yield the pooled state (batch, 2 * width) after each of the first `depth` cells."""
        states, mask = self.embed_inputs(ids, real)
        for i in range(depth):
            states = [states[1], self.cells[i](states, mask, paths)]
            yield pool_states(states[1], mask)

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the logits of a pooled state."""
        return self.head(pooled, self.dropout if self.training else 0.0)


class Child(Student):
    """A student of one structure."""

    def __init__(self, shape: StudentShape, structure: Structure) -> None:
        held = [[name] for name in structure.operations]
        super().__init__(shape, structure.layers, structure.nodes, held)
        self.structure = structure
        self.paths = [EdgeExecution(name) for name in structure.operations]

    def forward(self, ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and the probes' logits (batch, layers, classes)."""
        pooled = list(self.pooled_states(ids, real, self.paths, self.structure.layers))
        probes = [probe(p) for probe, p in zip(self.probes, pooled, strict=True)]
        return self.classify(pooled[-1]), torch.stack(probes, 1)


class Parent(Student):
    """A student that holds every candidate operation on every edge, K_max cells deep."""

    def __init__(
        self,
        shape: StudentShape,
        max_layers: int,
        nodes: int,
        candidates: Sequence[str] = OPERATIONS,
        share: bool = True,
    ) -> None:
        """Make every candidate on every edge; with `share`, kernels of one dilation share taps."""
        held = [list(candidates) for _ in cell_edges(nodes)]
        super().__init__(shape, max_layers, nodes, held, share)
        self.candidates = tuple(candidates)

    def forward(
        self, ids: Tensor, real: Tensor, sample: Sample, estimator: str, seed: int = 0
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run a sample; return logits and probe logits after each cell, each (batch, classes).

        Args:
            ids, real: (batch, length).
            sample: what was drawn.
            estimator: what runs beside the drawn structure, see `plan_edges`. "full" also runs all cells.
            seed: of what `plan_edges` draws.
        """
        depth = len(self.cells) if estimator == "full" else sample.structure.layers
        executions = plan_edges(sample, self.candidates, estimator, seed)
        pooled = list(self.pooled_states(ids, real, executions, depth))
        probes = [self.probes[i](p) for i, p in enumerate(pooled)]
        return [self.classify(p) for p in pooled], probes

    @torch.no_grad()
    def extract_child(self, structure: Structure) -> Child:
        """Return the child of a structure with a copy of the weights trained here."""
        child = Child(self.shape, structure)
        mine = self.unshared_weights()
        child.load_state_dict({name: mine[name] for name in child.state_dict()})
        return child

    def unshared_weights(self) -> dict[str, Tensor]:
        """Return the weights with a kernel for every convolution, as children name them."""
        state = dict(self.state_dict())
        for name, module in self.named_modules():
            if isinstance(module, ReluConvNorm):
                state[f"{name}.weight"] = module.taps.detach().contiguous()
        return state


def plan_edges(
    sample: Sample, candidates: Sequence[str], estimator: str, seed: int
) -> list[EdgeExecution]:
    """Return what runs on each edge of a sample.

    "full": every candidate, as the straight-through estimator asks. "sampled": the drawn one alone;
    its y has the gradient of its output, the others none. "contrast": beside the drawn one those that
    have no weights, which cost little, and one convolution; y is compared among these.

    Args:
        sample: what was drawn.
        candidates: names, in the order of the sample's columns.
        estimator: "full", "sampled" or "contrast".
        seed: of the convolutions that "contrast" draws.
    """
    rng = random.Random(seed)  # nosec B311  # no secret depends on it
    found = []
    for e, name in enumerate(sample.structure.operations):
        rest = [c for c in candidates if c != name]
        if estimator == "sampled":
            drawn = sample.operations[e, candidates.index(name)]
            found.append(EdgeExecution(name, (), drawn.unsqueeze(0)))
            continue
        if estimator == "contrast":
            heavy = [c for c in rest if c in CONVOLUTIONS]
            kept = {rng.choice(heavy)} if heavy else set()
            rest = [c for c in rest if c not in CONVOLUTIONS or c in kept]
        where = [candidates.index(c) for c in (name, *rest)]
        found.append(EdgeExecution(name, tuple(rest), straight_through(sample.scores[e, where])))
    return found
