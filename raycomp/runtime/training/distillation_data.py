"""What AdaBERT's stages share: augmented text, the teacher's answers to it, and the student's shape.

Prepared once a run, block by block as Ray tasks; a block that is written is never made again, so the
teacher sees each sentence once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.data.augment import Candidates, MaskedCandidates, NeighbourCandidates, augment
from raycomp.data.batches import collate, eval_batches, padding, tokens_at_once
from raycomp.data.tasks import Split
from raycomp.data.tokens import TokenSplit
from raycomp.errors import UserError
from raycomp.methods.adabert.distillation import DistillationLoss
from raycomp.methods.adabert.probes import apply_probes, fit_probe, probe_features
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.student import StudentShape
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.actor_filesystem import find_file_server
from raycomp.runtime.cluster.capacity import share_cpus, total_gpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import on_driver_node
from raycomp.runtime.cluster.progress import Progress, Update
from raycomp.runtime.cluster.replica import synced_run_dir
from raycomp.runtime.cluster.tasks import run_tasks
from raycomp.storage.files import atomic_write, write_json
from raycomp.storage.tensors import load_tensors, save_tensors

BLOCK = 2048
FIT_ROWS = 20_000


class DistillationData(RunContext):
    """A workplace with augmented text and the teacher's answers."""

    @property
    def folder(self) -> Path:
        """What all trials share, and a folder for each."""
        return self.run_dir / "adabert"

    @functools.cached_property
    def augmented(self) -> Split:
        """The training split, then its new sentences, each with its row's label."""
        train = self.task.train
        rows = [row for path in self.augmented_files() for row in json.loads(path.read_text())]
        labels = np.concatenate([train.labels, train.labels[[r[0] for r in rows]]])
        first = [*train.text_a, *(r[1][0] for r in rows)]
        second = None if train.text_b is None else [*train.text_b, *(r[1][1] for r in rows)]
        return Split("augmented", first, second, labels.astype(train.labels.dtype))

    def augmented_files(self) -> list[Path]:
        """The files of new sentences, in order; none where augmentation is off."""
        if not self.job.augment.copies:
            return []
        return self.blocks("augmented", len(self.tokens("train")), "json")

    def blocks(self, what: str, rows: int, ending: str) -> list[Path]:
        """Return the file of each block of rows."""
        count = -(-rows // BLOCK)
        return [self.folder / what / f"{i:05d}.{ending}" for i in range(count)]

    @functools.cached_property
    def augmented_tokens(self) -> TokenSplit:
        """The augmented split, tokenised."""
        return self.tokenised("augmented", lambda: self.augmented)

    @functools.cached_property
    def answers(self) -> CachedTeacherOutputs:
        """The teacher's answers to the augmented split, memory-mapped."""
        return CachedTeacherOutputs(self.folder, len(self.augmented_tokens))

    def distillation_loss(self, gamma: float) -> DistillationLoss:
        """Return how students of this job are taught."""
        settings = self.job.settings(AdabertSettings)
        return DistillationLoss(gamma, settings.temperature, settings.hints, self.regression)

    @property
    def student_shape(self) -> StudentShape:
        """The sizes of every student of this job."""
        settings, pair = self.job.settings(AdabertSettings), self.facts.pair
        sep = self.facts.sep_token_id
        if pair and sep is None:
            raise UserError(
                f"the tokenizer of {self.job.model.name} has no separator, so a pair of texts cannot "
                "be told apart; choose another model"
            )
        return StudentShape(
            vocab_size=self.config.vocab_size,
            embedding_size=settings.embedding,
            width=settings.width,
            max_positions=min(self.job.task.max_length, self.config.max_positions),
            classes=self.facts.num_labels,
            pair=pair,
            sep_token_id=int(sep or 0),
            pad_token_id=self.pad_id,
            exact_match=pair and settings.exact_match,
        )


class CachedTeacherOutputs:
    """The teacher's logits and its probes' logits, one row per row of the augmented split."""

    def __init__(self, folder: Path, rows: int) -> None:
        try:
            self.logits = np.load(folder / "logits.npy", mmap_mode="r", allow_pickle=False)
            self.probes = np.load(folder / "probes.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no answers of the teacher ({error}); run again") from None
        if len(self.logits) != rows or len(self.probes) != rows:
            raise UserError(
                f"{folder} holds answers to {len(self.logits)} rows, and {rows} are needed; remove the "
                "folder, and the run writes it anew"
            )

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and probe logits (batch, teacher layers, classes)."""
        return torch.from_numpy(self.logits[index]), torch.from_numpy(self.probes[index])


def prepare(room: DistillationData, progress: Progress) -> None:
    """Write probes, augmented text and the teacher's answers, unless they are there."""
    if (room.folder / "probes.npy").exists():
        return
    rows = len(room.tokens("train"))  # tokenised once, before several tasks would each do it
    job = room.job.model_dump(mode="json")
    teach = {"num_gpus": 1.0} if total_gpus() else {"num_cpus": float(share_cpus(1))}
    features_at = room.blocks("features", rows, "safetensors")
    with progress.bar("teacher reads") as bar:
        _each(_write_features, job, room, features_at, teach, bar)
    if not (room.folder / "probes.safetensors").exists():
        with progress.bar("probes") as bar:
            layers = len(room.config.layer_heads)
            parts = [room.folder / "probes" / f"{j:03d}.safetensors" for j in range(layers)]
            _each(_write_probe, job, room, parts, {"num_cpus": 1.0}, bar)
            loaded = [load_tensors(p) for p in parts]
            stacked = {k: torch.stack([one[k] for one in loaded]) for k in ("weight", "bias")}
            save_tensors(room.folder / "probes.safetensors", stacked)
    with progress.bar("augmentation") as bar:
        away = find_file_server(room.run_dir.name) is not None  # other nodes may lack data and model
        write, max_parallel = _beside_driver() if away else ({"num_cpus": 1.0}, None)
        _each(_write_augmented, job, room, room.augmented_files(), write, bar, max_parallel)
    room.__dict__.pop("augmented", None)
    total = len(room.augmented_tokens)
    answers_at = room.blocks("answers", total - rows, "safetensors")
    with progress.bar("teacher reads") as bar:
        _each(_write_answers, job, room, answers_at, teach, bar)
    _join(room, features_at, answers_at)


def _beside_driver() -> tuple[dict[str, Any], int]:
    """Return what a task on this node holds, which may offer no processor, and how many may run."""
    here = ray.get_runtime_context().get_node_id()
    offered = next((n["Resources"].get("CPU", 0) for n in ray.nodes() if n["NodeID"] == here), 0)
    return {"num_cpus": 0, "scheduling_strategy": on_driver_node()}, max(2, int(offered))


def _each(
    task: Call,
    job: dict[str, Any],
    room: DistillationData,
    files: list[Path],
    resources: dict[str, Any],
    on_progress: Update,
    max_parallel: int | None = None,
) -> None:
    """Run a task for every file that is not there yet, in parallel.

    Raises:
        UserError: a task failed; the others' files stay.
    """
    todo = [i for i, path in enumerate(files) if not path.exists()]
    calls = [(job, str(room.run_dir), i, str(files[i].relative_to(room.run_dir))) for i in todo]
    done = len(files) - len(todo)
    run_tasks(task, calls, resources, lambda n: on_progress(done + n, len(files), {}), max_parallel)


@functools.lru_cache(maxsize=1)
def _room(job: str, run_dir: str) -> DistillationData:
    """The classroom of this process: kept from task to task."""
    return DistillationData(parse_job(json.loads(job)), Path(run_dir))


Call = Callable[[dict[str, Any], str, int, str], None]


def _task(work: Callable[[DistillationData, int, Path], None], also: str = "") -> Call:
    """Make a Ray task of what works in a classroom: job, the run's folder, a number, a file below it.

    Args:
        work: takes the classroom, the number and the file, which it writes.
        also: see `synced_run_dir`.
    """

    @functools.wraps(work)
    def run(job: dict[str, Any], run_dir: str, index: int, out: str) -> None:
        with synced_run_dir(run_dir, also) as folder:
            work(_room(json.dumps(job, sort_keys=True), str(folder)), index, folder / out)

    del run.__wrapped__  # Ray would hold a call against the arguments of what is wrapped
    return run


@functools.lru_cache(maxsize=1)
def _teacher(room: DistillationData) -> tuple[Any, torch.device]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(share_cpus(1))
    return room.teacher().to(device).eval(), device


def _read(room: DistillationData, tokens: TokenSplit, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Return the teacher's features (rows, layers, 2 * hidden) and logits (rows, classes)."""
    model, device = _teacher(room)
    found: tuple[Tensor, Tensor] | None = None
    multiple, max_parallel = padding(device), tokens_at_once(room.job.search.max_tokens, device)
    for rows in eval_batches(tokens.lengths[first:last], max_parallel, multiple):
        batch = collate(tokens, rows + first, room.pad_id, multiple=multiple).to(device)
        with torch.inference_mode():
            out = model(batch, None, hidden=True)
            seen = probe_features(out.hidden[1:], batch.attention_mask).cpu()
            logits = out.logits.float().cpu()
        if found is None:
            found = (
                seen.new_empty(last - first, *seen.shape[1:]),
                logits.new_empty(last - first, logits.shape[1]),
            )
        found[0][rows], found[1][rows] = seen, logits
    if found is None:
        raise ValueError("no rows")
    return found


@_task
def _write_features(room: DistillationData, index: int, out: Path) -> None:
    tokens = room.tokens("train")
    first = index * BLOCK
    seen, logits = _read(room, tokens, first, min(first + BLOCK, len(tokens)))
    save_tensors(out, {"features": seen.half(), "logits": logits})


@functools.partial(_task, also="adabert/features")
def _write_probe(room: DistillationData, index: int, out: Path) -> None:
    labels = room.tokens("train").labels
    chosen = np.arange(len(labels))
    if len(chosen) > FIT_ROWS:
        rng = np.random.default_rng(room.job.run.seed)
        chosen = np.sort(rng.choice(len(labels), FIT_ROWS, replace=False))
    parts = []
    for block, path in enumerate(room.blocks("features", len(labels), "safetensors")):
        mine = chosen[(chosen >= block * BLOCK) & (chosen < (block + 1) * BLOCK)] - block * BLOCK
        parts.append(load_tensors(path)["features"][torch.from_numpy(mine), index].float())
    x = torch.cat(parts).numpy()
    weight, bias = fit_probe(x, labels[chosen], room.facts.num_labels)
    save_tensors(out, {"weight": weight, "bias": bias})


@_task
def _write_augmented(room: DistillationData, index: int, out: Path) -> None:
    settings, train = room.job.augment, room.task.train
    texts = list(zip(train.text_a, *([train.text_b] if train.text_b is not None else []), strict=True))
    first = index * BLOCK
    rows = [(i, tuple(texts[i])) for i in range(first, min(first + BLOCK, len(train)))]
    made = augment(
        rows,
        _candidates(room),
        copies=settings.copies,
        share=settings.probability,
        seed=room.job.run.seed,
        consistent_pairs=settings.consistent_pairs and train.text_b is not None,
    )
    write_json(out, made)


@functools.lru_cache(maxsize=1)
def _candidates(room: DistillationData) -> Candidates:
    settings = room.job.augment
    table = room.load()[0].embeddings.word.weight.detach()
    near = NeighbourCandidates(table, room.tokenizer, settings.candidates)
    if settings.method == "neighbours":
        return near
    from raycomp.encoder.pretrained import load_masked_language_model

    given = room.job.model
    model = load_masked_language_model(given.name, given.revision, given.trust_remote_code)
    if model is None:
        if settings.method == "mlm":
            raise UserError(no_mlm(room.job))
        return near
    limit = room.config.max_positions
    return MaskedCandidates(model, room.tokenizer, settings.candidates, near, limit)


def no_mlm(job: Job) -> str:
    """Say that a model cannot fill masks."""
    return (
        f"augment.method = 'mlm' was given, but {job.model.name} has no masked-language head; use "
        "'neighbours', or 'auto'"
    )


@_task
def _write_answers(room: DistillationData, index: int, out: Path) -> None:
    tokens, rows = room.augmented_tokens, len(room.tokens("train"))
    first = rows + index * BLOCK
    seen, logits = _read(room, tokens, first, min(first + BLOCK, len(tokens)))
    probes = load_tensors(room.folder / "probes.safetensors")
    said = apply_probes(seen, probes["weight"], probes["bias"])
    save_tensors(out, {"probes": said, "logits": logits})


def _join(room: DistillationData, features_at: list[Path], answers_at: list[Path]) -> None:
    """Write all answers as two arrays that every worker maps, and drop the blocks."""
    probes = load_tensors(room.folder / "probes.safetensors")
    shapes = {
        "logits": (len(room.augmented), room.facts.num_labels),
        "probes": (len(room.augmented), probes["weight"].shape[0], room.facts.num_labels),
    }
    for name, shape in shapes.items():  # "probes" comes last: it says that all is written

        def write(path: Path, name: str = name, shape: tuple[int, ...] = shape) -> None:
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            at = 0
            for file in (*features_at, *answers_at):
                block = load_tensors(file)
                if name == "probes" and name not in block:
                    seen = block["features"].float()
                    block[name] = apply_probes(seen, probes["weight"], probes["bias"])
                part = block[name].numpy()
                out[at : at + len(part)] = part
                at += len(part)
            if at != shape[0]:
                raise UserError(
                    f"{room.folder} holds {at} answers of {shape[0]}; remove it, and run again"
                )
            out.flush()

        atomic_write(room.folder / f"{name}.npy", write)
    for path in (*features_at, *answers_at):
        path.unlink(missing_ok=True)
