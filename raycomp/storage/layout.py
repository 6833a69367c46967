"""Every path of a run directory and of a study directory. These classes document both.

A path that ends in a writer's last step says that the step is complete: the file is written last, and
an interrupted run repeats the step if the file does not exist. The docstrings name these files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raycomp.storage.method_layout import DeviceLayout, MethodLayout, TrialLayout


@dataclass(frozen=True)
class RunLayout:
    """The paths of one run directory, `<storage>/<run name>-<identity>`.

    ```
    job.json                    settings, with defaults
    inputs.json                 hashes of data and model
    facts.json                  configuration of the encoder, labels, metrics
    vocabulary.json             tokens of cut word tables, in jobs that have them
    overview.json               class counts, text lengths, the teacher: what a user checks first
    environment.json            versions and hardware
    device_profile.json         measured layers of the devices that budgets are for
    precision.json              bf16 or fp32
    lengths.json                lengths of trainings that the run chose
    tracking.json               rows that trackers received
    shared.json                 artifacts taken from other runs
    stages.json                 seconds of each stage (runs of a study)
    .lock                       held by the process that runs the job
    tokens/SPLIT.json           keys into the token cache
    teacher/                    start, network, score
    supernet/                   start, network, sampler, snapshot
    search/ heal/ARCHITECTURE[.ROUND]/  outcomes of the deployment search, healed networks
    deployed.json               summary of YOCO-BERT's deployments
    METHOD/deployed.json        summary of the deployments of another method
    adabert/                    distillation data, and one directory per trial
    finetune/NAME.json          sub-networks that were fine-tuned for comparison
    exports/METHOD-BUDGET/      deployed models
    predictions/MODEL.SPLIT.npy logits of every scored model, and labels
    predicted/METHOD-BUDGET/    predictions of `raycomp predict`
    tables/TABLE/PART.parquet   the tables of `raycomp.storage.schemas`
    report.html                 the report
    tensorboard/ mlflow/ wandb/ files of trackers
    progress/TRAINING.json      steps done and metrics of the last steps
    errors/SOURCE-TIME.txt      stack traces of workers that failed
    attempts/TRAINING.json      the attempt at a training that may write
    train/ kept/ tune/          working files of Ray Train and Ray Tune; certified/: of budgets' devices
    ```

    Attributes:
        path: The run directory. It does not need to exist.

    Example:
        >>> RunLayout(Path("runs/quickstart-1f3a9c02")).teacher_score.as_posix()
        'runs/quickstart-1f3a9c02/teacher/score.json'
    """

    path: Path

    # The run as a whole.

    @property
    def job(self) -> Path:
        """Settings of the run with all defaults. A directory with this file is a run directory."""
        return self.path / "job.json"

    @property
    def inputs(self) -> Path:
        """Hashes of the data and of the model's files. A run refuses to resume with others."""
        return self.path / "inputs.json"

    @property
    def facts(self) -> Path:
        """Properties of model and data that every process needs (`methods.facts.Facts`)."""
        return self.path / "facts.json"

    @property
    def vocabulary(self) -> Path:
        """Ids of the tokens that cut word tables have, of jobs that cut them."""
        return self.path / "vocabulary.json"

    @property
    def overview(self) -> Path:
        """Facts about data and teacher that a user checks first (`data.overview.Overview`)."""
        return self.path / "overview.json"

    @property
    def environment(self) -> Path:
        """Versions of the packages, and the hardware of the driver node."""
        return self.path / "environment.json"

    @property
    def precision(self) -> Path:
        """The precision of all computations of the run."""
        return self.path / "precision.json"

    @property
    def lengths(self) -> Path:
        """Job keys and values of `run.equal_compute` and `run.equal_epochs`, chosen once."""
        return self.path / "lengths.json"

    @property
    def devices(self) -> DeviceLayout:
        """Paths of the files about the devices that budgets are for."""
        return DeviceLayout(self.path)

    @property
    def tracking(self) -> Path:
        """Rows that the trackers of `run.tracking` received, and the ids of the run there."""
        return self.path / "tracking.json"

    @property
    def reused(self) -> Path:
        """Artifacts that were taken from other runs: artifact -> name of the run."""
        return self.path / "shared.json"

    @property
    def timings(self) -> Path:
        """Seconds of each stage, and the current stage. Only runs of a study have this file."""
        return self.path / "stages.json"

    @property
    def lock(self) -> Path:
        """Lock of the process that runs the job."""
        return self.path / ".lock"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def token_cache(self) -> Path:
        """Directory of tokenised splits. All runs of a storage share it."""
        return self.path.parent / ".cache" / "tokens"

    @property
    def tokens(self) -> Path:
        """Directory of the keys of tokenised splits."""
        return self.path / "tokens"

    def token_key(self, split: str) -> Path:
        """Return the file with the key of a tokenised split in `token_cache`."""
        return self.tokens / f"{split}.json"

    def table(self, name: str) -> Path:
        """Return the directory of a table. Its rows are in one or more Parquet files."""
        return self.path / "tables" / name

    @property
    def predictions_dir(self) -> Path:
        """Directory of the logits of scored models."""
        return self.path / "predictions"

    def predictions(self, model: str, split: str) -> Path:
        """Return the file with the logits of a model on a split: (rows, outputs) float32.

        The model is "teacher", "METHOD-BUDGET", "finetuned-NAME", or "labels" for the split's labels.
        """
        return self.predictions_dir / f"{model}.{split}.npy"

    def predicted(self, model: str) -> Path:
        """Return the directory of the files that `raycomp predict` writes for a model."""
        return self.path / "predicted" / model

    @property
    def teacher_start(self) -> Path:
        """Weights before the teacher is fine-tuned."""
        return self.path / "teacher" / "start.safetensors"

    @property
    def teacher_network(self) -> Path:
        """Weights of the teacher."""
        return self.path / "teacher" / "network.safetensors"

    @property
    def teacher_score(self) -> Path:
        """Scores of the teacher on each split. Written last: the teacher is complete."""
        return self.path / "teacher" / "score.json"

    def method(self, name: str) -> MethodLayout:
        """Return the paths of one method's files."""
        # YOCO-BERT was the only method when its files got their place.
        return MethodLayout(self.path if name == "yoco" else self.path / name)

    @property
    def evaluation_parts(self) -> Path:
        """Files of the table `evaluations` that the ledger wrote. A file that goes missing is noticed."""
        return self.path / "search" / "parts.json"

    def finetuned(self, name: str) -> Path:
        """Return the file with the scores of a fine-tuned sub-network."""
        return self.finetune / f"{name}.json"

    @property
    def finetune(self) -> Path:
        """Directory of the scores of fine-tuned sub-networks."""
        return self.path / "finetune"

    @property
    def adabert(self) -> Path:
        """Directory of AdaBERT's distillation data and trials."""
        return self.path / "adabert"

    @property
    def probe_weights(self) -> Path:
        """Weights of the probes on the teacher's layers."""
        return self.adabert / "probes.safetensors"

    def probe_part(self, layer: int) -> Path:
        """Return the file of the probe on one layer, until the probes are joined."""
        return self.adabert / "probes" / f"{layer:03d}.safetensors"

    @property
    def teacher_logits(self) -> Path:
        """The teacher's logits on the augmented split: (rows, outputs) float32."""
        return self.adabert / "logits.npy"

    @property
    def probe_logits(self) -> Path:
        """The probes' logits on the augmented split. Written last: the distillation data is complete."""
        return self.adabert / "probes.npy"

    def distillation_parts(self, kind: str) -> Path:
        """Return the directory of the files that tasks write about parts of the rows.

        The kind is "augmented" (new texts), "features" (of the teacher) or "answers" (to new texts).
        """
        return self.adabert / kind

    def distillation_part(self, kind: str, index: int, suffix: str) -> Path:
        """Return the file about one part of the rows; `kind` as in `distillation_parts`."""
        return self.distillation_parts(kind) / f"{index:05d}.{suffix}"

    def trial(self, name: str) -> TrialLayout:
        """Return the paths of one AdaBERT trial."""
        return TrialLayout(self.adabert / name)

    def trial_outcomes(self) -> Iterator[Path]:
        """Return the outcomes of all AdaBERT trials."""
        return self.adabert.glob("*/outcome.json")

    # Deployed models.

    def summary(self, method: str) -> Path:
        """Return the summary of a method's deployments. Written last: the method is complete."""
        return self.method(method).path / "deployed.json"

    @property
    def exports(self) -> Path:
        """Directory of deployed models."""
        return self.path / "exports"

    def export(self, method: str, budget: str) -> Path:
        """Return the directory of a deployed model, which transformers loads."""
        return self.exports / f"{method}-{budget}"

    def certificate(self, method: str, budget: str) -> Path:
        """Return the file with the row of a deployed model and the hash of its weights."""
        return self.export(method, budget) / "certificate.json"

    @property
    def models(self) -> Path:
        """Directory of the family that `raycomp export --all-budgets` writes."""
        return self.path / "models"

    # Working files. They are not part of the result.

    @property
    def progress_dir(self) -> Path:
        """Directory of the progress of training tasks."""
        return self.path / "progress"

    def progress(self, training: str) -> Path:
        """Return the file with the progress of a training task: steps done, steps in total, metrics."""
        return self.progress_dir / f"{training}.json"

    @property
    def errors(self) -> Path:
        """Directory of the stack traces of workers that failed. Nothing reads them."""
        return self.path / "errors"

    def attempt(self, training: str) -> Path:
        """Return the file that names the attempt at a training which may write."""
        return self.path / "attempts" / f"{training}.json"

    @property
    def train_dir(self) -> Path:
        """Ray Train's directory."""
        return self.path / "train"

    def train(self, training: str) -> Path:
        """Return Ray Train's directory of a training task. It has the checkpoints."""
        return self.train_dir / training

    def rescued_checkpoint(self, training: str) -> Path:
        """Return the directory of a checkpoint that was saved from a damaged directory of Ray Train."""
        return self.path / "kept" / training

    @property
    def tune(self) -> Path:
        """Ray Tune's directory."""
        return self.path / "tune"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard."""
        return self.path / "tensorboard"

    def driver_only(self) -> tuple[Path, ...]:
        """Return the directories that no other node needs a copy of."""
        return (
            self.train_dir,
            self.tune,
            self.exports,
            self.models,
            self.devices.certified,
            self.devices.served,
            self.predictions_dir,
            self.progress_dir,
            self.errors,
            self.attempt("").parent,
            self.tensorboard,
            self.path / "mlflow",
            self.path / "wandb",
        )
