"""What the sampler's host answers, in this process: no actor, its calls in the order that is wanted."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.errors import BarrierTimeoutError, StaleAttemptError, UserError
from raycomp.methods.yoco.eesng import EESNG
from raycomp.methods.yoco.plan import build_sampler
from raycomp.runtime.training import sampler_actor
from raycomp.runtime.training.sampler_actor import SamplerActor
from raycomp.runtime.training.sampler_snapshot import read_last_snapshot
from tests.integration.test_actors import losses, plan_of

Make = Callable[[], SamplerActor]
STEPS = [1, 1, 1, 1, 1, 1, 20]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_actor, "LATE_SECONDS", 0.1)


@pytest.fixture(params=[1])
def job(request: pytest.FixtureRequest, tiny_job: dict[str, Any]) -> dict[str, Any]:
    """A job whose blocks are of so many steps; the obvious form where a test does not say more."""
    return {**tiny_job, "train": {**tiny_job["train"], "sampler_sync_steps": request.param}}


@pytest.fixture
def plan(job: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**plan_of(job, tmp_path), "steps": STEPS}


@pytest.fixture
def make(job: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> Make:
    """Makes the host anew, as a restart does: all that it has is the snapshot."""
    return lambda: SamplerActor(job, plan, str(tmp_path / "snapshot.json"))


@pytest.fixture
def here(job: dict[str, Any], plan: dict[str, Any]) -> EESNG:
    """The same sampler in this process."""
    return build_sampler(parse_job(job), plan)


def shares(archs: list[Architecture], world: int) -> list[list[float]]:
    """Shares of each rank whose sums are exact."""
    return [[x * (r + 1) / 4 for x in losses(archs)] for r in range(world)]


def told(parts: list[list[float]]) -> list[float]:
    return [sum(p) for p in zip(*parts, strict=True)]


async def tell(host: SamplerActor, step: int, *parts: list[list[float]]) -> list[Any]:
    """All ranks tell a block at once, the last one first; `parts` of each of its steps."""
    calls = [host.tell("a", r, step, list(p)) for r, p in enumerate(zip(*parts, strict=True))]
    return list(await asyncio.gather(*reversed(calls)))


def block(here: EESNG, step: int) -> Any:
    """The block that begins at a step, as the host says it."""
    steps = range(step, here.block_end(step))
    return step, [([a.to_json() for a in here.ask(s)], here.info(s)) for s in steps]


async def advance(host: SamplerActor, here: EESNG, step: int, world: int = 1) -> None:
    """Tell a step to the host, and to the sampler in this process."""
    parts = shares(here.ask(step), world)
    await tell(host, step, parts)
    here.tell(step, told(parts))


@pytest.mark.parametrize("job", [1, 5, 10], indirect=True)
@pytest.mark.parametrize("world", [1, 3])
def test_one_call_a_block_is_the_awaited_form_to_the_bit(make: Make, here: EESNG, world: int) -> None:
    """The sampler in this process is asked and told step by step."""

    async def walk() -> None:
        host, first = make(), 0
        await host.begin("a", world, 0, None, 10.0)
        answer: Any = await host.ask("a", 0)
        while first < sum(STEPS):
            last = here.block_end(first)
            assert answer == block(here, first)
            parts = [shares(here.ask(step), world) for step in range(first, last)]
            replies = await tell(host, first, *parts)
            for step, each in enumerate(parts, first):
                here.tell(step, told(each))
            # Between two blocks: the next one is drawn there, and neither state nor theta shows it.
            assert await host.state("a", last) == here.state_dict()
            assert await host.probabilities("a", last) == here.probabilities()
            answer, first = replies[0], last
            assert all(r == answer for r in replies)
        assert answer is None  # there is no next step

    asyncio.run(walk())


def test_theta_of_another_step_or_attempt_is_refused(make: Make, here: EESNG) -> None:
    async def walk() -> None:
        host = make()
        await host.begin("a", 1, 0, None, 0.1)
        archs = here.ask(0)
        with pytest.raises(BarrierTimeoutError, match="rank 0 did not"):
            await host.probabilities("a", 1)  # not told yet: it waits
        await host.tell("a", 0, 0, [losses(archs)])
        with pytest.raises(StaleAttemptError, match="Step 0 was requested, but the sampler is at step 1"):
            await host.probabilities("a", 0)
        with pytest.raises(StaleAttemptError, match="replaced by a"):
            await host.probabilities("b", 1)

    asyncio.run(walk())


def test_a_repeated_tell_gets_the_next_architectures_also_after_a_restart(
    make: Make, here: EESNG
) -> None:
    async def walk() -> None:
        host = make()
        await host.begin("a", 2, 0, None, 10.0)
        for step in range(12):
            parts = shares(here.ask(step), 2)
            (answer, _) = await tell(host, step, parts)
            here.tell(step, told(parts))
            assert answer == block(here, step + 1)
            assert await host.tell("a", 0, step, [[99.0] * len(parts[0])]) == answer
            host = make()
            assert await tell(host, step, [[99.0] * len(p) for p in parts]) == [answer] * 2
            assert await host.ask("a", step + 1) == answer

    asyncio.run(walk())


def test_a_share_that_died_with_the_actor_is_told_again(make: Make, here: EESNG) -> None:
    async def walk() -> None:
        host = make()
        await host.begin("a", 2, 0, None, 10.0)
        parts = shares(here.ask(0), 2)
        lost = asyncio.create_task(host.tell("a", 1, 0, [parts[1]]))
        await asyncio.sleep(0.01)
        lost.cancel()
        host = make()
        assert await host.missing("a", 0, 0) == [1]
        await tell(host, 0, parts)
        here.tell(0, told(parts))
        assert await host.state("a", 1) == here.state_dict()

    asyncio.run(walk())


def test_who_did_not_come_is_named_at_once_and_after_the_time_limit(make: Make, here: EESNG) -> None:
    async def walk() -> None:
        host = make()
        await host.begin("a", 4, 0, None, 0.2)
        parts = shares(here.ask(0), 4)
        waiting = [asyncio.create_task(host.tell("a", r, 0, [parts[r]])) for r in (0, 2)]
        await asyncio.sleep(0.01)
        assert await host.missing("a", 0, 0) == [1, 3]
        for each in waiting:
            with pytest.raises(BarrierTimeoutError, match=r"Step 0: ranks 1, 3 did not .* within 0\.2 s"):
                await each
        await asyncio.gather(*(host.tell("a", r, 0, [parts[r]]) for r in (1, 3)))
        assert await host.missing("a", 0, 0) == []
        with pytest.raises(StaleAttemptError):
            await host.missing("b", 0, 1)

    asyncio.run(walk())


def test_who_waits_for_a_replaced_attempt_is_refused_at_once(make: Make, here: EESNG) -> None:
    async def walk() -> None:
        host = make()
        await host.begin("a", 2, 0, None, 60.0)
        parts = shares(here.ask(0), 2)
        waiting = asyncio.create_task(host.tell("a", 0, 0, [parts[0]]))
        await asyncio.sleep(0.01)
        await host.begin("b", 2, 0, await host.state("a", 0), 60.0)
        with pytest.raises(StaleAttemptError, match="replaced by b"):
            await asyncio.wait_for(waiting, 5)
        assert await host.missing("b", 1, 0) == [0]  # its share went with it

    asyncio.run(walk())


@pytest.mark.parametrize("job", [10], indirect=True)
def test_within_a_block_a_rank_that_is_well_says_so_by_asking_who_is_not(make: Make, here: EESNG) -> None:
    """No losses are told between the first step of a block and its last."""

    async def walk() -> None:
        host = make()
        await host.begin("a", 3, 0, None, 10.0)
        for step in range(7):  # phases of one step, and the first step of the last phase
            await advance(host, here, step, 3)
        assert here.block_end(7) == 10
        began = asyncio.get_running_loop().time()
        found = await asyncio.gather(*(host.missing("a", r, 8) for r in (0, 2)))
        assert found == [[1], [1]]
        assert asyncio.get_running_loop().time() - began >= 0.1  # it waited for who is late
        late = asyncio.create_task(host.missing("a", 0, 9))
        await asyncio.sleep(0.01)
        assert await asyncio.gather(late, *(host.missing("a", r, 9) for r in (1, 2))) == [[]] * 3

    asyncio.run(walk())


def test_losses_of_half_a_block_are_no_blocks(make: Make, here: EESNG) -> None:
    """A share that does not fit the others' ends in an error, not in a wait."""

    async def walk() -> None:
        host = make()
        await host.begin("a", 2, 0, None, 0.1)
        parts = shares(here.ask(0), 2)
        with pytest.raises(
            StaleAttemptError, match="Losses of 2 steps from step 0 on were sent, but the block has 1"
        ):
            await host.tell("a", 0, 0, [parts[0], parts[0]])

    asyncio.run(walk())


