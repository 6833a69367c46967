"""Structures, operations, parent, child and compiled model."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from dataclasses import replace

import pytest
import torch

from raycomp.errors import UserError
from raycomp.methods.adabert.cnn_model import CACHED_TOKENS, RaycompCnnForSequenceClassification
from raycomp.methods.adabert.compiler import (
    compile_child,
    compiled_config,
    compiled_macs,
)
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.kernel_merging import merge_convolutions
from raycomp.methods.adabert.modules import (
    average_pool,
    convolve,
    exact_matches,
    max_pool,
    pool_states,
    split_inputs,
)
from raycomp.methods.adabert.operations import ReluConvNorm, apply_operations, run_convolutions
from raycomp.methods.adabert.structure import CONVOLUTIONS, OPERATIONS, Structure, cell_edges
from raycomp.methods.adabert.student import Child, Parent, StudentShape
from raycomp.methods.adabert.winograd import TILE_PLANS

SHAPE = StudentShape(50, 12, 16, 32, 3, False, 3, 0)
PAIR = StudentShape(50, 12, 16, 32, 3, True, 3, 0)
MARKED = replace(PAIR, exact_match=True)


def random_structure(seed: int, layers: int = 3, nodes: int = 3) -> Structure:
    rng = random.Random(seed)
    return Structure(layers, tuple(rng.choice(OPERATIONS) for _ in cell_edges(nodes)), nodes)


def text(rows: int = 5, length: int = 14, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 50, (rows, length), generator=generator)
    lengths = torch.randint(5, length + 1, (rows,), generator=generator)
    real = torch.arange(length) < lengths[:, None]
    for row, n in enumerate(lengths.tolist()):
        ids[row, n // 2] = ids[row, n - 1] = 3  # first SEP second SEP
    return ids * real, real


def shake(model: torch.nn.Module) -> None:
    """Give every weight and running statistic a value of its own."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        buffer += 0.1 * torch.randn_like(buffer).abs() if "variance" in name else 0.1


def test_nine_edges_and_ten_operations() -> None:
    assert cell_edges(3) == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4)]
    assert len(OPERATIONS) == 10


def test_structure_round_trip_and_refusals() -> None:
    one = random_structure(0)
    assert Structure.from_json(one.to_json()) == one
    assert Structure.from_json(one.to_json()).id == one.id
    for bad in ("{", '{"layers": 0}', "[]", one.to_json().replace('"layers":3', '"layers":0')):
        with pytest.raises(UserError):
            Structure.from_json(bad)
    with pytest.raises(UserError, match="unknown operation 'conv'"):
        Structure(1, ("conv",) * 9)


@pytest.mark.parametrize("name", OPERATIONS)
def test_padding_never_leaks(name: str) -> None:
    torch.manual_seed(0)
    op = ReluConvNorm(8, *CONVOLUTIONS[name]) if name in CONVOLUTIONS else torch.nn.Module()
    shake(op)
    op.eval()
    x, mask = torch.randn(2, 6, 8), torch.ones(2, 6, 1)
    (short,) = apply_operations(x, mask, [(name, op)])
    wide = torch.cat([x, torch.zeros(2, 9, 8)], 1)
    (long,) = apply_operations(wide, torch.cat([mask, torch.zeros(2, 9, 1)], 1), [(name, op)])
    if name == "zero":
        assert short is None
        assert long is None
        return
    assert short is not None
    assert long is not None
    torch.testing.assert_close(long[:, :6], short)
    assert long[:, 6:].abs().max() == 0


