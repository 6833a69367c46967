"""Paths of a method's files: super-network, search, healed networks, students and trials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MethodLayout:
    """The paths of one method's files, `<run directory>/<method>`; YOCO-BERT's are in the run directory.

    Attributes:
        path: Directory of the method.
    """

    path: Path

    @property
    def supernet(self) -> Path:
        """Directory of the super-network."""
        return self.path / "supernet"

    @property
    def supernet_start(self) -> Path:
        """Weights before the super-network is trained."""
        return self.supernet / "start.safetensors"

    @property
    def supernet_network(self) -> Path:
        """Weights of the trained super-network."""
        return self.supernet / "network.safetensors"

    @property
    def table_directions(self) -> Path:
        """Directions that word tables of a rank are projected on, written before the search."""
        return self.supernet / "directions.safetensors"

    @property
    def sampler(self) -> Path:
        """State of the trained sampler. Written last: the super-network is complete."""
        return self.supernet / "sampler.json"

    @property
    def sampler_snapshot(self) -> Path:
        """Log of the sampler actor during training. A restarted actor reads it."""
        return self.supernet / "snapshot.json"

    @property
    def search(self) -> Path:
        """Directory of the deployment search."""
        return self.path / "search"

    def search_outcome(self, budget: str, searcher: str, seed: int) -> Path:
        """Return the file with the outcome of one search trial. Written last: the trial is complete."""
        return self.search / f"{budget}.{searcher}.{seed}.json"

    def search_outcomes(self) -> Iterator[Path]:
        """Return the outcomes of all search trials."""
        return self.search.glob("*.*.*.json")

    @property
    def device_corrections(self) -> Path:
        """Budgets whose models failed their certificate: corrections, attempts, nearest model."""
        return self.path / "device_corrections.json"

    @property
    def heal(self) -> Path:
        """Directory of the healed networks."""
        return self.path / "heal"

    def healed(self, arch_id: str, number: int = 1) -> HealedLayout:
        """Return the paths of a healed network after a round of healing, counted from 1."""
        name = arch_id if number == 1 else f"{arch_id}.{number}"
        return HealedLayout(self.heal / name)

    def healed_outcomes(self) -> Iterator[Path]:
        """Return the outcomes of all healed networks, one for each round."""
        return self.heal.glob("*/outcome.json")

    def student(self, budget: str) -> StudentLayout:
        """Return the paths of the student that the method trains for a budget."""
        return StudentLayout(self.path / budget)


@dataclass(frozen=True)
class DeviceLayout:
    """The paths of the files about the devices that the budgets of a run are for.

    Attributes:
        path: The run directory.
    """

    path: Path

    @property
    def profile(self) -> Path:
        """Tables of measured layers: budget -> `encoder.device_table.DeviceTable`."""
        return self.path / "device_profile.json"

    @property
    def certified(self) -> Path:
        """Working directory of the models that are measured before the choice is final."""
        return self.path / "certified"

    @property
    def served(self) -> Path:
        """Directory of the models that `raycomp serve` writes."""
        return self.path / "served"

    def served_model(self, runtime: str, model: str) -> Path:
        """Return the directory that `raycomp serve` writes for a model and a runtime.

        Args:
            runtime: Runtime, such as "onnxruntime-int8".
            model: METHOD-BUDGET, or "teacher".
        """
        return self.served / runtime / model


@dataclass(frozen=True)
class ModelLayout:
    """The paths of one trained model of a method.

    Attributes:
        path: Directory of the model.
    """

    path: Path

    @property
    def outcome(self) -> Path:
        """Selection score and size. Written last: the model is complete."""
        return self.path / "outcome.json"


@dataclass(frozen=True)
class HealedLayout(ModelLayout):
    """The paths of one healed network, `<method's directory>/heal/<architecture>[.<round>]`."""

    @property
    def cost(self) -> Path:
        """Steps and tokens of its healing, and its share of the time of a training."""
        return self.path / "cost.json"

    @property
    def network(self) -> Path:
        """Weights without the embeddings. Written last: the healing is complete."""
        return self.path / "network.safetensors"


@dataclass(frozen=True)
class StudentLayout(ModelLayout):
    """The paths of one student, `<run directory>/<method>/<budget>`."""

    @property
    def start(self) -> Path:
        """Weights before the student is trained."""
        return self.path / "start.safetensors"

    @property
    def pruned(self) -> Path:
        """Architecture of a student that comes from pruning. Written last: the pruning is complete."""
        return self.path / "pruned.json"

    @property
    def network(self) -> Path:
        """Weights of the trained student."""
        return self.path / "network.safetensors"


@dataclass(frozen=True)
class TrialLayout(ModelLayout):
    """The paths of one AdaBERT trial, `<run directory>/adabert/<trial>`."""

    @property
    def parent(self) -> Path:
        """Weights of the parent graph after the search."""
        return self.path / "parent.safetensors"

    @property
    def p_alpha(self) -> Path:
        """Logits of the architecture distribution after the search."""
        return self.path / "p_alpha.safetensors"

    @property
    def structure(self) -> Path:
        """The most probable structure. Written last: the search is complete."""
        return self.path / "structure.json"

    @property
    def candidates(self) -> Path:
        """The structures that are scored after the search."""
        return self.path / "candidates.json"

    def candidate_scores(self, block: int) -> Path:
        """Return the file with the scores of a block of candidates."""
        return self.path / "candidates" / f"{block:05d}.json"

    def finalist(self, number: int, arch_id: str) -> Path:
        """Return the weights of a finalist after a round."""
        return self.path / f"round-{number}" / f"{arch_id}.safetensors"

    def round_scores(self, number: int) -> Path:
        """Return the file with the scores of a round's finalists. Written last: the round is complete."""
        return self.path / f"round-{number}" / "scores.json"

    @property
    def choice(self) -> Path:
        """The candidate that the child has, and the file with its weights before the last training."""
        return self.path / "choice.json"

    @property
    def child(self) -> Path:
        """Weights of the trained child. Written last: the child's training is complete."""
        return self.path / "child.safetensors"