@pytest.mark.parametrize("left", ["", '{"attempt":"a","wor', "\0" * 400])
def test_a_torn_snapshot_is_none_when_an_attempt_begins_from_a_checkpoint(
    make: Make, here: EESNG, tmp_path: Path, left: str
) -> None:
    async def walk() -> None:
        host = make()
        await host.begin("a", 1, 0, None, 10.0)
        for step in range(9):
            await advance(host, here, step)
        state = await host.state("a", 9)
        (tmp_path / "snapshot.json").write_text(left)
        host = make()
        with pytest.raises(
            StaleAttemptError, match=r"Attempt a is unknown, because .*snapshot\.json has no snap"
        ):
            await host.tell("a", 0, 9, [[1.0, 2.0]])
        with pytest.raises(StaleAttemptError, match="begins at step 9 without a sampler state"):
            await host.begin("b", 1, 9, None, 10.0)
        await host.begin("b", 1, 9, json.loads(json.dumps(state)), 10.0)
        assert await host.ask("b", 9) == block(here, 9)
        assert json.loads((tmp_path / "snapshot.json").read_text())["step"] == 9

    asyncio.run(walk())


@pytest.mark.parametrize("left", ["[]", "3", '{"sampler": {"dist": {"theta": [[1.0]]}}}', "{}"])
def test_a_whole_snapshot_of_something_else_is_an_error(make: Make, tmp_path: Path, left: str) -> None:
    (tmp_path / "snapshot.json").write_text(left)
    with pytest.raises(UserError, match=r"snapshot\.json is not a snapshot of this run"):
        make()


