"""The compiled CNN equals the child; merged kernels; traced, exported, copied and changed models."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch

from raycomp.methods.adabert.cnn_model import CACHED_TOKENS, RaycompCnnForSequenceClassification
from raycomp.methods.adabert.compiler import compile_child, compiled_config, compiled_macs
from raycomp.methods.adabert.kernel_merging import merge_convolutions
from raycomp.methods.adabert.structure import CONVOLUTIONS, OPERATIONS, Structure
from raycomp.methods.adabert.student import Child, StudentShape
from raycomp.methods.adabert.winograd import TILE_PLANS, TransformedKernel
from tests.unit.methods.adabert.builders import (
    EXACT_MATCH,
    ONE_TEXT,
    PAIR,
    make_texts,
    perturb,
    seeded_structure,
)

ROWS_PER_PART = CACHED_TOKENS // 14
"""Rows of `make_texts` that a compiled model computes at a time."""


def transformed_kernels(model: RaycompCnnForSequenceClassification) -> list[TransformedKernel]:
    return [kernel for cell in model.cells for kernel in cell._transformed]


@pytest.mark.parametrize("shape", [ONE_TEXT, PAIR, EXACT_MATCH])
@pytest.mark.parametrize("seed", range(8))
def test_compiled_child_equals_the_child(shape: StudentShape, seed: int) -> None:
    torch.manual_seed(seed)
    child = Child(shape, seeded_structure(seed, layers=1 + seed % 4)).eval()
    perturb(child)
    model = compile_child(child)
    ids, real = make_texts(seed=seed)
    expected = child(ids, real)[0]
    for uses_winograd in (False, True):  # it is used without gradients only
        with torch.set_grad_enabled(not uses_winograd):
            logits = model(input_ids=ids, attention_mask=real).logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)

    has_winograd_kernels = any(
        kernel["size"] in TILE_PLANS and kernel["dilation"] == 1
        for cell in model.config.cells
        for kernel in cell["kernels"]
    )
    assert any(kernel._key for kernel in transformed_kernels(model)) == has_winograd_kernels

    # One text without the padding of its batch, and copies of it: enough tokens for Winograd's form.
    length = int(real[0].sum())
    text, mask = ids[:1, :length], real[:1, :length]
    one_logits = model(input_ids=text, attention_mask=mask).logits
    torch.testing.assert_close(one_logits, expected[:1], atol=1e-5, rtol=0)
    with torch.no_grad():
        copies = model(input_ids=text.repeat(9, 1), attention_mask=mask.repeat(9, 1)).logits
    torch.testing.assert_close(copies, expected[:1].repeat(9, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [PAIR, EXACT_MATCH])
@torch.no_grad()
def test_one_padded_text_of_a_pair_is_enough_to_mask(shape: StudentShape) -> None:
    child = Child(shape, Structure(2, ("std_conv_3", "avg_pool_3", "skip") * 3)).eval()
    perturb(child)
    model = compile_child(child)
    # First texts of 3 and 6 tokens, second texts of 6 and 3: only one of the two is padded.
    for row in ([2, 7, 3, 9, 8, 7, 6, 5, 3], [2, 7, 8, 9, 8, 3, 6, 5, 3]):
        ids = torch.tensor([row]).repeat(8, 1)
        real = torch.ones_like(ids)
        logits = model(input_ids=ids, attention_mask=real).logits
        torch.testing.assert_close(logits, child(ids, real.bool())[0], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("shape", [ONE_TEXT, PAIR, EXACT_MATCH])
def test_a_traced_or_exported_model_serves_any_batch_and_any_mask(shape: StudentShape) -> None:
    torch.manual_seed(2)
    child = Child(shape, Structure(2, ("std_conv_5", "max_pool_3", "avg_pool_3") * 3)).eval()
    perturb(child)
    model = compile_child(child)
    # The example is without padding and long enough for Winograd's form: a trace must rely on neither.
    example_mask = torch.ones(2, 28, dtype=torch.long)
    example_ids = example_mask * 7
    example_ids[:, 13] = 3  # two texts of 14 tokens; the batch below has longer ones
    ids, real = (tensor.repeat(3, 2) for tensor in make_texts(seed=2))
    real = real.cummin(1).values
    ids *= real
    with torch.no_grad():
        expected = child(ids, real)[0]
        model.requires_grad_(False)
        traced = torch.jit.trace(
            lambda i, m: model(input_ids=i, attention_mask=m).logits,
            (example_ids, example_mask),
            check_trace=False,
        )
        assert all(kernel._key is None for kernel in transformed_kernels(model))
        torch.testing.assert_close(traced(ids, real.long()), expected, atol=1e-5, rtol=0)

        batch = torch.export.Dim("batch", min=2, max=64)
        exported = torch.export.export(
            model,
            (),
            {"input_ids": ids[:4], "attention_mask": real[:4].long()},
            dynamic_shapes={"input_ids": {0: batch}, "attention_mask": {0: batch}},
        )
        logits = exported.module()(input_ids=ids, attention_mask=real.long()).logits
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [0, 1, ROWS_PER_PART, 2 * ROWS_PER_PART + 3])
@torch.no_grad()
def test_the_parts_of_a_batch_do_not_show_in_its_logits(rows: int) -> None:
    torch.manual_seed(1)
    child = Child(ONE_TEXT, seeded_structure(1, layers=2)).eval()
    perturb(child)
    ids, real = (tensor.repeat(2 * ROWS_PER_PART + 3, 1)[:rows] for tensor in make_texts(seed=1))
    logits = compile_child(child)(input_ids=ids, attention_mask=real).logits
    assert logits.shape == (rows, ONE_TEXT.classes)
    if rows:
        torch.testing.assert_close(logits, child(ids, real)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_every_operation_compiles(padded: bool) -> None:
    for name in OPERATIONS:
        child = Child(ONE_TEXT, Structure(2, (name,) * 9)).eval()
        perturb(child)
        ids, real = make_texts()
        if not padded:
            ids, real = ids.clamp(min=4), torch.ones_like(real)
        logits = compile_child(child)(input_ids=ids, attention_mask=real).logits
        torch.testing.assert_close(logits, child(ids, real)[0], atol=1e-5, rtol=0)


def test_a_compiled_model_is_smaller_and_has_no_zero_edges() -> None:
    structure = Structure(2, ("std_conv_3",) * 4 + ("zero",) * 5)
    config = compiled_config(ONE_TEXT, structure)
    assert len(config.cells[0]["kernels"]) == 1  # one text goes into both inputs: the kernels are added
    assert config.cells[0]["kernels"][0]["sources"] == [0]
    assert config.cells[1]["kernels"][0]["sources"] == [0, 1]

    child = Child(ONE_TEXT, structure)
    model = compile_child(child)
    child_params = sum(p.numel() for n, p in child.named_parameters() if not n.startswith("probes"))
    assert sum(p.numel() for p in model.parameters()) < child_params

    # Per token: two targets of one source, then of two sources, with 3 taps; two attentive sums of three
    # nodes. Per text: the classifier.
    convolutions = 16 * 16 * (2 * 1 + 2 * 2) * 3
    sums = 2 * (2 * 16 * 3)
    classifier = 2 * 16 * 16 + 16 * 3
    assert compiled_macs(config, 10) == (convolutions + sums) * 10 + classifier


def test_merging_keeps_every_edge_once_and_wastes_little() -> None:
    for seed, one_input in itertools.product(range(20), (False, True)):
        structure = seeded_structure(seed)
        kernels = merge_convolutions(structure, one_input)
        edges = sorted(edge.number for kernel in kernels for edge in kernel.members)
        assert edges == [e for e, o in enumerate(structure.operations) if o in CONVOLUTIONS]
        parts = sum(CONVOLUTIONS[o][0] for o in structure.operations if o in CONVOLUTIONS)
        merged = sum(kernel.products for kernel in kernels)
        assert merged <= 1.15**8 * parts  # nine edges are merged at most eight times


def test_published_sizes_with_berts_vocabulary() -> None:
    """Table 2 has 6.4M at K = 3 and 9.5M at K = 7: between the sizes with 5 and with 7 taps."""
    shape = StudentShape(30522, 128, 128, 128, 2, True, 102, 0)
    for layers, published in ((3, 6.4e6), (7, 9.5e6)):
        sizes = []
        for name in ("std_conv_5", "std_conv_7"):
            config = compiled_config(shape, Structure(layers, (name,) * 9))
            model = RaycompCnnForSequenceClassification(config)
            sizes.append(sum(p.numel() for p in model.parameters()))
        assert sizes[0] * 0.95 <= published <= sizes[1]


def test_a_compiled_model_follows_its_weights_and_gives_gradients() -> None:
    """The transformed kernels are cached between calls, and computed again when the weights change."""
    torch.manual_seed(3)
    model = compile_child(Child(ONE_TEXT, Structure(2, ("std_conv_5",) * 9)).eval())
    ids, real = make_texts()
    kernel = model.cells[0].kernels[0]  # type: ignore[union-attr,index]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=real).logits

    before = logits()
    changes = (
        lambda: kernel.add_(0.1),
        lambda: kernel.data.copy_(kernel.data + 0.1),  # as when weights are swapped for their averages
        lambda: kernel.detach().numpy().__iadd__(0.1),
        lambda: setattr(kernel, "data", kernel.data + 0.1),
        lambda: model.load_state_dict({k: v + 0.02 for k, v in model.state_dict().items()}),
    )
    for change in changes:
        with torch.no_grad():
            change()
        after = logits()
        direct = model(input_ids=ids, attention_mask=real).logits
        assert (after - before).abs().max() > 1e-4
        torch.testing.assert_close(after, direct, atol=1e-5, rtol=0)
        before = after
    direct.sum().backward()
    assert all(p.grad is not None for cell in model.cells for p in cell.parameters())


@torch.no_grad()
def test_transformed_kernels_are_not_saved_copied_or_moved() -> None:
    structure = Structure(1, ("std_conv_5",) * 9)
    model = compile_child(Child(ONE_TEXT, structure).eval())
    size = len(pickle.dumps(model))
    ids, real = make_texts()
    expected = model(input_ids=ids, attention_mask=real).logits
    assert len(pickle.dumps(model)) == size

    twin = copy.deepcopy(model)
    assert all(kernel._key is None for kernel in transformed_kernels(twin))
    assert torch.equal(twin(input_ids=ids, attention_mask=real).logits, expected)
    assert all(kernel._key is None for kernel in transformed_kernels(model.double()))

    # Tensors of inference mode lack the version that the cache compares, so the direct form runs.
    with torch.inference_mode():
        other = compile_child(Child(ONE_TEXT, structure).eval())
        assert other(input_ids=ids, attention_mask=real).logits.shape == expected.shape
        assert all(kernel._key is None for kernel in transformed_kernels(other))
