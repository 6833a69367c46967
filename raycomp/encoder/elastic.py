"""The elastic encoder: a super-network whose every sub-network is a front slice of its weights.

The network holds the full weights under the names of the static model. The architecture is an argument of
`forward`, never a state of the model; `slicing` says which part of each weight it uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from raycomp.encoder.architecture import FULL_TABLE, Architecture, WordTable
from raycomp.encoder.half_layers import HalfLayer, half_layers, sliced_attention, sliced_feed_forward
from raycomp.encoder.interface import AttentionStates, ElasticOutput, TokenBatch
from raycomp.encoder.layers import (
    ACTIVATIONS,
    Embeddings,
    Encoder,
    EncoderConfig,
    Layer,
    compute_logits,
)
from raycomp.encoder.slicing import (
    AUTOGRAD_SLICES,
    EmbeddingRows,
    SliceReader,
    Slices,
    used_slices,
)
from raycomp.encoder.word_tables import TableParts
from raycomp.errors import UserError

if TYPE_CHECKING:
    from raycomp.encoder.static_model import RaycompForSequenceClassification


class ElasticEncoder(nn.Module):
    """A super-network: `forward(batch, arch)` computes what `extract(arch)` computes.

    Attributes:
        config: Shapes of the full network.
        table_parts: What word tables other than the network's own are made of.
        row_ids: Token of each row of the network's word table, ascending; None where row i is token i.
    """

    row_ids: Tensor | None

    def __init__(self, full: Encoder | RaycompForSequenceClassification) -> None:
        """Share the modules of a full-size static model; they are not copied."""
        super().__init__()
        self.config = EncoderConfig.from_config(full.config)
        self.embeddings: Embeddings = full.embeddings
        self.layers = full.layers
        self.pooler: nn.Linear = full.pooler
        self.classifier: nn.Linear = full.classifier
        self.classifier_dropout = self.config.classifier_dropout
        # The same mode as that of the shared modules.
        self.training = full.training
        self.table_parts = TableParts()
        self.register_buffer("row_ids", None, persistent=False)
        # Read once: to walk the modules takes long.
        self._named = dict(self.named_parameters())

    @property
    def largest(self) -> Architecture:
        """The full architecture."""
        heads = self.config.layer_heads
        return Architecture(len(heads), heads, self.config.layer_ffn)

    def set_dropout(self, rate: float | None) -> None:
        """Set every dropout rate; None leaves the network's own."""
        if rate is None:
            return
        self.classifier_dropout = self.embeddings.dropout = rate
        for layer in self._layers():
            layer.hidden_dropout = layer.attention_dropout = rate

    def share_embeddings(self, other: ElasticEncoder) -> None:
        """Use the embeddings of another network of the same width instead of own ones."""
        self.embeddings = other.embeddings
        self._named = dict(self.named_parameters())

    def use_column_major_layout(self) -> None:
        """Store matrices that are sliced by columns column by column: every slice is then contiguous."""
        for name, parameter in self._named.items():
            # The other matrices are sliced by rows, and torch stores them row by row.
            if name.endswith((".output.weight", ".down.weight")):
                parameter.data = parameter.data.t().contiguous().t()

    def take_embedding_rows(self, ids: Tensor) -> EmbeddingRows | None:
        """Return the word embeddings of these token ids as a leaf; None where they are not trained."""
        weight = self.embeddings.word.weight
        if not weight.requires_grad:
            return None
        # A batch contains about a hundredth of the vocabulary; a gradient of all rows would be zeros.
        token_ids = ids.unique()
        return EmbeddingRows(token_ids, weight.detach()[token_ids].requires_grad_())

    def embed(
        self, batch: TokenBatch, rows: EmbeddingRows | None = None, table: WordTable = FULL_TABLE
    ) -> Tensor:
        """Return the embeddings, (batch, length, hidden): the same for every slice with one word table.

        Args:
            batch: As for `forward`.
            rows: Word embeddings to read instead of the network's; they contain the batch's tokens.
            table: Word table. A cut one has the same embeddings: the batch has its tokens only.
        """
        weight = self.embeddings.word.weight
        if table.rank is not None:
            token_ids = batch.input_ids.unique()
            rows = EmbeddingRows(token_ids, self.table_parts.project(weight[token_ids], table.rank))
        elif rows is None and self.row_ids is not None:
            rows = EmbeddingRows(self.row_ids, weight)
        if rows is None:
            return cast(Tensor, self.embeddings(batch.input_ids, batch.token_type_ids))
        # Row numbers in the smaller table: its ids are sorted and contain all of the batch.
        places = torch.searchsorted(rows.token_ids, batch.input_ids)
        return cast(Tensor, self.embeddings(places, batch.token_type_ids, rows.rows))

    def forward(
        self,
        batch: TokenBatch,
        arch: Architecture | None = None,
        *,
        hidden: bool = False,
        attention: bool = False,
        embedded: Tensor | None = None,
        head_masks: Sequence[Tensor] | None = None,
        slices: SliceReader = AUTOGRAD_SLICES,
    ) -> ElasticOutput:
        """Run the slice `arch`.

        Args:
            batch: input_ids, attention_mask (bool) and token_type_ids, each (batch, length).
            arch: Front slices to use; None is the whole network.
            hidden: Whether to return the embeddings and each layer's output.
            attention: Whether to return query, key and value of each layer.
            embedded: Result of `embed` for this batch, where several slices share it.
            head_masks: Factors of each head's output, (heads,) for each layer that runs.
            slices: Reader of the weights; `SlicedGradients` collects their gradients.

        Raises:
            UserError: The architecture is larger than the network.
        """
        arch = arch or self.largest
        self.check_fits(arch)
        x = self.embed(batch, table=arch.table) if embedded is None else embedded
        mask = batch.attention_mask[:, None, None, :]
        # The classifier only reads the first token: without hints, the last layer computes only that one.
        needs_all_tokens = hidden or attention

        states = [x]
        attention_states: list[AttentionStates | None] = []
        for position, index in enumerate(arch.layer_indices):
            layer = cast(Layer, self.layers[index])
            x, layer_states = sliced_attention(
                layer,
                x,
                mask,
                arch.heads[position],
                slices,
                first_only=position == arch.depth - 1 and not needs_all_tokens,
                training=self.training,
                head_mask=None if head_masks is None else head_masks[position],
            )
            x = sliced_feed_forward(layer, x, arch.ffn[position], slices, training=self.training)
            states.append(x)
            if attention:
                attention_states.append(layer_states)

        return ElasticOutput(
            self.compute_logits(x),
            tuple(states) if hidden else None,
            arch.layer_indices,
            tuple(attention_states) if attention else None,
        )

    def forward_many(self, batch: TokenBatch, archs: Sequence[Architecture]) -> Tensor:
        """Run several slices; the half layers that they share from the input on are computed once.

        The numbers are those of `forward`, bit for bit. The half layers of an architecture are a path.
        Paths that start with the same half layers share them; where they differ, the tree branches.

        Args:
            batch: As for `forward`.
            archs: Front slices to use.

        Returns:
            Logits (architectures, batch, classes).

        Raises:
            UserError: An architecture is larger than the network.
        """
        for arch in archs:
            self.check_fits(arch)
        mask = batch.attention_mask[:, None, None, :]
        logits: dict[int, Tensor] = {}
        # Cut tables give the same embeddings as whole ones.
        for rank in dict.fromkeys(arch.table.rank for arch in archs):
            x = self.embed(batch, table=WordTable(rank=rank))
            paths = {i: half_layers(arch) for i, arch in enumerate(archs) if arch.table.rank == rank}
            logits |= {i: self.compute_logits(y) for i, y in self._branches(x, mask, 0, paths)}
        return torch.stack([logits[i] for i in range(len(archs))])

    def _branches(
        self, x: Tensor, mask: Tensor, done: int, paths: dict[int, tuple[HalfLayer, ...]]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the last state of each path, (batch, 1, hidden), with the path's number.

        Args:
            x: State that all these paths have after `done` half layers, (batch, length, hidden).
            mask: (batch, 1, 1, length).
            done: Half layers that x has passed.
            paths: Paths with these first half layers, by number.
        """
        # Paths with the same next half layer share its computation.
        branches: dict[HalfLayer, dict[int, tuple[HalfLayer, ...]]] = {}
        for number, path in paths.items():
            branches.setdefault(path[done], {})[number] = path

        for half, members in branches.items():
            y = self._run_half(half, x, mask)
            if half.is_last and not half.is_attention:
                yield from ((number, y) for number in members)
            else:
                yield from self._branches(y, mask, done + 1, members)

    def _run_half(self, half: HalfLayer, x: Tensor, mask: Tensor) -> Tensor:
        """Run one half layer for `forward_many`: (batch, length, hidden)."""
        layer = cast(Layer, self.layers[half.layer])
        if not half.is_attention:
            return sliced_feed_forward(layer, x, half.width, AUTOGRAD_SLICES, training=self.training)
        y, _ = sliced_attention(
            layer,
            x,
            mask,
            half.width,
            AUTOGRAD_SLICES,
            first_only=half.is_last,
            training=self.training,
        )
        return y

    def compute_logits(self, x: Tensor) -> Tensor:
        """Return the logits (batch, classes) of the last states (batch, length, hidden)."""
        return compute_logits(
            x[:, 0],
            self.pooler,
            self.classifier,
            ACTIVATIONS[self.config.head_act],
            self.classifier_dropout if self.training else 0.0,
            self.config.drop_before_pooler,
        )

    def active_parameters(self, arch: Architecture) -> list[tuple[str, Slices]]:
        """Return (name, slices) of exactly the weights that `arch` uses, in a fixed order."""
        self.check_fits(arch)
        widths = {
            layer: (heads * self.config.head_size, ffn)
            for layer, heads, ffn in zip(arch.layer_indices, arch.heads, arch.ffn, strict=True)
        }
        active: list[tuple[str, Slices]] = []
        for name, parameter in self._named.items():
            slices = used_slices(name, parameter, widths)
            if slices is not None:
                active.append((name, slices))
        return active

    @torch.no_grad()
    def extract(self, arch: Architecture) -> RaycompForSequenceClassification:
        """Return the slice as a static model with its own weights, in eval mode.

        Its layers are numbered from 0, whichever layers of this network they are.
        """
        # Imported here: importing transformers' model classes takes seconds, which every worker would pay
        # and none needs.
        from raycomp.encoder.static_model import RaycompConfig, RaycompForSequenceClassification

        shapes = self.shapes_of(arch)
        model = RaycompForSequenceClassification(RaycompConfig(**self.config.to_dict() | shapes))
        model.load_state_dict(self.extract_weights(arch), strict=True)
        return cast(RaycompForSequenceClassification, model.eval())

    def shapes_of(self, arch: Architecture) -> dict[str, Any]:
        """Return the configuration values in which an extracted network differs from this one."""
        table = self.table_parts.sizes(arch.table, self.config.pad_token_id)
        return {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn), **table}

    @torch.no_grad()
    def extract_weights(self, arch: Architecture) -> dict[str, Tensor]:
        """Return copies of the slice's weights on the CPU, under the names of a network of its own.

        Its layers are numbered from 0, whichever layers of this network they are.
        """
        new_index = {str(layer): position for position, layer in enumerate(arch.layer_indices)}
        weights = {}
        for name, slices in self.active_parameters(arch):
            parts = name.split(".")
            # "layers.7.query.weight" becomes "layers.3.query.weight" where layer 7 is the fourth to run.
            if parts[0] == "layers":
                parts[1] = str(new_index[parts[1]])
            weights[".".join(parts)] = self._named[name][slices].detach().cpu().clone()
        if arch.table != FULL_TABLE:
            weights |= self.table_parts.weights(weights["embeddings.word.weight"], arch.table)
        return weights

    def check_fits(self, arch: Architecture) -> None:
        """Raise UserError when an architecture does not fit into this network."""
        heads = self.config.layer_heads
        ffn = self.config.layer_ffn
        last = arch.layer_indices[-1]
        if last >= len(heads):
            raise UserError(
                f"The architecture has depth {arch.depth} and runs layer {last}. "
                f"This network has {len(heads)} layers, numbered from 0."
            )
        for layer, own_heads, own_ffn in zip(arch.layer_indices, arch.heads, arch.ffn, strict=True):
            if own_heads > heads[layer] or own_ffn > ffn[layer]:
                raise UserError(
                    f"The architecture has {own_heads} heads and {own_ffn} neurons in layer {layer}. "
                    f"This network has {heads[layer]} and {ffn[layer]}."
                )

    def _layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self.layers]