def test_a_snapshot_older_than_its_workers_ends_the_attempt(
    make: Make, here: EESNG, tmp_path: Path
) -> None:
    """Snapshots are not synced: after the loss of a machine an older one may be found."""

    async def walk() -> None:
        host = make()
        await host.begin("a", 1, 0, None, 10.0)
        old = (tmp_path / "snapshot.json").read_bytes()
        for step in range(3):
            await advance(host, here, step)
        (tmp_path / "snapshot.json").write_bytes(old)
        with pytest.raises(
            StaleAttemptError, match="Losses of step 3 were sent, but the sampler's snapshot is of step 0"
        ):
            await make().tell("a", 0, 3, [losses(here.ask(3))])

    asyncio.run(walk())


def test_a_snapshot_is_small_and_not_synced_at_every_step(
    make: Make, here: EESNG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)

    async def walk() -> None:
        host = make()
        await host.begin("a", 2, 0, None, 10.0)
        assert len(synced) == 1
        sizes, held = [], []
        for step in range(sum(STEPS)):
            await advance(host, here, step, 2)
            text = (tmp_path / "snapshot.json").read_text()
            assert len(text.splitlines()) == step + 2
            sizes.append(len(text.splitlines()[-1]))
            held.append(sum(len(v) for v in vars(host).values() if isinstance(v, dict)))
        assert len(synced) == 1
        assert max(sizes[8:]) < 1.1 * min(sizes[8:]) < 4096
        assert len(set(held)) == 1  # nothing grows with the steps

    asyncio.run(walk())


def test_the_file_of_snapshots_is_begun_again_before_it_grows_long(
    make: Make, here: EESNG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycomp.runtime.training.sampler_snapshot.MAX_BYTES", 9000)

    async def walk() -> None:
        host = make()
        await host.begin("a", 1, 0, None, 10.0)
        lines = []
        for step in range(sum(STEPS) - 1):
            await advance(host, here, step)
            text = (tmp_path / "snapshot.json").read_text()
            lines.append(len(text.splitlines()))
            assert len(text) < 9000 + 4096
            assert read_last_snapshot(tmp_path / "snapshot.json")["step"] == step + 1
        assert lines.count(1) > 1
        host = make()  # a restart finds the last one
        assert await host.ask("a", step + 1) == block(here, step + 1)

    asyncio.run(walk())


@pytest.mark.parametrize("torn", ['{"attempt":"a","wor', "\0" * 400])
def test_the_snapshot_before_a_torn_one_counts_and_no_line_is_added_to_a_torn_one(
    make: Make, here: EESNG, tmp_path: Path, torn: str
) -> None:
    async def walk() -> None:
        host = make()
        await host.begin("a", 1, 0, None, 10.0)
        for step in range(4):
            await advance(host, here, step)
        with (tmp_path / "snapshot.json").open("a") as file:
            file.write(torn)
        host = make()
        parts = shares(here.ask(4), 1)
        assert await host.ask("a", 4) == block(here, 4)
        await tell(host, 4, parts)
        assert [json.loads(x)["step"] for x in (tmp_path / "snapshot.json").read_text().splitlines()] == [
            5
        ]

    asyncio.run(walk())


def test_after_a_full_disk_no_line_is_added_to_half_a_line(
    make: Make, here: EESNG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file on a full disk: it takes the half."""

        def __init__(self, path: Path) -> None:
            self.file = open(path, "ab")  # noqa: SIM115

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    async def walk() -> None:
        host = make()
        await host.begin("a", 1, 0, None, 10.0)
        plain = Path.open
        with monkeypatch.context() as patched:
            patched.setattr(
                Path, "open", lambda path, mode="r": Full(path) if mode == "ab" else plain(path, mode)
            )
            with pytest.raises(
                UserError, match=r"cannot write .*snapshot\.json: No space left on device; free"
            ):
                await tell(host, 0, shares(here.ask(0), 1))
        here.tell(0, told(shares(here.ask(0), 1)))
        await tell(host, 1, shares(here.ask(1), 1))
        assert [json.loads(x)["step"] for x in (tmp_path / "snapshot.json").read_text().splitlines()] == [
            2
        ]

    asyncio.run(walk())
