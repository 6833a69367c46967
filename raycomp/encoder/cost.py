"""Parameters and FLOPs of an architecture, computed from its shapes.

Golden values (BERT-base without classifier): 24,427,776 + sum over layers of (196,800 h + 1,537 k +
4,608); full 109,482,240. A half of width 0 also saves its output bias and LayerNorm: 2,304 parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raycomp.encoder.architecture import FULL_TABLE, Architecture, WordTable
from raycomp.errors import UserError

CostFunction = Callable[[Architecture], float]
"""From an architecture to its cost. It grows with depth, heads and FFN neurons.

Of word tables, a smaller one can cost more: a rank saves parameters and adds FLOPs.
"""


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of a full network that its costs depend on; needs neither torch nor transformers.

    The attributes are those of `layers.EncoderConfig`, and:

    Attributes:
        task_vocab_size: Rows of a word table that is cut to the task's tokens; None without such tables.
    """

    vocab_size: int
    hidden_size: int
    embedding_size: int
    head_size: int
    layer_heads: tuple[int, ...]
    layer_ffn: tuple[int, ...]
    max_position_embeddings: int
    type_vocab_size: int
    num_labels: int
    task_vocab_size: int | None = None

    @classmethod
    def from_config(cls, config: Any, task_vocab_size: int | None = None) -> EncoderShape:
        """Read the shape of an `EncoderConfig`, or of any object with its attributes."""
        names = cls.__dataclass_fields__.keys() - {"task_vocab_size"}
        values = {name: getattr(config, name) for name in names}
        return cls.from_dict({**values, "task_vocab_size": task_vocab_size})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EncoderShape:
        """Read the dict that `to_dict` returned, also after JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        data = asdict(self)
        # Plans of runs without cut word tables lack the key, and their hashes must stay.
        if self.task_vocab_size is None:
            del data["task_vocab_size"]
        return data


def layer_params(config: EncoderShape, heads: int, ffn: int) -> int:
    """Return the parameters of one Transformer layer; a half of width 0 adds 0."""
    hidden = config.hidden_size
    inner = heads * config.head_size
    layer_norm = 2 * hidden

    params = 0
    if heads:
        params += 3 * (hidden * inner + inner) + inner * hidden + hidden + layer_norm
    if ffn:
        params += hidden * ffn + ffn + ffn * hidden + hidden + layer_norm
    return params


def table_rows(config: EncoderShape, table: WordTable) -> int:
    """Return the rows of a word table.

    Raises:
        ValueError: The table is cut, and the shape does not know the task's vocabulary.
    """
    rows = config.task_vocab_size if table.is_cut else config.vocab_size
    if rows is None:
        raise ValueError("the size of the task's vocabulary is not known")
    return rows


def table_params(config: EncoderShape, table: WordTable) -> int:
    """Return the parameters of a word table.

    Raises:
        ValueError: As in `table_rows`.
    """
    rows = table_rows(config, table)
    size = config.embedding_size
    # A table of rank r is a matrix of r columns times one of r rows.
    return rows * size if table.rank is None else table.rank * (rows + size)


def other_params(config: EncoderShape) -> int:
    """Return the parameters outside the layers: embeddings, pooler and classifier."""
    size = config.embedding_size
    hidden = config.hidden_size
    rows = config.max_position_embeddings + config.type_vocab_size
    layer_norm = 2 * size
    embeddings = table_params(config, FULL_TABLE) + rows * size + layer_norm
    # ELECTRA projects narrow embeddings to the hidden size.
    if size != hidden:
        embeddings += size * hidden + hidden

    pooler = hidden * hidden + hidden
    classifier = hidden * config.num_labels + config.num_labels
    return embeddings + pooler + classifier


def layer_flops(config: EncoderShape, heads: int, ffn: int, length: int) -> int:
    """Return the FLOPs of one layer on one sequence: 2 per multiply-add of its matrix products.

    Norms, activations, softmax and biases are left out (under 2% at length 128). Every layer counts for
    all tokens, as in the papers; a deployed model computes only the first token in its last layer.

    Args:
        config: Shape of the network.
        heads: Attention heads of the layer.
        ffn: FFN neurons of the layer.
        length: Tokens of the sequence.
    """
    hidden = config.hidden_size
    inner = heads * config.head_size
    projections = 4 * length * hidden * inner
    attention = 2 * length * length * inner
    feed_forward = 2 * length * hidden * ffn
    return 2 * (projections + attention + feed_forward)


def other_flops(config: EncoderShape, length: int) -> int:
    """Return the FLOPs outside the layers: embedding projection, pooler and classifier."""
    hidden = config.hidden_size
    projection = 0
    if config.embedding_size != hidden:
        projection = length * config.embedding_size * hidden
    return 2 * (projection + hidden * hidden + hidden * config.num_labels)


class CostModel:
    """Costs of the architectures of one network, by table look-up."""

    def __init__(
        self,
        config: EncoderShape,
        length: int,
        functions: Callable[[], Mapping[str, CostFunction]] = dict,
    ) -> None:
        """Prepare the costs outside of the layers.

        Args:
            config: Shape of the full network.
            length: Tokens of a sequence, which FLOPs depend on.
            functions: Returns further kinds of cost, such as a latency from measured layers. It is
                called when one of them is asked for first.
        """
        self._functions = functions
        self._config = config
        self._length = length
        self._cache: dict[tuple[str, int, int], int] = {}
        self._base = {
            "params": other_params(config),
            "encoder_params": 0,
            "flops": other_flops(config, length),
        }
        self._tables: dict[tuple[str, WordTable], int] = {}

    def cost(self, kind: str, arch: Architecture) -> float:
        """Return the cost of an architecture, in the unit of its kind.

        Args:
            kind: "params", "encoder_params", "flops" (all whole numbers) or a key of the functions.
            arch: The architecture.

        Raises:
            UserError: The kind is unknown.
        """
        if kind not in self._base:
            functions = self._functions()
            if kind not in functions:
                kinds = ", ".join((*self._base, *functions))
                raise UserError(f"Budget kind {kind!r} is unknown. Use one of {kinds}.")
            return functions[kind](arch)
        total = self._base[kind]
        if arch.table != FULL_TABLE:
            total += self._table(kind, arch.table)
        for heads, ffn in zip(arch.heads, arch.ffn, strict=True):
            total += self._layer(kind, heads, ffn)
        return total

    def table_rows(self, table: WordTable) -> int:
        """Return the rows of a word table.

        Raises:
            ValueError: As in the function `table_rows`.
        """
        return table_rows(self._config, table)

    def _table(self, kind: str, table: WordTable) -> int:
        """Return how much more a word table costs than the full one."""
        key = (kind, table)
        if key not in self._tables:
            value = 0
            if kind == "params":
                value = table_params(self._config, table) - table_params(self._config, FULL_TABLE)
            elif kind == "flops" and table.rank is not None:
                # Each token's row is multiplied by the second matrix.
                value = 2 * self._length * table.rank * self._config.embedding_size
            self._tables[key] = value
        return self._tables[key]

    def _layer(self, kind: str, heads: int, ffn: int) -> int:
        # A search asks for the same few layer shapes many times.
        key = (kind, heads, ffn)
        if key not in self._cache:
            if kind == "flops":
                value = layer_flops(self._config, heads, ffn, self._length)
            else:
                value = layer_params(self._config, heads, ffn)
            self._cache[key] = value
        return self._cache[key]
