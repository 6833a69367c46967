"""Networks, training steps and checkpoints on a GPU, compared with the same on the CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.workload import FixedSampler
from raycomp.deployment.latency import measure_latencies_ms
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.adabert.compiler import compile_child
from raycomp.methods.adabert.structure import CONVOLUTIONS, Structure
from raycomp.methods.adabert.student import Child
from raycomp.runtime.training.checkpoints import load_checkpoint, save_checkpoint
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import LABELS_ONLY
from raycomp.training.optimizers import LinearDecay, Updater, resolve_precision
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep
from tests.gpu.conftest import GPU
from tests.unit.encoder.test_elastic import SPACE, make_batch, make_pair
from tests.unit.methods.adabert.builders import SHAPE, make_search_step
from tests.unit.methods.adabert.builders import make_batch as texts

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
RATE = LinearDecay(1e-3, 0.1, (0, 100))


def make_network(device: torch.device) -> ElasticEncoder:
    model = make_pair()[1]
    model.set_dropout(0.0)
    return model.to(device)


def sample_architectures(step: int) -> list[Architecture]:
    rng = np.random.default_rng(step)
    return [SPACE.sample_uniform(rng) for _ in range(2)]


def make_supernet_step(
    model: ElasticEncoder, device: torch.device, precision: str = "fp32"
) -> SupernetStep:
    updater = SliceUpdater(model, RATE, weight_decay=0.1, clip=0.5)
    return SupernetStep(
        model, FixedSampler(sample_architectures(0)), updater, teacher=None, objective=LABELS_ONLY,
        precision=precision, device=device,
    )  # fmt: skip


def make_finetune_step(model: ElasticEncoder, device: torch.device) -> FinetuneStep:
    updater = Updater(model, RATE, weight_decay=0.1, clip=0.5)
    return FinetuneStep(model, updater, precision="fp32", device=device)


def train(step: Any, first: int, last: int) -> list[float]:
    losses = []
    for i in range(first, last):
        if isinstance(step, SupernetStep):
            step.sampler.archs = sample_architectures(i)
        losses.append(step(i, make_batch(8, seed=i)).loss)
    return losses


@pytest.mark.parametrize("seed", range(6))
def test_a_slice_has_the_logits_of_the_extracted_model(seed: int) -> None:
    model, arch = make_network(GPU).eval(), sample_architectures(seed)[0]
    batch, small = make_batch(seed=seed).to(GPU), model.extract(arch).to(GPU)
    with torch.no_grad():
        cut = small(batch.input_ids, batch.attention_mask, batch.token_type_ids).logits
        assert (model(batch, arch).logits - cut).abs().max() < 1e-5
        on_cpu = make_network(CPU).eval()(make_batch(seed=seed), arch).logits
    assert (cut.cpu() - on_cpu).abs().max() < 1e-4


def test_one_pass_over_many_slices_equals_separate_passes() -> None:
    model, batch = make_network(GPU).eval(), make_batch().to(GPU)
    archs = [arch for i in range(8) for arch in sample_architectures(i)]
    with torch.no_grad():
        together = model.forward_many(batch, archs)
        alone = torch.stack([model(batch, arch).logits for arch in archs])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("make", [make_supernet_step, make_finetune_step])
def test_training_equals_training_on_the_cpu(make: Any) -> None:
    found = [train(make(make_network(device), device), 0, 12) for device in (GPU, CPU)]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("make", [make_supernet_step, make_finetune_step])
def test_training_resumes_from_its_checkpoint(make: Any, tmp_path: Path) -> None:
    whole, model = make_network(GPU), make_network(GPU)
    expected = train(make(whole, GPU), 0, 8)
    step = make(model, GPU)
    train(step, 0, 4)
    save_checkpoint(tmp_path, model.state_dict(), step.updater.state_tensors(), {"step": 4})
    del step, model
    weights, optimizer, state = load_checkpoint(tmp_path)
    again = make_network(GPU)
    step = make(again, GPU)
    again.load_state_dict(weights)
    step.updater.load_state_tensors(optimizer)
    assert train(step, state["step"], 8) == pytest.approx(expected[4:], rel=1e-5)
    for name, parameter in whole.named_parameters():
        assert torch.allclose(again.get_parameter(name), parameter, atol=1e-5), name


def test_auto_selects_bf16_and_trains() -> None:
    precision = resolve_precision("auto", GPU)
    assert precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
    model = make_network(GPU)
    losses = train(make_supernet_step(model, GPU, precision), 0, 60)
    assert np.isfinite(losses).all()
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("estimator", ["sampled", "contrast", "full"])
def test_an_adabert_search_equals_a_search_on_the_cpu(estimator: str) -> None:
    here, there = make_search_step(estimator, beta=4.0), make_search_step(estimator, beta=4.0)
    there.parent.to(GPU)
    there.distribution.to(GPU)
    there.op_costs, there.device = there.op_costs.to(GPU), GPU
    found = [[step(i, texts()).loss for i in range(6)] for step in (there, here)]
    assert found[0] == pytest.approx(found[1], rel=2e-2)
    for name, parameter in here.distribution.named_parameters():
        other = there.distribution.get_parameter(name).cpu()
        assert torch.allclose(parameter, other, atol=2e-2), name


def test_a_compiled_child_has_the_logits_of_the_child() -> None:
    torch.manual_seed(0)
    names = [*CONVOLUTIONS, "skip", "avg_pool_3", "max_pool_3"][:9]
    child = Child(SHAPE, Structure(3, tuple(names)))
    for buffer in child.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    compiled = compile_child(copy.deepcopy(child).eval()).to(GPU).eval()
    child = child.to(GPU).eval()
    batch = texts().to(GPU)
    with torch.no_grad():
        expected = child(batch.input_ids, batch.attention_mask)[0]
        found = compiled(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert (found - expected).abs().max() < 1e-4


def test_latency_is_measured_on_the_gpu() -> None:
    model = make_network(GPU).eval().extract(sample_architectures(0)[0]).to(GPU)

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> None:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=mask)

    (taken,) = measure_latencies_ms([forward], vocab_size=25, length=16, batch=1, runs=5, device=GPU)
    assert taken > 0
