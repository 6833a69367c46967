"""The context of a run: from a job and a run directory to data and networks, in every process alike."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raycomp.data.target_scaling import IDENTITY, TargetScaling
from raycomp.data.tokens import TokenSplit, cached, fingerprint, tokenise
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.methods.facts import Facts, make_facts, read_facts
from raycomp.search.setup import SearchSetup
from raycomp.storage.files import read_json, write_json
from raycomp.storage.revision import read_revision
from raycomp.storage.tensors import load_weights
from raycomp.training.optimizers import resolve_precision
from raycomp.training.step_cost import TRAINING_PASSES, StepCost, TokenFlops

if TYPE_CHECKING:
    from raycomp.data.tasks import Split, Task
    from raycomp.encoder.pretrained import Checkpoint

COMPARED_TEXTS = 200
"""Training rows on which a tokenizer is compared with its file."""


class RunContext(SearchSetup):
    """Data and networks of a run, loaded when they are first asked for.

    Every process builds its own context from the job and the run directory, so only names are sent
    between processes. See `SearchSetup` for the constructor.

    Attributes:
        tokenizer_note: What a user must know about the tokenizer; set by `facts` of a new run.
        head_note: Weights of the model that are left out; set by `facts` of a new run.
    """

    tokenizer_note: str = ""
    head_note: str = ""

    def for_method(self, method: str) -> RunContext:
        """Return this context as another method has it; what is loaded is shared."""
        context = copy.copy(self)
        context.method = method
        context.files = self.layout.method(method)
        context.__dict__.pop("cut", None)
        # Each method has its own corrections.
        context.forget_device()
        return context

    @functools.cached_property
    def revision(self) -> int:
        """The revision of the rules that the run started with."""
        return read_revision(self.layout)

    @functools.cached_property
    def task(self) -> Task:
        """The task with its three splits."""
        # Imported here: workers and evaluators read tokens, and pandas takes half a second to import.
        from raycomp.data.tasks import load_task

        return load_task(self.job.task, self.job.run.seed, self.revision)

    def load(self) -> Checkpoint:
        """Return the checkpoint of the job: the pretrained network at full size and its tokenizer.

        The network is not kept in memory, because trained weights take its place soon. Its outputs are
        standardised for regression, as those of every network of a run.

        Raises:
            UserError: The checkpoint, its tokenizer or its classifier does not fit the task.
        """
        # Imported here: transformers takes seconds to import, and workers never load a model.
        from raycomp.encoder.output_units import standardise_outputs
        from raycomp.encoder.pretrained import load_checkpoint
        from raycomp.encoder.tokenizer_checks import check_first_token

        job = self.job
        is_started = self.layout.facts.exists()

        # A new classifier is drawn at random.
        torch.manual_seed(job.run.seed)
        checkpoint = load_checkpoint(
            job.model.name,
            num_labels=self.task.num_labels,
            classes=self.task.label_names,
            in_order=job.task.labels is not None,
            # A run resumes with the choice that it began with.
            new_classifier=job.teacher.mode == "train" or (is_started and not self.facts.fine_tuned),
            texts=self.sample_texts(COMPARED_TEXTS),
            is_wanted=self._is_recorded_tokenizer if is_started else None,
            revision=job.model.revision,
            trust_remote_code=job.model.trust_remote_code,
        )

        if self.task.train.text_b is not None:
            check_first_token(checkpoint.tokenizer, job.model.name, pair=True)
        if checkpoint.is_fine_tuned:
            scaling = self.target_scaling
            standardise_outputs(checkpoint.network.classifier, scaling.mean, scaling.deviation)
        return checkpoint

    def sample_texts(self, rows: int) -> list[str]:
        """Return the texts of training rows that are evenly spaced, at most `rows` of them."""
        train = self.task.train
        step = max(1, len(train) // rows)
        return [*train.text_a[::step][:rows], *(train.text_b or [])[::step][:rows]]

    def _is_recorded_tokenizer(self, tokenizer: Any) -> bool:
        return fingerprint(tokenizer) == self.facts.tokenizer

    @functools.cached_property
    def target_scaling(self) -> TargetScaling:
        """The units of a regression's targets."""
        if self.layout.facts.exists():
            return TargetScaling(self.facts.target_mean, self.facts.target_deviation)
        if self.task.kind != "regression":
            return IDENTITY
        return TargetScaling.of(self.task.train.labels)

    @functools.cached_property
    def facts(self) -> Facts:
        """Properties of model and data, read from the run directory once `record_facts` wrote them.

        Raises:
            UserError: The file is damaged.
        """
        path = self.layout.facts
        if path.exists():
            return read_facts(path)
        return make_facts(self)

    def record_facts(self) -> None:
        """Write the properties of model and data into the run directory, once."""
        if not self.layout.facts.exists():
            write_json(self.layout.facts, asdict(self.facts))
        if self.vocabulary is not None and not self.layout.vocabulary.exists():
            write_json(self.layout.vocabulary, {"token_ids": self.vocabulary.tolist()})

    @functools.cached_property
    def vocabulary(self) -> np.ndarray | None:
        """Ids of the tokens of cut word tables, ascending; None where the job cuts none."""
        from raycomp.methods.task_vocabulary import find_vocabulary

        return find_vocabulary(self)

    @functools.cached_property
    def cut(self) -> RunContext:
        """This context in the ids of the cut vocabulary."""
        from raycomp.methods.task_vocabulary import CutContext

        return CutContext.of(self)

    @functools.cached_property
    def config(self) -> EncoderConfig:
        """The configuration of the full network."""
        return EncoderConfig.from_config(self.facts.config)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, with padding and truncation switched off."""
        from raycomp.encoder.pretrained import load_tokenizer

        model = self.job.model
        return load_tokenizer(
            model.name, model.revision, model.trust_remote_code, self._is_recorded_tokenizer
        )

    @property
    def fine_tuned(self) -> bool:
        """Whether the given model has a classifier for this task."""
        return self.facts.fine_tuned

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return int(self.config.pad_token_id or 0)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics of the task."""
        return self.facts.metrics

    @property
    def primary(self) -> str:
        """The metric by which models are chosen."""
        return self.facts.primary

    @property
    def regression(self) -> bool:
        """Whether the task has one real-valued output."""
        return self.facts.kind == "regression"

    @functools.lru_cache(maxsize=8)  # noqa: B019 - lives as long as the process
    def tokens(self, split: str) -> TokenSplit:
        """Return a split ("train", "selection" or a validation split's name), tokenised."""
        return self.tokenised(split, lambda: self._split(split))

    def _split(self, name: str) -> Split:
        task = self.task
        return {s.name: s for s in (task.train, task.selection, *task.validation)}[name]

    def tokenised(self, name: str, load_texts: Callable[[], Split]) -> TokenSplit:
        """Return a split as tokens, cut to the length that job and model allow.

        The run directory has the cache key of each split. Workers therefore need only tokens, not text.

        Args:
            name: Name of the split.
            load_texts: Function that returns the texts; it is called only where no tokens are cached.
        """
        cache = self.layout.token_cache
        key = self.layout.token_key(name)
        if key.exists():
            entry = read_json(key)
            tokens = cached(cache, str(entry.get("key")), int(entry.get("rows", 0)))
            if tokens is not None:
                return tokens.standardised(self.target_scaling)

        mark = self.tokenizer_mark
        tokens = tokenise(load_texts(), lambda: self.tokenizer, mark, self.max_tokens, cache)
        if self.run_dir.exists():
            write_json(key, {"key": tokens.key, "rows": len(tokens)})
        return tokens.standardised(self.target_scaling)

    @property
    def tokenizer_mark(self) -> str:
        """Hash of the tokenizer."""
        return self.facts.tokenizer

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of a row, which job and model allow."""
        return min(self.job.task.max_length, self.config.max_positions)

    @property
    def shape(self) -> EncoderShape:
        """The full network's shape."""
        ids = self.vocabulary
        return EncoderShape.from_config(self.config, None if ids is None else len(ids))

    def network(self, path: Path | None = None) -> ElasticEncoder:
        """Return the full elastic network, with the weights of `path` or the pretrained ones."""
        if path is None:
            return ElasticEncoder(self.load().network)
        model = ElasticEncoder(Encoder(self.config))
        load_weights(model, path)
        return model

    def teacher(self) -> ElasticEncoder:
        """Return the fine-tuned teacher."""
        return self.network(self.layout.teacher_network)

    def supernet(self) -> ElasticEncoder:
        """Return the method's trained super-network."""
        network = self.network(self.files.supernet_network)
        if self.job.embeddings.is_searched:
            from raycomp.methods.task_vocabulary import add_table_parts

            add_table_parts(self, network)
        return network

    def precision(self, device: torch.device) -> str:
        """Return the precision of this run. It is chosen once; a resume uses the same.

        Raises:
            UserError: The device does not support the precision that the run was begun with.
        """
        path = self.layout.precision
        if not path.exists():
            precision = resolve_precision(self.job.train.precision, device)
            write_json(path, {"precision": precision})
        return resolve_precision(self.chosen_precision(), device)

    def chosen_precision(self) -> str:
        """Return the precision of this run, without a check that this device supports it."""
        return str(read_json(self.layout.precision).get("precision"))

    def mean_length_share(self) -> float:
        """Return the mean length of a training text over the length that FLOPs are counted at."""
        return float(self.tokens("train").lengths.mean()) / self.flops_length

    def flops_per_row(self) -> tuple[float, float]:
        """Return the FLOPs of a forward pass of a mean training row: largest and smallest network."""
        share = self.mean_length_share()
        largest = float(self.costs.cost("flops", self.space.largest()))
        smallest = float(self.costs.cost("flops", self.space.smallest()))
        return largest * share, smallest * share

    def token_flops(self, arch: Architecture | None = None) -> float:
        """Return the FLOPs of a forward pass, per token of text; None is the full network."""
        network = arch or self.space.largest()
        return float(self.costs.cost("flops", network)) / self.flops_length

    def step_cost(self, network: TokenFlops | None = None) -> StepCost:
        """Return the FLOPs of the networks of a training step.

        Args:
            network: Cost of the network that is trained; None is the full network and its parts.
        """
        return StepCost(network or self.token_flops, self.token_flops())

    def epoch_flops(self) -> float:
        """Return the FLOPs of training the full network for one pass over the training split.

        The table `costs` has this unit.
        """
        num_tokens = float(self.tokens("train").lengths.sum())
        return TRAINING_PASSES * self.token_flops() * num_tokens

    def validation_names(self) -> list[str]:
        """Return the names of the validation splits, in the order of the teacher's scores."""
        return [name for name in read_json(self.layout.teacher_score) if name != "selection"]

    def teacher_validation(self) -> float:
        """Return the teacher's score: the mean over the validation splits."""
        scores = read_json(self.layout.teacher_score)
        values = [scores[name][self.primary] for name in self.validation_names()]
        return sum(values) / len(values)
