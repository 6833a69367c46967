"""From a job and a run's folder to objects: the same on the driver and on every worker."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch

from raycomp.data.tasks import Task, load_task
from raycomp.data.tokens import TokenSplit, tokenise
from raycomp.encoder.cost import CostModel
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.families import load_encoder
from raycomp.encoder.static import RaycompConfig, RaycompForSequenceClassification
from raycomp.errors import UserError
from raycomp.job import BudgetSettings, Job
from raycomp.runtime.checkpoint import load_weights
from raycomp.tables import write_json
from raycomp.train.optim import resolve_precision
from raycomp.yoco.eesng import EESNG, EESNGSettings
from raycomp.yoco.schedule import Schedule, phases
from raycomp.yoco.space import SearchSpace


class Workplace:
    """What a run is made of, loaded when first asked for.

    Every process builds its own from the job and the folder: nothing is sent around but names.
    """

    def __init__(self, job: Job, run_dir: Path) -> None:
        self.job = job
        self.run_dir = run_dir

    @functools.cached_property
    def task(self) -> Task:
        """The task with its three splits."""
        return load_task(self.job.task, self.job.run.seed)

    @functools.cached_property
    def base(self) -> tuple[RaycompForSequenceClassification, Any, bool]:
        """The pretrained network at full size, its tokenizer, and whether it is fine-tuned."""
        torch.manual_seed(self.job.run.seed)  # a new classifier is drawn at random
        return load_encoder(
            self.job.model.name,
            num_labels=self.task.num_labels,
            label_names=self.task.label_names,
            revision=self.job.model.revision,
            trust_remote_code=self.job.model.trust_remote_code,
        )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, padding and truncation switched off."""
        return self.base[1]

    @property
    def pad_id(self) -> int:
        """The token that fills a batch up."""
        return int(self.base[0].config.pad_token_id or 0)

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
        limit = min(self.job.task.max_length, self.base[0].config.max_positions)
        return tokenise(chosen, self.tokenizer, limit, self.run_dir.parent / ".cache" / "tokens")

    @property
    def config(self) -> RaycompConfig:
        """The configuration of the full network."""
        return self.base[0].config

    def network(self, path: Path | None = None) -> ElasticEncoder:
        """Return the full elastic network, with the weights of `path` or the pretrained ones."""
        config = RaycompConfig.from_dict(self.base[0].config.to_dict())
        model = ElasticEncoder(RaycompForSequenceClassification(config))
        if path is None:
            model.load_state_dict(ElasticEncoder(self.base[0]).state_dict())
        else:
            load_weights(model, path)
        return model

    def teacher(self) -> ElasticEncoder:
        """Return the fine-tuned teacher."""
        return self.network(self.run_dir / "teacher" / "network.safetensors")

    def supernet(self) -> ElasticEncoder:
        """Return the trained super-network."""
        return self.network(self.run_dir / "supernet" / "network.safetensors")

    @functools.cached_property
    def space(self) -> SearchSpace:
        """The search space of the job on this network."""
        return make_space(self.job, self.config)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - lives as long as the process
    def costs(self) -> CostModel:
        """Return the cost model of the full network."""
        return CostModel(self.config, self.job.search.flops_length or self.job.task.max_length)

    def limit(self, budget: BudgetSettings) -> float:
        """Return a budget's limit, absolute, in the unit of its kind."""
        return budget.resolve(float(self.costs().cost(budget.kind, self.space.largest())))

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

    def sampler_state(self) -> dict[str, Any]:
        """Return the trained sampler's state."""
        path = self.run_dir / "supernet" / "sampler.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); run the job again") from None


def make_space(job: Job, config: RaycompConfig) -> SearchSpace:
    """Return the job's space; what it leaves open takes the paper's proportions.

    Raises:
        UserError: a choice is larger than the network, or the full size is missing.
    """
    layers = len(config.layer_heads)
    heads, ffn = config.layer_heads[0], config.layer_ffn[0]
    chosen: dict[str, tuple[int, ...]] = {}
    for key, full, shares in (
        ("depth", layers, (1 / 2, 2 / 3, 5 / 6, 1)),
        ("heads", heads, (1 / 3, 2 / 3, 1)),
        ("ffn", ffn, (1 / 6, 1 / 4, 1 / 3, 1)),
    ):
        given = getattr(job.space, key)
        values = given if given is not None else [max(1, round(full * s)) for s in shares]
        wrong = [v for v in values if not 1 <= v <= full]
        if wrong or full not in values:
            raise UserError(
                f"space.{key} = {values} was given; allowed are numbers from 1 to {full}, and {full} "
                f"(the network's own) must be among them"
            )
        chosen[key] = tuple(sorted(set(values)))
    return SearchSpace(layers, chosen["depth"], chosen["heads"], chosen["ffn"])


def train_plan(job: Job, space: SearchSpace, config: RaycompConfig, rows: int) -> dict[str, Any]:
    """Return what every worker and the sampler must agree on: JSON-able.

    Raises:
        UserError: a list of epochs or steps does not fit the number of phases.
    """
    names = [p.name for p in phases(space)]
    per_epoch = -(-rows // job.train.batch_size)
    given: Any = job.train.steps if job.train.steps is not None else job.train.epochs
    values = list(given) if isinstance(given, list) else [given] * len(names)
    key = "steps" if job.train.steps is not None else "epochs"
    if len(values) != len(names) or any(v < 0 for v in values) or sum(values) <= 0:
        raise UserError(
            f"train.{key} = {given} was given; allowed is one number, or {len(names)} numbers from "
            f"0 up, one per phase: {', '.join(names)}"
        )
    steps = [int(v) if key == "steps" else round(v * per_epoch) for v in values]
    return {
        "space": {
            "layers": space.layers,
            "depth": list(space.depth),
            "heads": list(space.heads),
            "ffn": list(space.ffn),
        },
        "steps": steps,
        "config": config.to_dict(),
        "length": job.search.flops_length or job.task.max_length,
    }


def plan_space(plan: dict[str, Any]) -> SearchSpace:
    """Return the space that a plan names."""
    space = plan["space"]
    return SearchSpace(space["layers"], tuple(space["depth"]), tuple(space["heads"]), tuple(space["ffn"]))


def plan_schedule(plan: dict[str, Any]) -> Schedule:
    """Return the phases and their steps."""
    return Schedule(phases(plan_space(plan)), tuple(plan["steps"]))


def build_sampler(job: Job, plan: dict[str, Any]) -> EESNG:
    """Return a fresh EE-SNG sampler for a plan."""
    costs = CostModel(RaycompConfig.from_dict(plan["config"]), plan["length"])
    settings = EESNGSettings(
        update=job.train.update,
        lam=job.train.samples,
        interval=job.train.interval,
        joint=job.space.joint,
        explore=job.train.explored,
        pairs=job.train.pairs,
        mode=job.train.mode,
        seed=job.run.seed,
    )
    return EESNG(
        plan_space(plan),
        plan_schedule(plan),
        settings,
        cost=lambda arch: float(costs.cost("encoder_params", arch)),
    )