def test_convolution_is_relu_conv_norm_and_dilation_is_true() -> None:
    torch.manual_seed(0)
    op = ReluConvNorm(4, 5, 2)
    shake(op)
    op.eval()
    x = torch.randn(3, 11, 4)
    (got,) = apply_operations(x, torch.ones(3, 11, 1), [("dil_conv_5", op)])
    y = torch.nn.functional.conv1d(
        torch.relu(x).transpose(1, 2), op.weight.squeeze(2), padding=4, dilation=2
    )
    want = torch.nn.functional.batch_norm(y, op.mean, op.variance, op.scale, op.shift)
    torch.testing.assert_close(got, want.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_normalisation_counts_real_tokens_alone() -> None:
    torch.manual_seed(0)
    op = ReluConvNorm(4, 3, 1).train()
    x, real = torch.randn(4, 9, 4), torch.arange(9) < torch.tensor([9, 4, 6, 2])[:, None]
    mask = real.unsqueeze(-1).float()
    (got,) = apply_operations(x * mask, mask, [("std_conv_3", op)])
    assert got is not None
    kept = got[real]
    torch.testing.assert_close(kept.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.var(0, unbiased=False), torch.ones(4), atol=1e-3, rtol=0)


def test_pools_by_hand() -> None:
    x = torch.tensor([[-1.0, -4.0, -2.0, 0.0]]).unsqueeze(-1)
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).unsqueeze(-1)
    assert average_pool(x, mask).flatten().tolist() == pytest.approx([-2.5, -7 / 3, -3.0, 0.0])
    assert max_pool(x, mask).flatten().tolist() == [-1.0, -1.0, -2.0, 0.0]


