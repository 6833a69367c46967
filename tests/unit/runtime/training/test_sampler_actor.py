"""The sampler actor: blocks, repeated calls, restarts, replaced attempts and missing ranks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raycomp.errors import BarrierTimeoutError, StaleAttemptError
from raycomp.methods.yoco.eesng import EESNG
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


@pytest.mark.parametrize("job", [1, 5, 10], indirect=True)
@pytest.mark.parametrize("world_size", [1, 3])
def test_the_actor_computes_what_the_sampler_computes(
    make_actor: MakeActor, sampler: EESNG, world_size: int
) -> None:
    """The reference is asked and told step by step; the results are equal bit for bit."""

    async def train() -> None:
        actor = make_actor()
        await actor.begin("a", world_size, 0, None, 10.0)
        block: Any = await actor.ask("a", 0)
        step = 0
        while step < sum(PHASE_STEPS):
            block_end = sampler.block_end(step)
            assert block == expected_block(sampler, step)

            block_shares = [rank_shares(sampler.ask(s), world_size) for s in range(step, block_end)]
            replies = await tell_block(actor, step, *block_shares)
            for s, shares in enumerate(block_shares, step):
                sampler.tell(s, sum_shares(shares))

            # The actor has drawn the next block already, but neither state nor theta has changed.
            assert await actor.state("a", block_end) == sampler.state_dict()
            assert await actor.probabilities("a", block_end) == sampler.probabilities()

            block = replies[0]
            step = block_end
            assert all(reply == block for reply in replies)
        assert block is None, "there are no more steps"

    asyncio.run(train())


def test_theta_of_another_step_or_attempt_is_refused(make_actor: MakeActor, sampler: EESNG) -> None:
    async def read_theta() -> None:
        actor = make_actor()
        await actor.begin("a", 1, 0, None, 0.1)
        archs = sampler.ask(0)

        # The losses of step 0 were not told yet, so the call waits.
        with pytest.raises(BarrierTimeoutError, match="rank 0 did not"):
            await actor.probabilities("a", 1)

        await actor.tell("a", 0, 0, [losses(archs)])
        with pytest.raises(StaleAttemptError, match="Step 0 was requested, but the sampler is at step 1"):
            await actor.probabilities("a", 0)
        with pytest.raises(StaleAttemptError, match="replaced by a"):
            await actor.probabilities("b", 1)

    asyncio.run(read_theta())


def test_a_repeated_tell_changes_nothing_also_after_a_restart(
    make_actor: MakeActor, sampler: EESNG
) -> None:
    async def repeat_calls() -> None:
        actor = make_actor()
        await actor.begin("a", 2, 0, None, 10.0)
        for step in range(12):
            shares = rank_shares(sampler.ask(step), 2)
            (block, _) = await tell_block(actor, step, shares)
            sampler.tell(step, sum_shares(shares))
            assert block == expected_block(sampler, step + 1)

            # Other losses for the same step show whether they have an effect.
            wrong_shares = [[99.0] * len(rank_losses) for rank_losses in shares]
            assert await actor.tell("a", 0, step, [wrong_shares[0]]) == block
            actor = make_actor()
            assert await tell_block(actor, step, wrong_shares) == [block] * 2
            assert await actor.ask("a", step + 1) == block

    asyncio.run(repeat_calls())


def test_a_share_that_was_lost_with_the_actor_is_told_again(
    make_actor: MakeActor, sampler: EESNG
) -> None:
    async def restart_between_shares() -> None:
        actor = make_actor()
        await actor.begin("a", 2, 0, None, 10.0)
        shares = rank_shares(sampler.ask(0), 2)
        lost_call = asyncio.create_task(actor.tell("a", 1, 0, [shares[1]]))
        await asyncio.sleep(0.01)
        lost_call.cancel()

        actor = make_actor()
        assert await actor.missing("a", 0, 0) == [1]
        await tell_block(actor, 0, shares)
        sampler.tell(0, sum_shares(shares))
        assert await actor.state("a", 1) == sampler.state_dict()

    asyncio.run(restart_between_shares())


def test_late_ranks_are_named_on_request_and_after_the_time_limit(
    make_actor: MakeActor, sampler: EESNG
) -> None:
    async def wait_for_late_ranks() -> None:
        actor = make_actor()
        await actor.begin("a", 4, 0, None, 0.2)
        shares = rank_shares(sampler.ask(0), 4)
        calls = [asyncio.create_task(actor.tell("a", rank, 0, [shares[rank]])) for rank in (0, 2)]
        await asyncio.sleep(0.01)
        assert await actor.missing("a", 0, 0) == [1, 3]

        for call in calls:
            with pytest.raises(BarrierTimeoutError, match=r"Step 0: ranks 1, 3 did not .* within 0\.2 s"):
                await call

        await asyncio.gather(*(actor.tell("a", rank, 0, [shares[rank]]) for rank in (1, 3)))
        assert await actor.missing("a", 0, 0) == []
        with pytest.raises(StaleAttemptError):
            await actor.missing("b", 0, 1)

    asyncio.run(wait_for_late_ranks())


def test_a_waiting_call_of_a_replaced_attempt_is_refused_at_once(
    make_actor: MakeActor, sampler: EESNG
) -> None:
    async def replace_attempt() -> None:
        actor = make_actor()
        await actor.begin("a", 2, 0, None, 60.0)
        shares = rank_shares(sampler.ask(0), 2)
        waiting_call = asyncio.create_task(actor.tell("a", 0, 0, [shares[0]]))
        await asyncio.sleep(0.01)

        await actor.begin("b", 2, 0, await actor.state("a", 0), 60.0)
        with pytest.raises(StaleAttemptError, match="replaced by b"):
            await asyncio.wait_for(waiting_call, 5)
        # The share of the old attempt does not count for the new one.
        assert await actor.missing("b", 1, 0) == [0]

    asyncio.run(replace_attempt())


@pytest.mark.parametrize("job", [10], indirect=True)
def test_inside_a_block_a_rank_shows_that_it_runs_by_asking_for_missing_ranks(
    make_actor: MakeActor, sampler: EESNG
) -> None:
    """No losses are told between the first and the last step of a block."""

    async def ask_inside_block() -> None:
        actor = make_actor()
        await actor.begin("a", 3, 0, None, 10.0)
        # Phases of one step, and the first step of the last phase.
        for step in range(7):
            await advance(actor, sampler, step, 3)
        assert sampler.block_end(7) == 10

        # Rank 1 does not ask, so the others wait LATE_SECONDS for it.
        start = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(actor.missing("a", rank, 8) for rank in (0, 2)))
        assert answers == [[1], [1]]
        assert asyncio.get_running_loop().time() - start >= 0.1

        # All ranks ask, one of them earlier.
        first_call = asyncio.create_task(actor.missing("a", 0, 9))
        await asyncio.sleep(0.01)
        later_calls = [actor.missing("a", rank, 9) for rank in (1, 2)]
        assert await asyncio.gather(first_call, *later_calls) == [[]] * 3

    asyncio.run(ask_inside_block())


def test_losses_of_another_number_of_steps_are_refused(make_actor: MakeActor, sampler: EESNG) -> None:
    """A share that does not fit those of the other ranks is an error; the ranks would wait forever."""

    async def tell_two_steps() -> None:
        actor = make_actor()
        await actor.begin("a", 2, 0, None, 0.1)
        shares = rank_shares(sampler.ask(0), 2)
        message = "Losses of 2 steps from step 0 on were sent, but the block has 1"
        with pytest.raises(StaleAttemptError, match=message):
            await actor.tell("a", 0, 0, [shares[0], shares[0]])

    asyncio.run(tell_two_steps())
