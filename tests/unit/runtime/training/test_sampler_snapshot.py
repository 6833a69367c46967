"""The snapshots of the sampler actor: corrupted, old and foreign ones, a full disk, and their size."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from raycomp.errors import StaleAttemptError, UserError
from raycomp.methods.yoco.eesng import EESNG
from raycomp.runtime.training import sampler_snapshot
from raycomp.runtime.training.sampler_snapshot import read_last_snapshot
from tests.integration.test_actors import losses
from tests.unit.runtime.training.conftest import (
    PHASE_STEPS,
    MakeActor,
    advance,
    expected_block,
    rank_shares,
    sum_shares,
    tell_block,
)


def snapshot_steps(path: Path) -> list[int]:
    """Return the step of each snapshot in the file."""
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("content", ["", '{"attempt":"a","wor', "\0" * 400])
def test_an_attempt_from_a_checkpoint_does_not_need_the_snapshot(
    make_actor: MakeActor, sampler: EESNG, snapshot_path: Path, content: str
) -> None:
    async def corrupt_and_restart() -> None:
        actor = make_actor()
        await actor.begin("a", 1, 0, None, 10.0)
        for step in range(9):
            await advance(actor, sampler, step)
        state = await actor.state("a", 9)
        snapshot_path.write_text(content)

        actor = make_actor()
        message = r"Attempt a is unknown: .*snapshot\.json does not have its snapshot"
        with pytest.raises(StaleAttemptError, match=message):
            await actor.tell("a", 0, 9, [[1.0, 2.0]])
        with pytest.raises(StaleAttemptError, match="begins at step 9 without a sampler state"):
            await actor.begin("b", 1, 9, None, 10.0)

        await actor.begin("b", 1, 9, json.loads(json.dumps(state)), 10.0)
        assert await actor.ask("b", 9) == expected_block(sampler, 9)
        assert snapshot_steps(snapshot_path) == [9]

    asyncio.run(corrupt_and_restart())


@pytest.mark.parametrize("content", ["[]", "3", '{"sampler": {"dist": {"theta": [[1.0]]}}}', "{}"])
def test_a_snapshot_of_something_else_is_an_error(
    make_actor: MakeActor, snapshot_path: Path, content: str
) -> None:
    snapshot_path.write_text(content)
    with pytest.raises(UserError, match=r"snapshot\.json is not a snapshot of this run"):
        make_actor()


def test_a_snapshot_older_than_the_workers_ends_the_attempt(
    make_actor: MakeActor, sampler: EESNG, snapshot_path: Path
) -> None:
    """Snapshots are not synced: after the loss of a machine an older one may be on its disk."""

    async def restore_old_snapshot() -> None:
        actor = make_actor()
        await actor.begin("a", 1, 0, None, 10.0)
        old_content = snapshot_path.read_bytes()
        for step in range(3):
            await advance(actor, sampler, step)
        snapshot_path.write_bytes(old_content)

        message = "Losses of step 3 were sent, but the sampler's snapshot is of step 0"
        with pytest.raises(StaleAttemptError, match=message):
            await make_actor().tell("a", 0, 3, [losses(sampler.ask(3))])

    asyncio.run(restore_old_snapshot())


def test_a_snapshot_is_small_and_only_the_first_one_is_synced(
    make_actor: MakeActor, sampler: EESNG, snapshot_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced_files: list[int] = []
    monkeypatch.setattr(os, "fsync", synced_files.append)

    async def train() -> None:
        actor = make_actor()
        await actor.begin("a", 2, 0, None, 10.0)
        assert len(synced_files) == 1

        snapshot_sizes = []
        state_sizes = []
        for step in range(sum(PHASE_STEPS)):
            await advance(actor, sampler, step, 2)
            lines = snapshot_path.read_text().splitlines()
            assert len(lines) == step + 2
            snapshot_sizes.append(len(lines[-1]))
            state_sizes.append(sum(len(v) for v in vars(actor).values() if isinstance(v, dict)))

        assert len(synced_files) == 1
        assert max(snapshot_sizes[8:]) < 1.1 * min(snapshot_sizes[8:]) < 4096
        assert len(set(state_sizes)) == 1, "nothing grows with the number of steps"

    asyncio.run(train())


def test_the_file_is_replaced_before_it_becomes_large(
    make_actor: MakeActor, sampler: EESNG, snapshot_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    max_bytes = 9000
    monkeypatch.setattr(sampler_snapshot, "MAX_BYTES", max_bytes)

    async def train() -> None:
        actor = make_actor()
        await actor.begin("a", 1, 0, None, 10.0)
        line_counts = []
        for step in range(sum(PHASE_STEPS) - 1):
            await advance(actor, sampler, step)
            content = snapshot_path.read_text()
            line_counts.append(len(content.splitlines()))
            assert len(content) < max_bytes + 4096
            assert read_last_snapshot(snapshot_path)["step"] == step + 1
        assert line_counts.count(1) > 1, "it was replaced more than once"

        # A restarted actor loads the last snapshot.
        actor = make_actor()
        assert await actor.ask("a", step + 1) == expected_block(sampler, step + 1)

    asyncio.run(train())


@pytest.mark.parametrize("incomplete_line", ['{"attempt":"a","wor', "\0" * 400])
def test_an_incomplete_line_is_ignored_and_nothing_is_appended_to_it(
    make_actor: MakeActor, sampler: EESNG, snapshot_path: Path, incomplete_line: str
) -> None:
    async def corrupt_and_restart() -> None:
        actor = make_actor()
        await actor.begin("a", 1, 0, None, 10.0)
        for step in range(4):
            await advance(actor, sampler, step)
        with snapshot_path.open("a") as file:
            file.write(incomplete_line)

        actor = make_actor()
        shares = rank_shares(sampler.ask(4), 1)
        assert await actor.ask("a", 4) == expected_block(sampler, 4)
        await tell_block(actor, 4, shares)
        assert snapshot_steps(snapshot_path) == [5]

    asyncio.run(corrupt_and_restart())


class FullDiskFile:
    """A file on a full disk: half of each write succeeds."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "ab")  # noqa: SIM115

    def __enter__(self) -> FullDiskFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")


def test_after_a_full_disk_nothing_is_appended_to_half_a_line(
    make_actor: MakeActor, sampler: EESNG, snapshot_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_path = Path.open

    def open_on_full_disk(path: Path, mode: str = "r") -> Any:
        return FullDiskFile(path) if mode == "ab" else open_path(path, mode)

    async def fill_disk_once() -> None:
        actor = make_actor()
        await actor.begin("a", 1, 0, None, 10.0)
        shares = rank_shares(sampler.ask(0), 1)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", open_on_full_disk)
            with pytest.raises(UserError, match=r"snapshot\.json.* No space left on device.*ree"):
                await tell_block(actor, 0, shares)
        sampler.tell(0, sum_shares(shares))

        await tell_block(actor, 1, rank_shares(sampler.ask(1), 1))
        assert snapshot_steps(snapshot_path) == [2]

    asyncio.run(fill_disk_once())
