"""Figures that go to trackers: each once, across a resume, and never at the price of the run."""

from __future__ import annotations

import json
import struct
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.runtime.pipeline import trackers, tracking
from raycomp.runtime.pipeline.trackers import MLflowTracker, check_trackers
from raycomp.runtime.pipeline.tracking import TrackingFeed, track_run
from raycomp.storage.tables import write_rows

NAMES = ["tensorboard", "mlflow"]
STEP = {"method": "yoco", "phase": "largest", "tokens": 100, "seconds": 0.5, "entropy": 2.0}


def job(tiny_job: dict[str, Any], *names: str) -> Job:
    tiny_job["run"]["tracking"] = list(names)
    return parse_job(tiny_job)


def steps(run: Path, first: int, last: int, stage: str = "supernet") -> Path:
    rows = [{**STEP, "step": i, "loss": 1.0 / (1 + i)} for i in range(first, last)]
    return write_rows(run, "steps", rows, f"{stage}-{first:09d}")


def scored(run: Path, values: list[float], depth: tuple[int, ...] = (1, 1, 1)) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    archs = [Architecture(d, (1,) * d, (16,) * d).to_json() for d in depth]
    rows: list[dict[str, Any]] = [
        {
            "method": "yoco",
            "arch": a,
            "value": v,
            "params": 10,
            "created_at": began + timedelta(seconds=i),
        }
        for i, (v, a) in enumerate(zip(values, archs, strict=True))
    ]
    rows.append({**rows[0], "method": "adabert", "value": 0.99})
    write_rows(run, "evaluations", rows, "ledger-1")


class RecordingTracker:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, dict[str, float]]] = []

    def send(self, series: str, step: int, values: dict[str, float]) -> None:
        self.rows.append((series, step, values))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def view(job: Job, run: Path, *opened: RecordingTracker) -> TrackingFeed:
    """Return a feed of trackers that have the names of real ones."""
    job = job.model_copy(update={"run": job.run.model_copy(update={"tracking": NAMES[: len(opened)]})})
    by_name = dict(zip(NAMES, opened, strict=False))
    with patch.object(tracking, "open_tracker", lambda name, *_: by_name[name]):
        feed = TrackingFeed(job, run)
    feed._budgets = {"small": SmallOnes()}  # type: ignore[dict-item]
    return feed


def read_record(run: Path) -> Any:
    return json.loads((run / "tracking.json").read_text())


class SmallOnes:
    """A budget that one layer meets."""

    def is_met_by(self, arch: Architecture) -> bool:
        return arch.depth == 1


