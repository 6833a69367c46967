"""From a job and a run's folder to data and networks: the same on the driver and on every worker."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch

from raycomp.data.tasks import Task, load_task
from raycomp.data.tokens import TokenSplit, tokenise
from raycomp.encoder.cost import Shape
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.families import load_encoder
from raycomp.encoder.static import RaycompConfig, RaycompForSequenceClassification
from raycomp.runtime.checkpoint import load_weights
from raycomp.runtime.recipe import Blueprint
from raycomp.tables import write_json
from raycomp.train.optim import resolve_precision


class Workplace(Blueprint):
    """What a run is made of, loaded when first asked for.

    Every process builds its own from the job and the folder: nothing is sent around but names.
    """

    @functools.cached_property
    def task(self) -> Task:
        """The task with its three splits."""
        return load_task(self.job.task, self.job.run.seed)

    def load(self) -> tuple[RaycompForSequenceClassification, Any, bool]:
        """Load the pretrained network at full size, its tokenizer, and whether it is fine-tuned.

        Nobody keeps the network: what was trained takes its place, and memory is short.
        """
        torch.manual_seed(self.job.run.seed)  # a new classifier is drawn at random
        return load_encoder(
            self.job.model.name,
            num_labels=self.task.num_labels,
            label_names=self.task.label_names,
            revision=self.job.model.revision,
            trust_remote_code=self.job.model.trust_remote_code,
        )

    @functools.cached_property
    def _kept(self) -> tuple[RaycompConfig, Any, bool]:
        network, tokenizer, fine_tuned = self.load()
        return network.config, tokenizer, fine_tuned

    @property
    def config(self) -> RaycompConfig:
        """The configuration of the full network."""
        return self._kept[0]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, padding and truncation switched off."""
        return self._kept[1]

    @property
    def fine_tuned(self) -> bool:
        """Whether the given model has a classifier for this task."""
        return self._kept[2]

    @property
    def pad_id(self) -> int:
        """The token that fills a batch up."""
        return int(self.config.pad_token_id or 0)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of the task."""
        return self.task.metrics

    @property
    def primary(self) -> str:
        """The metric that choices are made on."""
        return self.task.primary

    @property
    def regression(self) -> bool:
        """Whether the task has one real-valued output."""
        return self.task.kind == "regression"

    @functools.lru_cache(maxsize=8)  # noqa: B019 - lives as long as the process
    def tokens(self, split: str) -> TokenSplit:
        """Return a split ("train", "selection" or a validation split's name), tokenised."""
        chosen = {
            "train": self.task.train,
            "selection": self.task.selection,
            **{v.name: v for v in self.task.validation},
        }[split]
        limit = min(self.job.task.max_length, self.config.max_positions)
        return tokenise(chosen, self.tokenizer, limit, self.run_dir.parent / ".cache" / "tokens")

    @property
    def shape(self) -> Shape:
        """The full network's shape."""
        return Shape.of(self.config)

    def network(self, path: Path | None = None) -> ElasticEncoder:
        """Return the full elastic network, with the weights of `path` or the pretrained ones."""
        if path is None:
            return ElasticEncoder(self.load()[0])
        config = RaycompConfig.from_dict(self.config.to_dict())
        model = ElasticEncoder(RaycompForSequenceClassification(config))
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
        return resolve_precision(json.loads(path.read_text())["precision"], device)