def test_normalisation_has_the_gradients_of_its_plain_form() -> None:
    torch.manual_seed(0)
    op = ReluConvNorm(6, 3, 1)
    mask = (torch.arange(7)[None, :] < torch.tensor([7, 4, 2])[:, None]).unsqueeze(-1).float()
    x = (torch.randn(3, 7, 6) * mask).requires_grad_()
    weight = torch.randn(3, 7, 6)
    leaves = (x, op.weight, op.scale, op.shift)
    out = run_convolutions(x, mask, [op.train()])[0]
    got = torch.autograd.grad((out * weight).sum(), leaves)

    y = convolve(x, op.weight, 1)
    count = mask.sum()
    mean = (y * mask).sum((0, 1)) / count
    variance = ((y - mean).square() * mask).sum((0, 1)) / count
    plain = ((y - mean) * torch.rsqrt(variance + 1e-5) * op.scale + op.shift) * mask
    want = torch.autograd.grad((plain * weight).sum(), leaves)
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_convolutions_of_one_kind_run_together_exactly() -> None:
    torch.manual_seed(0)
    ops = [ReluConvNorm(8, 5, 1).train() for _ in range(3)]
    x, mask = torch.randn(3, 7, 8), torch.ones(3, 7, 1)
    together = apply_operations(x, mask, [("std_conv_5", o) for o in ops])
    means = [o.mean.clone() for o in ops]
    for o in ops:
        o.mean.zero_()
    alone = [apply_operations(x, mask, [("std_conv_5", o)])[0] for o in ops]
    for one, other, op, mean in zip(together, alone, ops, means, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(op.mean, mean)


def test_two_texts_are_split_and_both_begin_at_zero() -> None:
    ids = torch.tensor([[2, 7, 8, 3, 9, 3, 0], [2, 5, 3, 6, 7, 8, 3]])
    (a, real_a), (b, real_b) = split_inputs(ids, ids > 0, True, 3)
    assert [r[m].tolist() for r, m in zip(a, real_a, strict=True)] == [[2, 7, 8, 3], [2, 5, 3]]
    assert [r[m].tolist() for r, m in zip(b, real_b, strict=True)] == [[9, 3], [6, 7, 8, 3]]
    assert a.shape == b.shape == (2, 4)


@pytest.mark.parametrize("seed", range(5))
def test_tokens_that_both_texts_have_are_found(seed: int) -> None:
    ids, real = text(seed=seed)
    ids[:, 5] = 3 * real[:, 5]  # where it is real, the end of the first text
    one, two = split_inputs(ids, real, True, 3)
    found = exact_matches(one, two, 3)
    for row in range(len(ids)):
        texts = [ids_[row][mask[row]].tolist() for ids_, mask in (one, two)]
        for mine, other, marks, (_, mask) in zip(texts, texts[::-1], found, (one, two), strict=True):
            assert marks[row][mask[row]].tolist() == [w in other and w != 3 for w in mine]
            assert not marks[row][~mask[row]].any()


@torch.no_grad()
def test_the_mark_tells_shared_words_wherever_they_stand() -> None:
    torch.manual_seed(0)
    child = Child(MARKED, Structure(1, ("skip",) * 9)).eval()
    child.embedding.word.weight.fill_(1.0)  # words look alike, and are told apart by the mark alone
    texts = [[2, 7, 8, 3, 8, 9, 7, 3], [2, 7, 8, 3, 9, 7, 8, 3], [2, 7, 8, 3, 9, 6, 5, 3]]
    real = torch.ones(1, 8, dtype=torch.bool)
    states = [child.embed_inputs(torch.tensor([t]), real)[0] for t in texts]
    moved = [round(float((s[0] - states[2][0]).abs().sum()), 4) for s in states]
    assert moved[0] == moved[1] > 0
    assert moved[2] == 0


@pytest.mark.parametrize("shape", [SHAPE, PAIR, MARKED])
@pytest.mark.parametrize("seed", range(8))
def test_compiled_child_equals_the_child(shape: StudentShape, seed: int) -> None:
    torch.manual_seed(seed)
    child = Child(shape, random_structure(seed, layers=1 + seed % 4)).eval()
    shake(child)
    model = compile_child(child)
    ids, real = text(seed=seed)
    want = child(ids, real)[0]
    for fast in (False, True):  # Winograd's convolution is for inference alone
        with torch.set_grad_enabled(not fast):
            got = model(input_ids=ids, attention_mask=real).logits
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert any(t._key for c in model.cells for t in c._transformed) == any(
        k["size"] in TILE_PLANS and k["dilation"] == 1 for c in model.config.cells for k in c["kernels"]
    )
    # alone, without its neighbours' padding
    n = int(real[0].sum())
    alone = model(input_ids=ids[:1, :n], attention_mask=real[:1, :n]).logits
    torch.testing.assert_close(alone, want[:1], atol=1e-5, rtol=0)
    # and of many alike, so that there are tokens enough for Winograd's convolution
    with torch.no_grad():
        alike = model(input_ids=ids[:1, :n].repeat(9, 1), attention_mask=real[:1, :n].repeat(9, 1)).logits
    torch.testing.assert_close(alike, want[:1].repeat(9, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [PAIR, MARKED])
@torch.no_grad()
def test_one_padded_text_of_a_pair_is_enough_to_mask(shape: StudentShape) -> None:
    child = Child(shape, Structure(2, ("std_conv_3", "avg_pool_3", "skip") * 3)).eval()
    shake(child)
    model = compile_child(child)
    # First texts of 3 and 6 tokens, second ones of 6 and 3: either input node is padded, alone in turn.
    for ids in ([[2, 7, 3, 9, 8, 7, 6, 5, 3]], [[2, 7, 8, 9, 8, 3, 6, 5, 3]]):
        given = torch.tensor(ids).repeat(8, 1)
        real = torch.ones_like(given)
        got = model(input_ids=given, attention_mask=real).logits
        torch.testing.assert_close(got, child(given, real.bool())[0], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("shape", [SHAPE, PAIR, MARKED])
def test_what_is_traced_or_exported_serves_any_batch_and_any_mask(shape: StudentShape) -> None:
    torch.manual_seed(2)
    child = Child(shape, Structure(2, ("std_conv_5", "max_pool_3", "avg_pool_3") * 3)).eval()
    shake(child)
    model = compile_child(child)
    full = torch.ones(2, 28, dtype=torch.long)  # tokens enough for Winograd's convolution
    short = full * 7
    short[:, 13] = 3  # two texts of 14 tokens; other batches have longer ones
    ids, real = (t.repeat(3, 2) for t in text(seed=2))
    real = real.cummin(1).values
    ids *= real
    with torch.no_grad():
        want = child(ids, real)[0]
        model.requires_grad_(False)
        traced = torch.jit.trace(
            lambda i, m: model(input_ids=i, attention_mask=m).logits, (short, full), check_trace=False
        )
        assert all(t._key is None for c in model.cells for t in c._transformed)  # the direct form
        torch.testing.assert_close(traced(ids, real.long()), want, atol=1e-5, rtol=0)
        batch = torch.export.Dim("batch", min=2, max=64)
        exported = torch.export.export(
            model, (), {"input_ids": ids[:4], "attention_mask": real[:4].long()},
            dynamic_shapes={"input_ids": {0: batch}, "attention_mask": {0: batch}},
        )  # fmt: skip
        got = exported.module()(input_ids=ids, attention_mask=real.long()).logits
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


PART = CACHED_TOKENS // 14  # rows of `text` that are computed at once


@pytest.mark.parametrize("rows", [0, 1, PART, 2 * PART + 3])
@torch.no_grad()
def test_rows_are_computed_in_parts_without_a_trace(rows: int) -> None:
    torch.manual_seed(1)
    child = Child(SHAPE, random_structure(1, layers=2)).eval()
    shake(child)
    ids, real = (t.repeat(2 * PART + 3, 1)[:rows] for t in text(seed=1))
    got = compile_child(child)(input_ids=ids, attention_mask=real).logits
    assert got.shape == (rows, SHAPE.classes)
    if rows:
        torch.testing.assert_close(got, child(ids, real)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_every_operation_compiles(padded: bool) -> None:
    for name in OPERATIONS:
        child = Child(SHAPE, Structure(2, (name,) * 9)).eval()
        shake(child)
        ids, real = text()
        if not padded:
            ids, real = ids.clamp(min=4), torch.ones_like(real)
        got = compile_child(child)(input_ids=ids, attention_mask=real).logits
        torch.testing.assert_close(got, child(ids, real)[0], atol=1e-5, rtol=0)


def test_compiled_model_is_smaller_and_has_no_zero_edges() -> None:
    structure = Structure(2, ("std_conv_3",) * 4 + ("zero",) * 5)
    config = compiled_config(SHAPE, structure)
    assert len(config.cells[0]["kernels"]) == 1  # one text into both inputs: kernels add up
    assert config.cells[0]["kernels"][0]["sources"] == [0]
    assert config.cells[1]["kernels"][0]["sources"] == [0, 1]
    child = Child(SHAPE, structure)
    model = compile_child(child)
    held = sum(p.numel() for n, p in child.named_parameters() if not n.startswith("probes"))
    assert sum(p.numel() for p in model.parameters()) < held
    # two cells: 2 targets x (1, then 2 sources) x 3 taps; attentive sums; classifier
    want = (16 * 16 * 2 * 3 + 16 * 16 * 4 * 3 + 2 * 2 * 16 * 3) * 10 + 2 * 16 * 16 + 16 * 3
    assert compiled_macs(config, 10) == want


def test_merging_keeps_every_edge_once_and_wastes_little() -> None:
    for seed, one in itertools.product(range(20), (False, True)):
        structure = random_structure(seed)
        kernels = merge_convolutions(structure, one)
        found = sorted(e for k in kernels for e, _, _ in k.members)
        assert found == [e for e, o in enumerate(structure.operations) if o in CONVOLUTIONS]
        parts = sum(CONVOLUTIONS[o][0] for o in structure.operations if o in CONVOLUTIONS)
        assert sum(k.products for k in kernels) <= 1.15**8 * parts


def test_child_inherits_and_equals_the_parents_path() -> None:
    torch.manual_seed(0)
    parent = Parent(PAIR, 4, 3).eval()
    distribution = Distribution(4, 3, OPERATIONS)
    shake(parent)
    ids, real = text()
    for seed in range(5):
        sample = distribution.sample(1.0, seed)
        k = sample.structure.layers
        child = parent.extract_child(sample.structure).eval()
        logits, probes = child(ids, real)
        for estimator in ("sampled", "contrast", "full"):
            got, said = parent(ids, real, sample, estimator)
            torch.testing.assert_close(got[k - 1], logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(torch.stack(said[:k], 1), probes, atol=1e-5, rtol=1e-5)


def test_embedding_takes_the_best_factors_of_the_teacher() -> None:
    torch.manual_seed(0)
    child = Child(StudentShape(40, 6, 8, 5, 2, False, 3, 0), random_structure(0))
    words, positions = torch.randn(40, 6) @ torch.randn(6, 20), torch.randn(9, 20)
    child.embedding.factorise(words, positions)
    table = child.embedding.word.weight.detach()
    # rank 6 holds it all: inner products stay, up to the common unit
    ratio = (table @ table.T) / (words @ words.T)
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0, 0])), rtol=1e-3, atol=0)


def test_published_sizes_with_berts_vocabulary() -> None:
    """Table 2 gives 6.4M at K = 3 and 9.5M at K = 7; the largest cell of this space brackets both."""
    for layers, published in ((3, 6.4e6), (7, 9.5e6)):
        sizes = []
        for name in ("std_conv_5", "std_conv_7"):
            shape = StudentShape(30522, 128, 128, 128, 2, True, 102, 0)
            model = RaycompCnnForSequenceClassification(
                compiled_config(shape, Structure(layers, (name,) * 9))
            )
            sizes.append(sum(p.numel() for p in model.parameters()))
        assert sizes[0] * 0.95 <= published <= sizes[1]


@pytest.mark.parametrize("estimator", ["sampled", "contrast", "full"])
def test_gradients_of_the_choice_are_inner_products(estimator: str) -> None:
    """d loss / d y_o is <d loss / d edge, output of o>, for what runs; weights of others have none."""
    torch.manual_seed(0)
    parent = Parent(SHAPE, 1, 1, share=False).eval()
    distribution = Distribution(1, 1, OPERATIONS)
    shake(parent)
    ids, real = text()
    sample = distribution.sample(0.7, 4)
    logits, _ = parent(ids, real, sample, estimator)
    weights = torch.randn_like(logits[0])
    distribution.zero_grad()
    (logits[0] * weights).sum().backward()
    got = distribution.operations.grad
    held = {n for n, p in parent.named_parameters() if p.grad is not None and ".edges." in n}
    drawn = {f"cells.0.edges.{e}.{o}" for e, o in enumerate(sample.structure.operations)}
    assert {n.rsplit(".", 1)[0] for n in held} == {d for d in drawn if "conv" in d}
    # the slow, obvious form: every output times its y
    names = sample.structure.operations
    for e in range(2):
        soft = torch.softmax(sample.scores[e], -1).detach()
        slopes = {}
        for o in OPERATIONS:
            y = torch.zeros(len(OPERATIONS), requires_grad=True)
            states, mask = parent.embed_inputs(ids, real)
            node = torch.zeros_like(states[0])
            for other in range(2):
                for i, name in enumerate(OPERATIONS):
                    module = parent.cells[0].edges[other][name]
                    (value,) = apply_operations(states[other], mask, [(name, module)])
                    if value is None:
                        continue
                    hard = float(name == names[other])
                    node = node + value * (hard + y[i] if other == e and name == o else hard)
            out = parent.cells[0].summary([node], mask)
            (parent.head(pool_states(out, mask)) * weights).sum().backward()
            slopes[o] = 0.0 if y.grad is None else float(y.grad[OPERATIONS.index(o)])
        if estimator == "full":
            mean = sum(float(soft[i]) * slopes[o] for i, o in enumerate(OPERATIONS))
            want = [float(soft[i]) * (slopes[o] - mean) / 0.7 for i, o in enumerate(OPERATIONS)]
        elif estimator == "sampled":
            i = OPERATIONS.index(names[e])
            one = [float(n == i) - float(soft[n]) for n in range(10)]
            want = [slopes[names[e]] * float(soft[i]) * v / 0.7 for v in one]
        else:
            assert abs(float(got[e].sum())) < 1e-4  # a comparison: what one gains others lose
            run = [o for i, o in enumerate(OPERATIONS) if float(got[e, i]) != 0]
            assert set(OPERATIONS[6:]) <= set(run)
            assert len(run) == 6 - (names[e] not in CONVOLUTIONS)
            total = sum(float(soft[OPERATIONS.index(o)]) for o in run)
            p = {o: float(soft[OPERATIONS.index(o)]) / total for o in run}
            mean = sum(p[o] * slopes[o] for o in run)
            want = [p[o] * (slopes[o] - mean) / 0.7 if o in p else 0.0 for o in OPERATIONS]
        torch.testing.assert_close(got[e], torch.tensor(want), atol=1e-4, rtol=1e-3)


def test_shared_kernels_are_the_middle_of_the_widest() -> None:
    shared, own = Parent(SHAPE, 1, 1), Parent(SHAPE, 1, 1, share=False)
    for edge in shared.cells[0].edges:
        for dilation in ("std", "dil"):
            wide = edge[f"{dilation}_conv_7"].taps
            assert torch.equal(edge[f"{dilation}_conv_5"].taps, wide[..., 1:6])
            assert torch.equal(edge[f"{dilation}_conv_3"].taps, wide[..., 2:5])
    assert not any("conv_3.weight" in name for name in shared.state_dict())
    assert any("conv_3.weight" in name for name in own.state_dict())
    assert shared.unshared_weights().keys() == own.state_dict().keys() == own.unshared_weights().keys()
    out = shared.cells[0].edges[0]["std_conv_3"].taps.sum()
    out.backward()
    grad = shared.cells[0].edges[0]["std_conv_7"].weight.grad
    assert grad[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_a_compiled_model_follows_its_weights_and_gives_gradients() -> None:
    """The transformed kernels are kept between two calls, and made again when the weights change."""
    torch.manual_seed(3)
    child = Child(SHAPE, Structure(2, ("std_conv_5",) * 9)).eval()
    model = compile_child(child)
    ids, real = text()
    kernel = model.cells[0].kernels[0]  # type: ignore[union-attr,index]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=real).logits

    before = logits()
    changes = (
        lambda: kernel.add_(0.1),
        lambda: kernel.data.copy_(kernel.data + 0.1),  # as a swap to averaged weights does
        lambda: kernel.detach().numpy().__iadd__(0.1),
        lambda: setattr(kernel, "data", kernel.data + 0.1),
        lambda: model.load_state_dict({k: v + 0.02 for k, v in model.state_dict().items()}),
    )
    for change in changes:
        with torch.no_grad():
            change()
        after = logits()
        straight = model(input_ids=ids, attention_mask=real).logits
        assert (after - before).abs().max() > 1e-4
        torch.testing.assert_close(after, straight, atol=1e-5, rtol=0)
        before = after
    straight.sum().backward()
    assert all(p.grad is not None for c in model.cells for p in c.parameters())


@torch.no_grad()
def test_transformed_kernels_are_not_saved_copied_or_moved() -> None:
    model = compile_child(Child(SHAPE, Structure(1, ("std_conv_5",) * 9)).eval())
    size = len(pickle.dumps(model))
    ids, real = text()
    want = model(input_ids=ids, attention_mask=real).logits
    assert len(pickle.dumps(model)) == size
    twin = copy.deepcopy(model)
    assert all(t._key is None for c in twin.cells for t in c._transformed)
    assert torch.equal(twin(input_ids=ids, attention_mask=real).logits, want)
    assert all(t._key is None for c in model.double().cells for t in c._transformed)
    with torch.inference_mode():  # its weights count no versions: the direct form
        other = compile_child(Child(SHAPE, Structure(1, ("std_conv_5",) * 9)).eval())
        assert other(input_ids=ids, attention_mask=real).logits.shape == want.shape
        assert all(t._key is None for c in other.cells for t in c._transformed)