def test_each_row_is_sent_once_also_by_the_next_process(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    settings = job(tiny_job)
    tracker = RecordingTracker()
    first = view(settings, tmp_path, tracker)
    steps(tmp_path, 0, 3)
    scored(tmp_path, [0.5, 0.7, 0.6], (1, 3, 1))
    first.send_new_rows()
    first.send_new_rows()
    redone = steps(tmp_path, 3, 6)
    first.send_new_rows()
    redone.unlink()  # an attempt that died is rolled back, and redone in other portions
    steps(tmp_path, 3, 5)
    second = view(settings, tmp_path, tracker)
    second.send_new_rows()
    steps(tmp_path, 5, 8)
    second.send_new_rows()
    sent = [row for row in tracker.rows if row[0] == "supernet"]
    assert [row[1] for row in sent] == list(range(8))
    assert sent[1][2] == {"loss": 0.5, "entropy": 2.0, "tokens_per_second": 200.0, "phase": 0.0}
    search = [row[2] for row in tracker.rows if row[0] == "search"]
    assert [row["best-small"] for row in search] == [0.5, 0.5, 0.6]
    assert search[2]["per_second"] == pytest.approx(1.0)


def test_files_that_were_read_are_not_opened_again(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long run has thousands of files, and the feed looks every few seconds."""
    tracker = RecordingTracker()
    feed = view(job(tiny_job), tmp_path, tracker)
    steps(tmp_path, 0, 3)
    steps(tmp_path, 3, 6)
    feed.send_new_rows()

    opened: list[str] = []
    read_table = pq.read_table

    def record(file: Any, *args: Any, **options: Any) -> Any:
        opened.append(Path(file.name).stem)
        return read_table(file, *args, **options)

    monkeypatch.setattr(pq, "read_table", record)
    feed.send_new_rows()
    assert opened == []
    newest = steps(tmp_path, 6, 8)
    feed.send_new_rows()
    assert opened == [newest.stem]
    assert [row[1] for row in tracker.rows] == list(range(8))


def test_the_phase_goes_out_as_its_number_also_after_a_resume(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    settings = job(tiny_job)
    tracker = RecordingTracker()
    names = ["largest", "largest", "heads-2", "depth-1"]

    def write(first: int, last: int, stage: str) -> None:
        rows = [
            {
                **STEP,
                "step": i,
                "loss": 1.0,
                "training": stage,
                "phase": names[i] if stage == "supernet" else None,
            }
            for i in range(first, last)
        ]
        write_rows(tmp_path, "steps", rows, f"{stage}-{first:09d}")

    write(0, 3, "supernet")
    view(settings, tmp_path, tracker).send_new_rows()
    write(3, 4, "supernet")
    write(0, 1, "teacher")  # a training without phases has no number
    view(settings, tmp_path, tracker).send_new_rows()
    # Whichever ran, of largest, heads-2, heads-1, ffn-32, ffn-16, depth-2, depth-1.
    assert [r[2]["phase"] for r in tracker.rows if r[0] == "supernet"] == [0.0, 0.0, 1.0, 6.0]
    assert ["phase" in r[2] for r in tracker.rows if r[0] == "teacher"] == [False]


def test_a_tracker_that_fails_is_told_once_and_tried_again(
    tiny_job: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Down(RecordingTracker):
        def send(self, series: str, step: int, values: dict[str, float]) -> None:
            if step == 1 and len(self.rows) < 3:
                self.rows.append(("failed", 0, {}))
                raise ConnectionError("no route")
            super().send(series, step, values)

    tracker = Down()
    shown = view(job(tiny_job), tmp_path, tracker)
    steps(tmp_path, 0, 3)
    for _ in range(4):
        shown.send_new_rows()
    assert [row[1] for row in tracker.rows if row[0] == "supernet"] == [0, 1, 2]
    assert caplog.text.count("Figures cannot be sent to a tracker: no route. The run continues.") == 1


def test_evaluations_that_could_not_be_sent_come_with_the_next(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    class Down(RecordingTracker):
        up = False

        def send(self, series: str, step: int, values: dict[str, float]) -> None:
            if step == 1 and not self.up:
                raise ConnectionError("no route")
            super().send(series, step, values)

    tracker = Down()
    shown = view(job(tiny_job), tmp_path, tracker)
    scored(tmp_path, [0.5, 0.7, 0.6])
    shown.send_new_rows()
    shown.send_new_rows()
    tracker.up = True
    shown.send_new_rows()
    assert [(row[1], row[2]["value"], row[2]["best-small"]) for row in tracker.rows] == [
        (0, 0.5, 0.5), (1, 0.7, 0.7), (2, 0.6, 0.7),
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["send", "flush"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_tracker_that_fails_costs_the_others_nothing(
    tiny_job: dict[str, Any], tmp_path: Path, part: str, order: int
) -> None:
    class Down(RecordingTracker):
        is_up = False

        def send(self, series: str, step: int, values: dict[str, float]) -> None:
            if part == "send" and step == 1 and not self.is_up:
                raise ConnectionError("no route")
            super().send(series, step, values)

        def flush(self) -> None:
            if not self.is_up:
                raise ConnectionError("no route")

    down, other = Down(), RecordingTracker()
    feed = view(job(tiny_job), tmp_path, *(down, other)[::order])
    other_name = NAMES[:2][::order][1]
    for first in range(0, 9, 3):
        steps(tmp_path, first, first + 3)
        feed.send_new_rows()
        assert [row[1] for row in other.rows] == list(range(first + 3))
    # Only the tracker that received the rows has a record of them.
    assert read_record(tmp_path)["trackers"] == {other_name: {"supernet": 8}}

    down.is_up = True
    feed.send_new_rows()
    assert [row[1] for row in down.rows] == [row[1] for row in other.rows] == list(range(9))


def test_a_tracker_that_was_down_gets_its_rows_from_the_next_process(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    class Down(RecordingTracker):
        def flush(self) -> None:
            raise ConnectionError("no route")

    other = RecordingTracker()
    steps(tmp_path, 0, 3)
    view(job(tiny_job), tmp_path, other, Down()).send_new_rows()
    back = RecordingTracker()
    view(job(tiny_job), tmp_path, other, back).send_new_rows()
    assert [row[1] for row in back.rows] == [row[1] for row in other.rows] == [0, 1, 2]


def test_the_record_of_an_earlier_version_counts_for_every_tracker(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "tracking.json").write_text(json.dumps({"sent": {"supernet": 1}, "ids": {"mlflow": "x"}}))
    steps(tmp_path, 0, 3)
    both = RecordingTracker(), RecordingTracker()
    view(job(tiny_job), tmp_path, *both).send_new_rows()
    assert [[row[1] for row in tracker.rows] for tracker in both] == [[2], [2]]
    assert read_record(tmp_path)["ids"] == {"mlflow": "x"}


def test_a_run_of_an_earlier_version_continues_its_record(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """The file had another name."""
    record = {"trackers": {NAMES[0]: {"supernet": 1}}, "ids": {"mlflow": "x"}}
    (tmp_path / "live.json").write_text(json.dumps(record))
    steps(tmp_path, 0, 3)
    tracker = RecordingTracker()
    view(job(tiny_job), tmp_path, tracker).send_new_rows()
    assert [row[1] for row in tracker.rows] == [2]
    assert read_record(tmp_path)["ids"] == {"mlflow": "x"}


def test_the_id_of_a_tracker_is_recorded_before_there_are_rows(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """A run that is interrupted soon continues the same run of MLflow."""
    feed = view(job(tiny_job), tmp_path, RecordingTracker())
    feed._ids["mlflow"] = "x"
    feed.send_new_rows()
    assert read_record(tmp_path)["ids"] == {"mlflow": "x"}


def test_mlflow_keeps_each_metric_once_while_its_server_is_down() -> None:
    sent: list[Any] = []
    is_up = False

    def log_batch(run_id: str, metrics: list[Any]) -> None:
        if not is_up:
            raise ConnectionError("no route")
        sent.extend(metrics)

    tracker = MLflowTracker.__new__(MLflowTracker)
    tracker._metric_type = lambda *values: values
    tracker._client = SimpleNamespace(log_batch=log_batch)
    tracker._run_id = "x"
    tracker._buffer = []
    # More than one request; `send` does not ask the server.
    for step in range(2500):
        tracker.send("supernet", step, {"loss": 1.0})
    for _ in range(3):
        with pytest.raises(ConnectionError):
            tracker.flush()
    is_up = True
    tracker.flush()
    assert [values[3] for values in sent] == list(range(2500))


def test_what_is_noted_as_sent_is_out_of_this_process(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    class Late(RecordingTracker):
        """As MLflow's: holds figures until it is flushed."""

        def __init__(self) -> None:
            super().__init__()
            self.out = 0

        def flush(self) -> None:
            assert not (tmp_path / "tracking.json").exists()
            self.out = len(self.rows)

    tracker = Late()
    shown = view(job(tiny_job), tmp_path, tracker)
    steps(tmp_path, 0, 3)
    shown.send_new_rows()
    assert tracker.out == 3
    assert read_record(tmp_path)["trackers"] == {"tensorboard": {"supernet": 2}}


def test_what_a_second_flush_sent_is_noted(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    class Away(RecordingTracker):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1
            if self.flushes == 1:
                raise ConnectionError("no route")

    shown = view(job(tiny_job), tmp_path, Away())
    steps(tmp_path, 0, 3)
    shown.send_new_rows()
    assert not (tmp_path / "tracking.json").exists()
    shown.send_new_rows()
    assert read_record(tmp_path)["trackers"] == {"tensorboard": {"supernet": 2}}


def test_tensorboard_holds_the_figures(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    with track_run(job(tiny_job, "tensorboard"), tmp_path):
        steps(tmp_path, 0, 4)
    (file,) = (tmp_path / "tensorboard").iterdir()
    data = file.read_bytes()
    at = 0
    values = {}
    while at < len(data):  # length, its checksum, the event, its checksum
        (size,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + size])
        values |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        at += 16 + size
    assert values["supernet/loss", 3] == pytest.approx(0.25)
    assert len(values) == 4 * 4  # loss, entropy, tokens a second, phase


def test_mlflow_holds_the_figures_in_one_run(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = tmp_path / "run"
    for first in (0, 3):
        with track_run(job(tiny_job, "mlflow"), run):
            steps(run, first, first + 3)
    identity = json.loads((run / "tracking.json").read_text())["ids"]["mlflow"]
    client = mlflow.MlflowClient()
    history = client.get_metric_history(identity, "supernet/loss")
    assert sorted(m.step for m in history) == list(range(6))
    assert client.get_run(identity).data.params["train.steps"] == "3"


@pytest.mark.slow  # its service takes seconds to start
def test_wandb_works_offline(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with track_run(job(tiny_job, "wandb"), tmp_path):
        steps(tmp_path, 0, 3)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30  # its service writes the file behind
    while b"supernet/loss" not in file.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.2)
    data = file.read_bytes()
    assert b"supernet/loss" in data
    assert tmp_path.name.encode() in data


def test_a_package_that_is_missing_is_named(
    tiny_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "no_such_package_here")
    with pytest.raises(UserError, match=r"'wandb', whose package is not installed: pip install"):
        check_trackers(job(tiny_job, "wandb"))
    check_trackers(job(tiny_job, "tensorboard"))


def test_trackers_are_no_part_of_a_run_s_identity(tiny_job: dict[str, Any]) -> None:
    assert job(tiny_job, "mlflow").run_id == job(tiny_job).run_id
