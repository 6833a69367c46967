from __future__ import annotations

import numpy as np
import pytest

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.errors import UserError
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search.moves import fit_to_limit, mutate, shrink_to_limit
from raycomp.search.space import SearchSpace

PAPER = SearchSpace(12, (6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072))
SMALL = SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32, 64))


def test_the_paper_s_space_has_its_size() -> None:
    assert PAPER.num_architectures() == 8_978_450_780_160
    assert len(PAPER.variables(joint=True)) == 13


def test_the_paper_s_phases_largest_first() -> None:
    found = progressive_phases(PAPER)
    assert [(p.depth, p.heads, p.ffn) for p in found] == [
        ((12,), (12,), (3072,)),
        ((12,), (8, 12), (3072,)),
        ((12,), (4, 8, 12), (3072,)),
        ((12,), (4, 8, 12), (1024, 3072)),
        ((12,), (4, 8, 12), (768, 1024, 3072)),
        ((12,), (4, 8, 12), (512, 768, 1024, 3072)),
        ((10, 12), (4, 8, 12), (512, 768, 1024, 3072)),
        ((8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072)),
        ((6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072)),
    ]


@pytest.mark.parametrize("joint", [False, True])
def test_layer_sums_are_the_cost_models(joint: bool) -> None:
    shape = EncoderShape(30522, 768, 768, 64, (12,) * 12, (3072,) * 12, 512, 2, 2)
    costs, rng = CostModel(shape, 128), np.random.default_rng(0)
    archs = [PAPER.sample_uniform(rng) for _ in range(50)]
    sums = PAPER.layer_sums(lambda h, k: costs.cost("encoder_params", Architecture(1, (h,), (k,))), joint)
    rows = np.stack([PAPER.encode(a, joint) for a in archs])
    assert sums(rows).tolist() == [costs.cost("encoder_params", a) for a in archs]


def test_a_phase_of_no_steps_is_skipped() -> None:
    schedule = Schedule(progressive_phases(SMALL), (2, 0, 1, 3, 1, 1, 1))
    assert [schedule.index_at(s) for s in range(9)] == [0, 0, 2, 3, 3, 3, 4, 5, 6]
    assert schedule.total == 9


@pytest.mark.parametrize("joint", [False, True])
def test_encode_and_decode_are_inverse(joint: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        arch = SMALL.sample_uniform(rng)
        indices = SMALL.encode(arch, joint)
        assert SMALL.decode(indices, joint) == arch
        kept = [v.layer is None or v.layer < arch.depth for v in SMALL.variables(joint)]
        assert [i >= 0 for i in indices] == kept


@pytest.mark.parametrize("bad", [(), (2, 1), (-1, 1), (1, 1)])
def test_wrong_choices_are_refused(bad: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="heads"):
        SearchSpace(3, (3,), bad, (16,))
    with pytest.raises(UserError, match="depth"):
        SearchSpace(3, (0, 3), (1,), (16,))


@pytest.mark.parametrize("joint", [False, True])
def test_a_space_may_leave_out_attention_and_ffn(joint: bool) -> None:
    space = SearchSpace(3, (1, 2, 3), (0, 2, 4), (0, 16, 64))
    rng = np.random.default_rng(0)
    archs = [space.sample_uniform(rng) for _ in range(50)]
    assert any(0 in a.heads for a in archs)
    assert any(0 in a.ffn for a in archs)
    assert space.smallest() == Architecture(1, (0,), (0,))
    for arch in archs:
        assert space.contains(mutate(arch, space, 0.5, rng))
        assert space.decode(space.encode(arch, joint), joint) == arch


def test_a_space_has_first_layers_only() -> None:
    arch = Architecture(2, (1, 1), (16, 16), (0, 2))
    assert not SMALL.contains(arch)
    with pytest.raises(UserError, match="search space"):
        SMALL.encode(arch)


def test_moves_stay_in_the_space_and_meet_the_limit() -> None:
    rng = np.random.default_rng(1)

    def cost(a: object) -> float:
        return float(sum(a.heads) * 10 + sum(a.ffn))  # type: ignore[attr-defined]

    for _ in range(200):
        arch = mutate(SMALL.sample_uniform(rng), SMALL, 0.5, rng)
        assert SMALL.contains(arch)
        limit = float(rng.uniform(26, 300))
        fitted = fit_to_limit(arch, SMALL, cost, limit, rng)
        assert fitted is not None
        assert SMALL.contains(fitted)
        assert cost(fitted) <= limit
        repaired = shrink_to_limit(arch, SMALL, cost, limit, rng)
        assert repaired is not None
        assert cost(repaired) <= limit
    assert shrink_to_limit(SMALL.largest(), SMALL, cost, 25.0, rng) is None
