"""From a job and a run's folder to data and networks: the same on the driver and on every worker."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from raycomp.data.tasks import Split, Task, load_task
from raycomp.data.tokens import TokenSplit, cached, fingerprint, tokenise
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.errors import UserError
from raycomp.search.setup import SearchSetup
from raycomp.storage.files import read_json, write_json
from raycomp.storage.tensors import load_weights
from raycomp.training.optimizers import resolve_precision


@dataclass(frozen=True)
class Facts:
    """What every process must know of model and data: written once, so that workers load neither.

    Attributes:
        config: an `EncoderConfig` as `to_dict` gives it.
        fine_tuned: whether the model has a classifier for this task.
        tokenizer: the tokenizer's fingerprint.
        sep_token_id: the token between two texts; None where there is none.
        kind: classification or regression.
        num_labels: outputs of the classifier.
        pair: whether a row has two texts.
        metrics: every metric of the task.
        primary: the metric that choices are made on.
    """

    config: dict[str, Any]
    fine_tuned: bool
    tokenizer: str
    sep_token_id: int | None
    kind: str
    num_labels: int
    pair: bool
    metrics: tuple[str, ...]
    primary: str


class RunContext(SearchSetup):
    """What a run is made of, loaded when first asked for.

    Every process builds its own from the job and the folder: nothing is sent around but names.
    """

    @functools.cached_property
    def task(self) -> Task:
        """The task with its three splits."""
        return load_task(self.job.task, self.job.run.seed)

    def load(self) -> tuple[Encoder, Any, bool]:
        """Load the pretrained network at full size, its tokenizer, and whether it is fine-tuned.

        Nobody keeps the network: what was trained takes its place, and memory is short.
        """
        # Here and not above: transformers takes seconds to import, and workers never load a model.
        from raycomp.encoder.pretrained import load_encoder

        torch.manual_seed(self.job.run.seed)  # a new classifier is drawn at random
        return load_encoder(
            self.job.model.name,
            num_labels=self.task.num_labels,
            classes=self.task.label_names,
            in_order=self.job.task.labels is not None or self.job.teacher.mode == "train",
            revision=self.job.model.revision,
            trust_remote_code=self.job.model.trust_remote_code,
        )

    @functools.cached_property
    def facts(self) -> Facts:
        """What is known of model and data: from the run's folder once `record_facts` wrote it."""
        path = self.run_dir / "facts.json"
        if path.exists():
            data = read_json(path)
            try:
                return Facts(**{**data, "metrics": tuple(data["metrics"])})
            except (KeyError, TypeError) as error:
                raise UserError(f"{path} was not written by this version of raycomp ({error})") from None
        network, tokenizer, fine_tuned = self.load()
        self.__dict__["tokenizer"] = tokenizer
        task = self.task
        return Facts(
            config=network.config.to_dict(),
            fine_tuned=fine_tuned,
            tokenizer=fingerprint(tokenizer),
            sep_token_id=tokenizer.sep_token_id,
            kind=task.kind,
            num_labels=task.num_labels,
            pair=task.train.text_b is not None,
            metrics=task.metrics,
            primary=task.primary,
        )

    def record_facts(self) -> None:
        """Write what is known of model and data into the run's folder."""
        if not (self.run_dir / "facts.json").exists():
            write_json(self.run_dir / "facts.json", asdict(self.facts))

    @functools.cached_property
    def config(self) -> EncoderConfig:
        """The configuration of the full network."""
        return EncoderConfig.from_config(self.facts.config)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, padding and truncation switched off."""
        from raycomp.encoder.pretrained import load_tokenizer

        chosen = self.job.model
        return load_tokenizer(chosen.name, chosen.revision, chosen.trust_remote_code)

    @property
    def fine_tuned(self) -> bool:
        """Whether the given model has a classifier for this task."""
        return self.facts.fine_tuned

    @property
    def pad_id(self) -> int:
        """The token that fills a batch up."""
        return int(self.config.pad_token_id or 0)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of the task."""
        return self.facts.metrics

    @property
    def primary(self) -> str:
        """The metric that choices are made on."""
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

    def tokenised(self, name: str, texts: Callable[[], Split]) -> TokenSplit:
        """Return texts as tokens, cut to what job and model hold; `texts` is asked only where needed.

        The run's folder keeps the key of each split, so that workers read tokens and no text.
        """
        cache = self.run_dir.parent / ".cache" / "tokens"
        key = self.run_dir / "tokens" / f"{name}.json"
        if key.exists():
            known = read_json(key)
            found = cached(cache, str(known.get("key")), int(known.get("rows", 0)))
            if found is not None:
                return found
        limit = min(self.job.task.max_length, self.config.max_positions)
        made = tokenise(texts(), lambda: self.tokenizer, self.facts.tokenizer, limit, cache)
        if self.run_dir.exists():
            write_json(key, {"key": made.key, "rows": len(made)})
        return made

    @property
    def shape(self) -> EncoderShape:
        """The full network's shape."""
        return EncoderShape.from_config(self.config)

    def network(self, path: Path | None = None) -> ElasticEncoder:
        """Return the full elastic network, with the weights of `path` or the pretrained ones."""
        if path is None:
            return ElasticEncoder(self.load()[0])
        model = ElasticEncoder(Encoder(self.config))
        load_weights(model, path)
        return model

    def teacher(self) -> ElasticEncoder:
        """Return the fine-tuned teacher."""
        return self.network(self.run_dir / "teacher" / "network.safetensors")

    def supernet(self) -> ElasticEncoder:
        """Return the trained super-network."""
        return self.network(self.run_dir / "supernet" / "network.safetensors")

    def precision(self, device: torch.device) -> str:
        """Return the precision of this run: chosen once, then kept, so that a resume computes alike.

        Raises:
            UserError: the device does not compute in the precision that the run was begun with.
        """
        path = self.run_dir / "precision.json"
        if not path.exists():
            chosen = resolve_precision(self.job.train.precision, device)
            write_json(path, {"precision": chosen})
        return resolve_precision(self.chosen_precision(), device)

    def chosen_precision(self) -> str:
        """Return the precision that was chosen, for a driver that does not compute in it itself."""
        return str(read_json(self.run_dir / "precision.json").get("precision"))
